"""Going on from unseen data: closed forms, limits, and real digits."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

import floracle
from floracle.analysis.mixing.forward_backward import forward_backward
from floracle.analysis.trajectories.frequency_bands import radial_bands
from floracle.oracle.baselines.gaussian import class_gaussians
from floracle.sampling.grid import time_grid

SHAPE, EDGE = (1, 8, 8), 2.0
LOUD, QUIET = 9.0, 0.09
"""The variance of a wave below and above the edge."""


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def still(x, t, labels=None):
    return torch.zeros_like(x)


def split(values):
    """Squares below and above the edge [b, 2], by a transform of one's own."""
    k = torch.arange(8, dtype=torch.float64)
    waves = torch.exp(-2j * torch.pi * k[:, None] * k / 8) / 8**0.5
    found = (waves @ values.to(torch.complex128) @ waves.T).abs().square().sum(1)
    cycles = torch.minimum(k, 8 - k)
    low = torch.hypot(cycles[:, None], cycles) <= EDGE
    return torch.stack([found[:, low].sum(1), found[:, ~low].sum(1)], 1)


def powers():
    """The variance of every wave, float64 [8, 8]."""
    return torch.where(radial_bands(SHAPE, [EDGE]).band_of_frequency == 0, LOUD, QUIET).double()


def coloured(count, seed):
    """Pictures drawn from the Gaussian with these powers."""
    waves = torch.fft.fft2(normal(count, *SHAPE, seed=seed).double()) * powers().sqrt()
    return torch.fft.ifft2(waves).real.float()


def flow(x, t, labels=None):
    """The velocity of that Gaussian: every wave goes its own way."""
    t = t.reshape(-1, 1, 1, 1)
    gain = (t * powers() - (1 - t)) / (t**2 * powers() + (1 - t) ** 2)
    return torch.fft.ifft2(torch.fft.fft2(x.double()) * gain).real.to(x.dtype)


@pytest.fixture
def pictures(points_source):
    return points_source(normal(40, *SHAPE), torch.arange(40) % 2)


@pytest.mark.slow
def test_a_gaussian_field_is_as_its_closed_form_says(points_source):
    """A wave of variance λ ends at f x_τ, f² = λ / (τ² λ + (1 − τ)²), so apart is 1 − f τ,

    spread f² (1 − τ)² / λ, and half of the wave is kept from τ = 1 / (1 + √(3 λ)) on.
    """
    unseen, taus = points_source(coloured(160, 1)), torch.linspace(0, 1, 21).double()
    asked = {
        "switch_times": taus,
        "rows": range(160),
        "noises": 3,
        "edges": [EDGE],
        "solver": "heun",
    }
    found = forward_backward(
        flow, unseen, points_source(coloured(4, 2)), grid=time_grid(80), **asked
    )
    for band, power in enumerate((LOUD, QUIET)):
        scale = (power / (taus**2 * power + (1 - taus) ** 2)).sqrt()
        for curve, truth in (
            (found.change(band), 1 - scale * taus),
            (found.spread(band), scale**2 * (1 - taus) ** 2 / power),
        ):
            assert ((curve.mean - truth).abs() < 4 * curve.error + 5e-3).all()
            assert curve.error[1:-1].min() > 0
        half = found.half_change(band)
        assert half.low - 0.01 < 1 / (1 + (3 * power) ** 0.5) < half.high + 0.01
        assert half.high - half.low < 0.1


def test_a_field_that_stands_still_leaves_the_noisy_picture(pictures):
    """It ends at τ datum + (1 − τ) noise, so all is known of these very noises."""
    taus = [0.25, 0.5]
    found = forward_backward(
        still, pictures, pictures, switch_times=taus, rows=range(40), noises=3, edges=[EDGE]
    )
    points = pictures.points.double()
    fresh = floracle.noise(range(120), SHAPE).double().unflatten(0, (40, 3))
    means = torch.stack([points[label::2].mean(0) for label in (0, 1)])
    variance = split(points - means[pictures.labels])
    assert_close(found.class_variance, variance, rtol=1e-5, atol=1e-5)
    around = split((fresh - fresh.mean(1, keepdim=True)).flatten(0, 1)).unflatten(0, (40, 3))
    off = split((fresh - points[:, None]).flatten(0, 1)).unflatten(0, (40, 3)).mean(1)
    for k, tau in enumerate(taus):
        share = (1 - tau) ** 2
        assert_close(found.squared_change[..., k], share * off, rtol=1e-4, atol=1e-5)
        assert_close(found.noise_variance[..., k], share * around.sum(1) / 2, rtol=1e-4, atol=1e-5)
        for band in (0, 1):
            expected = share * off[:, band].sum() / (2 * variance[:, band].sum())
            assert float(found.change(band).mean[k]) == pytest.approx(float(expected), rel=1e-4)
            expected = share * around[:, :, band].sum() / 2 / variance[:, band].sum()
            assert float(found.spread(band).mean[k]) == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.slow
