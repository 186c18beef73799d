"""What losses and mixtures are said and drawn to be, where that is known beforehand."""

from __future__ import annotations

from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch

import floracle
from floracle.analysis.forward_pairs import forward_pairs
from floracle.analysis.loss.oracle_loss import class_seed, oracle_losses
from floracle.analysis.loss.results import LossComparison, confidence_interval, loss_difference
from floracle.analysis.mixing.field_switching import switch_fields
from floracle.analysis.mixing.forward_backward import forward_backward
from floracle.analysis.mixing.landing_test import Diversity, Fit, LandingResult
from floracle.report.loss import words as said
from floracle.report.loss.figures import loss_figures
from floracle.report.loss.page import loss_page, write_loss_report
from floracle.report.mix.figures import mix_figures
from floracle.report.mix.page import write_mix_report
from floracle.report.mix.words import MixResults, headline, landing_table, story

TIMES = torch.tensor([0.0, 0.2, 0.4, 0.6, 0.8], dtype=torch.float64)


def normal(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_name(drawings):
    return {drawing.name: drawing for drawing in drawings}


def still(x, t, labels=None):
    return torch.zeros_like(x)


def shifted_by(oracle, size):
    """The oracle and a constant: its oracle loss is `size`² at all times."""
    return lambda x, t, labels=None: oracle(x, t, labels) + size


@pytest.fixture
def oracle(points_source):
    return floracle.Oracle(points_source(normal(40, 6), torch.arange(40) % 2))


def measured(oracle, fields, *, own=False, **asked):
    asked = {"times": TIMES, "pairs": 64, **asked}
    path = oracle_losses(fields, oracle, **asked)
    on_own = oracle_losses(fields, oracle, times=TIMES, pairs=8, along="own") if own else {}
    return LossComparison(path, on_own, {}, path[next(iter(fields))].provenance)


@pytest.mark.parametrize(
    ("where", "told"),
    [
        ([1, 1, 1, 1, 1], "at all times"),
        ([1, 0, 0, 0, 0], "at t = 0"),
        ([0, 1, 1, 0, 1], "at t = 0.2 to 0.4, 0.8"),
        ([1, 1, 0, 1, 1], "at t = 0 to 0.2, 0.6 to 0.8"),
    ],
)
def test_times_in_words(where, told):
    assert said.describe_times(TIMES, torch.tensor(where).bool()) == told


def test_a_field_leaves_the_oracle_where_its_distance_passes_the_gap(oracle):
    """The gap of these points falls from t = .2 on; the distance is .09 at all times."""
    found = measured(oracle, {"near": shifted_by(oracle, 0.3), "far": shifted_by(oracle, 9.0)})
    gap = found.path["near"].mean_curves()["gap"].mean
    first = int((gap < 0.09).int().argmax())
    assert first > 1
    told = (
        f"The oracle loss of near exceeds the irreducible loss from t = {TIMES[first]:.3g} on"
        f" (it does not at {TIMES[first - 1]:.3g})"
    )
    assert told in said.headline(found)
    assert "loss of far exceeds the irreducible loss from the start" in said.headline(found)


def test_who_knows_the_training_data_is_told(points_source, oracle):
    unseen = points_source(normal(40, 6, seed=1))
    found = measured(oracle, {"oracle": oracle, "still": still}, held_out=unseen)
    knows, knows_not = said.story(found)[:2]
    assert "Its loss on held-out data is higher at all times: if both sets have the same" in knows
    assert "No significant memorization" in knows_not
    assert "On held-out data still is better than oracle" in " ".join(said.differences(found))


def test_a_field_that_sees_more_than_the_noisy_sample_is_found_out(oracle):
    """It answers with the pair's own target: conditional loss 0, less than the gap allows."""
    drawn = forward_pairs(oracle.data, 64, seed=class_seed(0, -1))

    def peeking(x, t, labels=None):
        return oracle.path.velocity(drawn.data.double(), drawn.noise.double(), t)

    story = said.story(measured(oracle, {"peeking": peeking, "still": still}))
    assert "Conditional loss − irreducible loss differs from the oracle loss at t = 0" in story[0]
    assert "agrees with the oracle loss" in story[1]


@pytest.mark.slow
def test_figures_are_drawn_from_the_numbers(points_source, oracle):
    fields = {"a": shifted_by(oracle, 0.3), "b": shifted_by(oracle, 0.5)}
    found = measured(oracle, fields, own=True, held_out=points_source(normal(30, 6, seed=3)))
    drawings = by_name(loss_figures(found))
    assert list(drawings) == ["oracle-loss", "held-out", "between"]
    columns = drawings["oracle-loss"].columns
    assert list(columns)[1::2] == ["gap", "a", "a, own trajectories", "b", "b, own trajectories"]
    assert columns["b"] == found.path["b"].mean_curves()["oracle"].mean.tolist()
    assert columns["a, own trajectories"] == found.own["a"].mean_curves()["oracle"].mean.tolist()
    whole = found.path["a"].mean_curves()
    low, _ = confidence_interval(whole["difference"], 64)
    percent = 100 * low / whole["conditional"].mean
    assert drawings["held-out"].columns["a_low"] == pytest.approx(percent.tolist())
    differs = loss_difference(found.path["b"], found.path["a"])
    percent = 100 * differs.curve.mean / whole["oracle"].mean
    assert drawings["between"].columns["b"] == pytest.approx(percent.tolist())
    assert drawings["between"].svg() == by_name(loss_figures(found))["between"].svg()


@pytest.mark.slow
def test_names_are_escaped_and_the_page_needs_nothing_else(oracle, tmp_path):
    found = measured(oracle, {"<b>a</b>": still, "b": shifted_by(oracle, 0.1)}, classes=[0, 1])
    told = write_loss_report(found, tmp_path, facts={"data": "points"}).read_text()
    assert "<b>a</b>" not in told
    assert "&lt;b&gt;a&lt;/b&gt;" in told
    assert "http" not in told.replace("http://www.w3.org", "")
    assert "Oracle loss by class" in told
    assert (
        loss_page(found, [], facts={}).count("<table") == 4
    )  # by time and by class, of two fields


def test_a_table_by_class_has_their_spread(oracle):
    loss = measured(oracle, {"a": still}, classes=[0, 1]).path["a"]
    table = said.class_table(loss)
    ratio = loss.classes[0].curves["oracle"].mean / loss.classes[1].curves["oracle"].mean
    expected = [f"{max(value, 1 / value):.2g}" for value in ratio.tolist()]
    assert list(table.rows[-1].cells[1:]) == expected
    assert said.class_table(replace(loss, classes=loss.classes[:1])) is None


@pytest.mark.slow
def test_copies_are_told_from_the_first_time_that_most_are(points_source):
    oracle = floracle.Oracle(points_source(normal(30, 8)))
    taus = [0.0, 0.3, 1.0]
    copies = switch_fields(oracle, oracle, switch_times=taus, seeds=range(20))
    assert (
        "From τ = 0.3 on most samples of twin are copies" in story(MixResults("twin", copies))[0]
    )
    free = switch_fields(still, oracle, switch_times=taus, seeds=range(20))
    shares = free.copy_share()[0]
    assert shares[1] < 0.5
    assert "most samples of still are no copies" in story(MixResults("still", free))[0]
    assert (
        by_name(mix_figures(free, None, {}))["switch-copies"].columns["copied"] == shares.tolist()
    )


@pytest.mark.slow
def test_half_kept_is_in_the_headline_and_the_figure(points_source):
    unseen, data = points_source(normal(60, 1, 8, 8)), points_source(normal(20, 1, 8, 8, seed=1))
    taus = torch.linspace(0, 1, 6).tolist()
    found = forward_backward(still, unseen, data, switch_times=taus, rows=range(60), edges=[2.0])
    told = headline(MixResults("still", resume=found))
    assert f"the coarse structure (to 2 cycles) from τ = {found.half_change(0).value:.3g}" in told
    columns = by_name(mix_figures(None, found, {}))["resume"].columns
    assert columns["apart, over 2 cycles"] == found.change(1).mean.tolist()
    assert columns["spread, to 2 cycles"] == found.spread(0).mean.tolist()


@pytest.mark.slow
def test_pictures_are_those_that_were_kept(points_source, tmp_path):
    from PIL import Image

    from floracle.run.images import Display

    pictures = points_source(normal(20, 1, 8, 8).clamp(-1, 1))
    oracle = floracle.Oracle(pictures)
    found = switch_fields(oracle, oracle, switch_times=[0.0, 1.0], seeds=range(3))
    mixed = MixResults("twin", switch=found)
    page = write_mix_report(mixed, tmp_path, display=Display(-1.0, 1.0)).read_text()
    assert page.count("data:image/png") == 1
    with Image.open(tmp_path / "figures" / "switch-pictures.png") as sheet:
        wide, high = sheet.size
    assert abs(wide / high - 2 / 3) < 0.12
    without = write_mix_report(mixed, tmp_path / "without")
    assert "data:image/png" not in without.read_text()


def test_a_landing_without_coincidences_is_open_above():
    rows, known = torch.arange(4), {"settings": {}, "provenance": {}}
    diversity = Diversity(0, 0.1, None, 2.0, None, 60.0)
    one = LandingResult(0.3, rows, rows.double(), Fit(5.0, 4, 0.2), diversity, **known)
    table = landing_table({0.3: one})
    assert table.rows[0].cells == ("0.3", "not significant", "1.25", "0.200", "∞", "2.0 – ∞", "60")
    assert headline(MixResults("a", landings={0.3: one})) == "a: not significant until τ = 0.3."
    assert landing_table({}) is None


@pytest.mark.slow
def test_names_of_losses_are_drawn_as_they_can_be_printed(oracle, tmp_path):
    odd = {"a\x1b[31m 模型 $x$": still, "b\x07": shifted_by(oracle, 0.5)}
    content = write_loss_report(measured(oracle, odd, own=True), tmp_path).read_text()
    assert r"a\x1b[31m 模型 $x$: " in content
    assert not set(content) & {"\x1b", "\x07"}
    for file in (tmp_path / "figures").glob("*.svg"):
        assert r"b\x07" in "".join(ElementTree.fromstring(file.read_text()).itertext())


@pytest.mark.slow
def test_the_axis_of_what_is_kept_holds_all_that_is_drawn(points_source):
    """A field that moves far beyond its data is farther from it than chance, and is seen."""
    unseen, data = points_source(normal(20, 1, 8, 8)), points_source(normal(20, 1, 8, 8, seed=1))
    asked = {"switch_times": [0.0, 0.5], "rows": range(20), "edges": [2.0], "noises": 2}
    for field, least in ((still, 1.15), (lambda x, t, labels: 5 * x, 100.0)):
        found = forward_backward(field, unseen, data, **asked)
        drawing = by_name(mix_figures(None, found, {}))["resume"]
        top = drawing.figure.axes[0].get_ylim()[1]
        shares = [v for name, v in drawing.columns.items() if name.startswith(("apart", "spread"))]
        assert top >= max(map(max, shares))
        assert top >= least


def test_what_is_no_copy_is_no_percentage(points_source):
    unseen, data = points_source(normal(20, 6)), points_source(normal(20, 6, seed=1))
    found = forward_backward(still, unseen, data, switch_times=[0.0, 0.5], rows=range(20))
    assert float(found.copy_share()[0].max()) == 0
    told = story(MixResults("still", resume=found))[1]
    assert "no sample is a copy (95\u00a0% bound 17\u00a0%)" in told  # 1 − .025^(1/20)
