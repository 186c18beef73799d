"""Packed stores that are damaged, incomplete or lie: bad files are named, nothing is opened."""

import json
import os
import shutil

import numpy as np
import pytest
import torch

from floracle.data.packed import files as packed_files
from floracle.data.packed.manifest import _digest
from floracle.data.packing.pack import pack
from floracle.data.packing.verify import verify
from floracle.data.store import open_store
from floracle.run.errors import InputError

SHARDS = [f"latents_rank00_shard{number:03d}.safetensors" for number in range(3)]
REST = ["latents_stats.pt", "floracle/rows.tensors", "floracle/classes.tensors"]


@pytest.fixture(scope="module")
def once(tmp_path_factory):
    """A small store of three shards with mirrors, duplicates and statistics."""
    points = np.random.default_rng(0).integers(0, 256, (24, 3, 4, 4), np.uint8)
    points[5] = points[2]
    folder = tmp_path_factory.mktemp("once") / "packed"
    how = {"labels": np.arange(24) * 5 % 3, "flips": True}
    pack(torch.from_numpy(points), folder, shard_bytes=900, **how)
    assert sorted(path.name for path in folder.glob("*.safetensors")) == SHARDS
    return folder


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 4
    path.write_bytes(content)


HARM = {
    "flip": flip,
    "cut": lambda path: os.truncate(path, path.stat().st_size - 3),
    "grow": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "empty": lambda path: path.write_bytes(b""),
    "remove": lambda path: path.unlink(),
}


@pytest.fixture
def store(once, tmp_path):
    shutil.copytree(once, tmp_path / "packed")
    open_store(tmp_path / "packed")
    return tmp_path / "packed"


def refused(folder, *words):
    """Neither opened nor found whole; the words occur in both mistakes."""
    for look in (open_store, verify):
        with pytest.raises(InputError) as caught:
            look(folder)
        for word in words:
            assert word in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("harm", HARM)
@pytest.mark.parametrize("name", [*SHARDS[:2], *REST])
def test_a_damaged_file_is_named_and_nothing_is_opened(store, name, harm):
    HARM[harm](store / name)
    refused(store, name)


@pytest.mark.parametrize("harm", HARM)
def test_a_damaged_manifest_is_named(store, harm):
    HARM[harm](store / "floracle/manifest.json")
    refused(store, "manifest.json")


def test_all_bad_files_are_named_at_once(store):
    flip(store / SHARDS[0])
    flip(store / SHARDS[2])
    refused(store, SHARDS[0], SHARDS[2])
    (store / SHARDS[0]).unlink()
    with pytest.raises(InputError, match=rf"{SHARDS[0]} is missing; .*{SHARDS[2]} is damaged"):
        verify(store)


def test_swapped_shards_are_both_named(tmp_path):
    pack(torch.randn(60, 8), tmp_path, labels=torch.arange(60) % 3, shard_bytes=800)
    one, other = (tmp_path / name for name in SHARDS[:2])
    assert one.stat().st_size == other.stat().st_size
    one.rename(tmp_path / "aside")
    other.rename(one)
    (tmp_path / "aside").rename(other)
    refused(tmp_path, SHARDS[0], SHARDS[1])


def test_rot_that_leaves_the_times_alone_is_what_verifying_finds(store):
    seen = (store / SHARDS[1]).stat()
    flip(store / SHARDS[1])
    os.utime(store / SHARDS[1], ns=(seen.st_atime_ns, seen.st_mtime_ns))
    open_store(store)
    with pytest.raises(InputError, match=SHARDS[1]):
        verify(store)


def test_shards_of_strangers_are_named(store):
    shutil.copy(store / SHARDS[0], store / "latents_rank00_shard003.safetensors")
    with pytest.raises(InputError, match=r"shard003.*does not belong"):
        verify(store)


def test_what_is_no_packed_store_cannot_be_verified(tmp_path):
    with pytest.raises(InputError, match="no packed store"):
        verify(tmp_path)


