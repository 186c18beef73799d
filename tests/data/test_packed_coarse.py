"""The coarse view of a packed store, and what an oracle may leave unread because of it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import certificates
from certificates import evaluated, examined, queries_of, verdict
from floracle.core.coarse_view import coarse_view
from floracle.core.seeds import generator
from floracle.data.packing.pack import pack
from floracle.data.rows.file_rows import FileRows
from floracle.data.store import open_store
from floracle.oracle.oracle import Oracle
from floracle.oracle.pruning import search as pruning
from floracle.run.errors import InputError

SHAPE, COUNT = (1, 16, 16), 3000
MEMORY = 5 * 2**20
"""Less than the points take in float32, more than their coarse view."""


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    points = certificates.decaying(COUNT, 256, power=1.5).reshape(COUNT, *SHAPE)
    points[7] = points[1207]
    folder = tmp_path_factory.mktemp("coarse") / "store"
    pack(points, folder, labels=torch.arange(COUNT) % 3, flips=True, dtype="fp16", quiet=True)
    return folder


@pytest.mark.slow
def test_it_holds_what_it_says_of_every_atom(packed):
    store = open_store(packed)
    assert store.kept == 64
    for label in (-1, 1):
        rows, found = store.atoms(label).rows, store.coarse(label)
        centred = store.take(rows).flatten(1).double() - found.centre
        along = centred @ found.directions.double().T
        first, squared = found.edges[0], centred.square().sum(1)
        assert found.coordinates.shape == (len(rows), first)
        near = (along[:, :first] - found.coordinates.double()).abs()
        assert (near <= 2.0**-10 * along[:, :first].abs() + 1e-6).all()
        bands = along[:, first:].split(torch.tensor(found.edges).diff().tolist(), 1)
        for band, bound in zip(bands, found.remainders[:, :-1].T, strict=True):
            assert (band.norm(dim=1) <= bound).all()
        beyond, bound = squared - along.square().sum(1), found.remainders[:, -1].square()
        assert (beyond <= bound + 1e-6 * squared).all()
    assert torch.equal(coarse_view(store, 1).coordinates, store.coarse(1).coordinates)


@pytest.mark.parametrize("kind", certificates.KINDS[:3])
def test_what_is_not_read_does_no_harm(packed, monkeypatch, kind):
    store, read = open_store(packed, memory=MEMORY), []
    assert not store.resident
    points = store.take(store.atoms().rows).flatten(1)
    plain = FileRows.__getitem__

    def watched(rows, key):
        found = plain(rows, key)
        read.append(len(found))
        return found

    monkeypatch.setattr(FileRows, "__getitem__", watched)
    monkeypatch.setattr(pruning, "COSTS", pruning.COSTS._replace(fetched=1e3))
    oracle = Oracle(store, tolerance=1e-5, memory=MEMORY)
    t = torch.tensor([0.75, 0.85, 0.95], dtype=torch.float64).repeat(8)
    x = queries_of(points, kind, t, generator(3))
    oracle(x.reshape(-1, *SHAPE), t)  # makes ready
    read.clear()
    truth = evaluated(points, store.atoms().weights.log(), x, t)
    columns = examined(oracle, points, truth, x, t)
    assert oracle.class_points().points is None
    assert not verdict(columns, torch.full_like(t, 1e-5))["broken"]
    assert columns["pruned"].double().mean() > 0.6
    if columns["pruned"].all():
        assert sum(read) < len(points)


def test_where_the_view_does_not_fit_everything_is_read(packed):
    store = open_store(packed, memory=MEMORY)
    t = torch.full((8,), 0.9, dtype=torch.float64)
    x = queries_of(store.take(torch.arange(600)).flatten(1), "forward path", t, generator(3))
    found = Oracle(store, tolerance=1e-5, memory=2**16).posterior(x.reshape(-1, *SHAPE), t)
    assert (found.touched == len(store.atoms().rows)).all()


def test_few_rows_or_dimensions_need_none(tmp_path):
    for count, dims in ((100, 256), (3000, 16)):
        pack(torch.randn(count, dims), tmp_path / str(count), quiet=True)
        store = open_store(tmp_path / str(count))
        assert store.kept == 0
        assert store.coarse() is None


def test_large_values_are_kept_in_single_precision(tmp_path):
    pack(torch.randn(600, 64) * 1e5, tmp_path / "large", quiet=True)
    assert open_store(tmp_path / "large").coarse().coordinates.dtype == torch.float32


def test_a_damaged_view_is_named(packed, tmp_path):
    content = (packed / "floracle/coarse.tensors").read_bytes()
    path = packed / "floracle/coarse.tensors"
    try:
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(InputError, match=r"coarse\.tensors is damaged"):
            open_store(packed)
        path.write_bytes(content[:1000])
        with pytest.raises(InputError, match=r"coarse\.tensors is cut short"):
            open_store(packed)
        path.unlink()
        with pytest.raises(InputError, match=r"coarse\.tensors is missing"):
            open_store(packed)
    finally:
        path.write_bytes(content)
    assert open_store(packed).kept == 64


def test_other_rows_than_the_manifest_says_are_refused(packed, tmp_path):
    """A view of other data, whole in itself."""
    pack(torch.randn(700, *SHAPE), tmp_path / "other", quiet=True)
    manifest = json.loads((tmp_path / "other/floracle/manifest.json").read_text())
    assert any(file["name"] == "floracle/coarse.tensors" for file in manifest["files"])
    from floracle.data.packed.coarse import read_coarse
    from floracle.data.packed.manifest import read_manifest

    with pytest.raises(InputError, match="does not match its manifest"):
        read_coarse(packed / "floracle/coarse.tensors", read_manifest(tmp_path / "other"))
