"""What the targets promise: one expectation, less variance, and what is biased shown to be."""

import numpy as np
import pytest
import torch

import floracle
from floracle.core.paths import LINEAR
from floracle.oracle.float32_means import class_means
from floracle.training.config import TrainingSettings
from floracle.training.data_order import DataOrder, batch_noise
from floracle.training.switch import measure_gap, remaining_shares, switch_time
from floracle.training.targets import (
    BankTarget,
    OracleTarget,
    TargetPairs,
    conditional_target,
    group_by_class,
)
from floracle.training.times import LogitNormal, Uniform

CPU = torch.device("cpu")
SURE = 4.5
"""Standard errors that an average may be off, here and there among many."""
ROUNDING = 1e-6
"""Some pixels of the digits are always black, so that nothing but rounding varies there."""


@pytest.fixture(scope="module")
def data():
    return floracle.open_store("digits")


@pytest.fixture(scope="module")
def oracle(data):
    return floracle.Oracle(data)


def drawn(data, count, seed, latest=1.0):
    rows = DataOrder.of(len(data), seed).rows(range(count))
    t = latest * torch.rand(
        count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)
    )
    noise, points = batch_noise(seed, 0, count, data.shape, device=CPU), data.take(rows)
    return TargetPairs(
        rows, data.labels[rows], t, points, noise, LINEAR.sample(points, noise, t), seed
    )


def features(pairs):
    """A little of x_t, t and the class: what a linear model is linear in, [b, 12]."""
    x = pairs.x.flatten(1).double()
    t = pairs.t[:, None]
    parts = [torch.ones_like(t), t, t.square(), x[:, 18:24], x[:, 35:36] * t]
    return torch.cat([*parts, (pairs.labels == 3)[:, None].double()], 1)


def gradients(velocity, pairs):
    """How the squared error of a fixed linear model pulls its matrix, by pair: [b, 12, pixels].

    Of pixels that are hardly ever anything but black a few thousand pairs tell nothing.
    """
    busy = pairs.data.flatten(1).std(0) > 0.3
    phi = features(pairs)
    matrix = torch.randn(
        phi.shape[1], 64, dtype=torch.float64, generator=torch.Generator().manual_seed(9)
    )
    apart = 0.1 * phi @ matrix - velocity.flatten(1).double()
    return 2 * phi[:, :, None] * apart[:, None, busy]


def off(difference):
    """How many standard errors the mean over pairs is off zero, entry by entry."""
    error = difference.std(0) / len(difference) ** 0.5
    return (difference.mean(0) / (error + ROUNDING)).abs()


def test_it_is_the_velocity_of_the_oracle_where_pairs_are_early(data, oracle):
    pairs = drawn(data, 256, 0)
    found, touched = OracleTarget(oracle, 0.9)(pairs)
    early = pairs.t <= 0.9
    assert touched == int(early.sum())
    exact = oracle(pairs.x[early].double(), pairs.t[early], pairs.labels[early])
    apart = (found[early].double() - exact).flatten(1).norm(dim=1)
    assert (apart <= 1e-4 * exact.flatten(1).norm(dim=1)).all()
    assert torch.equal(found[~early], (pairs.data - pairs.noise)[~early])


@pytest.mark.parametrize("offset", [0.0, 10.0])
def test_many_dimensions_and_blocks_are_as_near(points_source, offset):
    points = torch.randn(300, 3, 16, 16, generator=torch.Generator().manual_seed(2)) + offset
    source = points_source(points, torch.arange(300) % 2)
    oracle = floracle.Oracle(source)
    pairs = drawn(source, 64, 3, latest=0.2)
    found, _ = OracleTarget(oracle, 0.2)(pairs)
    exact = oracle(pairs.x.double(), pairs.t, pairs.labels)
    apart = (found.double() - exact).flatten(1).norm(dim=1)
    assert (apart <= 1e-4 * exact.flatten(1).norm(dim=1)).all()


def test_means_over_streamed_blocks_are_those_over_all_at_once(data, oracle, monkeypatch):
    pairs = drawn(data, 40, 1, latest=0.6)
    members = oracle.class_points(-1)
    whole = class_means(members, pairs.x.flatten(1), pairs.t)
    monkeypatch.setattr("floracle.oracle.float32_means.MAX_PRODUCTS", 40 * 97)
    assert torch.allclose(class_means(members, pairs.x.flatten(1), pairs.t), whole, atol=1e-5)


