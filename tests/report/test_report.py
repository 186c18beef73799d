import csv
import re
from dataclasses import replace

import pytest
import torch

from floracle.analysis.curves import Landmark
from floracle.analysis.saved import load
from floracle.analysis.stages import stages
from floracle.data.store import open_store
from floracle.oracle.oracle import Oracle
from floracle.report.examples import examples
from floracle.report.figures import drawings
from floracle.report.html import page
from floracle.report.write import draw, save_stages

pytestmark = pytest.mark.slow  # they draw

FACTS = {"name": "<b>data</b>", "layout": "array", "command": "floracle stages 'a & b'"}


def measured(points, labels=None, **options):
    store = open_store(points, labels=labels)
    oracle = Oracle(store)
    found = stages(oracle, times=16, pairs=8, **options)
    facts = {**FACTS, "shape": list(store.shape), "points": len(store), "duplicates": 0}
    found = replace(found, provenance={**found.provenance, **facts})
    return found, examples(oracle, found, store)


@pytest.fixture(scope="module")
def pictures():
    drawn = torch.Generator().manual_seed(1)
    points = torch.randn(60, 1, 6, 6, generator=drawn).clamp(-1, 1)
    return measured(points, labels=torch.arange(60) % 3)


@pytest.fixture(scope="module")
def vectors():
    return measured(torch.randn(50, 12, generator=torch.Generator().manual_seed(2)))


@pytest.fixture(scope="module")
def folder(pictures, tmp_path_factory):
    there = tmp_path_factory.mktemp("report")
    save_stages(*pictures, there)
    draw(there)
    return there


def html_of(found, shown):
    return page(found, drawings(found, shown), shown)


def test_the_page_needs_nothing_else(folder):
    content = (folder / "report.html").read_text()
    assert len(content) < 3_000_000
    assert not re.search(r"https?://|src=\"(?!data:)|<script|<link|@import|url\((?!#)", content)


def test_drawing_again_gives_the_same_bytes(folder):
    files = [folder / "report.html", *sorted((folder / "figures").iterdir())]
    before = [file.read_bytes() for file in files]
    assert draw(folder) == folder / "report.html"
    assert [file.read_bytes() for file in files] == before


def test_the_numbers_of_a_figure_are_those_of_its_curve(folder):
    found = load(folder)
    with (folder / "figures" / "weights.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["t"]) for row in rows] == found.times.tolist()
    assert [float(row["top"]) for row in rows] == found.curves["top"].mean.tolist()
    assert [float(row["own_error"]) for row in rows] == found.curves["own"].error.tolist()
    with (folder / "figures" / "information-law.csv").open() as file:
        rows = list(csv.DictReader(file))
    bound = found.main.predicted_information.tolist()
    assert [float(row["gaussian_bound"]) for row in rows] == bound


def test_every_figure_comes_as_png_svg_and_csv(folder):
    names = {"weights", "votes", "gap", "entropy", "information-law", "predicted", "classes"}
    files = {file.name for file in (folder / "figures").iterdir()}
    assert files == {f"{name}.{kind}" for name in names for kind in ("png", "svg", "csv")}


def test_names_are_words_and_never_markup(pictures):
    found, shown = pictures
    found = replace(found, names=("<script>alert(1)</script>", "a & b", "$x$ {{ 7 * 7 }}"))
    content = html_of(found, shown)
    assert "<script>" not in content
    assert "&lt;script&gt;" in content
    assert "<b>data</b>" not in content
    assert "{{ 7 * 7 }}" in content


def test_landmarks_predictions_and_the_law_are_on_the_page(pictures):
    found, shown = pictures
    content = html_of(found, shown)
    assert f"Navigation ends at t = {found.main.end.value:.3f}" in content
    assert f"{found.main.predicted_collapse:.3f}" in content
    assert "The information law holds" in content
    assert 'role="alert"' not in content


def test_a_broken_law_is_an_alarm(pictures):
    found, shown = pictures
    broken = replace(found.main, law_holds=False)
    content = html_of(replace(found, groups=(broken, *found.groups[1:])), shown)
    assert 'role="alert"' in content
    assert "The information law is broken" in content


def test_an_end_that_is_not_reached_names_the_rows(pictures):
    found, shown = pictures
    main = replace(found.main, end=Landmark(None), rivals=((12, 57), (57, 12), (61, 60)))
    content = html_of(replace(found, groups=(main, *found.groups[1:])), shown)
    assert "Navigation does not end" in content
    assert "rows 12 and 57, 60 and 61. Leave" in content


def test_vectors_show_their_votes_as_bars(vectors):
    found, shown = vectors
    content = html_of(found, shown)
    assert "Points of shape 12 are no pictures" in content
    assert {"example-1", "example-4"} <= set(drawings(found, shown))
    assert "data:image/png" not in content


def test_examples_follow_one_pair_to_its_own_row(pictures):
    _, shown = pictures
    assert shown.voters[:, -1, 0].tolist() == shown.rows.tolist()
    assert (shown.weights[:, -1, 0] > 0.9).all()
    assert (shown.effective[:, 0] > 5).all()


def test_held_out_curves_join_the_drawings():
    drawn = torch.Generator().manual_seed(3)
    points = torch.randn(40, 12, generator=drawn)
    found, shown = measured(points, held_out=open_store(torch.randn(20, 12, generator=drawn)))
    content = html_of(found, shown)
    assert "held-out data" in content
    assert "held_out_gap" in drawings(found, shown)["gap"].columns


@pytest.mark.slow
def test_many_classes_are_folded():
    points = torch.randn(120, 4, generator=torch.Generator().manual_seed(4))
    content = html_of(*measured(points, labels=torch.arange(120) % 30))
    pasted = "The same for LightningDiT" in content  # folded as well
    assert content.count("<details>") - pasted == 2
    assert "lower quarter" in content
