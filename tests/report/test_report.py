import csv
import re
from dataclasses import replace

import pytest
import torch

from floracle.analysis.curves import Estimate, Landmark
from floracle.analysis.load import load
from floracle.analysis.stages.measure import stages
from floracle.analysis.trajectories.trajectory_analysis import analyse_trajectories
from floracle.data.store import open_store
from floracle.oracle.oracle import Oracle
from floracle.report.formatting import format_nats, format_time
from floracle.report.stages import words
from floracle.report.stages.examples import examples
from floracle.report.stages.figures import stages_figures
from floracle.report.stages.page import stages_page
from floracle.report.stages.trajectory_figures import trajectory_figures
from floracle.report.stages.write import EXAMPLES, write_stages_report
from floracle.run.output_folder import OutputFolder

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
    found, shown = pictures
    output = OutputFolder(there, found.settings)
    output.save(shown, EXAMPLES)
    output.save(found)
    write_stages_report(there)
    return there


def html_of(found, shown):
    return stages_page(found, stages_figures(found, shown), shown)


def test_the_page_needs_nothing_else(folder):
    content = (folder / "report.html").read_text()
    assert len(content) < 3_000_000
    assert not re.search(r"https?://|src=\"(?!data:)|<script|<link|@import|url\((?!#)", content)


def test_drawing_again_gives_the_same_bytes(folder):
    files = [folder / "report.html", *sorted((folder / "figures").iterdir())]
    before = [file.read_bytes() for file in files]
    assert write_stages_report(folder) == folder / "report.html"
    assert [file.read_bytes() for file in files] == before