def test_classes_are_asked_once_each_and_nobody_is_lost(data):
    pairs = drawn(data, 100, 4)
    found = list(group_by_class(pairs.labels, pairs.t <= 0.5))
    assert [label for label, _ in found] == sorted({*pairs.labels[pairs.t <= 0.5].tolist()})
    places = torch.cat([places for _, places in found])
    assert sorted(places.tolist()) == (pairs.t <= 0.5).nonzero()[:, 0].tolist()
    assert all((pairs.labels[places] == label).all() for label, places in found)
    assert not list(group_by_class(pairs.labels, pairs.t < 0))


@pytest.mark.slow
def test_all_targets_pull_the_same_way_on_average(data, oracle):
    pairs = drawn(data, 6000, 5)
    own = gradients(conditional_target(pairs).velocity, pairs)
    for switch in (0.2, 0.68, 0.999):
        apart = own - gradients(OracleTarget(oracle, switch)(pairs).velocity, pairs)
        where = off(apart)
        assert where.max() < SURE
        assert 0.6 < float(where.square().mean()) < 1.5  # as standard normal numbers are


def test_dropped_labels_may_keep_the_oracle_of_their_class(data, oracle):
    pairs = drawn(data, 6000, 6, latest=0.6)
    of_class = OracleTarget(oracle, 0.6)(pairs).velocity
    nobody = pairs._replace(labels=torch.full_like(pairs.labels, -1))
    whole = floracle.Oracle(floracle.open_store(data.take(torch.arange(len(data)))))
    of_all = OracleTarget(whole, 0.6)(nobody).velocity
    blind = features(nobody)[:, :-1]  # a network that is told no class
    apart = blind[:, :, None] * (of_class - of_all).flatten(1)[:, None].double()
    assert off(apart[:, :, pairs.data.flatten(1).std(0) > 0.3]).max() < SURE
    assert (of_class - of_all).abs().max() > 0.1


@pytest.mark.slow
def test_a_switch_by_the_pairs_own_weight_would_be_biased(data, oracle):
    """Why switches go by t alone: "my own sample has won" is knowledge of the sample, not of x_t.

    A pair that took c where its own weight is above one half, and u* elsewhere, would on average
    be off u* by γ (c_top − u*) wherever the top weight γ is above one half.
    """
    pairs = drawn(data, 20_000, 7, latest=0.7)
    u, c = OracleTarget(oracle, 0.7)(pairs).velocity, conditional_target(pairs).velocity
    found = oracle.posterior(pairs.x, pairs.t, pairs.labels)
    own = (found.top_weights * (found.top_rows == pairs.rows[:, None])).sum(1)
    won = (own > 0.5)[:, None, None, None]
    by_weight, by_time = gradients(torch.where(won, c, u), pairs), gradients(c, pairs)
    fair = gradients(u, pairs)
    assert off(by_time - fair).max() < SURE
    assert off(by_weight - fair).max() > 6
    top = found.top_weights[:, 0]
    pull = (data.take(found.top_rows[:, 0]) - found.mean).flatten(1).double()
    bias = top * (top > 0.5) * pull.square().sum(1).sqrt() / (1 - pairs.t)
    gap = (c - u).flatten(1).square().sum(1).double().mean()
    assert float(bias.square().mean() / gap) > 0.005
    assert torch.allclose(own[won.flatten()], top[won.flatten()])  # only the top can have won


@pytest.mark.slow
def test_what_the_switch_leaves_is_the_share_that_was_asked(data, oracle):
    found = measure_gap(oracle, seed=0, pairs=64)
    pairs = drawn(data, 6000, 8, latest=0.98)
    c, u = conditional_target(pairs).velocity, OracleTarget(oracle, 1.0)(pairs).velocity
    residual = (c - u).flatten(1).square().mean(1).double()
    for share in (0.3, 0.1, 0.01):
        switch = switch_time(found, Uniform(), share)
        left = residual * (pairs.t > switch)
        ratio = float(left.mean() / residual.mean())
        error = float((left - ratio * residual).std() / len(left) ** 0.5 / residual.mean())
        # the switch was measured too, on 640 pairs of other noise
        assert abs(ratio - share) < SURE * error + 0.1 * share
        target = OracleTarget(oracle, switch)(pairs).velocity
        assert torch.allclose((target - u).flatten(1).square().mean(1).double(), left, atol=1e-4)


