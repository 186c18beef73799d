"""The stage meter in somebody else's loop."""

import pytest
import torch

import floracle
from floracle.core.fields import Convention
from floracle.core.paths import LINEAR, PATHS
from floracle.run.errors import InputError
from floracle.training.meter import stage_edges


@pytest.fixture(scope="module")
def oracle():
    return floracle.Oracle(floracle.open_store("digits"))


@pytest.fixture(scope="module")
def stages(oracle):
    return floracle.stages(oracle, pairs=64, classes=list(range(10)))


def test_losses_of_a_known_curve_come_back():
    meter = floracle.StageMeter(0.2, bins=5)
    t = torch.rand(40_000, dtype=torch.float64)
    noise = 0.1 * torch.randn(40_000)
    for some, more in zip(t.split(1000), noise.split(1000), strict=True):
        meter.add(some, some.square() + more)
    found = meter.curves()
    low, high = found.edges[:-1], found.edges[1:]
    expected = (high**3 - low**3) / (3 * (high - low))
    assert ((found.loss.mean - expected).abs() < 4.5 * found.loss.error).all()
    assert found.counts.sum() == 40_000
    assert abs(found.navigation.value - 0.2**2 / 3) < 4.5 * found.navigation.error
    late = (1 - 0.2**3) / 3 / 0.8
    assert abs(found.refinement.value - late) < 4.5 * found.refinement.error


def test_errors_cover_as_often_as_they_say():
    inside = []
    for seed in range(200):
        meter = floracle.StageMeter(0.5, bins=1)
        t = torch.rand(50, generator=torch.Generator().manual_seed(seed))
        losses = torch.randn(50, generator=torch.Generator().manual_seed(1000 + seed)) + 1
        meter.add(t, losses)
        found = meter.curves().loss
        inside += ((found.mean - 1).abs() < 2 * found.error).tolist()
    assert 0.9 < sum(inside) / len(inside) < 0.98


def test_times_need_not_be_uniform():
    meter = floracle.StageMeter(0.3, bins=20)
    t = torch.randn(50_000, dtype=torch.float64).sigmoid()
    meter.add(t, t)
    known = meter.curves()
    assert known.navigation.value == pytest.approx(0.15, abs=0.02)
    assert known.refinement.value == pytest.approx(0.65, abs=0.02)


@pytest.mark.slow
def test_loss_less_gap_is_the_oracle_loss(oracle, stages):
    """The oracle itself, measured by conditional targets, is no further than errors from 0."""
    meter = floracle.StageMeter(stages)
    data = oracle.data
    for seed in range(4):
        rows = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))[:1500]
        t = torch.rand(1500, dtype=torch.float64) * 0.99
        points, noise = data.take(rows), torch.randn(1500, *data.shape)
        x, labels = LINEAR.sample(points, noise, t), data.labels[rows]
        losses = (oracle(x, t, labels) - (points - noise)).flatten(1).square().mean(1)
        meter.add(t, losses, labels)
    found = meter.curves()
    assert found.split == stages.landmarks.end.value
    assert found.oracle is not None
    off = (found.oracle.mean / found.oracle.error).abs()[:10]
    assert off.max() < 4.5
    assert (found.loss.mean / found.loss.error)[:8].min() > 10  # though the loss itself is not 0


def test_dropped_labels_stay_apart():
    meter = floracle.StageMeter(0.5, bins=1)
    t, labels = torch.tensor([0.1, 0.2, 0.3, 0.9]), torch.tensor([3, -1, 3, 0])
    meter.add(t, torch.tensor([1.0, 100.0, 3.0, 5.0]), labels)
    assert meter.curves().loss.mean.tolist() == [2.0, 5.0]
    assert meter.curves(dropped=True).counts.tolist() == [1, 0]
    assert meter.curves(dropped=True).plain()["loss"] == [100.0, None]
    meter.clear()
    assert meter.curves().counts.sum() == 0


def test_edges_meet_at_the_split():
    edges = stage_edges(0.06, 10)
    assert float(edges[10]) == 0.06
    assert (edges.diff() > 0).all()
    assert (float(edges[0]), float(edges[-1]), len(edges)) == (0, 1, 21)


