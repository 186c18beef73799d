"""Every recipe: what it finds, and that it is drawn from saved numbers alone."""

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from floracle.analysis.interpolation import MeasuredTimes
from floracle.analysis.prediction.closed_form import predict
from floracle.core.seeds import noise
from floracle.data.store import open_store
from floracle.recipes import appendix_d, figure_2, figure_3, table_2
from floracle.recipes.recipe import rows_by_name, rows_of
from floracle.recipes.reproduce import RECIPES, redraw, reproduce_item
from floracle.report.figure import figure_style
from floracle.run.results import load_results, save

FIGURE_3 = figure_3.Figure3Settings(
    dims=(16, 64, 256), points=(100, 1000), clouds=2, pairs=64, times=48
)


@pytest.fixture(scope="module")
def digits():
    return RECIPES["figure-2a"].compute()


@pytest.fixture(scope="module")
def clouds():
    return RECIPES["figure-3"].compute(FIGURE_3)


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def cells(results):
    return rows_by_name(results)


# ------------------------------------------------------------------ Table 2 and Appendix D


def test_table_2_counts_exactly_what_the_paper_counts():
    published = {5: 6, 4: 6, 2: 12, 1: 22, 0.7: 28, 0.5: 34, 0.3: 46, 0.1: 72}
    found = cells(RECIPES["table-2"].compute())
    assert {name: row[table_2.SHARE] for name, row in found.items()} == {
        f"s = {shift:g}": share for shift, share in published.items()
    }
    for (
        shift,
        share,
    ) in published.items():  # the definition, in whole numbers
        tenths = round(10 * shift)
        starts = [k for k in range(50) if 5 * tenths * k <= 500 + (tenths - 10) * k]
        assert 2 * len(starts) == share


def test_table_2_keeps_the_published_gfid_apart_from_what_is_computed():
    found = RECIPES["table-2"].compute(table_2.Table2Settings(shifts=(0.5, 0.4)))
    known, unknown = rows_of(found)
    assert known[table_2.GFID] == 12.23
    assert unknown[table_2.GFID] is None
    assert "paper" in table_2.GFID
    assert unknown[table_2.SHARE] == 40  # k/50 ≤ .2 / (.4 + .12) gives k = 0 … 19


def test_the_shift_undoes_its_inverse_and_keeps_both_ends():
    found = RECIPES["appendix-d"].compute(appendix_d.AppendixDSettings(shifts=(4.0, 1.0, 0.25)))
    late, same, early = found.arrays["maps"]
    t = found.arrays["t"]
    torch.testing.assert_close(same, t)
    torch.testing.assert_close(late, 1 - early.flip(0))
    assert late[0] == early[0] == 0
    assert late[-1] == early[-1] == 1
    assert (late[1:-1] > t[1:-1]).all()


# ------------------------------------------------------------------ Figure 2


@pytest.mark.slow
def test_the_gap_lives_in_navigation_and_is_exactly_nothing_at_the_data(digits):
    row = cells(digits)["digits"]
    gap, t = digits.arrays["0/gap"], digits.arrays["0/times"]
    assert float(gap[t > row[figure_2.GONE_FROM]].max()) <= figure_2.GONE * float(gap[0])
    assert row[figure_2.GONE_FROM] < 1.5 * row["collapse"]
    assert row["gap at .9999"] == 0
    area = torch.trapezoid(gap, t)
    late = t >= row["end"]
    assert torch.trapezoid(gap[late], t[late]) < 0.01 * area


def test_the_gap_at_noise_is_the_variance_within_classes(digits):
    """At t = 0 the oracle predicts the mean of the class: what is left is the variance in it."""
    store = open_store("digits")
    points, labels = store.take(torch.arange(len(store))).flatten(1).double(), store.labels
    within = sum(
        (points[labels == c] - points[labels == c].mean(0)).square().sum() for c in range(10)
    )
    row = cells(digits)["digits"]
    error = float(digits.arrays["0/gap_error"][0]) / 64
    assert abs(row["gap at noise"] - float(within) / points.numel()) <= 4 * error + 1e-6


