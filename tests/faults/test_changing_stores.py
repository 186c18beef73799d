"""Stores whose files change while they are opened or read, and what notices it."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from test_changing_data import CHANGES, DATA, IMAGES, RECORD, npy, overwrite, touch
from test_malformed import LAYOUTS, write

from floracle.core.point_set import check_unchanged
from floracle.data.packing.pack import pack
from floracle.data.store import open_store
from floracle.run.errors import InputError


@pytest.fixture
def layout(request, tmp_path, monkeypatch):
    """What is opened, the names of all its files, and how."""
    monkeypatch.chdir(tmp_path)
    if request.param == "packed":
        np.save("points.npy", IMAGES)
        np.save("labels.npy", np.arange(24) % 3)
        pack("points.npy", tmp_path / "a", shard_bytes=8 * 56, spectra=False, quiet=True)
        files = [path for path in Path("a").rglob("*") if path.is_file()]
        names = [
            f"{path}" for path in files if not {"verified.json", "unfinished"} & {*path.parts}
        ]
        return tmp_path / "a", names, {"memory": 64}
    name, files, how = LAYOUTS[request.param]
    write(tmp_path, files)
    squeezed = request.param in ("packed npz", "packed idx")  # these are always held
    return tmp_path / name, list(files), {"memory": "64M" if squeezed else 64, **how}


EVERY = pytest.mark.parametrize("layout", [*LAYOUTS, "packed"], indirect=True)


def blocks_of(store):
    rows = torch.arange(len(store))
    return [store.points[start : start + 1].clone() for start in rows.tolist()]


@pytest.mark.slow
@EVERY
@pytest.mark.parametrize("memory", [{}, {"memory": "64M"}])
def test_every_file_of_a_store_is_watched_and_no_other(layout, tmp_path, memory):
    where, names, how = layout
    store = open_store(where, **how | memory)
    expected = blocks_of(store)
    (tmp_path / "notes.txt").write_text("more")
    check_unchanged(store)
    for name in names:
        path = tmp_path / name
        before = path.stat()
        touch(path)
        with pytest.raises(InputError, match=f"{path.name} changed while it was read"):
            check_unchanged(store)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    store.check_unchanged()
    assert all(map(torch.equal, blocks_of(store), expected))


@pytest.mark.slow
@EVERY
@pytest.mark.parametrize("change", CHANGES)
def test_blocks_of_changing_files_are_refused_or_those_of_before(layout, tmp_path, change):
    where, names, how = layout
    store = open_store(where, **how)
    expected = blocks_of(store)
    size = {name: (tmp_path / name).stat().st_size for name in names}
    path = tmp_path / max(names, key=lambda name: ("shard" in name, size[name]))
    CHANGES[change](path)
    seen = []
    try:
        for row in range(len(store)):
            seen.append(store.points[row : row + 1].clone())  # noqa: PERF401
        seen = [store.take(torch.tensor([row])) for row in range(len(store))]
    except InputError as mistake:
        assert "\n" not in str(mistake)  # noqa: PT017
    if change in ("overwritten", "replaced") and path.suffix in (".png", ".npy", ".npz"):
        seen = []  # what lies in folders is read by its name; the check below tells
    assert all(map(torch.equal, seen, expected))
    with pytest.raises(InputError, match=rf"{path.name} (changed while|is gone since)"):
        store.check_unchanged()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("memory", [1000, "1G"])
def test_files_that_change_while_a_store_opens_are_refused(
    tmp_path, monkeypatch, change, kind, memory
):
    (tmp_path / "data").mkdir()
    where, path = DATA[kind](tmp_path / "data")
    from floracle.data import integrity_check as scan

    monkeypatch.setattr(scan, "BLOCK_VALUES", 300)
    digests, calls = scan.row_digests, []

    def changing(block):
        calls.append(block)
        if len(calls) == 2:
            CHANGES[change](path)
        return digests(block)

    monkeypatch.setattr(scan, "row_digests", changing)
    with pytest.raises(InputError, match=path.name):
        open_store(where, memory=memory)
    assert len(calls) >= 2


def test_labels_and_weights_that_change_while_a_store_opens_are_refused(tmp_path, monkeypatch):
    from floracle.data import integrity_check as scan

    for name in ("labels", "weights"):
        path = tmp_path / f"{name}.npy"
        np.save(path, np.arange(1, 25))
        with monkeypatch.context() as patched:
            digests = scan.row_digests
            patched.setattr(scan, "row_digests", lambda b: touch(path) or digests(b))  # noqa: B023
            with pytest.raises(InputError, match=f"{path.name} changed"):
                open_store(torch.from_numpy(IMAGES), **{name: path})


def test_a_shard_that_changes_while_it_is_hashed_is_not_found_whole(tmp_path, monkeypatch):
    from floracle.data.packed import files as packed_files

    pack(torch.randn(60, 8), tmp_path, shard_bytes=800, quiet=True)
    name = "latents_rank00_shard001.safetensors"
    (tmp_path / RECORD).unlink()
    sha256_of = packed_files.sha256_of

    def changing(path):
        found = sha256_of(path)
        if path.name == name:
            overwrite(path)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(packed_files, "sha256_of", changing)
        with pytest.raises(InputError, match=f"{name} changed"):
            open_store(tmp_path)
    with pytest.raises(InputError, match=f"{name} is damaged"):
        open_store(tmp_path)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("save", [np.save, np.savez])
def test_a_file_that_is_cut_short_never_ends_the_process(tmp_path, save, order):
    points = np.random.default_rng(0).normal(size=(4000, 64)).astype(np.float32)  # many pages
    path = tmp_path / ("points.npy" if save is np.save else "points.npz")
    save(path, np.asarray(points, order=order))
    for memory in (1000, "1G"):
        store = open_store(path, memory=memory)
        blocks = store.blocks(rows=100)
        first = next(blocks)
        os.truncate(path, 0)
        try:
            seen = torch.cat([first.points, *(block.points for block in blocks)])
        except InputError as mistake:
            assert f"{path.name} changed while" in str(mistake)  # noqa: PT017
        else:
            assert torch.equal(seen, torch.from_numpy(points))
        save(path, np.asarray(points, order=order))


def test_a_file_that_ends_in_the_middle_of_a_read_is_named(tmp_path, monkeypatch):
    import floracle.data.rows.file_rows as module

    where, path = npy(tmp_path)
    store = open_store(where, memory=1000)
    read_at = module.read_at
    monkeypatch.setattr(
        module, "read_at", lambda *given: os.truncate(path, 500) or read_at(*given)
    )
    with pytest.raises(
        InputError, match=r"points.npy ended while it was read; is something writing"
    ):
        store.take(torch.arange(24))


@pytest.mark.parametrize("most", [1, 2, 64])
def test_a_read_has_few_files_open_at_a_time_and_none_after(tmp_path, monkeypatch, most):
    monkeypatch.setattr("floracle.data.rows.file_rows.MAX_OPEN_FILES", most)
    points = torch.randn(60, 8)
    pack(points, tmp_path, shard_bytes=400, spectra=False, quiet=True)
    store = open_store(tmp_path, memory=1000, normalize="raw")
    before = os.listdir("/proc/self/fd")
    rows = torch.randperm(60)
    assert torch.equal(store.take(rows), points[rows])
    assert os.listdir("/proc/self/fd") == before


def test_data_without_files_never_changes():
    for where in (torch.from_numpy(IMAGES), IMAGES, "digits", "gaussian:20x3"):
        open_store(where).check_unchanged()


def test_a_link_to_other_data_is_another_file(tmp_path):
    for name, images in (("a", IMAGES), ("b", 255 - IMAGES)):
        np.save(tmp_path / f"{name}.npy", images)
    link = tmp_path / "points.npy"
    link.symlink_to("a.npy")
    store = open_store(link)
    store.check_unchanged()
    link.unlink()
    link.symlink_to("b.npy")
    with pytest.raises(InputError, match=r"points\.npy changed"):
        store.check_unchanged()
