"""`floracle inspect` and `floracle compare` as they are typed."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from floracle.cli import main
from floracle.cli.console import as_typed


@pytest.mark.slow
def test_inspect_says_what_the_digits_are(capsys):
    assert main(["inspect", "digits", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["points"] == 1797
    assert found["shape"] == [1, 8, 8]
    assert found["classes"]["3"] == 183
    assert found["duplicates"] == 0
    assert found["flags"] == "floracle stages digits"
    assert found["to_choose"] == []
    from sklearn.datasets import load_digits

    pixels = load_digits().data / 8 - 1
    assert found["channels"]["mean"] == pytest.approx([pixels.mean()], abs=1e-6)
    assert found["channels"]["std"] == pytest.approx([pixels.std()], abs=1e-6)


@pytest.mark.slow
def test_inspect_finds_near_and_exact_duplicates(tmp_path, capsys):
    points = np.random.default_rng(0).normal(size=(60, 12)).astype(np.float32)
    points[7] = points[3]
    points[20] = points[10] + 1e-3
    np.save(tmp_path / "points.npy", points)
    assert main(["inspect", str(tmp_path / "points.npy"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["duplicates"] == 1
    near = {frozenset(pair[:2]) for pair in found["neighbourhood"]["near"]}
    assert near == {frozenset((10, 20))}


@pytest.mark.slow
def test_inspect_names_the_choice_that_stages_would_ask_for(tmp_path, capsys):
    latents = torch.randn(40, 4, 2, 2)
    content = {
        "latents": latents,
        "latents_flip": latents.flip(-1),
        "labels": torch.arange(40) % 2,
    }
    save_file(content, tmp_path / "latents_rank00_shard000.safetensors")
    stats = {"mean": torch.zeros(1, 4, 1, 1), "std": torch.ones(1, 4, 1, 1)}
    torch.save(stats, tmp_path / "latents_stats.pt")
    assert main(["inspect", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "choose --flips or --no-flips" in told
    assert "lightningdit" in told
    assert main(["stages", str(tmp_path)]) == 2
    assert "say --flips for those 2N points, or --no-flips for N" in capsys.readouterr().err
    out = str(tmp_path / "out")
    assert main(["stages", str(tmp_path), "--flips", "--pairs", "8", "--out", out]) == 0
    assert "80" in capsys.readouterr().out


def test_words_of_strangers_stay_in_their_line():
    told = as_typed("a\n b \x1b[2Jc; say layout='mean-std', normalize=0.18215 or flips=False")
    assert told == "a b ?[2Jc; say --layout mean-std, --normalize 0.18215 or --no-flips"


def test_inspect_names_rows_that_are_not_finite(tmp_path, capsys):
    points = np.ones((5, 3), np.float32)
    points[4, 1] = np.nan
    np.save(tmp_path / "points.npy", points)
    assert main(["inspect", str(tmp_path / "points.npy")]) == 2
    assert "4" in capsys.readouterr().err


@pytest.mark.slow
def test_compare_measures_and_says_why(tmp_path, capsys):
    out = str(tmp_path / "page")
    asked = ["compare", "gaussian:300x16", "gaussian:300x64", "--out", out, "--pairs", "32"]
    assert main([*asked, "--names", "small,large"]) == 0
    told = capsys.readouterr().out
    assert "large collapses earlier than small because its dimensions and the shape of its" in told
    page = (tmp_path / "page" / "compare.html").read_text()
    assert "--names small,large --pairs 32" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    found = json.loads((tmp_path / "page" / "comparison.json").read_text())
    assert found[1]["factors"]["shape"] < 0.7
    assert found[1]["collapse"]["value"] < found[0]["collapse"]["value"]
    for name in ("weights", "self_weight", "information", "gap", "spectra"):
        for kind in ("png", "svg", "csv"):
            assert (tmp_path / "page" / "figures" / f"{name}.{kind}").stat().st_size > 100
    again = [str(tmp_path / "page" / name) for name in ("small", "large")]
    assert main(["compare", *again, "--out", str(tmp_path / "again")]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["digits"], "2 to 6"),
        (["digits", "gaussian:9x2", "--names", "a"], "--names"),
        (["digits", "gaussian:9x2", "--names", "a,a"], "--names"),
        (["digits", "nowhere.npy", "--pairs", "4"], "no nowhere.npy"),
    ],
)
def test_compare_refuses_nonsense(tmp_path, capsys, words, told):
    assert main(["compare", *words, "--out", str(tmp_path / "page")]) == 2
    assert told in capsys.readouterr().err
