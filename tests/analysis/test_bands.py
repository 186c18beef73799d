"""Bands of frequencies: the split itself, and which of them settle first."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.datasets import load_digits
from torch.testing import assert_close

from floracle.analysis.trajectories.frequency_bands import radial_bands, settled_by_band
from floracle.oracle.oracle import Oracle
from floracle.run.errors import InputError

TIMES = torch.tensor([0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.85, 0.99]).double()


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def coloured(count, side, power, seed=0):
    """Pictures [count, 1, side, side] whose amplitude falls as frequency^−power."""
    steps = torch.fft.fftfreq(side) * side
    radius = torch.hypot(steps[:, None], steps[None]).clamp(min=1)
    waves = torch.fft.fft2(normal(count, 1, side, side, seed=seed), norm="ortho")
    return torch.fft.ifft2(waves * radius**-power, norm="ortho").real


@pytest.mark.slow
@given(st.integers(4, 17), st.integers(4, 17), st.integers(1, 3))
def test_bands_keep_all_squares(high, wide, channels):
    pictures = normal(3, channels, high, wide).double()
    energies = radial_bands((channels, high, wide)).energies(pictures)
    assert_close(energies.sum(1), pictures.square().flatten(1).sum(1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cycles", "band"), [(0, 0), (1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3)]
)
def test_waves_lie_in_their_band(cycles, band):
    bands = radial_bands((1, 16, 16))
    assert bands.edges == (1, 2, 4)
    assert bands.names == ("to 1 cycle", "1–2 cycles", "2–4 cycles", "over 4 cycles")
    wave = torch.cos(2 * math.pi * cycles * torch.arange(16) / 16)
    for picture in (wave.expand(16, 16), wave[:, None].expand(16, 16)):
        shares = bands.energies(picture[None, None].double())[0]
        assert_close(shares / shares.sum(), torch.eye(4, dtype=torch.float64)[band])


@pytest.mark.slow
def test_bands_do_not_mix(points_source):
    """P is a projection: the energies of band-limited parts add up."""
    bands, pictures = radial_bands((2, 8, 8)), normal(4, 2, 8, 8).double()
    total = torch.zeros(4, 3, dtype=torch.float64)
    waves = torch.fft.fft2(pictures)
    for band in range(3):
        part = torch.fft.ifft2(waves * (bands.band_of_frequency == band)).real
        found = bands.energies(part)
        assert_close(found.sum(1), found[:, band])
        total += found
    assert_close(total, bands.energies(pictures))


@pytest.fixture(scope="module")
def natural(points_source):
    """Amplitudes 1/f, as of natural pictures (Field 1987)."""
    return settled_by_band(Oracle(points_source(coloured(400, 8, 1.0))), times=TIMES, pairs=1000)


def test_prediction_begins_with_nothing_and_ends_with_all(natural):
    for explained, held in zip(natural.explained, natural.captured, strict=True):
        for curve in (explained, held):
            assert curve.mean[0] == pytest.approx(0, abs=1e-6)
            assert curve.mean[-1] == pytest.approx(1, abs=1e-6)
    assert sum(natural.shares) == pytest.approx(1)


def test_what_is_held_is_what_is_explained(natural):
    """The law of total variance, band by band."""
    for explained, held in zip(natural.explained, natural.captured, strict=True):
        error = (explained.error.square() + held.error.square()).sqrt()
        assert ((explained.mean - held.mean).abs() <= 4 * error + 1e-6).all()


def test_layout_settles_before_detail(natural):
    half = natural.half
    assert half[0].high < half[1].low
    assert half[1].high < half[2].low


def test_white_pictures_settle_all_at_once(points_source):
    found = settled_by_band(Oracle(points_source(coloured(400, 8, 0.0))), times=TIMES, pairs=400)
    assert max(mark.low for mark in found.half) < min(mark.high for mark in found.half)


@pytest.mark.slow
def test_a_dense_cloud_settles_as_its_gaussian(points_source):
    """Before the collapse a band explains Σ λ r²λ/(1 + r²λ) of its Σ λ."""
    points = coloured(8_000, 4, 1.0)
    times = torch.tensor([0.1, 0.25, 0.35], dtype=torch.float64)
    found = settled_by_band(Oracle(points_source(points)), times=times, pairs=1500)
    power = torch.fft.fft2(points.double(), norm="ortho").abs().square().mean((0, 1))
    signal = (times / (1 - times)).square()[:, None, None] * power
    for band, curve in enumerate(found.explained):
        mine = found.bands.band_of_frequency == band
        expected = (power * signal / (1 + signal))[:, mine].sum(1) / power[mine].sum()
        assert ((curve.mean - expected).abs() <= 4 * curve.error + 0.01).all(), (band, expected)


@pytest.mark.slow
def test_digits_find_their_layout_first(points_source):
    """Measured: half at .377 ± .018, .388 ± .020, .420 ± .014."""
    images, _ = load_digits(return_X_y=True)
    points = torch.from_numpy(images).float().reshape(-1, 1, 8, 8) / 8 - 1
    times = torch.linspace(0.1, 0.7, 13, dtype=torch.float64)
    found = settled_by_band(Oracle(points_source(points)), times=times, pairs=512)
    low, _, high = found.half
    assert low.high < high.low
    assert low.value < high.value - 0.02


def test_a_class_is_measured_about_its_own_mean(points_source):
    points = coloured(60, 8, 1.0) + 5 * (torch.arange(60) % 2).reshape(-1, 1, 1, 1)
    oracle = Oracle(points_source(points, torch.arange(60) % 2))
    found = settled_by_band(oracle, times=TIMES, pairs=64, label=1)
    assert found.label == 1
    for curve in found.explained:
        assert curve.mean[0] == pytest.approx(0, abs=1e-5)


def test_mistakes(points_source):
    flat = Oracle(points_source(normal(6, 16)))
    with pytest.raises(InputError, match="pictures"):
        settled_by_band(flat, times=TIMES)
    for edges in ([], [2, 1], [0, 1], [-1]):
        with pytest.raises(InputError, match="edges"):
            radial_bands((1, 8, 8), edges)
    with pytest.raises(InputError, match="empty"):
        radial_bands((1, 8, 8), [1.1, 1.2])
    even = Oracle(points_source(normal(6, 1, 1, 1).expand(6, 1, 8, 8)))
    with pytest.raises(InputError, match="does not vary"):
        settled_by_band(even, times=TIMES, pairs=8)
