"""The page of probed fields: whole in itself, and its numbers those that were measured."""

import csv
import io
import math
import re
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch

import floracle
from floracle.analysis.trajectories.lag import initial_error, lag
from floracle.core.point_set import NO_LABEL
from floracle.report.figure import figure_style
from floracle.report.probe import words as probe_words
from floracle.report.probe.figures import ProbedField, probe_figures
from floracle.report.probe.page import (
    MAX_PICTURE_PIXELS,
    prediction_pictures,
    probe_page,
    tile_predictions,
    write_probe_report,
)
from floracle.run.images import quantise


def shown(result):
    """A lag as tables have it."""
    return str(result)


NAME = "<script>alert(1)</script> & {{ 7 * 7 }}"


@pytest.fixture(scope="module")
def fields():
    """The oracle of 40 pictures, and that of 10 of them under a name that is no markup."""
    drawn = torch.Generator().manual_seed(1)
    points = torch.rand(40, 1, 6, 6, generator=drawn) * 2 - 1
    labels = torch.arange(40) % 2
    store = floracle.open_store(points, labels=labels)
    part = floracle.Oracle(floracle.open_store(points[:10], labels=labels[:10]))
    known = {"labels": torch.arange(8) % 2, "grid": floracle.time_grid(30)}
    probes = [
        floracle.probe(one, range(8), (1, 6, 6), **known) for one in (floracle.Oracle(store), part)
    ]
    pictures = prediction_pictures(probes, store)
    return [
        ProbedField("oracle", probes[0], True, pictures[0]),
        ProbedField(NAME, probes[1], False, pictures[1]),
    ]


@pytest.fixture(scope="module")
def drawings(fields):
    return {drawing.name: drawing for drawing in probe_figures(fields)}


@pytest.mark.slow
def test_the_page_needs_nothing_else_and_names_are_words(fields, drawings):
    content = probe_page(
        fields,
        list(drawings.values()),
        facts={"data": "<b>data</b>"},
        command="floracle probe 'a & b'",
    )
    assert not re.search(r"https?://|src=\"(?!data:)|<script|<link|@import|url\((?!#)", content)
    assert "&lt;script&gt;" in content
    assert "{{ 7 * 7 }}" in content
    assert "<b>data</b>" not in content
    assert content.count("data:image/png") == 3 * 2 * 12  # seeds, fields, times


@pytest.mark.slow
def test_everything_is_written_twice_alike(fields, tmp_path):
    for place in ("one", "two"):
        assert write_probe_report(fields, tmp_path / place) == tmp_path / place / "probe.html"
    names = {"remaining", "coarse-structure", "speed", "change", "turning"}
    files = sorted((tmp_path / "one" / "figures").iterdir())
    expected = {f"{name}.{kind}" for name in names for kind in ("png", "svg", "csv")}
    assert {file.name for file in files} == {*expected, "predictions.png"}
    for file in (*files, tmp_path / "one" / "probe.html"):
        other = tmp_path / "two" / file.relative_to(tmp_path / "one")
        assert file.read_bytes() == other.read_bytes(), file.name


@pytest.mark.slow
def test_the_numbers_of_a_figure_are_those_of_its_curve(fields, drawings):
    for name in ("remaining", "speed", "turning"):
        rows = list(csv.DictReader(io.StringIO(drawings[name].csv())))
        for each in fields:
            curve = each.probe.curve(name)
            assert [float(row[each.name]) for row in rows] == curve.mean.tolist()
            assert [float(row[f"{each.name}_error"]) for row in rows] == curve.error.tolist()
        assert [float(row["t"]) for row in rows] == fields[0].probe.times(name).tolist()


