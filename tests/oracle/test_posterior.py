"""Who votes: weights, entropy and log mass of the posterior, and that nothing else matters."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from floracle.core.paths import LINEAR, PATHS
from floracle.oracle import scan as dense
from floracle.oracle.oracle import Oracle
from floracle.oracle.posterior import PosteriorSums
from floracle.oracle.queries import prepare_queries
from floracle.oracle.reference import reference
from floracle.oracle.scan import scan

COUNT, DIMS = 90, 80
T = torch.tensor([0, 0.02, 0.1, 0.2, 0.3, 0.5, 0.8, 0.97, 0.9999], dtype=torch.float64)


@pytest.fixture(scope="module")
def data(points_source):
    """Weighted points in three classes of unequal sizes; two of them are near-duplicates."""
    drawn = torch.Generator().manual_seed(2)
    points = torch.randn(COUNT, DIMS, generator=drawn) / 2
    points[9] = points[0] + 1e-4
    points[12] = points[3]
    weights = torch.rand(COUNT, generator=drawn, dtype=torch.float64) + 0.1
    labels = (torch.arange(COUNT) % 3) * (torch.arange(COUNT) < 80)
    return points_source(points, labels, weights)


@pytest.fixture(scope="module")
def oracle(data):
    return Oracle(data)


def asked(data, t=T, *, rows=None, path=LINEAR, seed=4):
    """Samples float64 on the path between noise and data."""
    drawn = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(data), t.shape, generator=drawn) if rows is None else rows
    noise = torch.randn(len(t), *data.shape, generator=drawn, dtype=torch.float64)
    return path.sample(data.take(rows).double(), noise, t)


@pytest.mark.parametrize("label", [-1, 0, 1, 2])
@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
def test_posterior_agrees_with_the_reference(data, label, path):
    atoms, x = data.atoms(label), asked(data, path=path)
    truth = reference(data.take(atoms.rows), x, T, weights=atoms.weights, path=path)
    count = len(atoms.rows)
    found = Oracle(data, path=path).posterior(x, T, torch.full(T.shape, label), top=count)
    weights, gamma = torch.zeros(len(T), len(data)).double(), truth.posterior
    weights.scatter_add_(1, found.top_rows, found.top_weights)
    assert_close(weights[:, atoms.rows], gamma, atol=2e-5, rtol=0)
    assert_close(found.top_weights.sum(1), torch.ones(len(T)).double(), atol=1e-6, rtol=0)
    assert (found.top_weights.diff(dim=1) <= 1e-6).all()
    assert_close(found.entropy, -torch.special.xlogy(gamma, gamma).sum(1), atol=1e-4, rtol=0)
    assert_close(found.participation, gamma.square().sum(1), atol=2e-5, rtol=0)
    assert_close(found.log_mass, truth.log_mass, atol=1e-4, rtol=1e-9)
    assert_close(found.mean, truth.mean, atol=1e-4, rtol=0)
    assert not found.missing.any()


def test_as_many_leaders_are_kept_as_are_asked_for(data, monkeypatch):
    """Also more than a block holds."""
    monkeypatch.setattr(dense, "block_rows", lambda *_: 5)
    found = Oracle(data, memory=1).posterior(asked(data), T, top=60)
    assert found.top_rows.shape == (len(T), 60)
    assert all(len(set(rows.tolist())) == 60 for rows in found.top_rows)


def test_merged_duplicates_vote_once_with_both_weights(points_source):
    points = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 1.0]])
    weights = torch.tensor([1.0, 2.0, 5.0]).double()
    found = Oracle(points_source(points, weights=weights)).posterior(
        torch.zeros(1, 2), torch.zeros(1)
    )
    assert found.top_rows.tolist() == [[0, 1]]
    assert_close(found.top_weights, torch.tensor([[0.75, 0.25]]).double())
    assert_close(found.participation, torch.tensor([0.625]).double())


@pytest.mark.slow
@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
@pytest.mark.parametrize("t", [0.0, 0.3, 0.8, 0.97])
def test_log_mass_is_a_log_density(points_source, path, t):
    """exp(log mass) (2πσ²)^(−D/2) integrates to 1, in one dimension and in two."""
    sigma = path.coefficients(torch.tensor([t], dtype=torch.float64)).sigma.item()
    for dims, count in ((1, 4001), (2, 401)):
        points = torch.tensor([[-1.0, 0.5], [0.2, -0.3], [1.1, 1.2]])[:, :dims]
        low, high = -1.5 - 6 * sigma, 1.6 + 6 * sigma
        line = torch.linspace(low, high, count, dtype=torch.float64)
        grid = torch.cartesian_prod(*[line] * dims).reshape(-1, dims)
        oracle = Oracle(points_source(points, weights=torch.tensor([1.0, 2, 3])), path=path)
        found = oracle.posterior(grid, torch.full((len(grid),), t, dtype=torch.float64))
        density = found.log_mass.exp() / (2 * math.pi * sigma**2) ** (dims / 2)
        total = density.sum() * (line[1] - line[0]) ** dims
        assert total == pytest.approx(1, abs=1e-6)


def test_log_masses_of_classes_add_up_to_that_of_everything(points_source):
    """p(x) = Σ p(c) p(x | c), so log masses compare classes."""
    points, labels = torch.randn(60, 70), torch.arange(60) % 2
    data = points_source(points, labels)
    x, whole = asked(data, T[:7]), Oracle(data)
    parts = [
        whole.posterior(x, T[:7], torch.full((7,), label)).log_mass + math.log(0.5)
        for label in (0, 1)
    ]
    both = torch.stack(parts).logsumexp(0)
    assert_close(both, whole.posterior(x, T[:7]).log_mass, atol=1e-4, rtol=1e-9)


def fields_of(sums: PosteriorSums):
    """What two sums of the same atoms must agree on, whatever their peaks."""
    mean = sums.points / sums.mass[:, None]
    total = sums.max_logit + sums.mass.log()
    entropy = sums.mass.log() - sums.logits / sums.mass
    return mean, total, entropy, sums.squares / sums.mass**2, sums.norms / sums.mass


def parts_of(oracle, data):
    """The sums of three thirds of the atoms."""
    members = oracle.class_points()
    ready = prepare_queries(members, asked(data), T, LINEAR)
    kernel = dense.BlockKernel.of(members, ready, torch.float64, 32)
    return [kernel.block_sums(block, None) for block in members.blocks(30)]


def test_merging_is_associative_and_commutative(oracle, data):
    a, b, c = parts_of(oracle, data)
    merged = PosteriorSums.merged
    expected = merged([merged([a, b]), c])
    others = [a, merged([b, c])], [merged([c, a]), b], [b, c, a]
    for other in map(merged, others):
        for found, known in zip(fields_of(other), fields_of(expected), strict=True):
            assert_close(found, known, rtol=1e-9, atol=1e-9)
        assert_close(other.top_logits, expected.top_logits)
        assert_close(other.top, expected.top)


def test_a_far_lower_part_changes_nothing(oracle, data):
    a, b, _ = parts_of(oracle, data)
    low = PosteriorSums(
        b.max_logit - 1e12, *(getattr(b, n) for n in list(PosteriorSums.__dataclass_fields__)[1:])
    )
    for found, known in zip(fields_of(PosteriorSums.merged([a, low])), fields_of(a), strict=True):
        assert_close(found, known, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("rows", "summed"), [(1, 4096), (3, 4096), (32, 4096), (32, 5), (7, 7)])
def test_posterior_ignores_block_size(oracle, data, monkeypatch, rows, summed):
    """And how many points of a block are summed together."""
    x = asked(data)
    expected = oracle.posterior(x, T)
    monkeypatch.setattr(dense, "block_rows", lambda *_: rows)
    monkeypatch.setattr(dense, "MAX_ROWS_PER_SUM", summed)
    for memory in (None, 1):
        found = Oracle(data, memory=memory).posterior(x, T)
        for name in ("mean", "log_mass", "top_weights", "entropy", "participation"):
            assert_close(
                getattr(found, name), getattr(expected, name), atol=2e-5, rtol=1e-6, msg=name
            )


def test_a_row_alone_is_the_row_in_its_batch(oracle, data):
    """Whatever its company: other labels, any order."""
    t = T.repeat(4)
    x, labels = asked(data, t), torch.arange(len(t)) % 4 - 1
    shuffled = torch.randperm(len(t))
    velocity = oracle(x, t, labels)
    posterior = oracle.posterior(x, t, labels)
    again = oracle.posterior(x[shuffled], t[shuffled], labels[shuffled])
    assert_close(oracle(x[shuffled], t[shuffled], labels[shuffled]), velocity[shuffled])
    assert_close(again.entropy, posterior.entropy[shuffled], atol=1e-5, rtol=0)
    assert_close(again.top_rows[:, 0], posterior.top_rows[shuffled][:, 0])
    for i in range(len(t)):
        alone = oracle(x[i : i + 1], t[i : i + 1], labels[i : i + 1])[0]
        assert (alone - velocity[i]).norm() <= 1e-6 * velocity[i].norm()


def test_labels_are_heard(oracle, data):
    """The oracle of a class is not that of everything."""
    x, t = asked(data), T.clamp(max=0.1)
    by_class = [oracle(x, t, torch.full(t.shape, label)) for label in (-1, 0, 1, 2)]
    for i, one in enumerate(by_class):
        for other in by_class[:i]:
            assert ((one - other).norm(dim=1) > 1e-2).all()


def test_an_empty_batch_is_answered(oracle, data):
    none, times = torch.empty(0, DIMS), torch.empty(0)
    for labels in (None, torch.empty(0, dtype=torch.int64)):
        assert oracle(none, times, labels).shape == (0, DIMS)
        found = oracle.posterior(none, times, labels)
        assert found.mean.shape == (0, DIMS)
        assert len(found.entropy) == len(found.top_rows) == 0


def test_shape_and_type_are_those_of_the_samples(points_source):
    data = points_source(torch.randn(20, 1, 4, 5))
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        x = torch.randn(3, 1, 4, 5, dtype=dtype)
        velocity = Oracle(data, device="cpu")(x, torch.full((3,), 0.5))
        assert velocity.shape == x.shape
        assert velocity.dtype == dtype


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"t": torch.tensor([0.5, 1.0])}, "t = 1"),
        ({"t": torch.tensor([0.5, -0.1])}, r"t must lie in \[0, 1\]"),
        ({"t": torch.tensor([0.5, math.nan])}, r"t must lie in \[0, 1\]"),
        ({"t": torch.tensor(0.5)}, "one time a sample"),
        ({"t": torch.tensor([0.5])}, "one time a sample"),
        ({"x": torch.full((2, DIMS), math.nan)}, "NaN"),
        ({"x": torch.full((2, DIMS), math.inf)}, "infinity"),
        ({"x": torch.zeros(2, DIMS + 1)}, "shape"),
        ({"x": torch.zeros(DIMS)}, "shape"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "one a sample"),
        ({"labels": torch.tensor([0, 7])}, "no class 7"),
    ],
)
@pytest.mark.parametrize("how", ["velocity", "posterior"])
def test_wrong_questions_are_refused(oracle, change, words, how):
    question = {"x": torch.zeros(2, DIMS), "t": torch.tensor([0.5, 0.5]), "labels": None} | change
    ask = oracle if how == "velocity" else oracle.posterior
    with pytest.raises(ValueError, match=words):
        ask(question["x"], question["t"], question["labels"])


def test_scan_keeps_the_true_leaders(oracle, data):
    x = asked(data)
    members = oracle.class_points()
    sums = scan(members, prepare_queries(members, x, T, LINEAR), top_k=5)
    atoms = data.atoms()
    truth = reference(data.take(atoms.rows), x, T, weights=atoms.weights).posterior
    assert_close(sums.top[2:, 0], truth.argmax(1)[2:])


@pytest.mark.slow
@pytest.mark.parametrize("many", [1, 2], ids=["alone", "beside another"])
def test_without_a_budget_what_is_held_stays_within_half_of_what_was_free(
    points_source, monkeypatch, many
):
    """However many classes are asked for: what is held already is not free a second time."""
    drawn = torch.randn(40, 25, 64, generator=torch.Generator().manual_seed(0))
    data = points_source(drawn.flatten(0, 1), torch.arange(40).repeat_interleave(25))
    oracles = [Oracle(data) for _ in range(many)]
    free = 20 * 25 * 64 * 4

    def held():
        return sum(oracle._cache.bytes for oracle in oracles)

    monkeypatch.setattr("floracle.run.budget.free_memory", lambda: free - held())
    most = 0
    for label in [*range(40), *range(40)]:
        for oracle in oracles:
            oracle.class_points(label)
            most = max(most, held())
    assert free * (0.4 if many == 1 else 0.6) < most <= free * (0.5 if many == 1 else 2 / 3)
