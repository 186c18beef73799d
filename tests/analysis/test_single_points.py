"""A single distinct point: the answer is known, and nothing is left to navigate."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

import floracle
from clouds import Clouds
from floracle.analysis.advice import advise
from floracle.analysis.compare import DataSpace, compare_spaces
from floracle.analysis.curves import Landmark
from floracle.analysis.prediction.closed_form import predict
from floracle.analysis.prediction.profile import Profile
from floracle.analysis.stages.result import POOLED
from floracle.analysis.stages.what_if import what_if
from floracle.analysis.tool_arguments import arguments
from floracle.analysis.trajectories.trajectory_analysis import analyse_trajectories
from floracle.oracle.gaussian_data import GaussianOracle
from floracle.run.errors import InputError

AT_NOISE = Landmark(0.0, 0.0, 0.0)


def normal(count, *shape, seed=0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def assert_settled(group):
    """γ_own = 1 and H = 0 at all times, exactly."""
    assert group.single_point
    assert group.max_information == group.remaining_information == 0
    levels = {
        "max_weight": 1.0,
        "self_weight": 1.0,
        "participation": 1.0,
        "entropy": 0.0,
        "information": 0.0,
    }
    for name, level in levels.items():
        assert (group.curves[name].mean == level).all(), name
        assert (group.curves[name].error == 0).all(), name
    assert group.collapse == group.end == AT_NOISE
    assert group.centre == Landmark(None)
    assert group.predicted_collapse == group.predicted_centre == 0
    assert (group.predicted_information == 0).all()
    assert group.area == (0.0, 0.0)
    assert group.law_deviation == 0


POINTS = {
    "one": normal(1, 1, 8, 8),
    "a hundred equal": normal(1, 1, 8, 8).repeat(100, 1, 1, 1),
    "a number": normal(1, 1),
}


@pytest.mark.parametrize("points", POINTS.values(), ids=list(POINTS))
def test_with_one_point_navigation_has_ended_at_noise(points):
    stages = floracle.stages(floracle.Oracle(floracle.open_store(points)), pairs=8)
    assert [group.label for group in stages.groups] == [-1]
    assert_settled(stages.main)
    assert (stages.curves["gap"].mean == 0).all()
    assert stages.main.points == 1
    assert (stages.times.diff() > 0).all()
    assert stages.times[-1] < 1


def test_points_that_float32_cannot_tell_apart_are_one():
    points = normal(20, 8) + 1e10  # float32 has a number in a thousand there
    assert_settled(floracle.stages(floracle.Oracle(floracle.open_store(points)), pairs=4).main)


@pytest.mark.parametrize("label", [None, 2], ids=["whole", "class"])
def test_the_oracle_goes_straight_to_it(label):
    points = normal(1, 6).repeat(5, 1) if label is None else normal(9, 6)
    labels = None if label is None else torch.tensor([0] * 4 + [1] * 4 + [2])
    oracle = floracle.Oracle(floracle.open_store(points, labels=labels))
    x, t = normal(7, 6, seed=3), torch.tensor([0, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999]).double()
    asked = None if label is None else torch.full((7,), label)
    assert_close(oracle(x, t, asked).double(), (points[-1] - x) / (1 - t[:, None]))
    posterior = oracle.posterior(x, t, asked, top=3)
    assert (posterior.top_weights[:, 0] == 1).all()
    assert (posterior.entropy == 0).all()


@pytest.fixture(scope="module")
def mixed():
    """Two classes of twenty points and one of a single point."""
    return floracle.open_store(normal(41, 1, 8, 8), labels=[0] * 20 + [1] * 20 + [2])


@pytest.fixture(scope="module")
def measured(mixed):
    return floracle.stages(floracle.Oracle(mixed), pairs=16, times=20)


def test_a_class_of_one_point_counts_with_its_share(measured):
    assert [group.label for group in measured.groups] == [POOLED, 0, 1, 2, -1]
    assert measured.settings["classes"] == [0, 1, 2, -1]
    assert [group.label for group in measured.single_points] == [2]
    assert_settled(measured.group(2))
    assert measured.group(2).share == pytest.approx(1 / 41)
    shares = torch.tensor([20 / 41, 20 / 41, 1 / 41]).double()
    for name, curve in measured.main.curves.items():
        means = torch.stack([measured.group(label).curves[name].mean for label in range(3)])
        assert_close(curve.mean, shares @ means)
    assert measured.main.label == POOLED
    assert measured.main.points == 41
    assert measured.main.max_information == pytest.approx(40 / 41 * math.log(20))
    assert measured.main.collapse.value < measured.group(0).collapse.value + 0.02


def test_the_other_classes_have_the_numbers_they_have_without_it(mixed, measured):
    alone = floracle.stages(floracle.Oracle(mixed), pairs=16, times=20, classes=[0, 1, -1])
    assert torch.equal(alone.times, measured.times)
    for label in (0, 1, -1):
        for name, curve in alone.group(label).curves.items():
            assert torch.equal(measured.group(label).curves[name].mean, curve.mean)
        assert measured.group(label).collapse == alone.group(label).collapse


def test_a_single_class_of_one_point_is_answered(mixed):
    found = floracle.stages(floracle.Oracle(mixed), pairs=8, classes=[2])
    assert [group.label for group in found.groups] == [2]
    assert_settled(found.main)


def test_what_has_stages_is_the_headline_before_what_has_none(mixed):
    each = floracle.Oracle(floracle.open_store(normal(3, 8), labels=[0, 1, 2]))
    found = floracle.stages(each, pairs=8)
    assert [group.label for group in found.groups] == [POOLED, 0, 1, 2, -1]
    for label in (POOLED, 0, 1, 2):
        assert_settled(found.group(label))
    assert found.main.label == found.typical.label == -1
    assert found.main.max_information == pytest.approx(math.log(3))
    both = floracle.stages(floracle.Oracle(mixed), pairs=8, classes=[2, -1])
    assert both.main.label == both.typical.label == -1


def test_one_point_in_several_classes_is_one_point():
    store = floracle.open_store(normal(1, 8).repeat(6, 1), labels=[0, 1] * 3)
    found = floracle.stages(floracle.Oracle(store), pairs=8)
    for group in found.groups:
        assert_settled(group)


def test_a_number_of_points_that_is_one_in_float64_is_one(points_source):
    """e^H(w) of two points, one of which weighs 1e−20 of the other, rounds to 1."""
    source = points_source(normal(2, 8), weights=torch.tensor([1.0, 1e-20]).double())
    found = floracle.stages(floracle.Oracle(source), pairs=8)
    assert found.main.max_information == 0
    assert found.main.area == (0.0, 0.0)
    assert found.main.collapse == found.main.end == AT_NOISE


def test_a_single_gaussian_has_its_own_variance_and_no_more(points_source):
    """E‖u* − (data − noise)‖² of one Gaussian of deviation s is D s² / (t² s² + (1 − t)²)."""
    clouds = Clouds(points_source(normal(1, 8)), torch.full((1, 8), 0.5))
    found = floracle.stages(GaussianOracle(clouds), pairs=8)
    assert_settled(found.main)
    expected = 8 * 0.25 / (found.times.square() * 0.25 + (1 - found.times).square())
    assert_close(found.curves["gap"].mean, expected)


def test_held_out_points_are_measured_against_one_point():
    """Their distance from it, A² ‖data − point‖² on average over the pairs that are drawn."""
    oracle = floracle.Oracle(floracle.open_store(torch.zeros(1, 8)))
    found = floracle.stages(oracle, pairs=16, held_out=floracle.open_store(torch.ones(1, 8)))
    assert_settled(found.main)
    held_out, t = found.curves["held_out_gap"].mean, found.times
    assert_close(held_out, 8 / (1 - t).square(), rtol=1e-5, atol=0)


def test_one_point_survives_saving(mixed, measured, tmp_path):
    floracle.save(measured, tmp_path)
    again = floracle.load(tmp_path)
    assert_settled(again.group(2))
    assert [group.label for group in again.single_points] == [2]


def test_of_one_point_nothing_is_predicted_but_the_start():
    found = predict(1, spectrum=[0.0, 0.0])
    t = torch.linspace(0, 0.999, 50, dtype=torch.float64)
    assert found.centre == found.collapse == 0
    assert (found.information(t) == 0).all()
    assert_close(found.self_weight(t), torch.ones(50, dtype=torch.float64))


@pytest.mark.parametrize(
    ("points", "spectrum", "words"),
    [(1, [1.0], "single point is all zero"), (5, [0.0, 0.0], "several points is not all zero")],
)
def test_points_and_spectrum_must_go_together(points, spectrum, words):
    with pytest.raises(InputError, match=words):
        predict(points, spectrum=spectrum)


def test_advice_on_one_point_divides_by_nothing():
    one = floracle.stages(floracle.Oracle(floracle.open_store(normal(1, 8))), pairs=4)
    (only,) = advise(one)
    assert only.name == "none needed"
    assert arguments(one) == ()
    with pytest.raises(InputError, match="single distinct point"):
        what_if(one, Profile.of_spectrum(torch.ones(1), 2), [10.0])


def test_advice_where_nearly_all_mass_is_in_classes_of_one_point():
    """The pooled end is at 0, though half a percent of the mass still navigates."""
    points = torch.cat([normal(1, 8).repeat(995, 1), normal(5, 8, seed=1)])
    labels = torch.tensor([0] * 995 + [1] * 5)
    oracle = floracle.Oracle(floracle.open_store(points, labels=labels))
    found = floracle.stages(oracle, pairs=16, times=12)
    assert found.main.end.value == 0 < found.main.max_information
    assert advise(found)[0].name == "none needed"
    assert arguments(found) == ()


def test_one_point_beside_many_has_no_factors(measured):
    one = floracle.stages(floracle.Oracle(floracle.open_store(normal(1, 8))), pairs=4)
    single = DataSpace("one", one, torch.zeros(1).double(), -1)
    many = DataSpace("many", measured, torch.ones(8).double(), 0)
    assert single.effective_dims is None
    assert single.unit_collapse() == 0
    assert compare_spaces(single, many) is None
    assert compare_spaces(many, single) is None


def test_a_deeper_look_at_one_point_goes_straight():
    oracle = floracle.Oracle(floracle.open_store(normal(1, 1, 4, 4, seed=99)))
    found = analyse_trajectories(oracle, floracle.stages(oracle, pairs=4))
    assert found.bands is None
    assert found.trajectories.straightness.value == pytest.approx(1)
    assert found.trajectories.misses.max() < 1e-6
    for curve in (*found.distances.relative.values(), *found.trajectories.curves.values()):
        assert curve.mean.isfinite().all()
    assert max(curve.mean.max() for curve in found.distances.relative.values()) < 1e-9


def test_a_deeper_look_at_pictures_that_do_not_vary_in_a_band():
    flat = normal(20, 1, 1, 1).expand(20, 1, 4, 4).contiguous()
    oracle = floracle.Oracle(floracle.open_store(flat))
    assert analyse_trajectories(oracle, floracle.stages(oracle, pairs=4)).bands is None