def test_the_papers_discrepancy_near_data_is_rounding():
    """(x̂ − x)/(1 − t) in float32 errs more and more as t → 1; the pairs' own gap does not."""
    points = open_store("digits").take(torch.arange(100)).flatten(1)
    drawn = noise(range(100), (64,))
    naive = []
    for t in (0.99, 0.999, 0.9999):
        x = t * points + (1 - t) * drawn
        naive.append(float(((points - x) / (1 - t) - (points - drawn)).square().mean()))
    assert naive[2] > 30 * naive[1] > 900 * naive[0] > 0


def test_top_1_rises_to_one_at_the_end(digits):
    top, t = digits.arrays["0/max_weight"], digits.arrays["0/times"]
    row = cells(digits)["digits"]
    assert (top.diff() >= -1e-9).all()
    along = digits.arrays["0/predicted_information"]
    assert MeasuredTimes(t, along).values(top, row["end"]) == pytest.approx(0.99, abs=1e-6)
    assert top[-1] > 0.9999


def test_digits_are_as_expected_and_something_else_is_told(digits):
    recipe = RECIPES["figure-2a"]
    assert recipe.missed(digits) == []
    other = replace(recipe, expected={"digits": {"collapse": 0.3}})
    assert other.missed(digits) == [
        f"collapse of digits is {cells(digits)['digits']['collapse']}, expected 0.3"
    ]


# ------------------------------------------------------------------ Figure 3


@pytest.mark.slow
def test_more_dimensions_collapse_earlier_and_more_sharply(clouds):
    found = cells(clouds)
    for points in FIGURE_3.points:
        rows = [found[figure_3.cloud_name(dims, points)] for dims in FIGURE_3.dims]
        for column in ("collapse", "top-1 from .25 to .75"):
            values = [row[column] for row in rows]
            assert values == sorted(values, reverse=True)
        for before, after in pairwise(rows):
            assert after["high"] < before["low"]


def test_more_points_collapse_later(clouds):
    found = cells(clouds)
    for dims in FIGURE_3.dims:
        few, many = (found[figure_3.cloud_name(dims, points)] for points in FIGURE_3.points)
        assert few["high"] < many["low"]
        name = figure_3.cloud_name(dims, FIGURE_3.points[0])
        t, top = (clouds.arrays[f"{name}/{key}"] for key in ("t", "max_weight"))
        later = clouds.arrays[f"{figure_3.cloud_name(dims, FIGURE_3.points[1])}/max_weight"]
        theirs = clouds.arrays[f"{figure_3.cloud_name(dims, FIGURE_3.points[1])}/t"]
        inside = (t > 0) & (top < 0.99)
        assert (np.interp(t[inside], theirs, later) < top[inside].numpy()).all()


def test_the_collapse_lies_just_before_its_prediction(clouds):
    for name, row in cells(clouds).items():
        dims, points = (int(part.split("=")[1]) for part in name.split())
        ratio = math.sqrt(points ** (2 / dims) - 1)
        assert row["isotropic"] == pytest.approx(ratio / (1 + ratio), rel=1e-9)
        assert row["isotropic"] == pytest.approx(predict(points, dims=dims).collapse, rel=1e-9)
        assert row["closed form"] == pytest.approx(row["isotropic"], rel=2e-3)
        assert 0.9 * row["isotropic"] < row["collapse"] < row["isotropic"]


def test_the_closed_form_is_a_lower_bound_and_the_deviation_is_what_is_told(clouds):
    for name, row in cells(clouds).items():
        own, error, closed = (
            clouds.arrays[f"{name}/{key}"]
            for key in ("self_weight", "self_weight_error", "closed")
        )
        assert (own - closed >= -4 * error - 1e-4).all()
        assert row["worst deviation"] == float((own - closed).max())
        assert 0.05 < row["worst deviation"] < 0.14


