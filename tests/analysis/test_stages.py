"""Stages of small sets whose truth is known."""

from __future__ import annotations

import math
import re
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import floracle
from floracle.analysis.curves import Estimate
from floracle.analysis.stages.curve_table import CURVES
from floracle.analysis.stages.result import POOLED
from floracle.core.paths import PATHS
from floracle.run.errors import InputError


def normal(count, dims, seed=0):
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def classes(points_source):
    """Three classes of unlike sizes, spectra and places."""
    sizes = (40, 60, 100)
    points = torch.cat([normal(n, 64, k) * (0.5 + k / 2) + k for k, n in enumerate(sizes)])
    labels = torch.cat([torch.full((n,), k) for k, n in enumerate(sizes)])
    return points_source(points, labels)


@pytest.fixture(scope="module")
def stages(classes):
    return floracle.stages(floracle.Oracle(classes), pairs=256)


def test_every_class_the_whole_and_the_pool_are_measured(stages):
    assert [group.label for group in stages.groups] == [POOLED, 0, 1, 2, -1]
    assert stages.main.label == POOLED
    for group in stages.groups:
        assert group.law_holds
        assert (
            abs(group.area.value - group.max_information + group.remaining_information)
            <= 4.5 * group.area.error
        )
    assert stages.group(1).max_information == pytest.approx(math.log(60))
    assert stages.group(-1).max_information == pytest.approx(math.log(200))
    with pytest.raises(KeyError):
        stages.group(9)


def test_predicted_information_bounds_what_is_measured(stages):
    for group in stages.groups:
        found = group.curves["information"]
        assert (found.mean <= group.predicted_information + 3 * found.error + 1e-6).all()


def test_curves_begin_and_end_where_they_must(stages):
    for group in stages.groups:
        curves = {name: curve.mean for name, curve in group.curves.items()}
        assert curves["entropy"][0] == pytest.approx(group.max_information, abs=1e-4)
        assert curves["information"][0] == pytest.approx(0, abs=1e-4)
        assert curves["max_weight"][-1] == pytest.approx(1, abs=1e-6)
        assert group.centre.value < group.collapse.value < group.end.value
        for mark in (group.centre, group.collapse, group.end):
            assert mark.low <= mark.value + 1e-9
            assert mark.high >= mark.value - 1e-9


def test_the_pool_is_the_average_of_the_classes(stages):
    by_class = [stages.group(label) for label in (0, 1, 2)]
    shares = torch.tensor([0.2, 0.3, 0.5]).double()
    assert_close(torch.tensor([group.share for group in by_class]).double(), shares)
    for name, curve in stages.main.curves.items():
        means = torch.stack([group.curves[name].mean for group in by_class])
        errors = torch.stack([group.curves[name].error for group in by_class])
        assert_close(curve.mean, shares @ means)
        assert_close(curve.error, (shares.square() @ errors.square()).sqrt())
    logs = torch.tensor([40, 60, 100]).double().log()
    assert stages.main.max_information == pytest.approx(float(shares @ logs))


def test_stages_survive_saving(stages, tmp_path):
    floracle.save(stages, tmp_path / "saved")
    again = floracle.load(tmp_path / "saved")
    assert torch.equal(again.times, stages.times)
    assert again.settings == stages.settings
    for found, group in zip(again.groups, stages.groups, strict=True):
        for field in fields(group):
            ours, theirs = getattr(group, field.name), getattr(found, field.name)
            if field.name == "curves":
                assert ours.keys() == theirs.keys()
                for name in ours:
                    assert torch.equal(ours[name].mean, theirs[name].mean)
                    assert torch.equal(ours[name].error, theirs[name].error)
            elif field.name == "resamples":
                assert all(torch.allclose(ours[n], theirs[n], rtol=1e-6) for n in ours or ())
            elif isinstance(ours, torch.Tensor):
                assert torch.equal(ours, theirs)
            else:
                assert ours == theirs, field.name


@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
@pytest.mark.parametrize("scale", [1e-2, 1e2])
def test_the_law_holds_on_any_path_and_scale(points_source, path, scale):
    """Also where all of the information lies very near the noise, or very near the data."""
    oracle = floracle.Oracle(points_source(normal(60, 64) * scale + 5 * scale), path=path)
    group = floracle.stages(oracle, pairs=128).main
    assert (
        abs(group.area.value - group.max_information + group.remaining_information)
        <= 4.5 * group.area.error
    )


def test_weights_count(points_source):
    """H(w) of unequal weights, and an area that reaches it."""
    weights = torch.rand(80, dtype=torch.float64) ** 3 + 1e-3
    shares = weights / weights.sum()
    oracle = floracle.Oracle(points_source(normal(80, 64), weights=weights))
    group = floracle.stages(oracle, pairs=256).main
    assert group.max_information == pytest.approx(float(-(shares * shares.log()).sum()))
    assert abs(group.area.value - group.max_information) <= 4.5 * group.area.error