@pytest.mark.slow
def test_the_gap_is_that_of_the_stages(data, oracle):
    found = measure_gap(oracle, seed=1, pairs=64)
    stages = floracle.stages(oracle, pairs=128, classes=list(range(10)))
    gap = stages.curves["gap"]
    for place in range(5, 45, 5):
        t, theirs = float(stages.times[place]), float(gap.mean[place]) / 64
        if 0.05 < t < 0.6:
            ours = float(torch.from_numpy(np.interp([t], found.times, found.gap)))
            error = float(gap.error[place]) / 64
            assert abs(ours - theirs) < SURE * error * 2**0.5 + 0.05 * theirs


def test_the_switch_follows_the_density_of_times(oracle):
    found = measure_gap(oracle, seed=0)
    left = remaining_shares(found, Uniform())
    assert (left.diff() <= 0).all()
    assert float(left[0]) == 1
    assert float(left[-1]) == 0
    assert switch_time(found, Uniform(), 0.5) < switch_time(found, Uniform(), 0.01) < 0.9
    # fewer early times, so that more of what is left lies late
    assert switch_time(found, LogitNormal(), 0.3) > switch_time(found, Uniform(), 0.3)


def test_a_bank_of_the_whole_class_is_the_oracle(data, oracle):
    pairs = drawn(data, 128, 9, latest=0.7)
    exact = OracleTarget(oracle, 0.7)(pairs)
    found = BankTarget(data, 10_000, 0.7, 0)(pairs)
    assert found.touched == exact.touched
    assert torch.allclose(found.velocity, exact.velocity, atol=2e-4)


def with_own_drawn_again(data, oracle, pairs, step):
    """The same x_t, whose own sample is drawn anew from the posterior that x_t leaves."""
    rows = pairs.rows.clone()
    for label, places in group_by_class(pairs.labels, pairs.t <= 1):
        members = oracle.class_points(label)
        points = data.take(members.rows).flatten(1).double()
        t = pairs.t[places][:, None]
        x = pairs.x[places].flatten(1).double()
        square = (x[:, None] - t[:, :, None] * points[None]).square().sum(2)
        weights = (-square / (2 * (1 - t).square())).softmax(1)
        source = torch.Generator().manual_seed(1000 * step + label)
        rows[places] = members.rows[torch.multinomial(weights, 1, generator=source)[:, 0]]
    points = data.take(rows)
    t = pairs.t.float()[:, None, None, None]
    return pairs._replace(
        rows=rows, data=points, noise=(pairs.x - t * points) / (1 - t), step=step
    )


def without_own(data, pairs, size, step):
    """The velocity averaged over points that are drawn whatever the pair's own one is."""
    velocity = torch.empty_like(pairs.x)
    for label, places in group_by_class(pairs.labels, pairs.t <= 1):
        rows = data.atoms(label).rows
        mixed = torch.Generator().manual_seed(1000 * step + label)
        points = data.take(rows[torch.randperm(len(rows), generator=mixed)[:size]]).flatten(1)
        x, t = pairs.x[places].flatten(1), pairs.t[places, None].float()
        square = (x[:, None] - t[:, :, None] * points[None]).square().sum(2)
        mean = (-square / (2 * (1 - t).square())).softmax(1) @ points
        velocity[places] = ((mean - x) / (1 - t)).reshape(-1, *data.shape)
    return velocity


@pytest.mark.slow
def test_a_bank_with_the_own_point_is_unbiased_and_one_without_it_is_not(data, oracle):
    """A bank that holds the pair's own point is E[c | x_t, bank], so it is u* on average.

    Two banks of the same x_t, each with an own sample from the posterior, are off by the same bias
    and by independent noise: the mean of their product is the bias squared. In shares of the
    residual variance of conditional targets, in the middle of navigation. The noise falls with
    the size. A bank that ignores the own point is biased.
    """
    banks = 20
    bias, noise, blind = {2: [], 8: [], 64: []}, {2: [], 8: [], 64: []}, []
    for seed in range(banks):  # pairs of a batch share their banks: only batches are independent
        pairs = drawn(data, 400, 20 + seed, latest=0.2)
        t = pairs.t + 0.2
        pairs = pairs._replace(t=t, x=LINEAR.sample(pairs.data, pairs.noise, t))
        again = [with_own_drawn_again(data, oracle, pairs, 2 * seed + k) for k in (0, 1)]
        u = OracleTarget(oracle, 0.4)(pairs).velocity
        whole = float((conditional_target(pairs).velocity - u).square().mean())
        for size in bias:
            one, two = (BankTarget(data, size, 0.4, 0)(each).velocity - u for each in again)
            bias[size].append(float((one * two).mean()) / whole)
            noise[size].append(float(one.square().mean()) / whole)
        one, two = (without_own(data, pairs, 8, 2 * seed + k) - u for k in (0, 1))
        blind.append(float((one * two).mean()) / whole)
    for found in bias.values():
        assert abs(np.mean(found)) < SURE * np.std(found, ddof=1) / banks**0.5
        assert abs(np.mean(found)) < 0.02
    levels = [float(np.mean(found)) for found in noise.values()]
    assert 1 > levels[0] > levels[1] > levels[2] > 0
    assert levels[2] < 0.2 < 0.7 < levels[0]
    assert np.mean(blind) > 0.02
    assert np.mean(blind) > SURE * np.std(blind, ddof=1) / banks**0.5


