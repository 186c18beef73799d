"""Classes that are read while others are followed have the stages that each has by itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

import floracle
from floracle.analysis.prediction.closed_form import predict, predict_landmarks
from floracle.analysis.stages import prefetch as in_turn
from floracle.analysis.stages.measure import measure_class, measure_classes, plan_stages
from floracle.analysis.stages.prefetch import PairBatch, can_prefetch, prefetch_classes
from floracle.core.point_set import mass
from floracle.core.seeds import noise
from floracle.data.packing.pack import pack

SIZES = (40, 60, 1, 90, 50)
DIMS, PAIRS = 96, 8
TIMES = torch.tensor([0, 0.05, 0.1, 0.2, 0.4, 0.7, 0.99], dtype=torch.float64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A packed store of unlike classes; the fourth holds twins and a duplicate."""
    drawn = torch.Generator().manual_seed(4)
    scale = torch.linspace(1, 0.1, DIMS)
    points = [torch.randn(n, DIMS, generator=drawn) * scale + k for k, n in enumerate(SIZES)]
    points[3][45:] = points[3][:45] + 1e-4 * torch.randn(45, DIMS, generator=drawn)
    points[3][7] = points[3][5]
    labels = torch.arange(len(SIZES)).repeat_interleave(torch.tensor(SIZES))
    place = tmp_path_factory.mktemp("in_turn") / "packed"
    pack(torch.cat(points), place, labels=labels, shard_bytes=4 * DIMS * 70, quiet=True)
    return place


@pytest.fixture
def data(folder):
    return floracle.open_store(folder, memory=1000)


@pytest.fixture(params=[1, 2])
def threads(request):
    """Without a thread that reads, and with one."""
    every = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(every)


def drawn_of(data, label):
    rows = data.atoms(label).rows
    chosen = torch.randint(len(rows), (PAIRS,), generator=torch.Generator().manual_seed(label))
    return PairBatch(label, rows[chosen], len(rows), 1000 * label)


@pytest.mark.slow
def test_pairs_of_classes_in_turn_are_those_of_each(data, threads, monkeypatch):
    monkeypatch.setattr("floracle.oracle.pairs.forward_pairs.STREAMED_COORDINATES", 7 * DIMS)
    monkeypatch.setattr("floracle.oracle.pairs.forward_pairs.MIN_BLOCK_ROWS", 25)
    monkeypatch.setattr("floracle.oracle.pairs.forward_pairs.MAX_BLOCK_ROWS", 25)
    oracle, labels = floracle.Oracle(data), (3, 0, 2, 4, 1)
    found = dict(prefetch_classes(oracle, (drawn_of(data, label) for label in labels), TIMES))
    assert tuple(drawn.label for drawn in found) == labels
    assert torch.get_num_threads() == threads
    for drawn, pairs in found.items():
        seeds = range(drawn.seed + 1, drawn.seed + 1 + PAIRS)
        alone = oracle.pairs(
            drawn.rows, noise(seeds, (DIMS,)), TIMES, label=drawn.label, mirrored=True
        )
        for name in (
            "variance",
            "control_variate",
            "max_weight",
            "self_weight",
            "entropy",
            "participation",
        ):
            own = getattr(alone, name)
            assert_close(getattr(pairs, name), own, atol=2e-5 * float(own.abs().max()), rtol=1e-4)
        assert torch.equal(pairs.rivals, alone.rivals)


