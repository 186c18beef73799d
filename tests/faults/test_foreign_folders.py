"""Every verb that writes, in folders of other people: refused in one line, nothing touched."""

import hashlib
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from floracle.cli import main
from floracle.data.encoding.encode import encode
from floracle.data.packing.pack import pack
from floracle.run.errors import InputError

pytestmark = pytest.mark.slow

FEW = "--seeds 0:2 --steps 4"
COMMANDS = f"""
stages digits --pairs 4 --times 12 --classes 0
sample oracle digits {FEW}
probe digits-pico --data digits {FEW}
loss digits-pico --data digits --pairs 2 --trajectories 0 --times .3,.5 --classes 0
mix digits-pico --data digits --switch .5 {FEW}
compare gaussian:20x4 gaussian:30x4 --pairs 4 --times 12
train digits --model pico --patch 4 --images 64 --batch 32 --pairs 0 --samples 0 --target-until .3
reproduce table-2
inspect digits
"""
VERBS = {line.split()[0]: line.split() for line in COMMANDS.strip().splitlines()}
"""A command of every verb that takes --out, each of a second or two."""


def run(verb, out):
    return main([*VERBS[verb], "--out", str(out)])


def looks(folder):
    """Names, kinds, times of change and content of everything below a folder."""
    seen = {}
    for path in sorted(folder.rglob("*")):
        found = path.lstat()
        content = os.readlink(path) if path.is_symlink() else ""
        if path.is_file() and not path.is_symlink():
            content = hashlib.sha256(path.read_bytes()).hexdigest()
        seen[str(path.relative_to(folder))] = (found.st_mode, found.st_mtime_ns, content)
    return seen


def foreign(there):
    """A project of somebody's, with names that look like ours in it, links and a run below."""
    elsewhere = there.with_name("elsewhere")
    elsewhere.mkdir()
    (elsewhere / "report.html").write_text("mine")
    for name in ("parts/0/result.json", "figures/stages.png", "report.html", "samples.npz"):
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_text("mine")
    for name in (".film.mkv.part", "deep/er/.result.json.abcd1234.part", "timing.json"):
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_text("mine")
    (there / "examples").symlink_to(elsewhere)
    (there / "training.html").symlink_to(elsewhere / "report.html")
    aside = there / "below" / ".floracle" / "aside"
    aside.mkdir(parents=True)
    (aside / ".result.json.abcd1234.part").write_text("of another run")
    (there / "latents_rank00_shard000.safetensors").write_text("mine")


@pytest.mark.parametrize("verb", VERBS)
def test_a_folder_of_other_people_is_refused_and_stays_as_it_is(tmp_path, verb, capsys):
    there = tmp_path / "there"
    there.mkdir()
    foreign(there)
    before = looks(tmp_path)
    assert run(verb, there) == 2
    words = capsys.readouterr().err.splitlines()
    assert [line for line in words if not line.startswith("note:")] == words[-1:]
    assert "holds what no run of floracle" in words[-1]
    assert looks(tmp_path) == before


@pytest.mark.parametrize("verb", VERBS)
def test_no_folder_a_root_a_home_and_a_mount_point_are_refused(
    tmp_path, verb, capsys, monkeypatch
):
    monkeypatch.setenv("HOME", str(tmp_path))
    places = {"": "name of a folder", "/": "root", str(tmp_path): "home", "/proc": "mount point"}
    for place, word in places.items():
        assert run(verb, place) == 2
        assert word in capsys.readouterr().err.splitlines()[-1]
    assert not list(tmp_path.iterdir())


class Identity:
    """An autoencoder whose latents are the pictures."""

    name, channels, downsampling, gaussian = "identity", 3, 1, False
    settings = {"name": "identity"}  # noqa: RUF012

    def encode(self, images):
        return images, None

    def decode(self, latents):
        return latents


def stored(verb, out):
    if verb == "pack":
        return pack(torch.randn(20, 4), out, quiet=True)
    return encode(np.zeros((4, 8, 8, 3), np.uint8), out, Identity(), quiet=True)


@pytest.mark.parametrize("verb", ["pack", "encode"])
def test_so_are_folders_for_stores(tmp_path, verb, monkeypatch):
    there = tmp_path / "there"
    there.mkdir()
    foreign(there)
    empty_tree = tmp_path / "tree" / "a"
    empty_tree.mkdir(parents=True)
    before = looks(tmp_path)
    for place in (there, tmp_path / "tree"):
        with pytest.raises(InputError, match=f"holds what no run of floracle {verb} wrote"):
            stored(verb, place)
    monkeypatch.setenv("HOME", str(tmp_path))
    for place in (Path("/"), tmp_path, Path("/proc")):
        with pytest.raises(InputError, match="choose a folder inside it as OUT"):
            stored(verb, place)
    assert looks(tmp_path) == before


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A finished run of every verb."""
    place = tmp_path_factory.mktemp("runs")
    for verb in VERBS:
        assert run(verb, place / verb) == 0
    return place


def test_every_verb_marks_its_folder_and_leaves_nothing_unfinished(runs):
    for verb in VERBS:
        assert (runs / verb / "run.json").is_file()
    assert not list(runs.rglob("*.part"))
    assert not list(runs.rglob(".floracle"))


def test_nobody_takes_the_folder_of_another_verb(runs, capsys):
    before = looks(runs)
    for verb in VERBS:
        other = next(name for name in VERBS if name != verb)
        assert run(verb, runs / other) == 2
        assert f"is the folder of floracle {other}" in capsys.readouterr().err.splitlines()[-1]
    assert looks(runs) == before


@pytest.mark.parametrize("verb", VERBS)
def test_a_run_in_a_folder_below_another_is_not_looked_at(runs, tmp_path, verb, capsys):
    """The same command again answers; what other runs have below stays as it is."""
    shutil.copytree(runs / verb, tmp_path / verb)
    below = tmp_path / verb / "below"
    aside = below / ".floracle" / "aside"
    aside.mkdir(parents=True)
    (aside / ".result.json.abcd1234.part").write_text("of another run, half-written")
    (below / ".a.png.abcd1234.part").write_text("mine")
    before = looks(below)
    assert run(verb, tmp_path / verb) == 0
    assert "holds this run: " in capsys.readouterr().err or verb == "inspect"
    assert looks(below) == before


def test_a_folder_in_use_is_refused_by_every_verb(runs, capsys):
    from floracle.run.folder_lock import locked

    for verb in VERBS:
        with locked(runs / verb):
            assert run(verb, runs / verb) == 2
        assert "another run is writing into" in capsys.readouterr().err.splitlines()[-1]
