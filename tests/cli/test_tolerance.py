"""`--tolerance`: results differ by no more than it says; 0, or none, is the exact oracle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import floracle
from floracle.cli import main
from floracle.run.results import load_results

TOLERANCE = 1e-3
FEW = ("--seeds", "0:8", "--steps", "20")
SMALL = ("--pairs", "8", "--trajectories", "4", "--times", ".3,.8", "--steps", "10")
VERBS = {
    "sample": ("oracle", "{}", *FEW),
    "probe": ("oracle", "--data", "{}", *FEW),
    "mix": ("oracle", "--data", "{}", "--switch", ".3,.8", "--landing", ".3", *FEW),
    "loss": (
        "digits.py:pull",
        "--data",
        "{}",
        "--convention",
        "predicts=velocity,null_label=0",
        *SMALL,
    ),
}
NETWORK = """
import torch

class Pull(torch.nn.Module):
    def forward(self, x, t, labels):
        return -x

def pull():
    return Pull()
"""


@pytest.fixture
def digits(tmp_path, monkeypatch):
    """The digits as plain vectors, so that samples are not rounded to bytes."""
    monkeypatch.chdir(tmp_path)
    store = floracle.open_store("digits")
    np.save("digits.npy", store.take(torch.arange(len(store))).flatten(1).numpy())
    (tmp_path / "digits.py").write_text(NETWORK)
    return "digits.npy"


def run(verb, data, out, *words):
    typed = [word.format(data) for word in VERBS[verb]]
    assert main([verb, *typed, *map(str, words), "--out", out]) == 0


def test_points_are_skipped_where_the_bound_is_proven(digits):
    data = floracle.open_store(digits)
    x = 0.8 * data.take(torch.arange(16)) + 0.2 * floracle.noise(range(16), data.shape)
    t = torch.full((16,), 0.8)
    oracle = floracle.Oracle(data, tolerance=TOLERANCE)
    assert oracle.posterior(x, t).touched.max() < len(data) / 10
    exact = floracle.Oracle(data)(x, t)
    assert ((oracle(x, t) - exact).norm(dim=1) <= TOLERANCE * exact.norm(dim=1)).all()


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_results_differ_by_no_more_than_it_says(verb, digits, tmp_path):
    run(verb, digits, "exact")
    run(verb, digits, "bounded", "--tolerance", TOLERANCE)
    exact, bounded = (
        {path.parent.name: path for path in sorted((tmp_path / out).glob("*/result.json"))}
        or {"": tmp_path / out / "result.json"}
        for out in ("exact", "bounded")
    )
    assert exact.keys() == bounded.keys()
    for part in exact:
        one, other = (load_results(places[part].parent) for places in (exact, bounded))
        assert "tolerance" not in one.settings
        assert other.settings == {**one.settings, "tolerance": TOLERANCE}
        for name, values in one.arrays.items():
            a, b = values.double(), other.arrays[name].double()
            assert ((a - b).norm() <= TOLERANCE * a.norm()) or torch.equal(a, b), name


def test_0_is_exact_and_the_same_question_as_none(digits, capsys):
    run("sample", digits, "samples")
    capsys.readouterr()
    run("sample", digits, "samples", "--tolerance", 0)
    assert "complete" in capsys.readouterr().err
    run("sample", digits, "again", "--tolerance", 0)
    with np.load("samples/samples.npz") as one, np.load("again/samples.npz") as other:
        assert np.array_equal(one["arr_0"], other["arr_0"])
    settings = json.loads(Path("again/run.json").read_text())["settings"]
    assert "tolerance" not in settings


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("sample", "oracle", "digits", "--tolerance", "1"), "a relative error in [0, 1)"),
        (("sample", "digits-pico", "digits", "--tolerance", "1e-5"), "the oracle, which is not"),
        (("probe", "digits-pico", "--tolerance", "1e-5"), "the oracle, which is not"),
        (("mix", "oracle", "--data", "digits", "--switch", ".5", "--tolerance", "-1"), "[0, 1)"),
        (("loss", "oracle", "--data", "digits", "--tolerance", "nan"), "a relative error in"),
    ],
)
def test_what_is_no_tolerance_is_refused(words, told, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(list(words)) == 2
    assert told in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
