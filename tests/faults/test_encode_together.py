"""Encoding by several processes: the bytes of one, whoever dies; a clear end, and a way on."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
import torch
from test_encode_faults import HOW, Squares, contents, images, interrupted

from floracle.cli import main
from floracle.data.encoding.encode import encode
from floracle.run.errors import InputError
from floracle.run.folder_lock import locked
from floracle.run.output_folder import open_output
from many import Started, in_threads


@dataclass(frozen=True)
class Counted(Squares):
    """Squares that keep how many pictures they were given together."""

    calls: list = field(default_factory=list, compare=False)

    def encode(self, images):
        self.calls.append(len(images))
        return super().encode(images)


# processes that are threads --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 5])
def test_processes_write_the_bytes_of_one_and_nothing_twice(tmp_path, monkeypatch, size):
    where, alone = images(tmp_path / "data"), Counted()
    expected = encode(where, tmp_path / "alone", alone, **HOW)
    coders = [Counted() for _ in range(size)]

    def work(group):
        return encode(where, tmp_path / "many", coders[group.rank], **HOW, group=group)

    for _ in range(2):  # the second time it answers at once
        found = in_threads(size, work, monkeypatch)
        assert found == [expected] * size
        assert contents(tmp_path / "many") == contents(tmp_path / "alone")
        assert sorted(call for one in coders for call in one.calls) == sorted(alone.calls)
    assert sum(bool(one.calls) for one in coders) == min(size, 3)  # there are three shards


def test_what_one_process_has_left_is_finished_by_two_and_the_other_way_round(
    tmp_path, monkeypatch
):
    where, out = interrupted(tmp_path, monkeypatch, 1)
    encode(where, tmp_path / "whole", Squares(), **HOW)
    shutil.copytree(out, tmp_path / "other")
    coders = [Counted(), Counted()]
    in_threads(
        2, lambda group: encode(where, out, coders[group.rank], **HOW, group=group), monkeypatch
    )
    assert contents(out) == contents(tmp_path / "whole")
    assert [sum(coder.calls) for coder in coders] == [6, 4]  # of 3, 3 and 2 pictures with mirrors
    encode(where, tmp_path / "other", Squares(), **HOW)
    assert contents(tmp_path / "other") == contents(out)


def test_processes_that_ask_for_other_things_are_told(tmp_path, monkeypatch):
    first, second = images(tmp_path / "a"), images(tmp_path / "b")
    np.save(second, np.load(second)[::-1])
    for where, seeds, words in (
        ((first, second), (0, 0), "process 1 has other images than process 0"),
        ((first, first), (0, 1), "process 1 has other settings than process 0"),
    ):

        def work(group, where=where, seeds=seeds):
            asked = {"seed": seeds[group.rank], "group": group}
            encode(where[group.rank], tmp_path / "out", Squares(), **HOW, **asked)

        with pytest.raises(InputError, match=words):
            in_threads(2, work, monkeypatch)
    assert not (tmp_path / "out").exists()


def test_machines_that_do_not_share_the_folder_are_told(tmp_path, monkeypatch):
    where = images(tmp_path / "data")

    def work(group):
        return encode(where, tmp_path / f"out{group.rank}", Squares(), **HOW, group=group)

    with pytest.raises(InputError, match=r"shard 3 of 3.*all machines must share that folder"):
        in_threads(2, work, monkeypatch)
    assert not (tmp_path / "out0/floracle/encoded.json").exists()


def test_others_stay_away_until_the_last_process_has_ended(tmp_path, monkeypatch):
    out, left = tmp_path / "out", threading.Event()

    def others():
        with locked(out):
            pass

    def work(group):
        with open_output(out, "encode", {}, group=group):
            if group.first:
                (out / "a shard").touch()
            else:
                assert left.wait(30)
                with pytest.raises(InputError, match="another run is writing into"):
                    others()
        left.set()

    in_threads(2, work, monkeypatch)
    others()


# real ones -------------------------------------------------------------------------------------

DYING = """
import os, signal, sys
os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # main says so, but here torch is imported before it
from floracle.cli import main
from floracle.data.packed import files as packed_files
append, parts = packed_files.append, []
def dying(file, part):
    parts.append(part)
    if len(parts) == 7 and os.environ["RANK"] == "{rank}":
        file.write(part[: len(part) // 2])
        os.kill(os.getpid(), signal.SIGKILL)
    append(file, part)
packed_files.append = dying
sys.exit(main())
"""


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """The command line but for OUT, with a small autoencoder; what one process makes is there."""
    from floracle.models.autoencoders.ldm_layers import KLArchitecture, KLAutoencoder

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLORACLE_DEBUG", raising=False)
    plan = KLArchitecture((32, 32), 1, (False, True), inner=4, channels=4)
    torch.save({"state_dict": KLAutoencoder(plan).state_dict()}, "kl.pt")
    words = ["--autoencoder", "kl.pt", "--moments", "sample", "--flips", "--batch", "2"]
    images(tmp_path / "data")
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # as each of several processes has it
    try:
        assert main(["encode", "data/points.npy", "alone", *words, "--shard-images", "2"]) == 0
    finally:
        torch.set_num_threads(before)
    return lambda out: ["encode", "data/points.npy", out, *words, "--shard-images", "2"]


def torchrun(size, arguments):
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(size)]
    return subprocess.run(
        [sys.executable, *launcher, *arguments], capture_output=True, text=True, timeout=120
    )


def unlike(one, other, tmp_path):
    """The files in which two stores differ."""
    found, expected = contents(tmp_path / one), contents(tmp_path / other)
    names = found.keys() | expected.keys()
    return [name for name in names if found.get(name) != expected.get(name)]


@pytest.mark.slow
def test_torchrun_writes_the_bytes_of_one_process_and_answers_again(asked, tmp_path, capsys):
    assert main(asked("alone")) == 0
    said = capsys.readouterr().out.replace("alone", "two")
    for _ in range(2):
        found = torchrun(2, ["-m", "floracle", *asked("two")])
        assert found.returncode == 0, found.stderr
        assert found.stdout == said
        assert unlike("two", "alone", tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_killed_process_ends_all_and_the_same_command_goes_on(asked, tmp_path, rank):
    (tmp_path / "script.py").write_text(DYING.format(rank=rank))
    begin = time.monotonic()
    found = torchrun(2, ["script.py", *asked("two")])
    assert time.monotonic() - begin < 60
    assert found.returncode != 0
    (line,) = [line for line in found.stderr.splitlines() if line.startswith("floracle: ")]
    assert "has ended" in line
    assert (tmp_path / "two/latents_rank00_shard000.safetensors").exists() or rank == 0
    assert rank == 1 or list(tmp_path.rglob("two/**/.*.part"))  # the first sweeps at its end
    assert not (tmp_path / "two/floracle/encoded.json").exists()
    again = torchrun(2, ["-m", "floracle", *asked("two")])
    assert again.returncode == 0, again.stderr
    assert unlike("two", "alone", tmp_path) == []


@pytest.mark.slow
def test_one_that_is_killed_where_nobody_watches_is_missed_when_the_others_are_done(
    asked, tmp_path
):
    (tmp_path / "script.py").write_text(DYING.format(rank=1))
    codes, _, errs = Started(2, ["script.py", *asked("two")], where=".").ended(timeout=60)
    assert codes == [3, -9]
    (line,) = [line for err in errs for line in err.splitlines()]
    assert "another of the 2 processes has ended" in line
    names = {f"latents_rank00_shard{number:03d}.safetensors" for number in (0, 1, 2)}
    there = {file.name for file in (tmp_path / "two").glob("*.safetensors")}
    assert there == names  # the first one's share, and what the other had finished
    assert main(asked("two")) == 0  # one process alone goes on as well
    assert os.listdir("two/floracle") == os.listdir("alone/floracle")


@pytest.mark.slow
def test_photographs_become_the_same_latents_by_two_processes(shared, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.chdir(tmp_path)
    for name in ("daisy", "tulips"):
        files = sorted((shared / "data/images256/val" / name).iterdir())[:3]
        (tmp_path / "few" / name).mkdir(parents=True)
        for file in files:
            shutil.copy(file, tmp_path / "few" / name)
    how = ["--autoencoder", str(shared / "weights/taef2"), "--batch", "2", "--shard-images", "2"]
    alone = [sys.executable, "-m", "floracle", "encode", "few", "alone", *how]
    subprocess.run(alone, check=True, capture_output=True)
    found = torchrun(2, ["-m", "floracle", "encode", "few", "two", *how])
    assert found.returncode == 0, found.stderr
    assert unlike("two", "alone", tmp_path) == []