def test_tables_hold_transitions_lags_and_costs(fields):
    oracle, other = (each.probe for each in fields)
    table = probe_words.summary(fields)
    assert len(table.head) == len(table.rows[0].cells) == len(table.rows[1].cells)
    assert str(other.settling()) in table.rows[1].cells
    assert shown(lag(other, oracle, "layout")) in table.rows[1].cells
    assert table.rows[0].cells[-1] == "30"
    labels = probe_words.by_label(fields)
    assert [row.cells[0] for row in labels.rows] == ["0", "1"]
    assert labels.rows[1].cells[-1] == shown(lag(other, oracle, label=1))
    levels = probe_words.by_threshold(fields)
    assert levels.rows[2].cells[1] == shown(lag(other, oracle, threshold=0.5))
    share = initial_error(other, oracle).value
    assert f"{100 * share:.1f}\u00a0% away" in probe_words.story(fields)[1]


def test_headlines_say_no_more_than_is_known(fields):
    oracle, other = fields
    same = ProbedField("twin", oracle.probe)
    assert "its lag behind the oracle is not significant" in probe_words.headline([oracle, same])
    late = oracle.probe.columns["remaining"].clone()
    late[3, :-1] = 1.0
    never = replace(oracle.probe, columns={**oracle.probe.columns, "remaining": late})
    told = probe_words.headline([oracle, ProbedField("never", never)])
    assert told == "never does not settle before t = 0.9 in every sample."
    assert (
        probe_words.summary([ProbedField("never", never)]).rows[0].cells[1]
        == "not reached by 1 of 8"
    )
    assert probe_words.headline([oracle]).startswith("The oracle settles at t = 0.")
    single = replace(other.probe, labels=torch.full((8,), NO_LABEL))
    assert probe_words.by_label([ProbedField("one", single)]) is None


def test_pictures_are_those_of_the_quantiser(fields):
    probe, pictures = fields[0].probe, fields[0].pictures
    expected = quantise(probe.predictions.clamp(-1, 1))
    assert (pictures.int() - expected.int()).abs().max() == 0
    assert tile_predictions(pictures)[:4] == b"\x89PNG"
    large = replace(
        probe, predictions=torch.rand(1, 2, 3, 2 * MAX_PICTURE_PIXELS, 2 * MAX_PICTURE_PIXELS)
    )
    assert prediction_pictures([large])[0].shape == (
        1,
        2,
        3,
        MAX_PICTURE_PIXELS,
        MAX_PICTURE_PIXELS,
    )
    rows = replace(probe, predictions=torch.rand(1, 2, 9))
    assert prediction_pictures([rows]) == [None]


def test_a_sentence_begins_with_a_capital_and_has_no_other(fields):
    oracle, other = fields
    told = probe_words.headline([oracle, other, replace(other, name="b")])
    assert told.startswith("The oracle settles at")
    assert told.count("The ") == 1
    told = probe_words.headline([other, oracle, replace(other, name="b")])
    assert "; the oracle settles at" in told


def test_where_there_is_one_point_there_is_no_way_to_go():
    """The mean of the data is its only sample, so nothing is a share of the way between them."""
    point = torch.rand(1, 1, 6, 6)
    own = floracle.Oracle(floracle.open_store(point))
    probes = [
        floracle.probe(one, range(3), (1, 6, 6), grid=floracle.time_grid(8))
        for one in (own, lambda x, t, labels: torch.zeros_like(x))
    ]
    found = [ProbedField("oracle", probes[0], True), ProbedField("still", probes[1])]
    assert math.isnan(initial_error(probes[1], probes[0]).value)
    told = probe_words.story(found)[1]
    assert "there is nothing to compare" in told
    assert "%" not in told


@pytest.mark.slow
def test_names_are_drawn_as_they_can_be_printed(fields):
    """Valid SVG without formulas, and no word of letters that the font of the drawing lacks."""
    odd = "a\x1b[31m\x00 $x^2$ 模型"
    with figure_style():
        for drawing in probe_figures([replace(fields[1], name=odd, pictures=None)]):
            texts = "".join(ElementTree.fromstring(drawing.svg()).itertext())
            assert r"a\x1b[31m\x00 $x^2$ 模型" in texts
            assert drawing.png()[:4] == b"\x89PNG"
            assert "\x1b" not in drawing.csv() + drawing.alt
