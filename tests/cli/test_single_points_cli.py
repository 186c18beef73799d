"""What each verb answers on a hundred equal points and on a class of a single one."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from floracle.analysis.load import load
from floracle.cli import main

pytestmark = pytest.mark.slow  # they draw

POINT = np.random.default_rng(0).normal(size=(1, 6)).astype("float32")
DATA = {
    "a hundred equal": (POINT.repeat(100, 0), None),
    "a class of one": (
        np.concatenate([POINT + 1, POINT - 1, POINT]),
        np.array([0, 0, 1]),
    ),
}


@pytest.fixture(params=DATA, scope="module")
def data(request, tmp_path_factory):
    """The options that open data with a single point, and the class it is in."""
    folder = tmp_path_factory.mktemp("single")
    points, labels = DATA[request.param]
    np.save(folder / "points.npy", points)
    if labels is None:
        return [str(folder / "points.npy")], None
    np.save(folder / "labels.npy", labels)
    return [str(folder / "points.npy"), "--label-file", str(folder / "labels.npy")], 1


def test_stages_answers_and_draws(data, tmp_path, capsys):
    (where, *labels), label = data
    classes = [] if label is None else ["--classes", str(label)]
    asked = [
        where,
        *labels,
        *classes,
        "--pairs",
        "4",
        "--times",
        "12",
        "--out",
        str(tmp_path / "o"),
    ]
    assert main(["stages", *asked, "--deep"]) == 0
    out = capsys.readouterr().out
    assert "There is nothing to navigate" in out
    assert "The information law (I-MMSE check) has nothing to check" in out
    found = load(tmp_path / "o")
    assert found.main.collapse.value == found.main.end.value == 0
    assert found.main.centre.value is None
    assert "a single distinct point" in (tmp_path / "o" / "report.html").read_text()


def test_samples_end_on_it(data, tmp_path, capsys):
    (where, *labels), label = data
    labels = ["--label-file", *labels[1:], "--labels", str(label)] if labels else []
    out = tmp_path / "o"
    asked = [where, *labels, "--seeds", "0:4", "--steps", "1", "--out", str(out)]
    assert main(["sample", "oracle", *asked]) == 0
    with np.load(out / "samples.npz") as file:
        samples = torch.from_numpy(next(file[name] for name in file if file[name].ndim == 2))
    torch.testing.assert_close(samples.float(), torch.from_numpy(POINT).expand(4, 6))
    capsys.readouterr()


@pytest.mark.parametrize("verb", ["loss", "probe"])
def test_other_verbs_write_numbers(data, verb, tmp_path, capsys):
    (where, *labels), label = data
    more = {
        "loss": [*labels, "--pairs", "4", "--trajectories", "2", "--steps", "4"],
        "probe": ["--label-file", *labels[1:], "--labels", str(label)] if labels else [],
    }[verb]
    out = tmp_path / "o"
    assert main([verb, "oracle", "--data", where, *more, "--out", str(out)]) == 0
    written = [*out.rglob("*.json")]
    assert written
    for path in written:
        assert "NaN" not in json.dumps(json.loads(path.read_text()))
    capsys.readouterr()
