"""`floracle sample` with guidance, with text, and with networks that are declared wrongly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import floracle
from floracle.cli import main

MNIST = f"{Path(__file__).parents[1] / 'models' / 'mnist_network.py'}:network"
NETWORKS = '''
import torch


def pull():
    """Predicts the point (2, 2, 2), minus it for label 1, and nothing without a label."""
    def network(x, t, labels):
        place = torch.tensor([2.0, -2.0] + [0.0] * 4).to(x)[labels]
        return place[:, None] * torch.ones_like(x)
    return network


def weak():
    return lambda x, t, labels: torch.zeros_like(x)


def narrow():
    return lambda x, t, labels: x[:, :2]


def linear():
    weight = torch.ones(4, 4)
    return lambda x, t, labels: x @ weight
'''
AS_TYPED = ("--convention", "predicts=data,null_label=5")


@pytest.fixture
def folder(tmp_path):
    points = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    np.save(tmp_path / "points.npy", points)
    np.save(tmp_path / "labels.npy", np.arange(30) % 2)
    (tmp_path / "networks.py").write_text(NETWORKS)
    return tmp_path


def typed(folder, *words, out="out"):
    """The exit code of `floracle sample` with these words, and the samples."""
    where = folder / out
    code = main(["sample", *map(str, words), "--out", str(where)])
    return code, torch.tensor(np.load(where / "samples.npz")["arr_0"]) if code == 0 else None


def digits_guided(scale, grid, **how):
    """What the library makes of seeds 0 to 3 with labels 3 and 5."""
    oracle = floracle.Oracle(floracle.open_store("digits"))
    if how.pop("reference", False):
        how["reference"] = oracle
    field = floracle.guided(oracle, scale, **how)
    labels = torch.tensor([3, 5, 3, 5])
    return floracle.sample(field, floracle.noise(range(4), (1, 8, 8)), grid, labels=labels)


DIGITS = ("oracle", "digits", "--seeds", "0:4", "--labels", "3,5", "--steps", 10)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "how"),
    [
        ((), {}),
        (("--interval", ".1,.6"), {"interval": (0.1, 0.6)}),
        (("--interval", "edm:.5,9"), {"interval": floracle.guidance_interval("edm", 0.5, 9)}),
        (
            ("--interval", "sigma:.4,.9"),
            {"interval": floracle.guidance_interval("sigma", 0.4, 0.9)},
        ),
        (("--channels", "three"), {"channels": "three"}),
        (("--channels", "1", "--reference", "oracle"), {"channels": 1, "reference": True}),
    ],
)
def test_options_are_those_of_the_library(tmp_path, capsys, words, how):
    code, found = typed(tmp_path, *DIGITS, "--guidance", 2.5, *words)
    assert code == 0
    expected = digits_guided(2.5, floracle.time_grid(10), **how)
    shown = np.clip(np.round((expected.numpy() + 1) * 127.5), 0, 255)  # bytes of the picture
    apart = found.numpy().astype(float)[:, :, :, 0] - shown[:, 0]
    assert np.abs(apart).max() <= 1
    settings = floracle.load(tmp_path / "out").settings
    assert settings["guidance"] == "2.5"
    assert ("interval" in settings) == ("interval" in how)


@pytest.mark.slow
def test_the_cost_is_told(tmp_path, capsys):
    words = ("--guidance", 2.5, "--interval", ".1,.6")
    assert typed(tmp_path, *DIGITS, *words)[0] == 0
    told = capsys.readouterr().out
    assert "evaluations a sample: 16, for 10 velocities; guidance takes 6 of them" in told
    values = floracle.load(tmp_path / "out").values
    assert (values["velocities"], values["evaluations"]) == (10, 16)
    assert typed(tmp_path, *DIGITS, out="plain")[0] == 0
    assert "evaluations a sample: 10, for 10 velocities\n" in capsys.readouterr().out
    assert typed(tmp_path, *DIGITS, *words, "--solver", "heun", out="heun")[0] == 0
    field = floracle.guided(
        floracle.Oracle(floracle.open_store("digits")), 2.5, interval=(0.1, 0.6)
    )
    values = floracle.load(tmp_path / "heun").values
    grid = floracle.time_grid(10)
    assert values["evaluations"] == floracle.evaluations(grid, "heun", field=field)


@pytest.mark.slow
def test_two_fields_have_a_scale_each(folder):
    field, data = f"{folder / 'networks.py'}:pull", folder / "points.npy"
    labelled = ("--label-file", folder / "labels.npy", "--labels", "0,1", "--seeds", "0:6")
    words = ("oracle", data, "--then", field, "--at", 0.33, "--steps", 20, *AS_TYPED, *labelled)
    oracle = floracle.Oracle(floracle.open_store(str(data), labels=folder / "labels.npy"))
    model = floracle.load_model(field, convention=AS_TYPED[1])
    early, late = floracle.split_grid(floracle.time_grid(20), at=0.33)
    labels = torch.arange(6) % 2
    for given, (first, second) in (("3", (3, 3)), ("3,1", (3, 1)), ("1,1.5", (1, 1.5))):
        code, found = typed(folder, *words, "--guidance", given, out=given)
        assert code == 0
        x = floracle.noise(range(6), (3,))
        x = floracle.sample(floracle.guided(oracle, first), x, early, labels=labels)
        x = floracle.sample(floracle.guided(model, second), x, late, labels=labels)
        torch.testing.assert_close(found, x)


def test_an_interval_between_the_times_of_the_grid_is_refused(folder, capsys):
    words = [f"{folder / 'networks.py'}:pull", str(folder / "points.npy"), *AS_TYPED]
    words += ["--seeds", "0:2", "--label-file", str(folder / "labels.npy"), "--labels", "0"]
    words += ["--guidance", "2", "--steps", "10"]
    out = str(folder / "never")
    assert main(["sample", *words, "--interval", ".21,.215", "--out", out]) == 2
    assert "nothing would be guided" in capsys.readouterr().err
    assert main(["sample", *words, "--interval", ".2,.215", "--out", out]) == 0


def test_a_weaker_field_is_a_reference(folder):
    field, weak = (f"{folder / 'networks.py'}:{name}" for name in ("pull", "weak"))
    words = ("--guidance", 1.5, "--reference", weak, "--seeds", "0:4", "--labels", "0")
    data = (folder / "points.npy", "--label-file", folder / "labels.npy")
    code, found = typed(folder, field, *data, *AS_TYPED, *words)
    assert code == 0
    assert (found - 3).abs().max() < 1e-4  # 0 + 1.5 (2 − 0)


@pytest.mark.slow
def test_mistakes(folder, capsys):
    field, data = f"{folder / 'networks.py'}:pull", folder / "points.npy"
    labelled = (data, "--label-file", folder / "labels.npy", "--labels", "0", *AS_TYPED)
    other = f"{folder / 'networks.py'}:narrow"
    linear = f"{folder / 'networks.py'}:linear"
    guidance = ("--guidance", 2)
    for words, told in (
        (("oracle", "digits", *guidance), "give --labels, or a --reference"),
        (("oracle", "digits", "--interval", ".1,.6"), "--interval belongs to guidance"),
        ((*DIGITS, "--guidance", "strong"), "'strong' is not understood"),
        ((*DIGITS, "--guidance", "nan"), "finite number"),
        ((*DIGITS, "--guidance", "2,3"), "has 2 scales; give --then"),
        ((*DIGITS, *guidance, "--interval", ".6,.1"), "a lower end and a higher one"),
        ((*DIGITS, *guidance, "--interval", ".1"), "write .1,.6 in t"),
        ((*DIGITS, *guidance, "--interval", "a,b"), "write .1,.6 in t"),
        ((*DIGITS, *guidance, "--interval", ".1,1.6"), "t lies in [0, 1], got 1.6"),
        ((*DIGITS, *guidance, "--interval", "emd:.1,.6"), "did you mean 'edm'"),
        ((*DIGITS, *guidance, "--channels", "tree"), "did you mean 'three'"),
        ((*DIGITS, *guidance, "--channels", "0"), "at least 1"),
        (
            (field, *labelled, *guidance, "--reference", other),
            "must return a tensor of the shape of its samples",
        ),
        ((field, *labelled, *guidance, "--reference", linear), "fails on samples of 3"),
        ((*DIGITS, "--prompt", "a cat"), "labels are unsupported for text"),
        (("oracle", "digits", "--prompt", "a cat"), "the oracle knows no text"),
        ((field, data, *AS_TYPED, "--prompt", "a cat"), "means nothing for a function"),
    ):
        assert typed(folder, *words)[0] == 2
        said = capsys.readouterr().err
        assert told in said
        assert "Traceback" not in said
        assert not (folder / "out").exists()


@pytest.fixture
def mnist(shared):
    """The words for the test pictures of MNIST in [0, 1], as the network has them."""
    images = shared / "data" / "mnist" / "t10k-images-idx3-ubyte.gz"
    return images, "--normalize", 1 / 255, "--seeds", "0:4", "--steps", 4


@pytest.mark.parametrize(
    ("declared", "told"),
    [
        ("predicts=data,null_label=10", None),
        ("predicts=data,noise_time=1,data_time=0,null_label=10", "flipped in time"),
        ("predicts=data,sign=-1,null_label=10", "wrong sign"),
        ("velocity,null_label=10", "unknown convention"),
        ("sit,null_label=10", "predicts the data"),
    ],
)
@pytest.mark.slow
def test_a_real_network_declared_wrongly_is_noticed(tmp_path, mnist, capsys, declared, told):
    code, _ = typed(tmp_path, MNIST, *mnist, "--convention", declared)
    said = capsys.readouterr().err
    if told is None:
        assert code == 0
        assert "warning" not in said
        assert "cannot be checked" not in said
    elif code == 0:
        assert f"seems to be wrong: {told}" in said
        fix = said.partition("pass --convention ")[2].split()[0]
        assert fix == "predicts=data,null_label=10"
        assert typed(tmp_path, MNIST, *mnist, "--convention", fix, out="mended")[0] == 0
        assert "warning" not in capsys.readouterr().err
    else:
        assert told in said


@pytest.mark.slow
def test_data_in_another_scale_is_noticed(tmp_path, mnist, capsys):
    images, *rest = mnist
    words = (images, *rest[2:], "--convention", "predicts=data,null_label=10")
    assert typed(tmp_path, MNIST, *words)[0] == 0
    assert "on this data in this scale?" in capsys.readouterr().err
