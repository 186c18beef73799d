"""`floracle mix`: fields and the oracle that take over from each other, as they are typed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from PIL import Image

import floracle
from edits import resealed
from floracle.analysis.mixing.field_switching import SwitchResult, switch_fields
from floracle.analysis.mixing.forward_backward import ForwardBackwardResult, forward_backward
from floracle.analysis.mixing.landing_test import LandingResult
from floracle.cli import main
from floracle.sampling.grid import time_grid

NETWORKS = '''
import torch


class Mean(torch.nn.Module):
    """Predicts half of what it sees, as if data were like noise."""

    def forward(self, x, t, labels):
        t = t.reshape(-1, *[1] * (x.ndim - 1))
        return t * x / (t**2 + (1 - t) ** 2)


def mean():
    return Mean()
'''
READ = ("--convention", "predicts=data,null_label=10")
FEW = ("--steps", 10, "--seeds", "0:20")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "networks.py").write_text(NETWORKS)
    digits = floracle.open_store("digits")
    np.save(tmp_path / "mirrored.npy", digits.points.flip(-1).numpy())  # no training points
    np.save(tmp_path / "mirrored_labels.npy", digits.labels.numpy())
    return tmp_path


def typed(folder, *words, field="networks.py:mean", data="digits", out="out"):
    field = str(folder / field) if field != "oracle" else field
    return main(["mix", field, "--data", data, *map(str, words), "--out", str(folder / out)])


@pytest.mark.slow
def test_all_three_are_what_the_library_measures(folder, capsys):
    unseen = (
        "--held-out",
        folder / "mirrored.npy",
        "--resume",
        "0,.5,1",
        "--rows",
        "3:9",
        "--noises",
        2,
    )
    words = ("--switch", "0,.5,1", "--labels", "0,1", "--landing", ".5", *unseen, "--edges", 2)
    assert typed(folder, *words, *READ, *FEW) == 0
    told = capsys.readouterr()
    data = floracle.open_store("digits")
    field = floracle.load_model(f"{folder / 'networks.py'}:mean", convention=READ[1])
    known = {"switch_times": [0, 0.5, 1], "grid": time_grid(10)}
    labels = torch.arange(20) % 2
    ours = switch_fields(field, floracle.Oracle(data), seeds=range(20), labels=labels, **known)
    theirs = floracle.load(folder / "out" / "switch")
    assert isinstance(theirs, SwitchResult)
    for name in (
        "nearest_distance",
        "second_distance",
        "oracle_distance",
        "rows",
        "oracle_rows",
        "samples",
    ):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))
    others = floracle.open_store(folder / "mirrored.npy", normalize=data.normalizer)
    ours = forward_backward(field, others, data, rows=range(3, 9), noises=2, edges=[2.0], **known)
    theirs = floracle.load(folder / "out" / "resume")
    assert isinstance(theirs, ForwardBackwardResult)
    for name in (
        "squared_change",
        "noise_variance",
        "class_variance",
        "nearest_distance",
        "second_distance",
        "samples",
    ):
        assert torch.equal(getattr(ours, name), getattr(theirs, name))
    landed = floracle.load(folder / "out" / "landing-0.5")
    assert isinstance(landed, LandingResult)
    assert str(landed) in told.out
    for name, columns in (("switch", 3), ("resume", 4)):
        with Image.open(folder / "out" / "figures" / f"{name}-pictures.png") as sheet:
            assert sheet.width > 100 * columns
    page = (folder / "out" / "mix.html").read_text()
    assert page.count('class="sheet"') == 2
    assert "<script" not in page


@pytest.mark.slow
def test_parts_are_kept_and_joined(folder, capsys):
    """Each is measured once; another run draws them together."""
    assert typed(folder, "--switch", "0,1", *READ, *FEW) == 0
    kept = folder / "out" / "switch" / "result.json"
    before = kept.stat().st_mtime_ns
    assert typed(folder, "--switch", "0,1", "--landing", ".5,.2", *READ, *FEW) == 0
    assert kept.stat().st_mtime_ns == before
    said = capsys.readouterr().out
    assert said.index("until τ = 0.2") < said.index("until τ = 0.5")
    assert typed(folder, "--landing", ".2", *READ, *FEW) == 0
    assert "Even from τ" in capsys.readouterr().out or kept.stat().st_mtime_ns == before
    assert typed(folder, "--switch", "0,.5", *READ, *FEW) == 2
    assert "taus: [0.0, 1.0] there, [0.0, 0.5] asked" in capsys.readouterr().err
    values = json.loads(kept.read_text())["values"]
    del values["dims"]
    resealed(kept, values=values)
    assert typed(folder, "--switch", "0,1", *READ, *FEW) == 2
    assert "not whole results of switch" in capsys.readouterr().err


@pytest.mark.slow
def test_every_part_has_a_line_of_its_own_and_what_was_asked_is_said_first(folder, capsys):
    """The page of two runs repeats both, each with its own seeds and labels."""
    few = {"field": "oracle", "out": "out"}
    assert typed(folder, "--switch", ".5,1", "--seeds", "0:4", "--steps", "4", **few) == 0
    words = ("--landing", ".5", "--seeds", "0:12", "--labels", "3", "--steps", "4")
    assert typed(folder, *words, **few) == 0
    said = capsys.readouterr().out
    assert said.rindex("the oracle from τ on") < said.rindex("the oracle until τ")
    page = (folder / "out" / "mix.html").read_text()
    known = "floracle mix oracle --data digits"
    assert f"<pre>{known} --switch .5,1 --seeds 0:4 --steps 4\n{known} --landing 0.5" in page
    assert "--landing 0.5 --seeds 0:12 --labels 3 --steps 4</pre>" in page
    assert "<dt>the oracle until τ</dt><dd>seeds 0:4</dd>" in page
    assert "<dd>seeds 0:12, labels 3</dd>" in page


@pytest.mark.slow
def test_the_oracle_copies_whatever_takes_over(folder, capsys):
    unseen = (
        "--held-out",
        folder / "mirrored.npy",
        "--resume",
        "0,.6",
        "--rows",
        "0:8",
        "--noises",
        2,
    )
    assert typed(folder, "--switch", "0,.6", *unseen, *FEW, field="oracle") == 0
    said = capsys.readouterr().out
    assert "From τ = 0.6 on most samples of oracle are copies of the training point" in said
    for name in ("switch", "resume"):
        share, _, _ = floracle.load(folder / "out" / name).copy_share()
        assert (share > 0.9).all()  # ten steps leave a few between two training points


@pytest.mark.slow
def test_points_that_are_no_pictures_have_no_pictures(folder, capsys):
    np.save(folder / "points.npy", np.random.default_rng(0).normal(size=(40, 6)).astype("f4"))
    np.save(folder / "unseen.npy", np.random.default_rng(1).normal(size=(9, 6)).astype("f4"))
    unseen = ("--held-out", folder / "unseen.npy", "--resume", "0,.5,1", "--rows", "0:9")
    data = str(folder / "points.npy")
    assert typed(folder, *unseen, *FEW[:2], data=data, field="oracle") == 0
    assert "everything from τ" in capsys.readouterr().out
    assert not list((folder / "out" / "figures").glob("*-pictures.png"))


@pytest.mark.slow
def test_labels_of_samples_and_of_points_are_told_apart(folder, capsys):
    np.save(folder / "points.npy", np.random.default_rng(0).normal(size=(40, 6)).astype("f4"))
    np.save(folder / "kinds.npy", np.arange(40) % 2)
    words = ("--label-file", folder / "kinds.npy", "--labels", "1", "--switch", ".5,1")
    data = str(folder / "points.npy")
    assert typed(folder, *words, *FEW, data=data, field="oracle") == 0
    assert (floracle.load(folder / "out" / "switch").oracle_rows % 2 == 1).all()
    page = (folder / "out" / "mix.html").read_text()
    assert "--switch .5,1" in page
    assert "--labels 1" in page
    assert f"--label-file {folder / 'kinds.npy'}" in page


RESUME = ("--resume", ".5", "--held-out", "mirrored.npy")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ((), "--switch, --landing or --resume"),
        (("--resume", ".5"), "give --held-out"),
        (("--switch", "0,2"), "between noise (0) and data (1)"),
        (("--landing", "1"), "a time τ before 1"),
        (("--switch", ".5", "--labels", "12"), "class 12 does not occur in the data"),
        (("--switch", ".5", "--solver", "eulr"), "did you mean 'euler'?"),
        ((*RESUME, "--rows", "0:9999"), "there is no row"),
        ((*RESUME, "--noises", "1"), "1 noises"),
        (("--switch", ".5", *READ), "only the oracle is named"),
        (("--switch", ".5", "--name", ""), "--name needs"),
        (("--switch", ".5", "--name", "a\nb"), r"--name takes what can be printed, got 'a\nb'"),
        (("--switch", ".5", "--noises", 3), "--noises is for --resume"),
        (
            ("--switch", ".5", "--held-out-label-file", "l.npy"),
            "--held-out-label-file is for --resume",
        ),
        (
            (*RESUME, "--labels", 1),
            "--labels is for --switch",
        ),
        (
            (*RESUME, "--rows", "5:5"),
            "--rows 5:5 holds no row",
        ),
        ((*RESUME, "--rows", "5,5"), "is named twice"),
        (
            (*RESUME, "--noises", "2.5"),
            "--noises is a whole",
        ),
        (("--switch", ".5", "--steps", "1e1.5"), "--steps is a whole number, got 1e1.5"),
        (("--switch", ".5", "--shift", -1), "shift must be positive"),
    ],
)
def test_mistakes(folder, capsys, words, told):
    words = [str(folder / word) if word == "mirrored.npy" else word for word in words]
    assert typed(folder, *words, field="oracle") == 2
    said = capsys.readouterr().err
    assert told in said
    assert "Traceback" not in said
    assert not (folder / "out").exists()