def test_from_the_end_nothing_is_asked_and_the_oracle_ends_on_training_points(pictures):
    training = type(pictures)(normal(30, *SHAPE, seed=4), torch.arange(30) % 2, torch.ones(30))
    oracle, rows = floracle.Oracle(training), range(5, 17)
    found = forward_backward(
        oracle, pictures, training, switch_times=[0.0, 0.4, 1.0], rows=rows, noises=2
    )
    copies, _, high = found.copy_share()
    assert found.nearest_distance[..., :2].max() < 1e-4
    assert copies.tolist() == [1, 1, 0]
    assert high[2] == pytest.approx(1 - 0.025 ** (1 / 12))  # 12 data, however many noises
    assert (found.squared_change[..., 2] == 0).all()
    assert (found.noise_variance[..., 2] == 0).all()
    apart = torch.cdist(pictures.points[rows].flatten(1), training.points.flatten(1)).double()
    apart[pictures.labels[rows][:, None] != training.labels] = torch.inf
    assert_close(found.held_out_distance, apart.amin(1), rtol=1e-5, atol=0)
    assert_close(found.nearest_distance[:, 0, 2], apart.amin(1), rtol=1e-5, atol=0)
    assert_close(found.distance().mean[2], apart.amin(1).mean() / 8, rtol=1e-5, atol=0)
    assert torch.equal(found.samples[:, 0], pictures.points[5:13])
    assert torch.equal(found.samples[:, 3], pictures.points[5:13])


def test_every_tau_has_the_same_noise_and_the_rest_of_one_grid(pictures):
    oracle, grid = floracle.Oracle(pictures), time_grid(10, shift=0.5)
    asked = {"rows": [3, 8], "noises": 2, "seed": 7, "grid": grid, "labelled": False}
    both = forward_backward(oracle, pictures, pictures, switch_times=[0.3, 0.6], **asked)
    fresh = floracle.noise(range(7, 11), SHAPE)
    for k, tau in enumerate((0.3, 0.6)):
        alone = forward_backward(oracle, pictures, pictures, switch_times=[tau], **asked)
        assert torch.equal(alone.squared_change[..., 0], both.squared_change[..., k])
        x = tau * pictures.points[[3, 8]] + (1 - tau) * fresh[::2]
        end = floracle.sample(oracle, x, floracle.split_grid(grid, tau)[1])
        assert_close(both.samples[:, 1 + k], end, atol=1e-5, rtol=0)


def test_points_that_are_no_pictures_have_one_band(points_source):
    points = points_source(normal(20, 6))
    found = forward_backward(still, points, points, switch_times=[0.0, 1.0], rows=range(20))
    assert found.bands == ("everything",)
    squares = (floracle.noise(range(80), (6,)) - points.points.repeat_interleave(4, 0)).double()
    centred = (points.points - points.points.mean(0)).double()
    expected = squares.square().sum() / 4 / (2 * centred.square().sum())
    assert float(found.change(0).mean[0]) == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.slow
def test_layout_settles_before_detail_in_real_digits(points_source):
    """A field that knows the mean and covariance of each class, and digits that it never saw."""
    digits = floracle.open_store("digits")
    some = torch.arange(len(digits))
    training, unseen = (
        points_source(digits.take(some[start::2]), digits.labels[start::2]) for start in (0, 1)
    )
    asked = {"rows": range(160), "noises": 2, "edges": [1.5], "grid": time_grid(25)}
    taus = torch.linspace(0, 1, 11)
    found = forward_backward(
        class_gaussians(training), unseen, training, switch_times=taus, **asked
    )
    layout, detail = found.half_change(0), found.half_change(1)
    assert layout.high < detail.low
    for band in (0, 1):
        assert (found.change(band).mean.diff() < 0.02).all()
        assert (found.spread(band).mean.diff() < 0.02).all()
        spread = found.spread(band).mean
        assert spread[0] > 0.5
        assert spread[-1] == 0


@pytest.mark.slow
def test_a_real_model_keeps_layout_before_detail_and_copies_nothing(shared):
    """Somebody else's model of MNIST, and test pictures."""
    training, unseen = (
        floracle.open_store(
            str(shared / "data" / "mnist" / f"{name}-images-idx3-ubyte.gz"), normalize=1 / 255
        )
        for name in ("train", "t10k")
    )
    network = Path(__file__).parents[1] / "models" / "mnist_network.py"
    model = floracle.load_model(f"{network}:network", convention="predicts=data,null_label=10")
    asked = {"switch_times": [0.0, 0.2, 0.3, 0.4, 0.6, 1.0], "rows": range(160), "noises": 2}
    found = forward_backward(model, unseen, training, grid=time_grid(20), **asked)
    assert found.bands == ("to 2 cycles", "over 2 cycles")
    assert found.half_change(0).high < found.half_change(1).low
    assert 0.15 < found.half_change(0).value < 0.4
    assert (found.copy_share()[0] == 0).all()
    for band in (0, 1):
        assert (found.change(band).mean.diff() < 0).all()
        assert abs(found.change(band).mean[0] - 1) < 0.25
    assert_close(found.distance().mean[-1], found.held_out_distance.mean() / 28)


def test_mistakes(points_source, pictures):
    known = {"switch_times": [0.5], "rows": range(4)}
    lone = points_source(normal(40, *SHAPE), torch.cat([torch.zeros(39), torch.ones(1)]))
    call = partial(forward_backward, still)
    for held_out, data, change, words in (
        (pictures, pictures, {"rows": [3]}, "2 held-out rows"),
        (pictures, pictures, {"noises": 1}, "1 noises"),
        (pictures, pictures, {"rows": [3, 40]}, "no row 40 among the 40"),
        (pictures, pictures, {"switch_times": [0.5, 0.2]}, "increase"),
        (pictures, points_source(normal(5, 8, 8)), {}, "shape"),
        (pictures, lone, {"rows": [1, 3]}, "fewer than 2"),
        (
            points_source(normal(9, *SHAPE), torch.arange(9)),
            pictures,
            {},
            "class 2 does not occur",
        ),
        (points_source(torch.zeros(9, *SHAPE)), pictures, {}, "does not vary"),
        (points_source(normal(9, 6)), points_source(normal(9, 6)), {"edges": [2.0]}, "pictures"),
    ):
        with pytest.raises(floracle.InputError, match=words):
            call(held_out, data, **{**known, **change})
