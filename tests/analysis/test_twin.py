"""Twins: stages from spectrum, norms and distances to neighbours alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import floracle
from floracle.analysis.prediction.profile import MOST_NEIGHBOURS, neighbour_ranks
from floracle.analysis.prediction.twin import draw_points, measure_set
from floracle.core.seeds import generator
from floracle.core.spectrum import spectrum

MARKS = ("centre", "collapse", "end")


def off(expected, group):
    """By what share landmarks lie off those measured."""
    return {
        name: getattr(expected, name) / getattr(group, name).value - 1
        for name in MARKS
        if getattr(group, name).value is not None
    }


def measured(points, pairs=512):
    return floracle.stages(floracle.Oracle(floracle.open_store(points)), pairs=pairs)


@pytest.mark.slow
def test_a_twin_of_a_gaussian_has_its_stages():
    scales = torch.logspace(0, -1, 24)
    points = torch.randn(600, 24, generator=generator(3)) * scales
    group = measured(points).main
    store = floracle.open_store(points)
    known = floracle.profile(store)
    for profile in (known, floracle.Profile.of_spectrum(spectrum(store), 600)):
        found = off(floracle.twin(profile), group)
        assert max(map(abs, found.values())) < 0.04, found


def test_curves_of_a_twin_are_those_of_its_points():
    """Against float64 posteriors of the same points and noise, from the definition."""
    store = floracle.open_store("digits")
    known = floracle.Profile.of_spectrum(spectrum(store, 3), 60)
    ratio = torch.tensor([0.3, 1.0, 3.0], dtype=torch.float64)
    curves = measure_set(known, 60, 40, (ratio, math.inf), generator(5))
    random = generator(5)
    x = draw_points(known, 60, random).double()
    own = torch.randint(60, (40,), generator=random)
    noise = torch.randn(40, x.shape[1], generator=random).double()
    for place, r in enumerate(ratio):
        found = torch.zeros(3, dtype=torch.float64)
        for sign in (1, -1):
            seen = r * x[own] + sign * noise  # x_t / σ
            weights = (-torch.cdist(seen, r * x).square() / 2).softmax(1)
            entropy = torch.special.entr(weights).sum(1)
            mine = weights[torch.arange(40), own]
            found += torch.stack([math.log(60) - entropy, mine, weights.amax(1)]).mean(1) / 2
        assert curves[:, place] == pytest.approx(found, abs=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("label", [0, 1])
def test_drawings_are_told_by_their_neighbours(label):
    """The ones of the digits lie in clusters: spectrum and norms alone are 5 % and more off."""
    store = floracle.open_store("digits")
    group = floracle.stages(floracle.Oracle(store), classes=[label]).main
    found = off(floracle.twin(floracle.profile(store, label)), group)
    assert max(map(abs, found.values())) < 0.03, found
    if label == 1:
        plain = floracle.Profile.of_spectrum(spectrum(store, label), group.points)
        assert off(floracle.twin(plain), group)["collapse"] < -0.05


def test_a_profile_tells_distances_to_neighbours():
    points = torch.randn(300, 5, generator=generator(1))
    known = floracle.profile(floracle.open_store(points))
    every = torch.cdist(points.double(), points.double()).square().sort(1).values[:, 1:]
    right = every[:, neighbour_ranks(300) - 1].log()
    middle = (known.distances[127] + known.distances[128]) / 2
    assert middle == pytest.approx(right.median(0).values, abs=0.1)
    assert known.energies.mean(0)[:3] == pytest.approx(np.ones(3))


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2, 1), (3, 2), (20, 300), (40, 1), (17, 16)])
def test_small_and_flat_classes_have_twins(shape):
    known = floracle.profile(floracle.open_store(torch.randn(shape, generator=generator(2))))
    found = floracle.twin(known)
    assert found.centre is not None
    assert found.collapse is not None
    assert (0 if shape[0] == 2 else 1e-9) <= found.collapse < 1
    assert (found.information.diff() > -0.05).all()


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_any_scale_of_the_data_gives_the_same_twin(scale):
    points = torch.randn(150, 12, generator=generator(6))
    one = floracle.twin(floracle.profile(floracle.open_store(points)))
    other = floracle.twin(floracle.profile(floracle.open_store(points * scale)))
    for curve, level in (("information", 2.0), ("self_weight", 0.5), ("max_weight", 0.99)):
        ratio = other.ratio_of(curve, level) * scale
        assert ratio == pytest.approx(one.ratio_of(curve, level), rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("apart", [1e3, 1e4, 1e5])
def test_two_far_clusters_are_told_as_they_are_measured(apart):
    """What tells points apart is within the clusters; their distance drowned it in float32."""
    points = torch.randn(400, 32, generator=generator(7))
    points[:200, 0] += apart
    group = measured(points, pairs=512).main
    found = floracle.twin(floracle.profile(floracle.open_store(points)))
    for name in ("collapse", "end"):
        assert getattr(found, name) == pytest.approx(getattr(group, name).value, rel=0.08), name


@pytest.mark.slow
def test_tight_clusters_are_followed_to_their_end():
    middles = 3 * torch.randn(40, 64, generator=generator(8))
    points = middles.repeat(10, 1) + 0.03 * torch.randn(400, 64, generator=generator(9))
    group = measured(points).main
    found = floracle.twin(floracle.profile(floracle.open_store(points)))
    for name in ("collapse", "end"):
        assert getattr(found, name) == pytest.approx(getattr(group, name).value, rel=0.05), name


def test_two_points_are_told_as_they_are_measured():
    points = torch.randn(2, 6, generator=generator(1))
    group = measured(points, pairs=1024).main
    found = floracle.twin(floracle.profile(floracle.open_store(points)))
    assert found.centre == pytest.approx(group.centre.value, rel=0.05)
    assert found.end == pytest.approx(group.end.value, rel=0.05)
    assert found.collapse == 0 == group.collapse.value


def test_weights_of_noise_are_there_from_the_start():
    """Every point has 1/N at t = 0: a level below is reached there."""
    found = floracle.twin(floracle.Profile.of_spectrum(torch.ones(8), 50))
    assert found.time_of("self_weight", 0.01) == 0 == found.time_of("max_weight", 0.02)
    assert (
        0 < found.time_of("self_weight", 0.03) < found.time_of("self_weight", 0.1) < found.collapse
    )


@pytest.mark.slow
def test_a_profile_counts_weights_and_a_twin_is_of_all_its_points():
    many = floracle.profile(floracle.open_store(torch.randn(40_000, 3, generator=generator(3))))
    assert many.searched_points == MOST_NEIGHBOURS < 40_000
    assert many.points == pytest.approx(40_000)
    assert floracle.twin(many, pairs=64).points == many.points


@pytest.mark.slow
def test_near_duplicates_are_no_nan():
    points = torch.randn(200, 10, generator=generator(4))
    points[100:] = points[:100]
    points[100:, 0] += 1e-6
    found = floracle.twin(floracle.profile(floracle.open_store(points)))
    assert found.max_weight.isfinite().all()
    assert found.end is None or found.end > 1 - 1e-4  # twins share their weight


@pytest.mark.slow
def test_a_profile_is_saved_as_it_is():
    known = floracle.profile(floracle.open_store("digits"), 2)
    again = floracle.Profile.of_arrays(known.to_arrays())
    assert again.points == known.points
    assert again.tail_sums == known.tail_sums
    for name in ("leading", "energies", "distances"):
        assert torch.equal(getattr(again, name), getattr(known, name))
    assert floracle.twin(again).end == floracle.twin(known).end


@pytest.mark.slow
def test_more_points_than_can_be_drawn_go_on_from_those_that_can():
    gaussian = floracle.Profile.of_spectrum(torch.ones(30), 100)
    some = floracle.twin(gaussian, MOST_NEIGHBOURS, pairs=64)
    more = floracle.twin(gaussian, MOST_NEIGHBOURS + 1, pairs=64)
    most = floracle.twin(gaussian, 1e8, pairs=64)
    for name in MARKS:
        assert getattr(more, name) == pytest.approx(getattr(some, name), rel=1e-4)
        assert getattr(most, name) > 1.05 * getattr(some, name)


def test_curves_are_read_at_times_and_on_other_paths():
    known = floracle.Profile.of_spectrum(torch.ones(30), 100)
    linear = floracle.twin(known)
    assert float(linear.at("self_weight", torch.tensor([linear.collapse]))[0]) == pytest.approx(
        0.5
    )
    cosine = floracle.twin(known, path=floracle.COSINE)
    c = floracle.COSINE.coefficients(torch.tensor([cosine.end]).double())
    assert float(c.alpha / c.sigma) == pytest.approx(linear.end / (1 - linear.end), rel=1e-6)


def test_what_has_no_neighbours_is_refused():
    with pytest.raises(floracle.InputError, match="single distinct point"):
        floracle.profile(floracle.open_store(torch.ones(1, 3)))
    known = floracle.Profile.of_spectrum(torch.ones(3), 10)
    for points in (1, math.inf, math.nan):
        with pytest.raises(floracle.InputError, match="at least 2 points"):
            floracle.twin(known, points)


@pytest.mark.slow
def test_photographs_and_latents_within_five_percent(shared):
    """The table of docs/real-data.md, some of it: centre, collapse and end."""
    for place, label in (
        ("images256/train", 2),
        ("vavae_tokens/f16d32_vfdinov2.safetensors", -1),
    ):
        store = floracle.open_store(shared / "data" / place)
        group = floracle.stages(floracle.Oracle(store), classes=[label], pairs=2048).main
        found = off(floracle.twin(floracle.profile(store, label)), group)
        assert max(map(abs, found.values())) < 0.055, found


@pytest.mark.slow
def test_a_twin_of_fifty_thousand_takes_seconds():
    import time

    store = floracle.open_store("digits")
    known = floracle.profile(store)
    gaussian = floracle.Profile.of_spectrum(spectrum(store), 50_000)
    started = time.monotonic()
    assert floracle.twin(gaussian).end > floracle.twin(known).collapse
    assert time.monotonic() - started < 60  # .6 s on two free cores; machines of tests are busy