def test_same_seed_same_numbers_and_another_seed_others(classes):
    one, two, three = (
        floracle.stages(floracle.Oracle(classes), pairs=16, times=12, classes=[0], seed=seed)
        for seed in (1, 1, 2)
    )
    assert torch.equal(one.curves["gap"].mean, two.curves["gap"].mean)
    assert not torch.equal(one.curves["gap"].mean, three.curves["gap"].mean)


def test_held_out_points_fare_alike_early_and_worse_late(points_source):
    oracle = floracle.Oracle(points_source(normal(400, 64)))
    found = floracle.stages(oracle, pairs=400, held_out=points_source(normal(300, 64, 1)))
    gap, held = found.curves["gap"], found.curves["held_out_gap"]
    early = found.curves["information"].mean < 0.2
    error = (gap.error.square() + held.error.square()).sqrt()[early]
    assert ((gap.mean - held.mean)[early].abs() <= 4 * error + 1e-9).all()
    # past the collapse the loss on held-out points is A² times a distance between points
    late = found.times > found.landmarks.end.value
    assert (gap.mean[late] < 0.05 * held.mean[late]).all()
    assert (held.mean[late] > 64).all()


def test_held_out_points_must_fit(points_source):
    labels = torch.arange(30) % 2
    oracle = floracle.Oracle(points_source(normal(30, 16), labels))
    with pytest.raises(InputError, match="shape"):
        floracle.stages(oracle, pairs=4, held_out=points_source(normal(30, 8), labels))
    with pytest.raises(InputError, match="held-out"):
        floracle.stages(oracle, pairs=4, held_out=points_source(normal(30, 16), labels * 0))


def test_a_single_class_is_the_whole_set(points_source):
    labels = torch.zeros(30, dtype=torch.int64)
    found = floracle.stages(floracle.Oracle(points_source(normal(30, 32), labels)), pairs=16)
    assert [group.label for group in found.groups] == [-1]
    assert found.main.points == 30


def in_ratio(mark, path, scale):
    """A landmark as α/σ, in units of the data's scale."""
    c = path.coefficients(torch.tensor([mark], dtype=torch.float64))
    return float(c.alpha / c.sigma) * scale


@pytest.fixture(scope="module")
def unit(points_source):
    """Points of unit variance."""
    return floracle.stages(floracle.Oracle(points_source(normal(60, 64))), pairs=64).main


@pytest.mark.parametrize(
    ("name", "scale"),
    [
        ("linear", 1e-6),
        ("cosine", 1e-6),
        ("trigonometric", 1e-6),
        ("linear", 1e-3),
        ("linear", 1e6),
    ],
)
def test_landmarks_follow_the_scale_of_the_data(points_source, unit, name, scale):
    """Only r = α/σ times the scale matters, however near to noise or data all is decided."""
    path, linear = PATHS[name], PATHS["linear"]
    oracle = floracle.Oracle(points_source(normal(60, 64) * scale), path=path)
    found = floracle.stages(oracle, pairs=64)
    for landmark in ("centre", "collapse", "end"):
        expected = in_ratio(getattr(unit, landmark).value, linear, 1)
        measured = in_ratio(getattr(found.main, landmark).value, path, scale)
        assert measured == pytest.approx(expected, rel=0.03)
    predicted = in_ratio(found.main.predicted_collapse, path, scale)
    assert predicted == pytest.approx(in_ratio(unit.predicted_collapse, linear, 1), rel=1e-3)
    assert found.main.area.value == pytest.approx(unit.area.value, rel=2e-3)
    assert found.main.remaining_information < 1e-6
    assert (found.times.diff() > 0).all()


def test_landmarks_do_not_move_with_an_offset(points_source, unit):
    """1e6 away float32 still has sixteen numbers in every unit."""
    oracle = floracle.Oracle(points_source(normal(60, 64) + 1e6))
    there = floracle.stages(oracle, pairs=64).main
    for name in ("centre", "collapse", "end"):
        assert getattr(there, name).value == pytest.approx(getattr(unit, name).value, rel=0.01)
    assert there.predicted_collapse == pytest.approx(unit.predicted_collapse, rel=0.01)


@pytest.mark.parametrize(
    ("scale", "words"),
    [(1e-15, "close together"), (1e-30, "differ by so little"), (1e18, "far apart")],
)
def test_a_scale_beyond_float64_is_a_mistake_with_a_way_out(points_source, scale, words):
    with pytest.raises(InputError, match=f"{words}.*scale the data"):
        floracle.stages(floracle.Oracle(points_source(normal(20, 16) * scale)), pairs=4)


