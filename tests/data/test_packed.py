import json
import os
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from floracle.core.point_set import prepared
from floracle.core.spectrum import moments, spectrum
from floracle.data.normalize import RAW, Normalizer, scale_normalizer
from floracle.data.packing.pack import pack
from floracle.data.rows.buffers import read_ahead
from floracle.data.store import open_store
from floracle.oracle.class_points import gather_class_points
from floracle.run.errors import InputError

SHAPE = (4, 3, 3)
POINTS = torch.randn(60, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 + 5
POINTS[7], POINTS[50] = POINTS[3], POINTS[4]
LABELS = torch.arange(60) * 7 % 5 - 1
LABELS[7] = LABELS[3]
WEIGHTS = np.linspace(1, 3, 60)


@pytest.fixture
def folder(tmp_path):
    pack(POINTS, tmp_path / "packed", labels=LABELS, shard_bytes=1500, normalize="standard")
    return tmp_path / "packed"


def every(store):
    return store.take(torch.arange(len(store)))


@pytest.mark.slow
@pytest.mark.parametrize("weights", [None, WEIGHTS])
@pytest.mark.parametrize("label", [-1, 0, 2, 3])
def test_what_is_known_of_a_class_is_what_an_oracle_finds(tmp_path, label, weights):
    how = {"labels": LABELS, "normalize": "standard", "weights": weights}
    pack(POINTS, tmp_path / "packed", **how)
    store, source = open_store(tmp_path / "packed"), open_store(POINTS, **how)
    known = prepared(store, label)
    own = gather_class_points(store, label, room=0, device=torch.device("cpu"))
    assert torch.equal(known.centre, own.centre)
    torch.testing.assert_close(known.norms, own.norms, rtol=1e-12, atol=0)
    torch.testing.assert_close(known.spectrum, spectrum(source, label), rtol=1e-4, atol=1e-6)
    found = moments(source, label)
    assert torch.equal(known.centre, found.mean.float().double())
    assert known.variance == pytest.approx(float(found.variance.sum()), rel=1e-12)
    points = source.take(source.atoms(label).rows).flatten(1).double()
    assert known.largest == pytest.approx(float(points.norm(dim=1).max()), rel=1e-12)
    assert float(known.spectrum.sum()) == pytest.approx(known.variance, rel=1e-5)
    assert len(known.norms) == len(points)


def test_a_single_class_is_the_whole_set(tmp_path):
    pack(POINTS, tmp_path / "packed", labels=torch.full((60,), 3), spectra=False)
    store = open_store(tmp_path / "packed")
    assert torch.equal(store.prepared(-1).norms, store.prepared(3).norms)
    assert store.prepared(-1).spectrum is None
    assert store.prepared(2) is None


def test_other_stores_know_nothing_beforehand():
    assert prepared(open_store(POINTS, labels=LABELS)) is None


@pytest.mark.slow
@pytest.mark.parametrize("flips", [False, True])
@pytest.mark.parametrize("memory", [3000, None])
def test_rows_blocks_and_slices(tmp_path, flips, memory):
    images = torch.randint(0, 256, (40, 3, 6, 5), dtype=torch.uint8)
    images[9] = images[5]
    labels = torch.arange(40) % 3
    how = {"labels": labels, "flips": flips}
    pack(images, tmp_path / "packed", shard_bytes=1000, spectra=False, **how)
    store, source = open_store(tmp_path / "packed", memory=memory), open_store(images, **how)
    whole = source.take(store.original)
    rows = torch.tensor([39, 0, 6, 7, 7, 20, 19, 12, len(store) - 1])
    assert torch.equal(store.take(rows), whole[rows])
    assert torch.equal(store.points[5:37:4], whole[5:37:4])
    assert store.points[3:3].shape == (0, 3, 6, 5)
    assert store.take(rows[:0]).shape == (0, 3, 6, 5)
    for label in (-1, 0, 2):
        atoms = store.atoms(label)
        for size in (1, 7, 200):
            blocks = list(store.blocks(label, rows=size))
            assert torch.equal(torch.cat([block.rows for block in blocks]), atoms.rows)
            assert torch.equal(torch.cat([block.weights for block in blocks]), atoms.weights)
            points = torch.cat([block.points for block in blocks])
            assert torch.equal(points, whole[atoms.rows].flatten(1))


def test_a_class_is_one_slab(folder):
    store = open_store(folder)
    for label in (0, 1, 2, 3):
        rows = (store.labels == label).nonzero()[:, 0]
        assert torch.equal(rows, torch.arange(int(rows[0]), int(rows[-1]) + 1))


@pytest.mark.parametrize(
    "normalizer",
    [
        RAW,
        Normalizer(torch.tensor(127.5), torch.tensor(127.5)),
        Normalizer(torch.tensor([0.1, 0.2, 0.3]), torch.tensor([0.7, 1.3, 0.9])),
        scale_normalizer(0.18215),
        scale_normalizer(torch.tensor([0.3, 0.5, 0.7]), 0.1),
    ],
)
@pytest.mark.parametrize("kind", [torch.uint8, torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("shape", [(3,), (3, 4, 5)])
def test_normalizing_in_place_is_the_same_to_the_last_bit(normalizer, kind, shape):
    stored = (torch.rand(50, *shape) * 255).to(kind)
    expected = normalizer.apply(stored)
    assert torch.equal(normalizer.apply_(stored.float()), expected)


def test_opening_reads_no_points(folder, monkeypatch):
    from floracle.data.rows import file_rows

    seen, read_at = [], file_rows.read_at
    monkeypatch.setattr(
        file_rows,
        "read_at",
        lambda *given: seen.append((given[3], len(given[2]))) or read_at(*given),
    )
    monkeypatch.setattr("floracle.data.packed.files.sha256_of", None)
    store = open_store(folder)
    shards = [size for path, size in seen if path.suffix == ".safetensors"]
    assert sum(shards) == 60 * 8  # the labels
    assert len(store) == 60
    assert store.duplicates == 2
    assert store.prepared(1) is not None


def test_scattered_rows_read_those_rows_only(folder, monkeypatch):
    store = open_store(folder, memory=1000)
    seen = []
    read = type(store.points).__dict__["_read"]
    monkeypatch.setattr(
        type(store.points), "_read", lambda self, runs: seen.extend(runs) or read(self, runs)
    )
    store.take(torch.tensor([50, 3, 4, 5]))
    assert sum(run.length for run in seen) == 4


def test_the_next_item_is_made_while_one_is_used():
    made, used = threading.Event(), []

    def items():
        yield threading.get_ident()
        made.set()
        yield threading.get_ident()

    for item in read_ahead(items()):
        assert made.wait(5)
        used.append(item)
    assert len(set(used)) == 2
    assert list(read_ahead(iter(()))) == []


def test_what_fails_ahead_fails_where_it_is_used():
    def items():
        yield 1
        raise OSError("gone")

    found = read_ahead(items())
    assert next(found) == 1
    with pytest.raises(OSError, match="gone"):
        next(found)


def test_blocks_may_be_left_early(folder):
    store, before = open_store(folder, memory=1000), threading.active_count()
    blocks = store.blocks(rows=3)
    next(blocks)
    blocks.close()
    assert threading.active_count() == before


def test_a_file_that_shrinks_while_it_is_read_is_named(folder):
    store = open_store(folder, memory=1000)
    name = "latents_rank00_shard001.safetensors"
    os.truncate(folder / name, 700)
    with pytest.raises(InputError, match=f"{name} changed while it was read"):
        every(store)


OTHERWISE = {
    "labels": {"labels": [1] * 60},
    "weights": {"weights": np.arange(1, 61)},
    "raw": {"normalize": "raw"},
    "factor": {"normalize": 3.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", OTHERWISE)
def test_it_opens_otherwise_like_any_data(folder, kind):
    how = OTHERWISE[kind]
    original = open_store(folder).original
    store = open_store(folder, **how)
    source = open_store(POINTS[original], **{"labels": LABELS[original]} | how)
    if "normalize" in how:
        assert torch.equal(every(store), every(source))
        assert store.fingerprint == source.fingerprint
    assert torch.equal(store.labels, source.labels)
    assert torch.equal(store.atoms().weights, source.atoms().weights)
    assert store.prepared() is None


def test_mirrors_may_be_left_out(tmp_path):
    images = torch.randint(0, 256, (20, 3, 6, 5), dtype=torch.uint8)
    pack(images, tmp_path / "packed", labels=torch.arange(20) % 2, flips=True, spectra=False)
    pack(images, tmp_path / "plain", labels=torch.arange(20) % 2, spectra=False)
    store = open_store(tmp_path / "packed", flips=False)
    assert not store.flips
    assert store.fingerprint == open_store(tmp_path / "plain").fingerprint
    mirrored = open_store(tmp_path / "plain", flips=True)
    assert mirrored.fingerprint == open_store(tmp_path / "packed", flips=True).fingerprint


def test_weights_are_kept_when_it_opens_otherwise(tmp_path):
    pack(POINTS, tmp_path / "packed", weights=WEIGHTS, spectra=False)
    store = open_store(tmp_path / "packed", normalize=2.0)
    assert torch.equal(store.weights, torch.from_numpy(WEIGHTS))


def hashed(monkeypatch):
    """The names of files that are hashed from here on."""
    from floracle.data.packed import files as packed_files

    names, sha256_of = [], packed_files.sha256_of
    monkeypatch.setattr(
        packed_files, "sha256_of", lambda path: names.append(path.name) or sha256_of(path)
    )
    return names


def test_only_what_changed_is_hashed_and_once(folder, monkeypatch):
    names = hashed(monkeypatch)
    open_store(folder)
    assert names == []
    shard = folder / "latents_rank00_shard001.safetensors"
    os.utime(shard, ns=(0, 0))
    open_store(folder)
    open_store(folder)
    assert names == [shard.name]
    (folder / "floracle/verified.json").unlink()
    open_store(folder)
    open_store(folder)
    assert len(names) == 1 + sum(path.is_file() for path in folder.rglob("*")) - 2


def test_a_folder_that_cannot_be_written_to_is_checked_every_time(folder, monkeypatch):
    names = hashed(monkeypatch)
    os.utime(folder / "latents_rank00_shard001.safetensors", ns=(0, 0))

    def refuse(*_):
        raise PermissionError("read-only")

    monkeypatch.setattr("floracle.data.packed.files.write_json", refuse)
    for count in (1, 2):
        assert any("is not writable" in remark for remark in open_store(folder).remarks)
        assert len(names) == count


def test_a_broken_record_is_no_record(folder, monkeypatch):
    names = hashed(monkeypatch)
    for content in ("", "{", "[]", '{"files": 3}', '{"files": {}}'):
        (folder / "floracle/verified.json").write_text(content)
        open_store(folder)
    assert len(set(names)) * 5 == len(names)


PEAK = """
import resource, sys, torch
from floracle.data.store import open_store
from floracle.oracle.oracle import Oracle

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

torch.randn(64, 4096) @ torch.randn(4096, 64)
store = open_store(sys.argv[1], memory="64M")
before, total = peak(), 0.0
for block in store.blocks(rows=512):
    total += float(block.points[0, 0])
store.take(torch.randperm(len(store))[:64])
print(peak() - before, store.size)
"""


@pytest.mark.slow
def test_reading_takes_little_memory(tmp_path):
    points = np.lib.format.open_memmap(tmp_path / "points.npy", "w+", np.float16, (20000, 4096))
    rng = np.random.default_rng(0)
    for start in range(0, 20000, 1000):
        points[start : start + 1000] = rng.standard_normal((1000, 4096), np.float32)
    points.flush()
    pack(tmp_path / "points.npy", tmp_path / "packed", spectra=False, shard_bytes="32M")
    command = [sys.executable, "-c", PEAK, str(tmp_path / "packed")]
    taken, size = map(int, subprocess.check_output(command, text=True).split())
    assert size == 20000 * 4096 * 2
    assert taken < 64 * 2**20, taken  # two blocks of 8 MiB and their like; the store has 156 MiB


def test_the_manifest_is_plain_json(folder):
    content = json.loads((folder / "floracle/manifest.json").read_text())
    assert content["format"] == 1
    for label, first, end in content["spans"]:
        assert (open_store(folder).labels[first:end] == label).all()
        assert end - first == int((label == LABELS).sum())
    assert content["settings"]["normalize"] == "standard"
