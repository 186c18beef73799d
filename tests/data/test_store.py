import re
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
import torch

from floracle.core.point_set import PointSet, classes
from floracle.data import integrity_check as scan
from floracle.data.normalize import Normalizer
from floracle.data.store import Store, open_store
from floracle.run.errors import InputError

SOME = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0], [5.0, 6.0], [3.0, 4.0], [1.0, 2.0]])


def test_store_is_a_frozen_source():
    store = open_store(SOME)
    assert isinstance(store, Store)
    assert isinstance(store, PointSet)
    with pytest.raises(FrozenInstanceError):
        store.name = "other"  # pyright: ignore


def test_points_in_memory_are_served_as_views():
    points = torch.randn(7, 3, 4)
    blocks = list(open_store(points).blocks(rows=3))
    assert [len(block.rows) for block in blocks] == [3, 3, 1]
    for block in blocks:
        assert block.points.shape[1:] == (12,)
        assert block.points.untyped_storage().data_ptr() == points.untyped_storage().data_ptr()


def test_points_in_memory_are_shared_even_if_numpy_forbids_writing():
    points = np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    points.flags.writeable = False
    (block,) = open_store(points).blocks(rows=9)
    assert block.points.data_ptr() == points.ctypes.data


def test_duplicates_merge_into_the_first_and_weigh_their_count():
    store = open_store(SOME)
    rows, weights = store.atoms()
    assert rows.tolist() == [0, 1, 3]
    assert weights.tolist() == [3 / 6, 2 / 6, 1 / 6]
    assert weights.dtype == torch.float64
    assert store.duplicates == 3
    assert len(store) == 6


def test_duplicates_merge_within_a_class_and_across_classes():
    store = open_store(SOME, labels=[1, 0, 0, 0, 0, 1])
    assert store.atoms(0).rows.tolist() == [1, 2, 3]
    assert store.atoms(0).weights.tolist() == [0.5, 0.25, 0.25]
    assert store.atoms(1).rows.tolist() == [0]
    assert store.atoms().rows.tolist() == [0, 1, 3]
    assert store.classes == ("0", "1")
    assert classes(store) == [0, 1]


def test_negative_zero_is_zero():
    store = open_store(torch.tensor([[0.0, 1.0], [-0.0, 1.0]]))
    assert store.duplicates == 1
    assert store.fingerprint == open_store(torch.tensor([[-0.0, 1.0], [0.0, 1.0]])).fingerprint


def test_rows_that_differ_below_float32_are_one_atom():
    points = np.array([[1.0, 2.0], [1.0, 2.0 + 1e-12], [3.0, 5.0]])
    store = open_store(points)
    assert store.duplicates == 1
    assert "1 row(s) that differ as float64 equal another one" in " ".join(store.remarks)
    with pytest.raises(InputError, match="lose all of their spread"):
        open_store(points[:2])


def test_equal_digests_of_unlike_rows_do_not_merge(monkeypatch):
    monkeypatch.setattr(scan, "_hash_row", lambda row: bytes(16))
    store = open_store(torch.tensor([[1.0], [2.0], [1.0]]))
    assert store.atoms().rows.tolist() == [0, 1]


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("memory", ["1G", 64])
def test_blocks_do_not_depend_on_their_size_or_on_memory(dtype, memory):
    points = torch.randint(0, 3, (40, 3), generator=torch.Generator().manual_seed(1)).to(dtype)
    labels = torch.arange(40) % 3
    store = open_store(points, labels=labels, memory=memory)
    ready = memory == "1G" or dtype == torch.float32
    assert store.resident is ready
    for label in (-1, 0, 1, 2):
        whole = next(open_store(points, labels=labels).blocks(label, rows=100))
        for rows in (1, 2, 7, 40):
            parts = list(store.blocks(label, rows=rows))
            assert torch.equal(torch.cat([part.points for part in parts]), whole.points)
            assert torch.equal(torch.cat([part.rows for part in parts]), whole.rows)
            assert torch.equal(torch.cat([part.weights for part in parts]), whole.weights)
            assert max(len(part.rows) for part in parts) <= rows


def test_blocks_hold_the_rows_they_name():
    store = open_store(SOME, labels=[1, 0, 0, 0, 0, 1])
    for label in (-1, 0, 1):
        for block in store.blocks(label, rows=2):
            assert torch.equal(block.points, SOME[block.rows])
            assert torch.equal(store.take(block.rows), SOME[block.rows])


def test_take_gives_any_rows_in_the_order_asked():
    store = open_store(SOME)
    rows = torch.tensor([5, 0, 0, 3])
    assert torch.equal(store.take(rows), SOME[rows])
    assert store.take(torch.tensor([], dtype=torch.int64)).shape == (0, 2)


@pytest.mark.parametrize("rows", [[6], [-1], [[0]], [0.0], [True]])
def test_take_refuses_rows_there_are_not(rows):
    with pytest.raises(InputError, match=r"0 \.\.\. 5"):
        open_store(SOME).take(torch.tensor(rows))


def test_unknown_class_is_named_with_those_there_are():
    store = open_store(SOME, labels=[3, 1, -1, 1, 1, 3])
    with pytest.raises(InputError, match="no class 2; classes are 1, 3"):
        store.atoms(2)
    with pytest.raises(InputError, match="no class -2"):
        store.atoms(-2)
    with pytest.raises(InputError, match="has no labels"):
        open_store(SOME).atoms(0)


def test_blocks_need_a_row():
    with pytest.raises(InputError, match="at least one row"):
        open_store(SOME).blocks(rows=0)
    with pytest.raises(InputError, match="no class"):
        open_store(SOME, labels=[0] * 6).blocks(5, rows=1)