@pytest.mark.parametrize(
    ("area", "deviation"),
    [(Estimate(2.0, 0.0), math.inf), (Estimate(0.5, 0.0), -math.inf), (Estimate(1.0, 0.0), 0.0)],
)
def test_without_an_error_the_law_is_off_by_all_or_nothing(stages, area, deviation):
    group = replace(stages.main, area=area, max_information=1.0, remaining_information=0.0)
    assert group.law_deviation == deviation


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"times": 11}, "at least 12 times"),
        ({"pairs": 1}, "at least 2 pairs"),
        ({"classes": [5]}, "class 5 does not occur"),
        ({"classes": [-2]}, "class -2 does not occur"),
    ],
)
def test_impossible_requests_are_mistakes(classes, options, words):
    with pytest.raises(InputError, match=words):
        floracle.stages(floracle.Oracle(classes), **options)


def test_the_fewest_times_and_pairs_are_enough(classes):
    found = floracle.stages(floracle.Oracle(classes), times=12, pairs=2, classes=[0])
    assert len(found.times) == 12
    assert (found.times.diff() > 0).all()


@pytest.mark.slow
def test_landmark_intervals_cover_the_truth(points_source):
    """Against a run of very many pairs, 20 seeds: 95 % intervals miss at most three times."""
    oracle = floracle.Oracle(points_source(normal(200, 64)))
    truth = floracle.stages(oracle, pairs=20_000, seed=99).landmarks
    held = dict.fromkeys(("centre", "collapse", "end"), 0)
    for seed in range(20):
        found = floracle.stages(oracle, pairs=256, seed=seed).landmarks
        for name in held:
            mark = getattr(found, name)
            held[name] += mark.low <= getattr(truth, name).value <= mark.high
    assert min(held.values()) >= 16, held


def test_noise_of_many_pairs_keeps_to_the_memory(points_source, monkeypatch):
    """Pairs that do not fit together are followed some at a time, with the same noise each."""
    data, asked = points_source(torch.randn(40, 96)), []
    pairs = floracle.Oracle.pairs

    def counted(oracle, rows, *more, **options):
        asked.append(len(rows))
        return pairs(oracle, rows, *more, **options)

    whole = floracle.stages(floracle.Oracle(data), times=12, pairs=50)
    monkeypatch.setattr(floracle.Oracle, "pairs", counted)
    some = floracle.stages(floracle.Oracle(data, memory=4 * 24 * 96 * 16), times=12, pairs=50)
    assert asked == [16, 16, 16, 2]
    for name, curve in whole.curves.items():
        torch.testing.assert_close(some.curves[name].mean, curve.mean, rtol=1e-6, atol=1e-7)


NAMES_OF_0_1 = {
    **{"max_information": "knowable", "max_class_information": "classes_knowable"},
    **{"remaining_information": "unknown", "speciation": "separation"},
    **{"self_weight": "own", "max_weight": "top", "participation": "concentration"},
    "held_out_max_weight": "held_out_top",
}


def renamed(name):
    """A name of an array or a value as floracle 0.1 saved it."""
    label, _, curve = name.rpartition("/")
    stem = curve.removeprefix("resamples_").removesuffix("_error")
    old = curve.replace(stem, NAMES_OF_0_1.get(stem, stem))
    return f"{label}/{old}" if label else old


def test_stages_of_version_0_1_are_read_under_the_names_of_today(tmp_path):
    digits = floracle.open_store("digits")
    mirrored = floracle.open_store(digits.points.flip(-1), labels=digits.labels)
    stages = floracle.stages(
        floracle.Oracle(digits), classes=[3, -1], pairs=16, times=12, held_out=mirrored
    )
    now = stages.to_results()
    groups = [{renamed(name): v for name, v in group.items()} for group in now.values["groups"]]
    arrays = {renamed(name): array for name, array in now.arrays.items()}
    assert {"3/own", "-1/top_error", "3/held_out_top"} < set(arrays)
    assert "knowable" in groups[0]
    assert "self_weight" not in str([*arrays, *groups[0]])
    old = replace(now, values={**now.values, "groups": groups}, arrays=arrays)
    floracle.save(old, tmp_path)
    again = floracle.load(tmp_path).to_results()
    assert again.values == now.values
    assert again.arrays.keys() == now.arrays.keys()
    assert all(torch.equal(again.arrays[name], array) for name, array in now.arrays.items())


def test_the_documentation_lists_the_curves_as_the_table_has_them():
    text = (Path(__file__).parents[2] / "docs" / "conventions.md").read_text()
    section = text.partition("## The curves, by t")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \|(.*?)\|$", section, re.MULTILINE)
    assert [(name, meaning, unit.strip()) for name, meaning, unit in rows] == [
        (row.name, row.meaning, row.unit) for row in CURVES
    ]