def test_the_numbers_of_a_figure_are_those_of_its_curve(folder):
    found = load(folder)
    with (folder / "figures" / "weights.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["t"]) for row in rows] == found.times.tolist()
    assert [float(row["max_weight"]) for row in rows] == found.curves["max_weight"].mean.tolist()
    assert [float(row["self_weight_error"]) for row in rows] == found.curves[
        "self_weight"
    ].error.tolist()
    with (folder / "figures" / "information-law.csv").open() as file:
        rows = list(csv.DictReader(file))
    bound = found.main.predicted_information.tolist()
    assert [float(row["gaussian_bound"]) for row in rows] == bound


def test_every_figure_comes_as_png_svg_and_csv(folder):
    names = {
        "weights",
        "effective-samples",
        "gap",
        "entropy",
        "information-law",
        "predicted",
        "classes",
    }
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
    assert (
        "The information law (I-MMSE check) is not checked: the error is" in content
    )  # of so few pairs
    assert 'role="alert"' not in content


def test_a_broken_law_is_an_alarm(pictures):
    found, shown = pictures
    broken = replace(found.main, area=Estimate(0.9 * found.main.max_information, 1e-3))
    content = html_of(replace(found, groups=(broken, *found.groups[1:])), shown)
    assert 'role="alert"' in content
    assert "The information law (I-MMSE check) fails" in content


def test_an_end_that_is_not_reached_names_the_rows(pictures):
    found, shown = pictures
    main = replace(found.main, end=Landmark(None), rivals=((12, 57), (57, 12), (61, 60)))
    content = html_of(replace(found, groups=(main, *found.groups[1:])), shown)
    assert "Navigation does not end" in content
    assert "rows 12 and 57, 60 and 61. Leave out" in content


def of_law(found, **changes):
    """What is said of the law with other numbers."""
    return words.law(replace(found.main, **({"pairs": 100_000} | changes)))


def test_the_law_says_both_sides_and_how_far_apart_they_may_be(pictures):
    found, _ = pictures
    told = of_law(found, max_information=3.0, remaining_information=0.0, area=Estimate(2.9, 0.1))
    assert told.startswith(
        "The information law (I-MMSE check) holds: the measured area is 2.900 ± 0.100 nats"
    )
    assert "against H(w) = 3.000" in told
    assert "(1.0 standard errors apart, up to 4 are allowed)" in told
    told = of_law(found, max_information=3.0, remaining_information=0.0, area=Estimate(2.0, 0.1))
    assert "check) fails" in told
    assert "10.0 standard errors apart; up to 0.415 nats are allowed" in told


def test_an_error_beyond_five_percent_checks_nothing(pictures):
    """An error that grows with a fault would satisfy the check by itself."""
    found, _ = pictures
    told = of_law(
        found,
        max_information=8.7,
        remaining_information=0.0,
        area=Estimate(2648924050.7, 2648924042.0),
    )
    assert "not checked: the error is 3.04e+10 % of H(w)" in told
    assert "holds" not in told
    told = of_law(found, max_information=3.0, remaining_information=0.0, area=Estimate(3.2, 0.16))
    assert "not checked: the error is 5.33 % of H(w)" in told


def test_few_pairs_have_to_be_farther_off(pictures):
    """Of four pairs a mean lies five of its errors off more often than one in a hundred times."""
    found, _ = pictures
    numbers = {"max_information": 3.0, "remaining_information": 0.0, "area": Estimate(2.8, 0.03)}
    assert "check) fails" in of_law(found, **numbers, pairs=512)
    assert "holds" in of_law(found, **numbers, pairs=4)


@pytest.mark.parametrize("error", [0.0, 1e-13, 1e-9])
def test_the_law_never_holds_beside_an_absurd_number_of_errors(pictures, error):
    """Where the error is next to nothing it is the half percent of H(w) that is kept to."""
    found, _ = pictures
    told = of_law(
        found, max_information=3.0, remaining_information=0.0, area=Estimate(2.99, error)
    )
    assert "holds within 4 standard errors and 0.5 % of H(w)" in told
    assert "0.010 nats apart; up to 0.015 nats are allowed" in told
    assert f"2.990 ± {error:.1e}" in told or (error == 0 and "2.990 ± 0.000" in told)


def test_the_law_has_nothing_to_check_where_nothing_is_known(pictures):
    """All but a thousandth of H(w) stays unknown: an area of 0 would hold as well."""
    found, _ = pictures
    area = Estimate(0.003, 1e-9)
    told = of_law(found, max_information=5.0, remaining_information=4.995, area=area)
    assert "nothing to check" in told
    assert "holds" not in told


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.0, "0.000"),
        (3.1e-7, "3.10e-07"),
        (0.0031, "0.0031"),
        (0.25, "0.250"),
        (0.99971, "0.9997"),
        (1 - 2.5e-6, "1 − 2.50e-06"),
        (1.0, "1.000"),
    ],
)
def test_a_time_that_is_not_an_end_is_not_written_as_one(value, written):
    assert format_time(value) == written


@pytest.mark.parametrize(("value", "written"), [(0, "0.000"), (1e-9, "1.0e-09"), (2.5, "2.500")])
def test_nats_that_are_not_zero_are_not_written_as_zero(value, written):
    assert format_nats(value) == written