def test_the_pairs_own_point_is_in_every_bank(data):
    pairs = drawn(data, 200, 11, latest=0.999)
    late = pairs._replace(t=torch.full((200,), 0.98, dtype=torch.float64))
    late = late._replace(x=LINEAR.sample(late.data, late.noise, late.t))
    found = BankTarget(data, 2, 1.0, 0)(late).velocity
    assert torch.allclose(found, late.data - late.noise, atol=0.05)


def test_settings_name_every_target(data, oracle):
    from floracle.training.targets import target_for

    assert target_for(TrainingSettings(), data, oracle, 0.1) is conditional_target
    asked = TrainingSettings(target="bank", bank=32, seed=4)
    assert target_for(asked, data, oracle, 0.1) == BankTarget(data, 32, 0.1, 4)
    assert target_for(TrainingSettings(target="oracle"), data, oracle, 0.1) == OracleTarget(
        oracle, 0.1
    )


@pytest.mark.parametrize("stored", [True, False], ids=["store", "another source"])
def test_a_row_that_was_merged_finds_its_own_point_in_the_bank(points_source, stored):
    """Every point twice: the second of them is no atom, and its target is the first one's."""
    points = torch.randn(60, 1, 4, 4, generator=torch.Generator().manual_seed(5)).repeat(
        2, 1, 1, 1
    )
    labels = torch.arange(60).remainder(3).repeat(2)
    labels[1] = 2  # so that the first equal row of row 61 is of another class
    source = (
        floracle.open_store(points, labels=labels) if stored else points_source(points, labels)
    )
    rows = torch.arange(120)
    t = torch.full((120,), 0.97, dtype=torch.float64)
    noise = torch.randn(points.shape, generator=torch.Generator().manual_seed(6))
    noise[60:] = noise[:60]
    pairs = TargetPairs(rows, labels, t, points, noise, LINEAR.sample(points, noise, t), 0)
    found = BankTarget(source, 3, 1.0, 0)(pairs).velocity
    assert torch.allclose(found, points - noise, atol=0.05)  # so late its own point alone votes
    alike = (labels[:60] == labels[60:]).nonzero()[:, 0]
    assert torch.equal(found[alike], found[60 + alike])
    whole = BankTarget(source, 1000, 1.0, 0)(pairs._replace(t=t - 0.7)).velocity
    exact = OracleTarget(floracle.Oracle(source), 1.0)(pairs._replace(t=t - 0.7)).velocity
    assert torch.allclose(whole, exact, atol=2e-4)


def test_rows_without_a_label_among_labelled_ones_keep_their_own_velocity(data):
    points, labels = data.take(torch.arange(400)), data.labels[:400].clone()
    labels[::4] = -1
    mixed = floracle.open_store(points, labels=labels)
    pairs = drawn(mixed, 200, 12, latest=0.4)
    nobody = pairs.labels == -1
    for target in (OracleTarget(floracle.Oracle(mixed), 0.5), BankTarget(mixed, 8, 0.5, 0)):
        found = target(pairs)
        own = conditional_target(pairs).velocity
        assert torch.equal(found.velocity[nobody], own[nobody])
        assert found.touched == int((~nobody).sum())
        assert (found.velocity - own)[~nobody].abs().max() > 0.1
    none = floracle.open_store(points)
    free = pairs._replace(labels=torch.full_like(pairs.labels, -1))
    assert OracleTarget(floracle.Oracle(none), 0.5)(free).touched == 200
