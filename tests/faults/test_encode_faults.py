"""Encoding that is killed, disks that fill, runs that go on: always the same bytes in the end."""

import errno
import os
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from dying import died
from floracle.data.encoding.encode import encode
from floracle.data.packed import files as packed_files
from floracle.data.store import open_store
from floracle.run.errors import InputError
from floracle.run.folder_lock import locked

HOW = {"flips": True, "moments": "sample", "batch": 2, "shard_images": 3, "quiet": True}
SHARDS = [f"latents_rank00_shard{number:03d}.safetensors" for number in range(3)]


@dataclass(frozen=True)
class Squares:
    """What 2 × 2 squares hold, and a deviation."""

    name: str = "squares"
    channels: int = 12
    downsampling: int = 2
    gaussian: bool = True

    @property
    def settings(self):
        return {"name": self.name}

    def encode(self, images):
        mean = torch.nn.functional.pixel_unshuffle(images, 2)
        return mean, torch.full_like(mean, 0.1)

    def decode(self, latents):
        return torch.nn.functional.pixel_shuffle(latents, 2)


def images(folder):
    folder.mkdir(exist_ok=True)
    points = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 3), np.uint8)
    np.save(folder / "points.npy", points)
    np.save(folder / "labels.npy", np.arange(8) % 3)
    return folder / "points.npy"


def contents(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def write(where, out):
    encode(where, out, Squares(), **HOW)


@pytest.mark.slow
def test_a_run_that_dies_at_a_write_sync_or_rename_goes_on(tmp_path):
    assert died(__file__, tmp_path, 12) > 100


@pytest.mark.slow
@pytest.mark.parametrize("moment", [0, 3, 8])
def test_a_full_disk_is_one_mistake_and_loses_nothing(tmp_path, monkeypatch, moment):
    where, out = images(tmp_path / "data"), tmp_path / "out"
    encode(where, tmp_path / "whole", Squares(), **HOW)
    append, done = packed_files.append, [0]

    def full(file, content):
        done[0] += 1
        if done[0] > moment:
            file.write(content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(file, content)

    with monkeypatch.context() as patched:
        patched.setattr(packed_files, "append", full)
        with pytest.raises(InputError, match=r"out failed: no space left .* goes on from there"):
            encode(where, out, Squares(), **HOW)
    unfinished = r"encoding was not finished; run the same floracle encode"
    nothing = r"out holds no pictures|no out in"  # where not even a shard was finished
    with pytest.raises(InputError, match=f"{unfinished}|{nothing}"):
        open_store(out, flips=True)
    assert not list(out.rglob("*.part"))
    encode(where, out, Squares(), **HOW)
    assert contents(out) == contents(tmp_path / "whole")


def interrupted(folder, monkeypatch, after):
    """A store whose encoding ended after some shards."""
    from floracle.data.encoding import encode as module

    where, write, done = images(folder / "data"), module.write_shard, [0]

    def ends(*given, **named):
        done[0] += 1
        if done[0] > after:
            raise KeyboardInterrupt
        return write(*given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(module, "write_shard", ends)
        with pytest.raises(KeyboardInterrupt):
            encode(where, folder / "out", Squares(), **HOW)
    return where, folder / "out"


def flip(path):
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)


HARM = {
    "flip": flip,
    "cut": lambda path: os.truncate(path, 99),
    "remove": lambda path: path.unlink(),
    "forget": lambda path: (path.parent / "floracle/unfinished/shard-00000.tensors").unlink(),
    "garble": lambda path: (path.parent / "floracle/unfinished/shard-00000.tensors").write_text(
        "x"
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("harm", HARM)
def test_finished_shards_are_kept_unless_they_were_harmed(tmp_path, monkeypatch, harm):
    where, out = interrupted(tmp_path, monkeypatch, 2)
    encode(where, tmp_path / "whole", Squares(), **HOW)
    times = {name: (out / name).stat().st_mtime_ns for name in SHARDS[:2]}
    HARM[harm](out / SHARDS[0])
    encode(where, out, Squares(), **HOW)
    assert contents(out) == contents(tmp_path / "whole")
    assert (out / SHARDS[1]).stat().st_mtime_ns == times[SHARDS[1]]
    assert (out / SHARDS[0]).stat().st_mtime_ns != times[SHARDS[0]]


def test_an_unfinished_store_goes_on_with_its_own_settings_only(tmp_path, monkeypatch):
    where, out = interrupted(tmp_path, monkeypatch, 1)
    with pytest.raises(InputError, match=r"seed: 0 there, 1 asked"):
        encode(where, out, Squares(), **HOW, seed=1)
    np.save(where, np.zeros((8, 4, 4, 3), np.uint8))
    with pytest.raises(InputError, match=r"images: '\w+' there"):
        encode(where, out, Squares(), **HOW)


def test_a_finished_store_whose_file_was_cut_is_named(tmp_path):
    where, out = images(tmp_path / "data"), tmp_path / "out"
    encode(where, out, Squares(), **HOW)
    os.truncate(out / SHARDS[1], 99)
    with pytest.raises(InputError, match=r"shard001\S+ is cut short: 99 bytes"):
        encode(where, out, Squares(), **HOW)


def test_two_runs_at_a_time_are_one_too_many(tmp_path):
    where = images(tmp_path / "data")
    out = tmp_path / "out"
    with locked(out), pytest.raises(InputError, match="another run is writing into"):
        encode(where, tmp_path / "out", Squares(), **HOW)
    encode(where, tmp_path / "out", Squares(), **HOW)
