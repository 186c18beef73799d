"""`floracle loss`: several fields on the same pairs, as they are typed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

import floracle
from edits import resealed
from floracle.analysis.loss.oracle_loss import oracle_losses
from floracle.analysis.loss.results import LossComparison, loss_difference
from floracle.cli import main
from floracle.oracle.baselines.gaussian import class_gaussians

NETWORKS = '''
import torch


class Towards(torch.nn.Module):
    """Predicts one point, whatever it sees."""

    def __init__(self, point):
        super().__init__()
        self.point = point

    def forward(self, x, t, labels):
        return torch.full_like(x, self.point)


def near():
    return Towards(0.0)


def far():
    return Towards(3.0)
'''
READ = ("--convention", "predicts=data,null_label=2")
FEW = {"--times": "0,.3,.6", "--pairs": 32, "--trajectories": 8, "--steps": 10}


@pytest.fixture
def folder(tmp_path):
    points = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    np.save(tmp_path / "points.npy", points)
    np.save(tmp_path / "unseen.npy", np.random.default_rng(1).normal(size=(30, 6)).astype("f4"))
    np.save(tmp_path / "classes.npy", np.arange(60) % 2)
    np.save(tmp_path / "unseen-classes.npy", np.arange(30) % 2)
    (tmp_path / "networks.py").write_text(NETWORKS)
    return tmp_path


def typed(folder, *words, out="out"):
    """The exit code; few pairs, times and steps unless the words say otherwise."""
    words = (*words, "--data", folder / "points.npy", "--label-file", folder / "classes.npy")
    for option, value in FEW.items():
        words += () if option in words else (option, value)
    return main(["loss", *map(str, words), "--out", str(folder / out)])


def both(folder):
    return (f"{folder / 'networks.py'}:near", f"{folder / 'networks.py'}:far")


@pytest.mark.slow
def test_fields_are_measured_as_the_library_does(folder, capsys):
    unseen = ("--held-out", folder / "unseen.npy", "--held-out-label-file")
    words = (*both(folder), "--names", "near,far", *READ, *unseen, folder / "unseen-classes.npy")
    assert typed(folder, *words) == 0
    found, told = floracle.load(folder / "out"), capsys.readouterr()
    assert isinstance(found, LossComparison)
    data = floracle.open_store(folder / "points.npy", labels=folder / "classes.npy")
    others = floracle.open_store(folder / "unseen.npy", labels=folder / "unseen-classes.npy")
    fields = {
        name: floracle.load_model(where, convention=READ[1])
        for name, where in zip(("near", "far"), both(folder), strict=True)
    }
    known = {"times": torch.tensor([0, 0.3, 0.6], dtype=torch.float64), "classes": [0, 1]}
    known["baselines"] = {"class-gaussian": class_gaussians(data)}
    path = oracle_losses(fields, floracle.Oracle(data), pairs=32, held_out=others, **known)
    known |= {"pairs": 8, "steps": 10, "along": "own"}
    own = oracle_losses(fields, floracle.Oracle(data), **known)
    for losses, again in ((path, found.path), (own, found.own)):
        assert list(again) == ["near", "far"]
        for name, loss in losses.items():
            for ours, theirs in zip(loss.classes, again[name].classes, strict=True):
                assert list(ours.curves) == list(theirs.curves)
                for each, curve in ours.curves.items():
                    assert torch.equal(curve.mean, theirs.curves[each].mean)
    assert "far is farther from the oracle than near at all times." in told.out
    assert "On held-out data far is worse than near at all times." in told.out
    assert told.err.count("predicts the data") == 2  # what was assumed of each
    names = {"oracle-loss", "held-out", "between"}
    assert {file.stem for file in (folder / "out" / "figures").glob("*.png")} == names
    page = (folder / "out" / "loss.html").read_text()
    assert "<script" not in page
    assert f"floracle loss {' '.join(both(folder))}" in page


def test_held_out_data_without_the_classes_is_named(folder, capsys):
    """And it is what has no labels, not the training set; the whole set needs none."""
    words = ("oracle", "--held-out", folder / "unseen.npy")
    assert typed(folder, *words) == 2
    said = capsys.readouterr().err
    assert f"the held-out data {folder / 'unseen.npy'} has no labels" in said
    assert "give --held-out-label-file, or --classes whole" in said
    np.save(folder / "ones.npy", np.ones(30, int))
    assert typed(folder, *words, "--held-out-label-file", folder / "ones.npy") == 2
    assert "has no class 0" in capsys.readouterr().err
    assert not (folder / "out").exists()


@pytest.mark.slow
def test_where_nothing_can_be_said_that_is_said(folder, capsys):
    assert typed(folder, both(folder)[0], both(folder)[0], "--names", "one,two", *READ) == 0
    said = capsys.readouterr().out
    assert (
        "two is neither significantly closer to the oracle nor farther from the oracle than one"
        in said
    )
    found = floracle.load(folder / "out")
    assert loss_difference(found.path["two"], found.path["one"]).verdicts() == ("cannot say",) * 3


@pytest.mark.slow
def test_the_oracle_stays_with_the_oracle(folder, capsys):
    assert typed(folder, "oracle", "--baselines", "none") == 0
    said = capsys.readouterr().out
    assert "The oracle loss of oracle is zero at all times: it is the oracle itself" in said
    loss = floracle.load(folder / "out").path["oracle"].mean_curves()
    assert (loss["oracle"].mean == 0).all()
    assert not [name for name in loss if name.startswith("to ")]


@pytest.mark.slow
def test_the_same_again_answers_and_other_settings_are_listed(folder, capsys):
    words = ("oracle", "--classes", "whole")
    assert typed(folder, *words) == 0
    before = (folder / "out" / "result.json").stat().st_mtime_ns
    first = capsys.readouterr().out
    assert typed(folder, *words) == 0
    assert capsys.readouterr().out == first
    assert (folder / "out" / "result.json").stat().st_mtime_ns == before
    assert typed(folder, *words, "--seed", 3) == 2
    assert "seed: 0 there, 3 asked" in capsys.readouterr().err
    path = folder / "out" / "result.json"
    content = path.read_text()
    path.write_text(json.dumps(json.loads(content) | {"values": {}}))
    assert typed(folder, *words) == 2
    assert "is damaged: its values are not those that were written" in capsys.readouterr().err
    path.write_text(content)
    resealed(path, values={})
    assert typed(folder, *words) == 2
    assert "not whole results of losses" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "no field given"),
        (("orcale",), "there is no"),
        (("oracle", "oracle"), "different names"),
        (("oracle", "--names", "a,b"), "--names needs a name"),
        (("oracle", *READ), "only the oracle is named"),
        (("oracle", "--classes", "both"), "each or whole"),
        (("oracle", "--classes", "7"), "class 7 does not occur in the data"),
        (("oracle", "--times", "0,1"), "fields end at t = 1"),
        (("oracle", "--times", "0,2"), "between noise (0) and data (1)"),
        (("oracle", "--times", "a"), "--times 'a' is not understood"),
        (("oracle", "--pairs", "1"), "at least 2 --pairs"),
        (("oracle", "--trajectories", "1"), "2 --trajectories, or 0"),
        (("oracle", "--baselines", "gausian"), "did you mean 'gaussian'?"),
        (("oracle", "--held-out", "digits"), "held-out points have shape [1, 8, 8]"),
        (("oracle", "--seed", "-1"), "--seed lies in"),
        (("oracle", "--names", "a\x1b[2J"), r"--names takes what can be printed, got 'a\x1b[2J'"),
        (("oracle", "--pairs", "50.7"), "--pairs is a whole number, got 50.7"),
        (("oracle", "--steps", "0"), "--steps is 1 at least"),
        (("oracle", "--trajectories", "0"), "--steps is for --trajectories"),
        (("oracle", "--held-out-label-file", "l.npy"), "--held-out-label-file is for --held-out"),
        (("oracle", "--classes", "foo"), "write each, whole or labels like 0,3,5"),
        (("oracle", "--baselines", "none,gaussian"), "excludes others"),
    ],
)
def test_mistakes(folder, capsys, words, told):
    assert typed(folder, *words) == 2
    said = capsys.readouterr().err
    assert told in said
    assert "Traceback" not in said
    assert not (folder / "out").exists()