def test_what_is_no_loss_a_sample_is_a_mistake():
    meter = floracle.StageMeter(0.5)
    with pytest.raises(InputError, match="one loss a sample"):
        meter.add(torch.rand(4), torch.rand(4, 3))
    with pytest.raises(InputError, match="split lies inside"):
        floracle.StageMeter(1.5)


# --- the oracle as the network: its loss less the gap is 0 ---


@pytest.fixture(scope="module", params=["linear", "cosine"])
def measured(request):
    """An oracle on a path, and stages of its classes and of the whole set on that path."""
    found = floracle.Oracle(floracle.open_store("digits"), path=PATHS[request.param])
    return found, floracle.stages(found, pairs=512)


def losses_of(oracle, times, source, *, labelled=True, drop=0.0):
    """Losses of the oracle as a network at times [b], and labels as they were given."""
    data, count = oracle.data, len(times)
    rows = torch.randint(len(data), (count,), generator=source)
    points, noise = data.take(rows), torch.randn(count, *data.shape, generator=source)
    x, labels = oracle.path.sample(points, noise, times), data.labels[rows]
    seen = labels if labelled else torch.full_like(labels, -1)
    seen = torch.where(torch.rand(count, generator=source) < drop, -1, seen)
    target = oracle.path.velocity(points, noise, times)
    return (oracle(x, times, seen) - target).flatten(1).square().mean(1), labels


def drawn_times(count, source):
    """Uniform, logit-normal or towards noise, as a training run may have them."""
    kind = int(torch.randint(3, (), generator=source))
    if kind == 0:
        return torch.rand(count, dtype=torch.float64, generator=source) * 0.999
    if kind == 1:
        shift = float(torch.randn((), generator=source)) / 2
        return (torch.randn(count, dtype=torch.float64, generator=source) + shift).sigmoid()
    return torch.rand(count, dtype=torch.float64, generator=source).square() * 0.999


@pytest.mark.slow
def test_it_says_nothing_where_the_oracle_itself_is_the_network(measured):
    """Whatever times, bins, drops, clocks and weights there are, it is right within its errors."""
    oracle, stages = measured
    far, number = [], 0
    for seed in range(100):
        source = torch.Generator().manual_seed(seed)
        bins, kind, clock = (int(torch.randint(n, (), generator=source)) for n in (12, 4, 3))
        clock = (
            Convention(),
            Convention(noise_time=1, data_time=0),
            Convention(noise_time=1000, data_time=0),
        )[clock]
        weight = (None, lambda t: 2 + t.cos())[seed % 2]
        drop = 0.3 if kind == 3 else 0.0
        meter = floracle.StageMeter(
            stages, bins=bins + 1, convention=clock, weight=weight, label_drop=drop
        )
        times = drawn_times(3000, source)
        losses, labels = losses_of(oracle, times, source, labelled=kind not in (1, 2), drop=drop)
        given = clock.from_t(times)
        losses = losses * (1 if weight is None else weight(given))
        labels = {1: None, 2: torch.full_like(labels, -1)}.get(kind, labels)
        meter.add(given, losses, labels)
        curves = meter.curves(dropped=kind == 2)
        z = (curves.oracle.mean / curves.oracle.error)[curves.oracle.mean.isfinite()].abs()
        z = z[z.isfinite()]
        far, number = far + z[z > 3].tolist(), number + len(z)
        assert not curves.warnings, (seed, curves.warnings)
    assert number > 800
    assert not far


@pytest.mark.slow
def test_what_cannot_be_is_said(oracle):
    """Times that run the other way, weights that are not told, sums in place of means."""
    stages, source = floracle.stages(oracle), torch.Generator().manual_seed(0)
    times = torch.rand(4000, dtype=torch.float64, generator=source)
    losses, labels = losses_of(oracle, times, source)
    for given, found in ((1 - times, losses), (times, losses / 2), (times, losses * (1 - times))):
        meter = floracle.StageMeter(stages)
        meter.add(given, found, labels)
        (warning,) = meter.curves().warnings
        assert "below the gap" in warning
    of_classes = floracle.stages(oracle, pairs=16, classes=[0, 1])
    meter = floracle.StageMeter(of_classes)
    meter.add(times, losses)
    curves = meter.curves()
    assert "measure stages with the label −1" in curves.warnings[0]
    assert not curves.oracle.mean.isfinite().any()
