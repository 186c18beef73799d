"""The page of a training run says what its log says, at any moment of the run."""

import base64
import csv
import io
import json
from dataclasses import replace
from xml.etree import ElementTree

import pytest
import torch
from PIL import Image

import floracle
from floracle.cli import main
from floracle.report.training import page as run_page
from floracle.report.training.figures import stage_boundary, training_figures
from floracle.report.training.page import (
    headline,
    is_run,
    losses_table,
    read_run,
    story,
    write_training_report,
)
from floracle.run.errors import InputError
from floracle.run.records import write_record
from floracle.training.build_model import build_model
from floracle.training.config import TrainingSettings
from floracle.training.evaluation import EvaluationPlan

ASKED = TrainingSettings(
    model="pico", patch=4, images=640, batch=32, rate=1e-3, every=160, switch=0.5
)
LOOK = EvaluationPlan(pairs=4, times=3, classes=2, samples=4, steps=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A finished run on the first digits, the others held out."""
    store = floracle.open_store("digits")
    points, labels = store.take(torch.arange(len(store))), store.labels
    data, others = (
        floracle.open_store(points[rows], labels=labels[rows])
        for rows in (slice(0, 1200), slice(1200, None))
    )
    out = tmp_path_factory.mktemp("runs") / "mine"
    network = build_model(ASKED, data)
    assert list(floracle.train(network, data, ASKED, out=out, held_out=others, look=LOOK))
    return out


@pytest.fixture
def early(folder, tmp_path):
    """The same run as it stood before its second evaluation, a line half written."""
    out = tmp_path / "early"
    out.mkdir()
    (out / "run.json").write_text((folder / "run.json").read_text())
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["images"] < 320]
    (out / "metrics.jsonl").write_text("\n".join(kept) + '\n{"images": 320, "lo')
    return out


def columns(folder, name):
    with open(folder / "figures" / f"{name}.csv", newline="") as file:
        head, *rows = csv.reader(file)
    return {name: [float(row[place]) for row in rows] for place, name in enumerate(head)}


@pytest.mark.slow
def test_figures_hold_the_numbers_of_the_log(folder):
    assert write_training_report(folder) == folder / "training.html"
    looks = read_run(folder).evaluations
    assert [look["images"] for look in looks] == [160, 320, 480, 640]
    by_time = columns(folder, "run-by-time")
    assert by_time["t"] == looks[-1]["t"]
    for look in looks:
        assert by_time[f"oracle loss after {look['images']}"] == look["oracle"]["mean"]
    more = columns(folder, "run-held-out")
    assert more["held-out less training data, refinement"] == [
        look["difference"]["refinement"] for look in looks
    ]
    by_images = columns(folder, "run-by-images")
    assert by_images["images"] == [line["images"] for line in read_run(folder).lines]


@pytest.mark.slow
def test_the_page_is_whole_and_stands_by_itself(folder):
    page = write_training_report(folder).read_text()
    assert page.count("<svg ") == 3
    assert "data:image/png;base64," in page
    assert "http" not in page.replace("http://www.w3.org", "")
    for markup in page.split("<svg ")[1:]:
        ElementTree.fromstring("<svg " + markup.partition("</svg>")[0] + "</svg>")


@pytest.mark.slow
def test_it_says_where_the_run_stands(folder, early):
    done, going = read_run(folder), read_run(early)
    last = done.evaluations[-1]
    assert headline(done).startswith("After 640 images the oracle loss is")
    assert f"{last['oracle']['refinement']:.2g} in refinement, from t = 0.500" in headline(done)
    assert not any("So far" in sentence for sentence in story(done))
    assert story(going)[0] == f"So far {going.images} of 640 images are seen."
    assert any("Since 320 images the oracle loss" in sentence for sentence in story(done))
    table = losses_table(done)
    assert [row.cells[0] for row in table.rows] == ["160", "320", "480", "640"]
    assert table.rows[-1].cells[1] == f"{last['oracle']['navigation']:.3g}"


@pytest.mark.slow
def test_a_run_that_goes_on_is_drawn_without_what_it_has_not(early):
    page = write_training_report(early).read_text()
    assert "Samples after" not in page
    assert len(read_run(early).evaluations) == 1


@pytest.mark.slow
def test_held_out_data_is_told_only_where_it_is_clear(folder):
    run = read_run(folder)
    look = dict(run.evaluations[-1])
    clear = "At t = 0.0833 the loss on held-out data is 0.04 ± 0.01 higher"
    for mean, words in ((0.004, "not significantly higher"), (0.04, clear)):
        differences = {**look["difference"], "mean": [mean] + [0.0] * 5, "error": [0.01] * 6}
        told = story(replace(run, evaluations=[{**look, "difference": differences}]))
        assert words in told[-1]


def test_stages_part_where_the_run_has_it(folder):
    run = read_run(folder)
    assert stage_boundary(run.lines) == pytest.approx(0.5)
    assert "from t = 0.500 on" in headline(run)


def test_facts_are_those_of_the_run(folder):
    facts = run_page._facts(read_run(folder))
    assert facts["network"] == "LightningDiT-pico/4"
    assert facts["conditional targets from"] == "t = 0.500"
    settings = json.loads((folder / "run.json").read_text())["settings"]
    assert facts["held-out data"] == settings["held_out"]
    foreign = replace(read_run(folder), settings={"network": "Linear", "target": "oracle"})
    assert run_page._facts(foreign)["network"] == "Linear"


def test_evaluations_at_other_times_are_left_out(folder):
    run = read_run(folder)
    first = {
        **run.evaluations[0],
        "t": [0.5],
        "oracle": {**run.evaluations[0]["oracle"], "mean": [1.0]},
    }
    found = training_figures(run.lines, [first, *run.evaluations[1:]])[0].columns
    assert list(found) == ["t", *(f"oracle loss after {n}" for n in (320, 480, 640)), "gap"]
    assert found["gap"] == run.evaluations[-1]["gap"]["mean"]


def test_large_pictures_are_made_smaller_for_the_page(tmp_path):
    picture = tmp_path / "000000000064.png"
    Image.new("RGB", (3000, 1500), "red").save(picture)
    found = run_page._inline_samples(picture)
    content = base64.b64decode(found["uri"].partition(",")[2])
    with Image.open(io.BytesIO(content)) as image:
        assert image.size == (1100, 550)
    assert found["images"] == "64"
    (tmp_path / "evaluations").mkdir()
    (tmp_path / "evaluations" / "mine.png").write_bytes(picture.read_bytes())
    assert run_page.TrainingRun(tmp_path, {}, [], []).samples is None


def test_runs_without_evaluations_or_errors_are_drawn(folder):
    lines = [{**line, "by_t": {"edges": line["by_t"]["edges"]}} for line in read_run(folder).lines]
    assert [drawing.name for drawing in training_figures(lines, [])] == ["run-by-images"]


def test_folders_that_are_no_run_are_told(tmp_path):
    assert not is_run(tmp_path)
    with pytest.raises(InputError, match="is not the folder of a training run"):
        read_run(tmp_path)
    for content in ("[]", '{"images": 5}'):
        (tmp_path / "run.json").write_text(content)
        assert not is_run(tmp_path)
        with pytest.raises(InputError, match=r"is not a record that floracle wrote"):
            read_run(tmp_path)
    write_record(tmp_path / "run.json", "run", {"verb": "train", "settings": {"images": 5}})
    assert is_run(tmp_path)
    with pytest.raises(InputError, match="no line of progress yet"):
        read_run(tmp_path)


@pytest.mark.slow
def test_names_are_no_markup(folder, tmp_path):
    hostile = tmp_path / "<b>run"
    hostile.mkdir()
    for name in ("run.json", "metrics.jsonl"):
        (hostile / name).write_text((folder / name).read_text())
    assert "<b>run" not in write_training_report(hostile).read_text()


@pytest.mark.slow
def test_the_verb_draws_it(early, capsys):
    assert main(["report", str(early)]) == 0
    assert str(early / "training.html") in capsys.readouterr().out
