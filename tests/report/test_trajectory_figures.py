"""The figures of baselines, trajectories and bands."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from floracle.analysis.curves import Landmark
from floracle.analysis.loss.baselines import baseline_distances
from floracle.analysis.stages.measure import stages
from floracle.analysis.trajectories.frequency_bands import settled_by_band
from floracle.analysis.trajectories.oracle_trajectories import oracle_trajectories
from floracle.oracle.baselines.gaussian import class_gaussians, gaussian_field
from floracle.oracle.baselines.patch_local import local_oracle
from floracle.oracle.oracle import Oracle
from floracle.report.stages.trajectory_figures import draw_bands, draw_baselines, draw_speed
from floracle.sampling.grid import time_grid

pytestmark = pytest.mark.slow  # they draw


@pytest.fixture(scope="module")
def measured(points_source):
    points = torch.randn(60, 1, 8, 8, generator=torch.Generator().manual_seed(1)).cumsum(-1)
    source = points_source(points, torch.arange(60) % 3)
    oracle, times = Oracle(source), torch.linspace(0, 0.98, 16, dtype=torch.float64)
    fields = {
        "one Gaussian": gaussian_field(source),
        "Gaussian a class": class_gaussians(source),
        "patches of 3": local_oracle(source, patch=3),
    }
    return {
        "group": stages(oracle, times=16, pairs=16, classes=[-1]).main,
        "distances": baseline_distances(oracle, fields, times=times, pairs=16),
        "followed": oracle_trajectories(oracle, range(8), time_grid(20)),
        "settled": settled_by_band(oracle, times=times, pairs=16),
    }


@pytest.fixture(scope="module")
def drawings(measured):
    group = measured["group"]
    return (
        draw_baselines(measured["distances"], group),
        draw_speed(measured["followed"], group),
        draw_bands(measured["settled"], group),
    )


def test_both_ends_are_named_and_nothing_is_in_a_box(drawings):
    for drawing in drawings:
        words = drawing.svg()
        assert ">noise<" in words
        assert ">data<" in words
        assert drawing.figure.axes[0].get_legend() is None


def test_columns_are_the_numbers_that_are_drawn(drawings, measured):
    distances, followed = measured["distances"], measured["followed"]
    for name, curve in distances.relative.items():
        assert drawings[0].columns[name] == curve.mean.tolist()
        assert drawings[0].columns[f"{name}_error"] == curve.error.tolist()
    assert drawings[0].columns["t"] == distances.times.tolist()
    assert drawings[1].columns["speed"] == followed.curves["speed"].mean.tolist()
    names = measured["settled"].bands.names
    for name, curve in zip(names, measured["settled"].explained, strict=True):
        assert drawings[2].columns[name] == curve.mean.tolist()
    for drawing in drawings:
        assert len(drawing.csv().splitlines()) == len(drawing.columns["t"]) + 1


def test_every_curve_is_named_inside_the_axes_and_no_names_overlap(drawings):
    figure = drawings[0].figure
    figure.canvas.draw()
    ax = figure.axes[0]
    boxes = [text.get_window_extent() for text in ax.texts if text.get_text()[0] in "oGp"]
    assert len(boxes) == 3
    for i, box in enumerate(boxes):
        assert ax.bbox.padded(1).contains(box.x0, box.y0)
        assert ax.bbox.padded(1).contains(box.x1, box.y1)
        assert not any(box.overlaps(other) for other in boxes[:i])


def test_half_times_are_written_beside_their_bands(drawings, measured):
    words = drawings[2].svg()
    for name, mark in zip(measured["settled"].bands.names, measured["settled"].half, strict=True):
        found = re.search(rf">{name}, half at ([\d.]+)<", words)
        assert float(found[1]) == pytest.approx(mark.value, abs=6e-4)


def test_the_words_say_who_is_nearest(drawings, measured):
    nearest = measured["distances"].nearest()
    assert f"{nearest[1]} early and {nearest[-1]} late" in drawings[0].alt
    assert f"{measured['followed'].straightness.value:.3f} times" in drawings[1].alt


def test_drawing_again_gives_the_same_bytes(drawings, measured):
    again = draw_baselines(measured["distances"], measured["group"])
    assert again.svg() == drawings[0].svg()


def test_one_long_name_without_landmarks_is_drawn(measured):
    nothing = Landmark(None)
    group = replace(measured["group"], centre=nothing, collapse=nothing, end=nothing)
    only = {"a" * 90: measured["distances"].relative["one Gaussian"]}
    found = draw_baselines(replace(measured["distances"], relative=only), group)
    assert "a" * 90 in found.svg()


def test_speed_fills_the_axes_even_where_it_is_constant(points_source, measured):
    source = points_source(torch.ones(1, 1, 4, 4))
    found = draw_speed(
        oracle_trajectories(Oracle(source), range(3), time_grid(5)), measured["group"]
    )
    low, high = found.figure.axes[0].get_ylim()
    values = np.array(found.columns["speed"])
    assert low < values.min() <= values.max() < high
