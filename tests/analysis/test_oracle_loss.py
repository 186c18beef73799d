"""Losses of fields whose distance from the oracle is known."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import floracle
from floracle.analysis.loss.oracle_loss import oracle_loss, oracle_losses
from floracle.analysis.loss.results import confidence_interval, loss_difference
from floracle.core.paths import COSINE, LINEAR
from floracle.oracle.baselines.gaussian import gaussian_field
from floracle.oracle.reference import reference

TIMES = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8], dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def shifted_by(oracle, size):
    """The oracle and a constant: its oracle loss is `size`² at all times."""
    return lambda x, t, labels=None: oracle(x, t, labels) + size


def still(x, t, labels=None):
    """A field that ignores the data."""
    return torch.zeros_like(x)


@pytest.fixture
def oracle(points_source):
    return floracle.Oracle(points_source(normal(40, 6), torch.arange(40) % 2))


@pytest.mark.parametrize("path", [LINEAR, COSINE], ids=["linear", "cosine"])
def test_the_oracle_has_no_oracle_loss_and_its_conditional_loss_is_the_gap(points_source, path):
    oracle = floracle.Oracle(points_source(normal(40, 6)), path=path)
    loss = oracle_loss(oracle, oracle, times=TIMES, pairs=64).classes[0]
    for name in ("oracle", "less_gap", "disagreement"):
        assert (loss.curves[name].mean == 0).all()
    assert_close(loss.curves["conditional"].mean, loss.curves["gap"].mean)
    assert loss.curves["gap"].mean[0] > 0.5
    assert loss.closest == ("oracle",) * len(TIMES)


def test_a_constant_beside_the_oracle_is_its_square(oracle):
    loss = oracle_loss(shifted_by(oracle, 0.3), oracle, times=TIMES, pairs=512).classes[0]
    assert_close(loss.curves["oracle"].mean, torch.full((5,), 0.09).double(), atol=1e-6, rtol=0)
    apart = loss.curves["disagreement"]
    assert (apart.mean.abs() < 4 * apart.error + 1e-12).all()
    assert apart.error[1] > 0


@pytest.mark.slow
def test_both_ways_to_the_oracle_loss_agree_as_often_as_their_errors_say(oracle):
    """Over 200 seeds the interval of the disagreement holds 0 in 95 % of them."""
    held = torch.zeros(2)
    for seed in range(200):
        asked = {"times": TIMES[1:3], "pairs": 64, "seed": seed}
        loss = oracle_loss(shifted_by(oracle, 0.5), oracle, **asked).classes[0]
        low, high = confidence_interval(loss.curves["disagreement"], loss.pairs)
        held += ((low <= 0) & (high >= 0)).float()
    assert (held / 200 - 0.95).abs().max() < 4 * (0.95 * 0.05 / 200) ** 0.5


@pytest.mark.slow
def test_the_gap_is_that_of_the_dense_formula(points_source):
    """Against posterior averages in float64: E‖u* − c‖² is A² E tr Cov / D."""
    points = normal(12, 4)
    times = torch.tensor([0.1, 0.3], dtype=torch.float64)
    oracle = floracle.Oracle(points_source(points))
    loss = oracle_loss(still, oracle, times=times, pairs=4000).classes[0]
    for k, t in enumerate(times):
        data = points[torch.arange(6000) % 12].double()
        x = t * data + (1 - t) * normal(6000, 4, seed=3).double()
        truth = reference(points, x, t.expand(6000))
        squares = truth.posterior @ points.double().square().sum(1)
        spread = (squares - truth.mean.square().sum(1)) / (1 - t) ** 2 / 4
        error = (loss.curves["gap"].error[k] ** 2 + spread.var() / 6000).sqrt()
        assert abs(loss.curves["gap"].mean[k] - spread.mean()) < 4 * error


@pytest.mark.slow
def test_a_field_that_ignores_data_does_as_well_on_held_out_points(points_source):
    """The interval of the difference holds 0 in 95 % of 200 draws of both sets."""
    held = 0
    for seed in range(200):
        points = normal(800, 3, seed=seed)
        data, others = points_source(points[:400]), points_source(points[400:])
        asked = {"times": TIMES[2:4], "pairs": 32, "held_out": others, "seed": seed}
        loss = oracle_loss(still, floracle.Oracle(data), **asked).classes[0]
        low, high = confidence_interval(loss.curves["difference"], loss.pairs)
        held += int(low[0] <= 0 <= high[0])
    assert abs(held / 200 - 0.95) < 4 * (0.95 * 0.05 / 200) ** 0.5 + 0.01


def test_held_out_data_that_is_the_training_set_is_no_worse(oracle):
    asked = {"times": TIMES, "pairs": 256, "held_out": oracle.data}
    loss = oracle_loss(oracle, oracle, **asked).classes[0]
    assert not (confidence_interval(loss.curves["difference"], loss.pairs)[0] > 0).any()
    assert (loss.curves["difference"].mean != 0).any()  # drawn on its own


def test_the_oracle_memorizes(points_source, oracle):
    asked = {"times": TIMES, "pairs": 256, "held_out": points_source(normal(40, 6, seed=1))}
    loss = oracle_loss(oracle, oracle, **asked).classes[0]
    assert (confidence_interval(loss.curves["difference"], loss.pairs)[0] > 0)[1:].all()
    assert (loss.curves["difference"].mean.diff() > 0).all()
    difference = loss.curves["held_out"].mean - loss.curves["conditional"].mean
    assert_close(loss.curves["difference"].mean, difference)


def test_held_out_pairs_have_the_noise_of_the_training_pairs(points_source):
    """With points at zero c is the noise's opposite, so both losses are the same number."""
    data = points_source(torch.cat([torch.zeros(1, 5), torch.zeros(1, 5)]))
    asked = {"times": TIMES, "pairs": 8, "held_out": points_source(torch.zeros(3, 5))}
    loss = oracle_loss(still, floracle.Oracle(data), **asked).classes[0]
    assert (loss.curves["difference"].mean == 0).all()
    assert (loss.curves["conditional"].mean > 0).all()