def lie(store, change, *, signed):
    """Change the manifest, and its digest too where it is signed."""
    path = store / "floracle/manifest.json"
    content = json.loads(path.read_text())
    said = content.pop("digest")
    change(content)
    path.write_text(json.dumps(content | {"digest": _digest(content) if signed else said}))


def put(name, value):
    return lambda content: content.update({name: value})


def inside(*names, by):
    def change(content):
        for name in names[:-1]:
            content = content[name]
        content[names[-1]] = by(content[names[-1]])

    return change


LIES = {
    "shape": put("shape", [3, 2, 8]),
    "shape of nothing": put("shape", []),
    "dtype": put("dtype", "float16"),
    "dtype unknown": put("dtype", "float8"),
    "rows": put("rows", 23),
    "flips": put("flips", False),
    "flips no truth": put("flips", 1),
    "labels": inside("spans", 0, 0, by=lambda label: label + 7),
    "offsets": inside("spans", 0, 2, by=lambda end: end - 1),
    "consistent offsets": put("spans", [[0, 0, 7], [1, 7, 16], [2, 16, 24]]),
    "labels in another order": put("spans", [[1, 0, 8], [0, 8, 16], [2, 16, 24]]),
    "class names": put("classes", ["0"]),
    "fingerprint": put("fingerprint", "0" * 32),
    "channels": inside("channels", "std", 1, by=lambda value: value * 1.01),
    "bounds": inside("channels", "low", 0, by=lambda value: value - 0.01),
    "duplicates": put("duplicates", 0),
    "more duplicates": inside("duplicates", by=lambda count: count + 1),
    "weights": put("weighted", True),
    "a hash": inside("shards", 1, "sha256", by=lambda value: value[::-1]),
    "a size": inside("shards", 1, "size", by=lambda value: value + 1),
    "rows of a shard": inside("shards", 1, "rows", by=lambda value: value + 1),
    "a name": inside("shards", 1, "name", by=lambda _: "../points.npy"),
    "a shard less": inside("shards", by=lambda shards: shards[:-1]),
    "a file less": inside("files", by=lambda files: files[1:]),
    "a field less": lambda content: content.pop("spans"),
    "a field that is none": put("shards", None),
    "another format": put("format", 2),
    "another kind": put("kind", "something"),
}
UNTOLD = {
    "name": put("name", "other"),
    "settings": inside("settings", "dtype", by=lambda _: "fp16"),
    "picture range": put("picture_range", [0.0, 1.0]),
    "conversion": inside("conversion", "rms", by=lambda _: 0.5),
    "remarks": put("remarks", ["all is well"]),
}
"""What nothing but the digest protects."""


@pytest.mark.slow
@pytest.mark.parametrize("kind", [*LIES, *UNTOLD])
def test_a_changed_manifest_is_refused(store, kind):
    lie(store, (LIES | UNTOLD)[kind], signed=False)
    refused(store, "manifest.json")


@pytest.mark.slow
@pytest.mark.parametrize("kind", LIES)
def test_a_manifest_that_lies_and_signs_it_is_found_out(store, kind):
    lie(store, LIES[kind], signed=True)
    with pytest.raises(InputError) as caught:
        verify(store)
    assert str(store) in str(caught.value)


def test_a_false_normalizer_is_found_out(store):
    path = store / "floracle/rows.tensors"
    content = path.read_bytes()
    value = np.float32(127.5).tobytes()
    assert content.count(value) == 2
    path.write_bytes(content.replace(value, np.float32(128).tobytes(), 1))
    sha256 = packed_files.sha256_of(path)
    lie(store, inside("files", 0, "sha256", by=lambda _: sha256), signed=True)
    with pytest.raises(InputError, match="fingerprint, channels, normalizer"):
        verify(store)


def test_false_statistics_are_found_out(store):
    path = store / "latents_stats.pt"
    torch.save({"mean": torch.zeros(1, 3, 1, 1), "std": torch.ones(1, 3, 1, 1)}, path)
    found = {"sha256": packed_files.sha256_of(path), "size": path.stat().st_size}
    lie(store, inside("files", 2, by=lambda file: file | found), signed=True)
    with pytest.raises(InputError, match="normalizer"):
        verify(store)