@pytest.mark.slow
def test_groups_in_turn_are_those_of_each(data, threads):
    oracle = floracle.Oracle(data)
    plan = plan_stages(oracle, times=12, pairs=16, labels=(0, 1, -1, 4, 3))
    found = list(measure_classes(oracle, plan, plan.labels))
    assert [group.label for group in found] == [0, 1, -1, 4, 3]
    for group in found:
        own = measure_class(oracle, plan, group.label)
        assert group.share == mass(data, group.label) == own.share
        assert (group.points, group.rivals) == (own.points, own.rivals)
        assert group.predicted_centre == pytest.approx(own.predicted_centre, rel=1e-12)
        assert group.predicted_collapse == pytest.approx(own.predicted_collapse, rel=1e-12)
        for name, curve in group.curves.items():
            size = float(own.curves[name].mean.abs().max())
            assert_close(curve.mean, own.curves[name].mean, atol=1e-4 * size, rtol=1e-4)
        for mark in ("centre", "collapse"):
            for name in ("value", "low", "high"):
                ours, theirs = (getattr(getattr(one, mark), name) for one in (group, own))
                assert ours == pytest.approx(theirs, abs=1e-5)


def test_the_same_classes_in_other_company_are_the_same_to_the_last_bit(data, threads):
    oracle = floracle.Oracle(data)
    plan = plan_stages(oracle, times=12, pairs=16, labels=(0, 1, 3, 4))
    whole = {group.label: group for group in measure_classes(oracle, plan, plan.labels)}
    for labels in ((3, 1), (4, 0)):
        for group in measure_classes(oracle, plan, labels):
            for name, curve in group.curves.items():
                assert torch.equal(curve.mean, whole[group.label].curves[name].mean)
                assert torch.equal(curve.error, whole[group.label].curves[name].error)


def test_what_fails_while_it_is_read_fails_where_it_is_waited_for(data, threads, monkeypatch):
    def failing(known):
        raise OSError("gone")

    monkeypatch.setattr("floracle.analysis.stages.prefetch.inner_products", failing)
    with pytest.raises(OSError, match="gone"):
        list(prefetch_classes(floracle.Oracle(data), [drawn_of(data, 0)], TIMES))
    assert torch.get_num_threads() == threads


def test_only_known_classes_of_one_process_that_fit_are_read_in_turn(data, folder):
    oracle = floracle.Oracle(data)
    assert can_prefetch(oracle, 0, PAIRS)
    assert not can_prefetch(oracle, -1, PAIRS)
    assert not can_prefetch(floracle.Oracle(floracle.open_store("gaussian:40x64")), 0, PAIRS)
    needed = 2 * 3 * PAIRS * (24 * DIMS + 16 * SIZES[0])
    assert can_prefetch(floracle.Oracle(data, memory=needed), 0, PAIRS)
    assert not can_prefetch(floracle.Oracle(data, memory=needed - 2), 0, PAIRS)
    assert not can_prefetch(floracle.Oracle(data, memory=needed), 0, PAIRS + 1)


@pytest.mark.parametrize("within", [0.0, 0.01])
def test_landmarks_of_many_are_those_of_each(within):
    spectra = [torch.linspace(1, 0.1, n).double() * n**0.5 for n in (3, 40, 200, 17)] * 6
    many = [predict(10 + n, spectrum=one, within_variance=within) for n, one in enumerate(spectra)]
    for (centre, collapse), one in zip(predict_landmarks(many), many, strict=True):
        again = predict(one.points, spectrum=one.spectrum, within_variance=within)
        assert centre == pytest.approx(again.centre, rel=1e-12)
        assert collapse == pytest.approx(again.collapse, rel=1e-12)
        if not within:
            information = float(again.information(torch.tensor([centre]).double())[0])
            assert information == pytest.approx(math.log(one.points) / 2, rel=1e-6)


def test_what_waits_is_bounded(data, monkeypatch):
    """No more than three classes lie read and not yet followed."""
    begun, waiting = [], []
    known = in_turn.read_pair_points

    def noted(oracle, pairs):
        begun.append(pairs)
        return known(oracle, pairs)

    monkeypatch.setattr(in_turn, "read_pair_points", noted)
    labels = (0, 1, 3, 4, 0, 1)
    drawn = (drawn_of(data, label) for label in labels)
    for done, _ in enumerate(prefetch_classes(floracle.Oracle(data), drawn, TIMES)):
        waiting.append(len(begun) - done)
    assert waiting == [3, 3, 3, 3, 2, 1]