def test_a_field_follows_the_yardstick_that_it_is(oracle):
    gaussian = floracle.as_field(still)
    near = {"still": still, "other": shifted_by(oracle, 2.0)}
    loss = oracle_loss(gaussian, oracle, times=TIMES, pairs=64, baselines=near).classes[0]
    assert loss.closest == ("still",) * 5
    assert loss.significant == (True,) * 5
    tied = {"still": still, "again": still}
    assert oracle_loss(still, oracle, times=TIMES, pairs=64, baselines=tied).classes[
        0
    ].significant == ((False,) * 5)


def test_own_trajectories_are_the_fields_own(points_source):
    """Along x' = −x the states are known: Euler gives x (1 − h)^k."""
    points = normal(30, 4)
    oracle, times = floracle.Oracle(points_source(points)), TIMES[1:4]
    decay = lambda x, t, labels=None: -x  # noqa: E731
    loss = oracle_loss(decay, oracle, times=times, pairs=32, along="own", steps=10).classes[0]
    start = floracle.noise(range(first_seed(), first_seed() + 32), (4,)).double()
    for k, t in enumerate(times):
        x = start * 0.9 ** round(float(t) * 10)
        truth = reference(points, x, t.expand(32)).velocity
        assert loss.curves["oracle"].mean[k] == pytest.approx(
            float((-x - truth).square().mean()), rel=1e-4
        )
    assert set(loss.curves) == {"oracle"}


def test_at_noise_every_yardstick_with_the_right_mean_is_the_oracle(oracle):
    """They differ there by rounding, which is not to decide."""
    asked = {"times": TIMES[:2], "baselines": {"gaussian": gaussian_field(oracle.data)}}
    loss = oracle_loss(shifted_by(oracle, 0.3), oracle, **asked).classes[0]
    assert loss.closest[1] == "oracle"
    assert loss.significant == (False, True)


def first_seed():
    from floracle.analysis.loss.oracle_loss import class_seed

    return class_seed(0, -1)


def test_the_oracle_along_its_own_trajectories_has_no_loss_either(oracle):
    asked = {"times": TIMES, "pairs": 8, "along": "own", "classes": [0, 1]}
    for loss in oracle_loss(oracle, oracle, **asked).classes:
        assert (loss.curves["oracle"].mean < 1e-12).all()


def test_classes_ask_for_themselves_and_are_averaged_by_their_share(points_source):
    labels = torch.tensor([0] * 30 + [1] * 10)
    oracle = floracle.Oracle(points_source(normal(40, 6), labels))
    seen = []

    def watched(x, t, labels):
        seen.append(set(labels.tolist()))
        return oracle(x, t, labels) + labels.reshape(-1, 1).float()

    found = oracle_loss(watched, oracle, times=TIMES[:2], pairs=16, classes=[0, 1])
    assert seen == [{0}, {0}, {1}, {1}]
    assert [group.share for group in found.classes] == [0.75, 0.25]
    assert_close(
        found.mean_curves()["oracle"].mean, torch.full((2,), 0.25).double(), atol=1e-6, rtol=0
    )
    errors = torch.stack([group.curves["gap"].error for group in found.classes])
    expected = (errors * torch.tensor([[0.75], [0.25]])).norm(dim=0)
    assert_close(found.mean_curves()["gap"].error, expected)