def test_own_weight_against_a_float64_reference():
    """One cloud, pairs drawn again, posteriors summed by hand in float64."""
    settings = figure_3.Figure3Settings(dims=(16,), points=(50,), clouds=1, pairs=40, times=12)
    found = RECIPES["figure-3"].compute(settings)
    first = figure_3._first_seed(0, 16, 50)
    data = open_store(f"gaussian:50x16:{first}").take(torch.arange(50)).double()
    rows = torch.randint(50, (40,), generator=torch.Generator().manual_seed(first + 1))
    drawn = noise(range(first + 2, first + 42), (16,)).double()
    for k, t in enumerate(found.arrays["D=16 N=50/t"].tolist()):
        own = torch.zeros((), dtype=torch.float64)
        for sign in (1, -1):
            x = t * data[rows] + (1 - t) * sign * drawn
            apart = torch.cdist(x, t * data).square() / (2 * (1 - t) ** 2)
            own += (-apart).softmax(1)[torch.arange(40), rows].mean() / 2
        assert float(found.arrays["D=16 N=50/self_weight"][k]) == pytest.approx(
            float(own), abs=1e-5
        )


def test_clouds_share_no_seed_with_their_noise():
    """A noise vector with the seed of its cloud would be the cloud's first point."""
    settings, taken = figure_3.Figure3Settings(), []
    for dims in settings.dims:
        for points in settings.points:
            first = figure_3._first_seed(settings.seed, dims, points)
            taken.append((first, first + settings.clouds * (settings.pairs + 2)))
    taken.sort()
    assert all(end <= start for (_, end), (start, _) in pairwise(taken))


def test_quick_is_a_choice_of_the_same_kind():
    assert set(RECIPES["figure-3"].quick.dims) < set(RECIPES["figure-3"].settings.dims)


@pytest.mark.slow
def test_figure_3_is_as_expected():
    """Sizes do not depend on one another, so a few of them can be measured alone."""
    recipe = RECIPES["figure-3"]
    chosen = replace(recipe.settings, dims=(16, 256), points=(100, 1000))
    expected = {name: row for name, row in recipe.expected.items() if "4096" not in name}
    assert len(expected) == 3
    assert replace(recipe, expected=expected).missed(recipe.compute(chosen)) == []


# ------------------------------------------------------------------ drawing


@pytest.mark.slow
@pytest.mark.parametrize("name", RECIPES)
def test_drawing_needs_saved_numbers_alone(name, digits, clouds, tmp_path, monkeypatch):
    recipe = RECIPES[name]
    computed = {"figure-2a": digits, "figure-2b": digits, "figure-3": clouds}.get(name)
    found = recipe.compute() if computed is None else replace(computed, kind=name)
    save(found, tmp_path / "saved")
    monkeypatch.setattr(figure_2, "open_store", None)
    monkeypatch.setattr(figure_3, "open_store", None)
    files = redraw(tmp_path / "saved")
    first = {path.name: path.read_bytes() for path in files}
    redraw(tmp_path / "saved")
    assert first == {path.name: path.read_bytes() for path in files}
    with figure_style():
        drawn = recipe.draw(load_results(tmp_path / "saved"))
    assert tuple(drawing.name for drawing in drawn) == recipe.figures
    for drawing in drawn:
        assert first[f"{drawing.name}.csv"].decode() == drawing.csv()
        assert len({len(column) for column in drawing.columns.values()}) == 1


def test_expected_cells_are_cells_of_the_table(digits):
    for name, recipe in RECIPES.items():
        found = digits if name.startswith("figure-2") else None
        if name != "figure-3":
            recipe.missed(found or recipe.compute())  # a KeyError where a cell is not there
    assert set(RECIPES["figure-3"].expected[figure_3.cloud_name(256, 100)]) <= set(
        figure_3.COLUMNS
    )


@pytest.mark.slow
def test_several_data_lie_over_each_other():
    drawn = np.random.default_rng(0)
    np.savez("wide.npz", x=drawn.normal(size=(60, 256)), labels=np.arange(60) % 2)
    settings = figure_2.Figure2Settings(data=("gaussian:30x8", "wide.npz"), pairs=8, times=16)
    found = reproduce_item(RECIPES["figure-2b"], Path("both"), settings)
    narrow, wide, paper = rows_of(found)
    assert wide["collapse"] < narrow["collapse"]
    assert (narrow["N per class"], wide["N per class"]) == (30, 30)
    assert paper["D"] == "4096, 8192"
    written = Path("both/figures/figure-2b.csv").read_text().splitlines()
    assert len(written) == 1 + 2 * 16
