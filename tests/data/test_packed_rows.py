"""Rows of packed stores, however they are asked for and in whatever pieces they are read."""

import threading

import pytest
import torch

from floracle.data.packing.pack import pack
from floracle.data.rows.buffers import BufferPool, read_ahead
from floracle.data.store import open_store

SHAPE = (4, 3, 3)
POINTS = torch.randn(60, *SHAPE, generator=torch.Generator().manual_seed(0)) * 2 + 5
LABELS = torch.arange(60) % 3
ROW = 36


@pytest.fixture(params=[torch.float16, torch.float32], ids=["half", "whole"])
def stored(request, tmp_path):
    """A store of shards of 20 rows or so, and what its rows must be."""
    points = POINTS.to(request.param)
    size = 20 * ROW * points.itemsize
    pack(points, tmp_path / "packed", labels=LABELS, shard_bytes=size, normalize="standard")
    order = torch.argsort(LABELS, stable=True)
    expected = open_store(points, labels=LABELS, normalize="standard").take(order)
    return tmp_path / "packed", expected


@pytest.mark.slow
@pytest.mark.parametrize("values", [1, 2 * ROW, 7 * ROW, 2**20])
@pytest.mark.parametrize("memory", [1000, "1G"])
def test_rows_are_the_same_in_whatever_pieces_they_are_read(stored, monkeypatch, values, memory):
    folder, expected = stored
    monkeypatch.setattr("floracle.data.rows.file_rows.STEP_VALUES", values)
    store = open_store(folder, memory=memory)
    assert len(store.points.pieces) >= 3
    drawn = torch.Generator().manual_seed(2)
    scattered = torch.randint(60, (100,), generator=drawn)
    asked = (torch.arange(60), torch.arange(59, -1, -1), scattered, torch.tensor([19, 20, 21]))
    for rows in (*asked, torch.empty(0, dtype=torch.int64)):
        assert torch.equal(store.take(rows), expected[rows])
    for key in (slice(0, 60), slice(17, 43), slice(5, 5), slice(3, 50, 7), slice(50, None)):
        assert torch.equal(store.points[key], expected[key])
    assert torch.equal(store.take(scattered), expected[scattered])  # some pieces are held now


def test_a_block_that_is_held_is_not_written_over(stored):
    folder, expected = stored
    store = open_store(folder, memory=1000)
    blocks = list(store.blocks(rows=7))
    assert torch.equal(torch.cat([block.points for block in blocks]), expected.flatten(1))
    beside = zip(store.blocks(rows=5), store.blocks(rows=5), strict=True)
    assert all(torch.equal(one.points, other.points) for one, other in beside)


@pytest.mark.slow
def test_two_threads_read_at_once(stored):
    folder, expected = stored
    store, wrong = open_store(folder, memory=1000), []

    def read(rows):
        for _ in range(40):
            found = torch.cat([block.points for block in store.blocks(rows=rows)])
            wrong.extend([rows] * (not torch.equal(found, expected.flatten(1))))

    threads = [threading.Thread(target=read, args=(rows,)) for rows in (3, 4, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_memory_is_used_again_once_nobody_holds_it():
    spare = BufferPool()
    first = spare.empty((10, 4), torch.float32)
    place, part = first.data_ptr(), first[3:]
    del first
    assert spare.empty((10, 4), torch.float32).data_ptr() != place  # a part of it is still held
    del part
    again = {spare.empty((5, 4), torch.float16).data_ptr() for _ in range(2)}
    assert place in again


def test_the_thread_ahead_computes_with_the_threads_it_is_given():
    every = torch.get_num_threads()

    def items():
        while True:
            yield torch.get_num_threads()

    torch.set_num_threads(3)
    try:
        found = read_ahead(items(), threads=2)
        assert [next(found) for _ in range(3)] == [3, 2, 2]
        found.close()
    finally:
        torch.set_num_threads(every)