def test_several_fields_are_measured_as_each_alone(points_source, oracle):
    """Bit for bit, on the path with held-out data and on their own trajectories."""
    fields = {"near": shifted_by(oracle, 0.1), "still": still}
    others = points_source(normal(40, 6, seed=1))
    for asked in (
        {"times": TIMES, "pairs": 16, "held_out": others},
        {"times": TIMES, "pairs": 8, "along": "own", "steps": 6},
    ):
        together = oracle_losses(fields, oracle, **asked)
        for name, field in fields.items():
            alone = oracle_loss(field, oracle, **asked).classes[0]
            assert list(together[name].classes[0].curves) == list(alone.curves)
            for each, curve in alone.curves.items():
                assert torch.equal(together[name].classes[0].curves[each].mean, curve.mean)
                assert torch.equal(together[name].classes[0].curves[each].error, curve.error)


def test_the_oracle_is_asked_once_for_all_fields(points_source):
    from dataclasses import replace

    class Counting(type(points_source(normal(2, 2)))):
        reads = 0

        def blocks(self, label=-1, *, rows):
            type(self).reads += 1
            return super().blocks(label, rows=rows)

    source = points_source(normal(40, 6))
    oracle = floracle.Oracle(Counting(source.points, source.labels, source.weights))
    asked, reads = {"times": TIMES, "pairs": 16}, []
    for fields in ({"a": still}, {"a": still, "b": still, "c": still}):
        Counting.reads = 0
        oracle_losses(fields, replace(oracle), **asked)
        reads.append(Counting.reads)
    assert 0 < reads[0] == reads[1]


def test_fields_a_known_distance_apart_differ_by_it(oracle):
    """‖v − u*‖² is the square of the shift for every pair, so the difference has no error."""
    fields = {"far": shifted_by(oracle, 0.5), "near": shifted_by(oracle, 0.3)}
    found = oracle_losses(fields, oracle, times=TIMES, pairs=32)
    between = loss_difference(found["far"], found["near"])
    assert_close(between.curve.mean, torch.full((5,), 0.16).double(), atol=1e-6, rtol=0)
    assert between.verdicts() == ("more",) * 5
    assert loss_difference(found["near"], found["far"]).verdicts() == ("less",) * 5
    assert loss_difference(found["near"], found["near"]).verdicts() == ("cannot say",) * 5


@pytest.mark.slow
def test_equals_are_told_apart_no_more_often_than_promised(points_source):
    """Fields that err alike on average: over 200 seeds, any of 5 times in 5 % of them at most."""
    oracle, wrong = floracle.Oracle(points_source(normal(40, 6))), 0

    def off(seed):
        shifts = normal(64, 6, seed=seed)
        return lambda x, t, labels=None: oracle(x, t, labels) + shifts[: len(x)]

    for seed in range(200):
        fields = {"one": off(2 * seed), "other": off(2 * seed + 1)}
        found = oracle_losses(fields, oracle, times=TIMES, pairs=64, seed=seed)
        wrong += set(loss_difference(found["one"], found["other"]).verdicts()) != {"cannot say"}
    assert wrong / 200 < 0.05 + 3.5 * (0.05 * 0.95 / 200) ** 0.5


def test_losses_of_other_pairs_are_not_compared(points_source, oracle):
    one = oracle_loss(still, oracle, times=TIMES, pairs=8)
    other = floracle.Oracle(points_source(normal(40, 6, seed=7)))
    for change, of, words in (
        ({"seed": 1}, oracle, "seed: 1 there, 0 asked"),
        ({"times": TIMES[:3]}, oracle, "times"),
        ({"pairs": 9}, oracle, "pairs"),
        ({}, other, "data"),
    ):
        with pytest.raises(floracle.InputError, match=words):
            loss_difference(one, oracle_loss(still, of, **{"times": TIMES, "pairs": 8, **change}))
    with pytest.raises(floracle.InputError, match="held_out"):
        loss_difference(one, one, "held_out")


def test_mistakes(points_source, oracle):
    known = {"times": TIMES, "pairs": 8}
    for change, words in (
        ({"times": torch.tensor([0.5, 1.0])}, "fields end at t = 1"),
        ({"pairs": 1}, "at least 2 pairs"),
        ({"classes": [7]}, "no class 7"),
        ({"held_out": points_source(normal(5, 7))}, r"shape \[7\]"),
        ({"held_out": points_source(normal(5, 6), torch.zeros(5)), "classes": [1]}, "held-out"),
        ({"held_out": oracle.data, "along": "own"}, "on the path alone"),
        ({"along": "owm"}, "did you mean 'own'"),
        ({"baselines": {"oracle": still}}, "already"),
    ):
        with pytest.raises(floracle.InputError, match=words):
            oracle_loss(still, oracle, **{**known, **change})
    with pytest.raises(floracle.InputError, match=r"\[8, 3\]"):
        oracle_loss(lambda x, t, labels: x[:, :3], oracle, **known)