def test_fingerprint_changes_with_anything():
    images = torch.arange(2 * 1 * 3 * 3, dtype=torch.float32).reshape(2, 1, 3, 3)
    other = images.clone()
    other[1, 0, 2, 2] += 1
    stores = [
        open_store(images),
        open_store(other),
        open_store(images.reshape(2, 9)),
        open_store(images.flip(0)),
        open_store(images, labels=[0, 1]),
        open_store(images, labels=[1, 0]),
        open_store(images, flips=True),
        open_store(images, normalize="standard"),
        open_store(images, normalize=Normalizer(torch.tensor(0.0), torch.tensor(2.0))),
    ]
    assert len({store.fingerprint for store in stores}) == len(stores)


def test_fingerprint_is_the_same_however_it_is_read(monkeypatch):
    points = np.random.default_rng(0).normal(size=(50, 6)).astype(np.float32)
    first = open_store(points)
    monkeypatch.setattr(scan, "BLOCK_VALUES", 7)
    assert open_store(points).fingerprint == first.fingerprint
    assert open_store(points, memory=64).fingerprint == first.fingerprint
    assert open_store(np.asfortranarray(points)).fingerprint == first.fingerprint
    assert open_store(points[::-1][::-1]).fingerprint == first.fingerprint
    assert open_store(points.astype(">f4")).fingerprint == first.fingerprint


def test_flips_add_the_mirrors_as_points():
    images = torch.randint(0, 256, (5, 4, 6, 3), dtype=torch.uint8)
    images[2] = images[2].flip(1).maximum(images[2])  # not yet symmetric
    images[3] = images[3].maximum(images[3].flip(1))  # its own mirror
    plain, both = (
        open_store(images, labels=[0, 1, 2, 3, 4]),
        open_store(images, labels=[0, 1, 2, 3, 4], flips=True),
    )
    assert both.flips
    assert not plain.flips
    assert len(both) == 10
    assert both.labels.tolist() == [0, 1, 2, 3, 4] * 2
    first, last = torch.arange(5), torch.arange(5, 10)
    assert torch.equal(both.take(first), plain.take(first))
    assert torch.equal(both.take(last), plain.take(first).flip(-1))
    mixed = torch.tensor([9, 0, 5, 4])
    lazy = open_store(images, flips=True, memory=64)
    assert torch.equal(lazy.take(mixed), both.take(mixed))
    assert torch.equal(
        torch.cat([block.points for block in lazy.blocks(rows=3)]),
        next(both.blocks(rows=100)).points,
    )
    assert both.atoms(3).rows.tolist() == [3]  # twice the same point
    assert both.duplicates >= 1


def test_only_pictures_have_mirrors():
    with pytest.raises(InputError, match="mirror"):
        open_store(SOME, flips=True)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        (torch.randint(0, 9, (3, 5, 5), dtype=torch.uint8), (-1.0, 1.0)),
        (torch.rand(3, 1, 5, 5), (0.0, 1.0)),
        (torch.rand(3, 3, 5, 5) * 2 - 1, (-1.0, 1.0)),
        (torch.rand(3, 3, 5, 5) * 200, (0.0, 255.0)),
        (torch.linspace(-3, 5, 75).reshape(1, 3, 5, 5), (-3.0, 5.0)),
        (torch.rand(3, 4, 5, 5), None),
        (torch.rand(3, 5), None),
    ],
)
def test_picture_range_says_what_black_and_white_are(points, expected):
    assert open_store(points).picture_range == expected


def test_picture_range_follows_the_normalization():
    images = torch.randint(0, 256, (9, 5, 5), dtype=torch.uint8)
    store = open_store(images, normalize="standard")
    black = store.normalizer.apply(torch.zeros(1, 1, 1, 1)).item()
    white = store.normalizer.apply(torch.full((1, 1, 1, 1), 255.0)).item()
    assert store.picture_range == (black, white)


def test_size_is_what_is_stored():
    assert open_store(torch.zeros(3, 4, dtype=torch.float16)).size == 24
    assert open_store(np.zeros((3, 4), np.uint16)).size == 24


def test_labels_are_kept_as_int64_of_our_own():
    labels = np.array([0, 2, 1, -1, 0, 0], np.int16)
    store = open_store(SOME, labels=labels)
    labels[0] = 1
    assert store.labels.dtype == torch.int64
    assert store.labels.tolist() == [0, 2, 1, -1, 0, 0]
    assert open_store(SOME).labels.tolist() == [-1] * 6
    assert store.classes == ("0", "1", "2")


def test_points_of_a_file_beyond_the_budget_stay_there(tmp_path):
    points = np.random.default_rng(0).normal(size=(1000, 16)).astype(np.float32)
    np.save(tmp_path / "points.npy", points)
    small = open_store(tmp_path / "points.npy", memory=4096)
    assert not small.resident
    assert np.array_equal(small.take(torch.arange(1000)).numpy(), points)
    assert open_store(tmp_path / "points.npy").resident


@pytest.mark.slow
@pytest.mark.parametrize("save", [np.save, np.savez])
def test_memory_stays_within_the_budget(tmp_path, monkeypatch, save):
    def held() -> int:
        status = Path("/proc/self/status").read_text()
        return 1024 * int(re.search(r"RssAnon:\s+(\d+)", status)[1])

    path = tmp_path / ("points.npy" if save is np.save else "points.npz")
    save(path, np.random.default_rng(0).integers(0, 255, (40_000, 4096)).astype(np.float16))
    before, seen, digests = held(), [], scan.row_digests
    monkeypatch.setattr(scan, "row_digests", lambda block: seen.append(held()) or digests(block))
    store = open_store(path, memory="100M")
    seen.extend(held() for _ in store.blocks(rows=1000))
    assert max(seen) - before < 100 * 2**20
    assert store.size > 300 * 2**20
