"""All times of a pair from two rows of products, against the reference at each of them."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from floracle.core.paths import LINEAR, PATHS
from floracle.oracle.oracle import Oracle
from floracle.oracle.reference import reference

COUNT, DIMS = 120, 72
TIMES = torch.tensor([0, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.99, 0.9999], dtype=torch.float64)


def laid_out(points_source, layout):
    """Sources whose pairs are easy or hard to follow."""
    drawn = torch.Generator().manual_seed(8)
    points = torch.randn(COUNT, DIMS, generator=drawn) * torch.linspace(1, 0.1, DIMS)
    labels, weights = torch.arange(COUNT) % 2, None
    if layout == "weighted":
        weights = torch.rand(COUNT, generator=drawn, dtype=torch.float64) + 0.05
    if layout == "merged":
        points[7], points[21], points[35] = points[1], points[1], points[3]
    if layout.startswith("near"):
        size = float(layout.split()[1])
        points[60:] = points[:60] + size * torch.randn(60, DIMS, generator=drawn)
    if layout.startswith("ball"):
        size = float(layout.split()[1])
        points[:100] = points[0] + size * torch.randn(100, DIMS, generator=drawn)
    if layout == "far":
        points += 100
    return points_source(points, labels, weights)


LAYOUTS = (
    "plain",
    "weighted",
    "merged",
    "near 1e-2",
    "near 1e-4",
    "near 1e-6",
    "ball 1e-1",
    "ball 1e-3",
    "far",
)


def drawn_pairs(data, label, count=12, seed=1):
    """Rows ∝ weight and their noise float32."""
    atoms, drawn = data.atoms(label), torch.Generator().manual_seed(seed)
    rows = atoms.rows[torch.multinomial(atoms.weights, count, replacement=True, generator=drawn)]
    return rows, torch.randn(count, *data.shape, generator=drawn)


def truth_of(data, label, path, rows, noise, times):
    """The same curves [p, T] by name, written down from the dense posterior in float64."""
    atoms = data.atoms(label)
    points = data.take(atoms.rows).double()
    own = torch.searchsorted(atoms.rows, rows)
    centre = atoms.weights @ points
    curves: dict[str, list] = {}
    for time in times:
        t = time.repeat(len(rows))
        x = path.sample(points[own], noise.double(), t)
        gamma = reference(points, x, t, weights=atoms.weights, path=path).posterior
        lengths = (points - centre).square().sum(1)
        half = torch.stack([(points - points[o]).square().sum(1) / 2 for o in own])
        now = {
            "max_weight": gamma.amax(1),
            "self_weight": gamma[torch.arange(len(rows)), own],
            "entropy": -torch.special.xlogy(gamma, gamma).sum(1),
            "participation": gamma.square().sum(1),
            "variance": (gamma * half).sum(1),
            "control_variate": gamma @ lengths / 2 - lengths[own] / 2,
        }
        for name, values in now.items():
            curves.setdefault(name, []).append(values)
    return {name: torch.stack(values, 1) for name, values in curves.items()}, half


def agree(found, truth, *, atol=5e-4):
    for name in ("max_weight", "self_weight", "entropy", "participation"):
        assert_close(
            getattr(found, name),
            truth[name],
            atol=atol,
            rtol=0,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    size = truth["variance"].amax()
    for name in ("variance", "control_variate"):
        assert_close(
            getattr(found, name),
            truth[name],
            atol=atol * size,
            rtol=1e-3,
            msg=lambda text, name=name: f"{name}: {text}",
        )


@pytest.mark.slow
@pytest.mark.parametrize("label", [-1, 1])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_pairs_agree_with_the_reference_at_every_time(points_source, layout, label):
    data = laid_out(points_source, layout)
    rows, noise = drawn_pairs(data, label)
    for memory in (None, 1):
        found = Oracle(data, memory=memory).pairs(rows, noise, TIMES, label=label)
        truth, half = truth_of(data, label, LINEAR, rows, noise, TIMES)
        agree(found, truth)
        atoms = data.atoms(label).rows
        half[torch.arange(len(rows)), torch.searchsorted(atoms, rows)] = torch.inf
        chosen = half.gather(1, torch.searchsorted(atoms, found.rivals)[:, None])[:, 0]
        assert (chosen <= half.amin(1) * (1 + 1e-5)).all()


@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
def test_mirrored_pairs_average_both_signs(points_source, path):
    data = laid_out(points_source, "plain")
    rows, noise = drawn_pairs(data, -1)
    found = Oracle(data, path=path).pairs(rows, noise, TIMES, mirrored=True)
    plus, _ = truth_of(data, -1, path, rows, noise, TIMES)
    minus, _ = truth_of(data, -1, path, rows, -noise, TIMES)
    agree(found, {name: (plus[name] + minus[name]) / 2 for name in plus})
    c = path.coefficients(TIMES)
    assert_close(found.amplification, c.d_alpha - c.alpha * c.d_sigma / c.sigma)


CURVES = ("variance", "control_variate", "max_weight", "self_weight", "entropy", "participation")


def alike(found, expected):
    for name in CURVES:
        size = getattr(expected, name).abs().max()
        assert_close(
            getattr(found, name),
            getattr(expected, name),
            atol=1e-5 * size,
            rtol=1e-4,
            msg=lambda text, name=name: f"{name}: {text}",
        )
    assert_close(found.rivals, expected.rivals)


@pytest.mark.slow
@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("layout", ["near 1e-4", "weighted", "plain"])
def test_pieces_change_nothing(points_source, monkeypatch, layout, mirrored):
    """Blocks of seven atoms, one pair at a time, pairs in two parts: the same curves."""
    data = laid_out(points_source, layout)
    rows, noise = drawn_pairs(data, -1)

    def curves(some=slice(None)):
        return Oracle(data, memory=4000).pairs(rows[some], noise[some], TIMES, mirrored=mirrored)

    whole = curves()
    alike(curves(slice(0, 5)).joined(curves(slice(5, None))), whole)
    monkeypatch.setattr("floracle.oracle.pairs.pair_posteriors.WEIGHTS_AT_ONCE", 1)
    alike(curves(), whole)
    for name in ("MIN_BLOCK_ROWS", "MAX_BLOCK_ROWS"):
        monkeypatch.setattr(f"floracle.oracle.pairs.forward_pairs.{name}", 7)
    alike(curves(), whole)
    assert_close(curves().class_entropy, whole.class_entropy, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layout", ["near 1e-4", "weighted", "plain", "merged"])
def test_what_is_left_behind_never_comes_back(points_source, monkeypatch, layout):
    """Following every atom to the end gives what dropping lost ones gives, to rounding."""
    data = laid_out(points_source, layout)
    rows, noise = drawn_pairs(data, -1)
    monkeypatch.setattr("floracle.oracle.pairs.pair_posteriors.PACKED_SHARE", 1)
    eager = Oracle(data).pairs(rows, noise, TIMES, mirrored=True)
    monkeypatch.setattr("floracle.oracle.pairs.pair_posteriors.PACKED_SHARE", 10**9)
    complete = Oracle(data).pairs(rows, noise, TIMES, mirrored=True)
    for name in (*CURVES, "class_entropy"):
        assert_close(getattr(eager, name), getattr(complete, name), atol=1e-6, rtol=1e-6)


def test_times_come_back_in_the_order_they_were_asked(points_source):
    data = laid_out(points_source, "plain")
    rows, noise = drawn_pairs(data, -1)
    order = torch.randperm(len(TIMES), generator=torch.Generator().manual_seed(1))
    asked, shuffled = (Oracle(data).pairs(rows, noise, at) for at in (TIMES, TIMES[order]))
    for name in (*CURVES, "class_entropy"):
        assert torch.equal(getattr(asked, name)[:, order], getattr(shuffled, name))
    assert torch.equal(asked.amplification[order], shuffled.amplification)


def test_a_single_atom_has_no_rival(points_source):
    data = points_source(torch.randn(1, 8))
    found = Oracle(data).pairs(torch.zeros(3, dtype=torch.int64), torch.randn(3, 8), TIMES)
    assert found.rivals.tolist() == [-1, -1, -1]
    assert (found.self_weight == 1).all()
    assert not found.entropy.any()
    assert not found.variance.any()


def test_rows_that_are_no_atoms_are_refused(points_source):
    oracle = Oracle(laid_out(points_source, "merged"))
    for row, label in ((7, -1), (0, 1), (COUNT, -1)):
        with pytest.raises(ValueError, match=f"row {row} is not an atom"):
            oracle.pairs(torch.tensor([row]), torch.randn(1, DIMS), TIMES, label=label)
    with pytest.raises(ValueError, match="t must lie"):
        oracle.pairs(torch.tensor([0]), torch.randn(1, DIMS), torch.tensor([1.5]))


def within(difference, errors=4.5):
    """Whether a mean over pairs [p, T] is zero within its error, at every time."""
    mean, error = difference.mean(0), difference.std(0) / len(difference) ** 0.5
    assert (mean.abs() <= errors * error + 1e-6).all(), (mean / error).tolist()


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["plain", "weighted", "near 1e-2"])
def test_identities_hold_on_average(points_source, layout):
    """E γ_own = E Σ γ²; E Σ γ d = tr Cov = E ‖x_o − x̂‖²; the lean is zero."""
    data = laid_out(points_source, layout)
    rows, noise = drawn_pairs(data, -1, count=3000, seed=3)
    times = TIMES[1:8]
    found = Oracle(data).pairs(rows, noise, times)
    within(found.self_weight - found.participation)
    within(found.control_variate)
    missed = []
    for time in times:
        t = time.repeat(len(rows))
        x = LINEAR.sample(data.take(rows), noise, t)
        mean = Oracle(data).posterior(x, t).mean
        missed.append((mean - data.take(rows).double()).square().sum(1))
    within(found.variance - torch.stack(missed, 1))


def test_held_out_pairs_agree_with_the_reference(points_source):
    """Held-out points at all times: the oracle's error, top weight and entropy."""
    data = laid_out(points_source, "near 1e-2")
    atoms, points = data.atoms(), data.take(data.atoms().rows)
    held, noise = torch.randn(6, DIMS) / 2, torch.randn(6, DIMS)
    held[0] = points[3]
    for memory in (None, 1):
        found = Oracle(data, memory=memory).held_out_pairs(held, noise, TIMES)
        for k, time in enumerate(TIMES):
            t = time.repeat(6)
            x = LINEAR.sample(held.double(), noise.double(), t)
            truth = reference(points, x, t, weights=atoms.weights)
            gamma = truth.posterior
            gap = (truth.velocity - (held.double() - noise.double())).square().sum(1)
            assert_close(found.gap[:, k], gap, rtol=1e-3, atol=1e-3)
            assert_close(found.max_weight[:, k], gamma.amax(1), rtol=0, atol=1e-4)
            entropy = -torch.special.xlogy(gamma, gamma).sum(1)
            assert_close(found.entropy[:, k], entropy, rtol=0, atol=1e-4)


def test_weights_are_heard_by_a_pair_alone(points_source):
    """A piece of one pair is not mistaken for atoms of equal weight."""
    data = laid_out(points_source, "weighted")
    rows, noise = drawn_pairs(data, -1)
    both = Oracle(data).pairs(rows[:2], noise[:2], TIMES)
    alone = Oracle(data).pairs(rows[:1], noise[:1], TIMES)
    assert_close(alone.max_weight[0], both.max_weight[0], atol=1e-5, rtol=0)
