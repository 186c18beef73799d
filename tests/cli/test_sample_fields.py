"""Fields other than the oracle, and two fields on one grid, as they are typed."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import floracle
from floracle.cli import main

NETWORKS = '''
import torch


class Pull(torch.nn.Module):
    """Predicts the point (2, 2, 2), or minus it for label 1."""

    def forward(self, x, t, labels):
        sign = torch.where(labels == 1, -1.0, 1.0).to(x.dtype)
        return 2 * sign[:, None] * torch.ones_like(x)


def pull():
    return Pull()
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
    code = main(["sample", *map(str, words), "--seeds", "0:6", "--out", str(where)])
    return code, torch.tensor(np.load(where / "samples.npz")["arr_0"]) if code == 0 else None


def test_a_network_is_followed_by_its_name(folder, capsys):
    field = f"{folder / 'networks.py'}:pull"
    code, found = typed(folder, field, folder / "points.npy", *AS_TYPED)
    assert code == 0
    assert (found - 2).abs().max() < 1e-5
    told = capsys.readouterr()
    assert "predicts the data" in told.err  # what was assumed of it
    assert "0 of 6 samples landed" in told.out
    labelled = ("--label-file", folder / "labels.npy", "--labels", "0,1")
    code, found = typed(folder, field, folder / "points.npy", *AS_TYPED, *labelled, out="two")
    assert (found[0::2] - 2).abs().max() < 1e-5
    assert (found[1::2] + 2).abs().max() < 1e-5


def test_words_of_version_0_1_are_a_note_with_the_new_ones(folder, capsys):
    field = f"{folder / 'networks.py'}:pull"
    old = ("--convention", "predicts=data,null=5")
    code, found = typed(folder, field, folder / "points.npy", *old)
    assert code == 0
    assert (found - 2).abs().max() < 1e-5
    assert "note: --convention: null= is now null_label=" in capsys.readouterr().err


def test_two_fields_are_two_samplings_on_one_grid(folder, capsys):
    field, data = f"{folder / 'networks.py'}:pull", folder / "points.npy"
    oracle = floracle.Oracle(floracle.open_store(str(data)))
    model = floracle.load_model(field, convention=AS_TYPED[1])
    early, late = floracle.split_grid(floracle.time_grid(20), at=0.33)
    for k, (first, then) in enumerate(((("oracle", field)), (field, "oracle"))):
        words = (first, data, "--then", then, "--at", 0.33, "--steps", 20, *AS_TYPED)
        code, found = typed(folder, *words, out=str(k))
        assert code == 0
        fields = {"oracle": oracle, field: model}
        x = floracle.sample(fields[first], floracle.noise(range(6), (3,)), early)
        assert torch.equal(found, floracle.sample(fields[then], x, late))
        landed = floracle.load(folder / str(k)).arrays["landed"]
        assert landed.all() == (then == "oracle")


def test_the_same_again_answers_and_another_time_does_not(folder, capsys):
    field, data = f"{folder / 'networks.py'}:pull", folder / "points.npy"
    words = ("oracle", data, "--then", field, *AS_TYPED)
    code, once = typed(folder, *words, "--at", 0.5)
    again = typed(folder, *words, "--at", 0.5)
    assert code == again[0] == 0
    assert torch.equal(once, again[1])
    assert typed(folder, *words, "--at", 0.25)[0] == 2
    assert "at: 0.5 there, 0.25 asked" in capsys.readouterr().err


def test_mistakes(folder, capsys):
    field, data = f"{folder / 'networks.py'}:pull", folder / "points.npy"
    for words, told in (
        ((field, data), "pass --convention"),
        (("oracle", data, *AS_TYPED), "only the oracle"),
        (("oracle", data, "--then", "oracle"), "both or none"),
        (("oracle", data, "--at", 0.5), "both or none"),
        (("oracle", data, "--then", "oracle", "--at", 1.0), "between noise"),
        (("orcale", data), "there is no 'orcale'"),
        (("oracle", data, "--then", field, "--at", 0.5, "--convention", "sitt"), "'sit'"),
    ):
        assert typed(folder, *words)[0] == 2
        said = capsys.readouterr().err
        assert told in said
        assert "Traceback" not in said
        assert not (folder / "out").exists()


BROKEN = """
import torch

def stops():
    raise OSError("no weights here")


def small():
    table = torch.nn.Embedding(2, 3)
    return lambda x, t, labels: table(labels)
"""


@pytest.mark.parametrize(
    ("content", "name", "told"),
    [
        (BROKEN, "stops", "networks.py, line 5, fails: OSError: no weights here"),
        (BROKEN, "small", "networks.py, line 10, fails: IndexError: index out of range in self"),
        ("import torch\nimport nothere_xyz\n", "a", "line 2, fails: ModuleNotFoundError"),
        ("def a(:\n", "a", "line 1, fails: SyntaxError: invalid syntax"),
    ],
)
def test_what_goes_wrong_in_a_network_of_ones_own_is_no_bug(folder, capsys, content, name, told):
    (folder / "networks.py").write_text(content)
    words = [f"{folder / 'networks.py'}:{name}", str(folder / "points.npy"), "--seeds", "0:2"]
    assert main(["sample", *words, *AS_TYPED, "--out", str(folder / "out")]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert told in said
    assert "bug" not in said
    assert not (folder / "out").exists()


def test_samples_do_not_go_into_the_data(folder, capsys):
    data = folder / "pictures"
    (data / "0").mkdir(parents=True)
    (data / "0" / "a.png").touch()
    for inside in (data, data / "samples"):
        assert main(["sample", "oracle", str(data), "--out", str(inside)]) == 2
        assert "lies in the data" in capsys.readouterr().err
    assert [path.name for path in data.iterdir()] == ["0"]


@pytest.mark.slow
def test_fields_are_followed_on_other_paths(capsys, tmp_path, monkeypatch):
    """The oracle and a network of it, on the path that was asked for."""
    monkeypatch.chdir(tmp_path)
    common = ["sample", "oracle", "digits", "--seeds", "0:4", "--steps", "20"]
    assert main([*common, "--path", "cosine", "--out", "cosine"]) == 0
    assert "4 of 4 samples landed" in capsys.readouterr().out
    assert main([*common, "--out", "linear"]) == 0
    with np.load("cosine/samples.npz") as one, np.load("linear/samples.npz") as other:
        assert (one["rows"] != other["rows"]).any() or (
            one["distances"] != other["distances"]
        ).any()
    assert main([*common, "--path", "cosine", "--out", "linear"]) == 2
    network = ["digits-pico", "--data", "digits", "--path", "trigonometric"]
    assert main(["loss", *network, "--pairs", "4", "--trajectories", "0", "--classes", "3"]) == 0
    assert main(["probe", *network, "--seeds", "0:2", "--labels", "3"]) == 0
    mixing = ["--switch", ".3", "--landing", ".1", "--seeds", "0:2", "--labels", "3"]
    assert main(["mix", *network, *mixing, "--steps", "6"]) == 0
    guided = ["--guidance", "2", "--labels", "3", "--interval", "edm:.4,.9"]
    capsys.readouterr()
    assert main([*common, "--path", "cosine", *guided, "--out", "guided"]) == 2
    assert "path's own time" in capsys.readouterr().err
