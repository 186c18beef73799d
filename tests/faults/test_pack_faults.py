"""Packing that is killed, disks that fill, runs that go on: always the same bytes in the end."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from dying import died, every_step
from floracle.data.packed import files as packed_files
from floracle.data.packing.pack import pack
from floracle.data.packing.verify import verify
from floracle.data.store import open_store
from floracle.run.errors import InputError
from floracle.run.folder_lock import locked

RECORD = "floracle/verified.json"
"""Holds times and numbers of files, which differ between any two runs."""
SHARDS = [f"latents_rank00_shard{number:03d}.safetensors" for number in range(3)]


def images(folder, count=24):
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    points = rng.integers(0, 256, (count, 3, 4, 4), np.uint8).transpose(0, 2, 3, 1)
    points[5] = points[2]
    np.save(folder / "points.npy", points)
    np.save(folder / "labels.npy", np.arange(count) * 5 % 3)
    return folder / "points.npy"


def packed(folder, count=24):
    """A small store of three shards with mirrors, duplicates and statistics."""
    where = images(folder / "data", count)
    pack(where, folder / "packed", flips=True, shard_bytes=900, quiet=True)
    return folder / "packed"


def contents(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    assert found.pop(RECORD)
    return found


def write(where, out):
    pack(where, out, flips=True, shard_bytes=900, quiet=True)


@pytest.mark.slow
def test_a_run_that_dies_at_a_write_sync_or_rename_goes_on(tmp_path):
    assert died(__file__, tmp_path, 12) > 100


def command(folder, out):
    where = folder / "data" / "points.npy"
    verb = ["-m", "floracle", "pack", str(where), str(out), "--flips", "--shard-bytes", "900"]
    return [sys.executable, *verb]


def killed_once(arguments, out, delay):
    """Run until the folder appears and a moment longer, then kill; whether it was still there."""
    running = subprocess.Popen(arguments, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    until = time.monotonic() + 60
    while not (out / "floracle").exists() and running.poll() is None:
        assert time.monotonic() < until
        time.sleep(0.002)
    time.sleep(delay)
    running.send_signal(signal.SIGKILL)
    running.communicate()
    return running.returncode == -signal.SIGKILL


def kill_and_resume(folder, kills, seed):
    """Kill real runs again and again; how many kills there were before the store was finished."""
    whole, out, drawn = packed(folder, 400), folder / "killed", random.Random(seed)
    lasts = 0.4 + 0.02 * len(list(whole.glob("*.safetensors")))
    hits = 0
    for _ in range(kills):
        hits += killed_once(command(folder, out), out, drawn.random() * lasts)
        if (out / "floracle/manifest.json").exists():
            finish(folder, out, whole)
            shutil.rmtree(out)
    finish(folder, out, whole)
    return hits


def finish(folder, out, whole):
    ended = subprocess.run(command(folder, out), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert contents(out) == contents(whole)
    verify(out, quiet=True)


@pytest.mark.slow
def test_runs_killed_at_random_moments_go_on_to_the_same_bytes(tmp_path):
    kills = 40 if every_step() else 6
    assert kill_and_resume(tmp_path, kills, seed=2) >= kills // 2


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0, 3, 9, 20, 26])
def test_a_full_disk_is_one_mistake_and_loses_nothing(tmp_path, monkeypatch, moment):
    whole, append, done = packed(tmp_path), packed_files.append, [0]

    def full(file, content):
        done[0] += 1
        if done[0] > moment:
            file.write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(file, content)

    def again():
        pack(tmp_path / "data/points.npy", tmp_path / "out", flips=True, shard_bytes=900)

    with monkeypatch.context() as patched:
        patched.setattr(packed_files, "append", full)
        with pytest.raises(InputError, match=r"out failed: no space left .* goes on from there"):
            again()
    nothing = r"out holds no pictures|no out in"  # where not even a shard was finished
    with pytest.raises(InputError, match=rf"packing was not finished|{nothing}"):
        open_store(tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.part"))
    again()
    assert contents(tmp_path / "out") == contents(whole)


def interrupted(folder, monkeypatch, after):
    """A store whose packing ended after some shards."""
    from floracle.data.packing import pack as module

    where, write, done = images(folder / "data"), module.write_shard, [0]

    def ends(*given):
        done[0] += 1
        if done[0] > after:
            raise KeyboardInterrupt
        return write(*given)

    with monkeypatch.context() as patched:
        patched.setattr(module, "write_shard", ends)
        with pytest.raises(KeyboardInterrupt):
            pack(where, folder / "out", flips=True, shard_bytes=900)
    return where, folder / "out"


def flip(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)


HARM = {"flip": flip, "cut": lambda path: os.truncate(path, 99), "remove": lambda p: p.unlink()}


@pytest.mark.slow
@pytest.mark.parametrize("harm", [*HARM, "forget"])
def test_finished_shards_are_kept_unless_they_were_harmed(tmp_path, monkeypatch, harm):
    whole = packed(tmp_path)
    where, out = interrupted(tmp_path, monkeypatch, 2)
    times = {name: (out / name).stat().st_mtime_ns for name in SHARDS[:2]}
    if harm == "forget":
        (out / "floracle/unfinished/shard-00000.tensors").unlink()
    else:
        HARM[harm](out / SHARDS[0])
    pack(where, out, flips=True, shard_bytes=900)
    assert contents(out) == contents(whole)
    assert (out / SHARDS[1]).stat().st_mtime_ns == times[SHARDS[1]]
    assert (out / SHARDS[0]).stat().st_mtime_ns != times[SHARDS[0]]


def test_an_unfinished_store_goes_on_with_its_own_settings_only(tmp_path, monkeypatch):
    where, out = interrupted(tmp_path, monkeypatch, 1)
    with pytest.raises(InputError, match=r"spectra: True there, False asked"):
        pack(where, out, flips=True, shard_bytes=900, spectra=False)
    with pytest.raises(InputError, match=r"flips: True there, False asked"):
        pack(where, out, flips=False, shard_bytes=900)
    np.save(where, np.zeros((24, 4, 4, 3), np.uint8))
    with pytest.raises(InputError, match=r"data: '\w+' there"):
        pack(where, out, flips=True, shard_bytes=900)


def test_two_runs_at_a_time_are_one_too_many(tmp_path):
    where = images(tmp_path / "data")
    with locked(tmp_path / "out"), pytest.raises(InputError, match="another run is writing into"):
        pack(where, tmp_path / "out", flips=True)
    pack(where, tmp_path / "out", flips=True)