def spoken(content):
    """The words of a page."""
    text = re.sub(r"<svg.*?</svg>|<style>.*?</style>", "", content, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", text))


@pytest.fixture(scope="module")
def single():
    """A picture a hundred times."""
    return measured(torch.randn(1, 1, 6, 6).repeat(100, 1, 1, 1))


def test_a_single_point_is_drawn_and_no_law_is_claimed(single):
    text = spoken(html_of(*single))
    assert "There is nothing to navigate" in text
    assert "a single distinct point" in text
    assert "nothing to check" in text
    assert "law holds" not in text
    assert "Centre nothing to know" in text
    assert "Collapse 0.000" in text
    assert "nan" not in text.lower().split()
    assert "none needed" in text


def test_curves_of_a_single_point_are_as_they_must_be(single):
    columns = {drawing.name: drawing.columns for drawing in stages_figures(*single)}
    assert set(columns["weights"]["max_weight"]) == set(columns["weights"]["self_weight"]) == {1.0}
    assert set(columns["effective-samples"]["effective"]) == {1.0}
    assert set(columns["gap"]["gap"]) == set(columns["entropy"]["entropy"]) == {0.0}


@pytest.fixture(scope="module")
def partly_single():
    """Two classes of twenty points, and two of a single one each."""
    drawn = torch.Generator().manual_seed(5)
    labels = torch.tensor([0] * 20 + [1] * 20 + [2, 3])
    return measured(torch.randn(42, 12, generator=drawn), labels=labels)


def test_classes_of_a_single_point_are_named_and_agree_with_nothing(partly_single):
    found, shown = partly_single
    text = spoken(html_of(found, shown))
    assert "2 classes have a single distinct point and so nothing to navigate" in text
    assert "with 4.8 % of the data: 2, 3. The averages include them by that share." in text
    assert "The collapse is earliest in class 2" not in text
    assert text.count("nothing to check") == 2
    figures = {drawing.name: drawing for drawing in stages_figures(found, shown)}
    assert figures["predicted"].columns["label"] == [0, 1, -1]
    assert sorted(figures["classes"].columns["label"]) == [-1, 0, 1, 2, 3]


def test_classes_that_are_all_single_leave_the_page_to_the_whole_set():
    found, shown = measured(torch.randn(3, 12), labels=torch.arange(3))
    text = spoken(html_of(found, shown))
    assert "The whole set, since its classes have a single distinct point each." in text
    assert f"Navigation ends at t = {found.group(-1).end.value:.3f}" in text
    each, shown = measured(torch.randn(3, 12), labels=torch.arange(3), classes=[0, 1, 2])
    assert "predicted" not in [drawing.name for drawing in stages_figures(each, shown)]
    assert "Nothing is predicted of a single distinct point" in spoken(html_of(each, shown))


def test_fields_that_are_the_oracle_have_no_curve_and_are_named():
    oracle = Oracle(open_store(torch.randn(1, 12)))
    found = stages(oracle, times=12, pairs=4)
    deep = analyse_trajectories(oracle, found)
    (drawing,) = (d for d in trajectory_figures(found, deep) if d.name == "baselines")
    markup = drawing.svg()
    assert "below 10⁻⁵ at all times: one Gaussian" in markup
    assert "the oracle equals these baselines: one Gaussian" in " ".join(
        words.describe_trajectories(deep)
    )


@pytest.mark.parametrize("scale", [1e-6, 1e6])
def test_a_page_of_any_scale_writes_times_that_mean_something(scale):
    points = torch.randn(40, 12, generator=torch.Generator().manual_seed(6))
    found, shown = measured(points * scale)
    text = spoken(html_of(found, shown))
    assert f"Navigation ends at t = {format_time(found.main.end.value)}:" in text
    assert "e-0" in format_time(found.main.end.value)
    pasted = text[text.index("LightningDiT sample:") :]
    assert "timestep_shift: 0.0000" not in pasted
    assert not re.search(r"cfg_interval_start: [01]\.0000 ", pasted)
    assert not re.search(r"guidance-low 0\.0000 --guidance-high 0\.0000", pasted)


def test_vectors_show_their_votes_as_bars(vectors):
    found, shown = vectors
    content = html_of(found, shown)
    assert "Points of shape 12 are no pictures" in content
    assert {"example-1", "example-4"} <= {drawing.name for drawing in stages_figures(found, shown)}
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
    assert (
        "held_out_gap" in next(d for d in stages_figures(found, shown) if d.name == "gap").columns
    )


@pytest.mark.slow
def test_many_classes_are_folded():
    points = torch.randn(120, 4, generator=torch.Generator().manual_seed(4))
    content = html_of(*measured(points, labels=torch.arange(120) % 30))
    pasted = "The same for LightningDiT" in content  # folded as well
    assert content.count("<details>") - pasted == 2
    assert "lower quartile" in content
