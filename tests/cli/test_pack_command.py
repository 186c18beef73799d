import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from floracle.cli import main


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLORACLE_DEBUG", raising=False)
    rng = np.random.default_rng(0)
    np.save("points.npy", rng.standard_normal((60, 8), np.float32))
    np.save("labels.npy", np.arange(60) % 3)
    np.save("weights.npy", np.arange(1, 61))


def test_it_says_what_it_packed_and_how_to_go_on(capsys):
    assert main(["pack", "points.npy", "packed", "--label-file", "labels.npy"]) == 0
    said = capsys.readouterr().out
    assert "60 of shape 8" in said
    assert "none: every point is the same to the last bit" in said
    assert "then: floracle stages packed" in said
    assert main(["pack", "points.npy", "packed", "--label-file", "labels.npy"]) == 0
    assert capsys.readouterr().out == said


def test_what_a_narrower_type_costs_is_printed(capsys):
    assert main(["pack", "points.npy", "packed", "--dtype", "fp16", "--no-spectra"]) == 0
    said = capsys.readouterr().out
    assert "float16" in said
    assert "rms, of the points' deviation" in said


def test_every_option_reaches_the_store():
    options = ["--weights", "weights.npy", "--normalize", "0.5", "--shard-bytes", "700"]
    assert main(["pack", "points.npy", "packed", *options, "--memory", "2G"]) == 0
    manifest = json.loads(Path("packed/floracle/manifest.json").read_text())
    assert manifest["settings"]["normalize"] == 0.5
    assert manifest["weighted"]
    rows = [shard["rows"] for shard in manifest["shards"]]
    assert rows == [17, 3] * 3  # 40 bytes a row; the 20 rows of a class begin a shard


MISTAKES = {
    "other settings": (["points.npy", "packed", "--dtype", "bf16"], "dtype: 'stored' there"),
    "something else": (["points.npy", "."], "inside"),
    "no data": (["nothing.npy", "new"], "there is no nothing.npy"),
    "no folder": (["points.npy"], "OUT is missing"),
    "a type": (["points.npy", "new", "--dtype", "fp8"], "fp16"),
    "a size": (["points.npy", "new", "--shard-bytes", "huge"], "512M or 1G"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_mistakes_are_one_line(kind, capsys):
    words, told = MISTAKES[kind]
    assert main(["pack", "points.npy", "packed", "--no-spectra"]) == 0
    capsys.readouterr()
    if kind == "something else":
        os.mkdir("data")
        os.rename("points.npy", "data/points.npy")
        words = ["data/points.npy", "."]
        told = "holds what no run of floracle pack wrote"
    assert main(["pack", *words]) == 2
    said = capsys.readouterr().err
    assert told in said
    assert len(said.splitlines()) == 1
    assert not os.path.exists("new")


@pytest.mark.slow
def test_inspect_verifies(capsys):
    assert main(["pack", "points.npy", "packed"]) == 0
    assert main(["inspect", "packed", "--verify"]) == 0
    assert "verified          4 files" in capsys.readouterr().out
    assert main(["inspect", "packed", "--verify", "--json"]) == 0
    assert "all are as packed" in json.loads(capsys.readouterr().out)["verified"]
    with open("packed/latents_rank00_shard000.safetensors", "r+b") as file:
        file.seek(-3, os.SEEK_END)
        file.write(b"\x7f")
    for words in (["inspect", "packed", "--verify"], ["inspect", "packed"], ["stages", "packed"]):
        assert main(words) == 2
        assert "latents_rank00_shard000.safetensors is damaged" in capsys.readouterr().err


def test_inspect_verifies_packed_stores_only(capsys):
    assert main(["inspect", "points.npy", "--verify"]) == 2
    assert "no packed store" in capsys.readouterr().err


@pytest.mark.slow
def test_stages_of_the_packed_store_are_those_of_the_data(capsys):
    asked = ["--classes", "each", "--pairs", "8", "--times", "12"]
    labels = ["--label-file", "labels.npy"]
    assert main(["pack", "points.npy", "packed", *labels]) == 0
    assert main(["stages", "points.npy", *labels, *asked, "--out", "plain"]) == 0
    assert main(["stages", "packed", *asked, "--out", "fast"]) == 0
    folders = (Path(out) for out in ("plain", "fast"))
    found = [json.loads((out / "result.json").read_text())["values"] for out in folders]
    assert landmarks(found[0]) == pytest.approx(landmarks(found[1]), rel=1e-9, nan_ok=True)


def landmarks(values):
    """All numbers of a result, in order."""
    if isinstance(values, dict):
        return [number for name in sorted(values) for number in landmarks(values[name])]
    if isinstance(values, list):
        return [number for value in values for number in landmarks(value)]
    return [values] if isinstance(values, float) else []


@pytest.mark.slow
def test_packing_takes_little_memory_beside_the_mapped_data():
    points = np.lib.format.open_memmap("large.npy", "w+", np.float16, (40000, 4096))
    rng = np.random.default_rng(0)
    for start in range(0, 40000, 1000):
        points[start : start + 1000] = rng.standard_normal((1000, 4096), np.float32)
    points.flush()
    script = (
        "import resource, sys, torch, floracle.data.packing.pack\n"
        "from floracle.cli import main\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "arguments = ['large.npy', 'packed', '--no-spectra', '--memory', '64M']\n"
        "before = peak(); main(['pack', *arguments])\n"
        "print(peak() - before)"
    )
    told = subprocess.check_output([sys.executable, "-c", script], text=True)
    mapped = 40000 * 4096 * 2
    taken = int(told.splitlines()[-1]) - mapped
    assert taken < 280 * 2**20, taken
