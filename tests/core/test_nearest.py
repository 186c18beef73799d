import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from floracle.core import nearest as module
from floracle.core.nearest import nearest


def brute_force(points, queries, k, rows):
    """Distances and rows in float64 numpy; ties to the lower row."""
    apart = queries.double().numpy()[:, None] - points.float().double().numpy()[rows][None]
    distances = np.sqrt(np.square(apart).sum(-1))
    order = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, order, 1), np.asarray(rows)[order]


def agree(source, points, queries, k, *, label=-1, rows=1024):
    found = nearest(source, queries, k, label=label, rows=rows)
    distances, expected = brute_force(points, queries, k, source.atoms(label).rows.numpy())
    np.testing.assert_array_equal(found.rows.numpy(), expected)
    np.testing.assert_allclose(found.distances.numpy(), distances, rtol=1e-12, atol=1e-12)


@given(
    st.integers(1, 60), st.integers(1, 40), st.integers(1, 80), st.integers(1, 40), st.integers()
)
def test_any_sizes(points_source, count, dims, k, rows, seed):
    drawn = torch.Generator().manual_seed(seed % 2**31)
    points = torch.randn(count, dims, generator=drawn)
    queries = torch.randn(5, dims, generator=drawn)
    agree(points_source(points), points, queries, k, rows=rows)


def test_large_offsets(points_source):
    points = torch.randn(300, 20) + 1e4
    agree(points_source(points), points, points[:50] + 1e-3 * torch.randn(50, 20), 5)


def test_clusters_far_apart(points_source):
    points = torch.randn(400, 8) + 1e4 * torch.randint(0, 3, (400, 1))
    agree(points_source(points), points, points[::7] + 0.1, 3, rows=37)


def test_near_duplicates_that_float32_products_cannot_tell_apart(points_source):
    base = torch.randn(1, 30)
    points = torch.cat([base + 1e-6 * torch.randn(50, 30), torch.randn(50, 30)])
    queries = torch.cat([base, base + 1e-7, torch.randn(3, 30)])
    agree(points_source(points), points, queries, 4)


@pytest.mark.slow
def test_constant_points_whose_rounding_is_all_on_one_side(points_source):
    shades = torch.linspace(0.1, 0.1001, 200)[:, None]
    points = shades.expand(200, 2000).contiguous()
    agree(points_source(points), points, points[::13] + 1e-6, 2)


def test_ties_go_to_the_lower_row(points_source):
    points = torch.tensor([[1.0], [-1.0], [2.0], [1.0], [-2.0]]).repeat(8, 1)
    points[5:] += torch.arange(35)[:, None] * 10
    found = nearest(points_source(points), torch.zeros(1, 1), 4)
    assert found.rows.tolist() == [[0, 1, 2, 4]]
    assert found.distances.tolist() == [[1, 1, 2, 2]]


@pytest.mark.parametrize("rows", [1, 7, 1024])
def test_a_ring_of_ties_larger_than_the_screen(points_source, rows):
    points = torch.eye(64)
    found = nearest(points_source(points), torch.zeros(1, 64), 3, rows=rows)
    assert found.rows.tolist() == [[0, 1, 2]]
    assert found.distances.tolist() == [[1, 1, 1]]


def test_more_asked_than_there_are_and_more_than_a_block_holds(points_source):
    points, queries = torch.randn(700, 3), torch.randn(4, 3)
    source = points_source(points)
    agree(source, points, queries, 400, rows=50)
    assert nearest(source, queries, 1000).rows.shape == (4, 700)
    assert module._exhaustive(source, queries.double(), 400, -1, 50).rows.shape == (4, 400)


def test_duplicates_are_one_atom_and_weights_do_not_matter(points_source):
    points = torch.randn(20, 4)
    doubled = torch.cat([points, points[:10]])
    source = points_source(doubled, weights=torch.rand(30) + 0.1)
    found = nearest(source, points, 2)
    assert found.rows[:, 0].tolist() == list(range(20))
    assert (found.distances[:, 1] > 0).all()
    agree(source, doubled, torch.randn(6, 4), 25)


def test_within_a_class(points_source):
    points, labels = torch.randn(90, 5), torch.arange(90) % 3
    source = points_source(points, labels)
    for label in range(3):
        agree(source, points, torch.randn(7, 5), 4, label=label, rows=8)
    with pytest.raises(ValueError, match="class 9 has no points"):
        nearest(source, points, label=9)


def test_shapes_are_flattened(points_source):
    points = torch.randn(12, 2, 3)
    found = nearest(points_source(points), points[:4], 1)
    assert found.rows.tolist() == [[0], [1], [2], [3]]
    assert found.distances.tolist() == [[0.0]] * 4


def test_few_queries_at_a_time_change_nothing(points_source, monkeypatch):
    points, queries = torch.randn(50, 6), torch.randn(9, 6)
    whole = nearest(points_source(points), queries, 3)
    monkeypatch.setattr(module, "REFINED_NUMBERS", 1)
    pieces = nearest(points_source(points), queries, 3)
    assert torch.equal(whole.rows, pieces.rows)
    assert torch.equal(whole.distances, pieces.distances)


def test_the_screen_never_overstates_a_distance(points_source):
    points = torch.randn(100, 1500) * 3 + 0.5
    queries = torch.cat([points[:5], torch.randn(5, 1500)]).double()
    source = points_source(points)
    screened = module._screen(source, -1, queries, 100, 1024)
    exact = (queries[:, None] - points.double()[screened.rows]).square().sum(2)
    assert (screened.distances <= exact).all()


def test_ordinary_queries_are_settled_by_the_screen(points_source, monkeypatch):
    monkeypatch.setattr(module, "_exhaustive", None)  # calling it would fail
    points = torch.randn(2000, 64)
    nearest(points_source(points), torch.randn(50, 64), 1)


@pytest.mark.parametrize("k", [0, -1])
def test_k_counts(points_source, k):
    with pytest.raises(ValueError, match="at least 1"):
        nearest(points_source(torch.randn(4, 2)), torch.randn(1, 2), k)
