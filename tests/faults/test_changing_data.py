"""Data that changes while it is read: one clear mistake, or the numbers of before; never both."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_encode_faults import HOW, Squares
from test_malformed import LAYOUTS, write

from floracle.core.source import check_unchanged
from floracle.data.encode import encode
from floracle.data.pack import pack
from floracle.data.store import open_store
from floracle.run.errors import Mistake
from many import in_threads

IMAGES = np.random.default_rng(0).integers(0, 256, (24, 4, 4, 3), np.uint8)
RECORD = "floracle/verified.json"
MANIFESTS = ("floracle/manifest.json", "floracle/encoded.json")


def overwrite(path):
    """Other bytes in the same place; headers stay what they are, and so do pictures."""
    content = bytearray(path.read_bytes())
    if path.suffix == ".png":
        new = path.with_suffix(".new.png")
        Image.fromarray(255 - np.asarray(Image.open(path))).save(new)
        content = new.read_bytes()
        new.unlink()
    else:
        content[-300:] = bytes(byte ^ 1 for byte in content[-300:])
    with path.open("r+b") as file:
        file.write(content)
        file.truncate()


def replace(path):
    aside = path.with_name(f"aside{path.suffix}")
    shutil.copy(path, aside)
    overwrite(aside)
    aside.replace(path)


def append(path):
    with path.open("ab") as file:
        file.write(b"more")


def touch(path):
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 1))


CHANGES = {
    "overwritten": overwrite,
    "cut": lambda path: os.truncate(path, path.stat().st_size // 2),
    "appended to": append,
    "removed": Path.unlink,
    "replaced": replace,
    "touched": touch,
}


def behind_its_back(path):
    """Other bytes, and nothing of how the file looks tells."""
    before = path.stat()
    if path.suffix == ".png":
        pixels = np.asarray(Image.open(path))
        content = bytearray(path.read_bytes())
        overwrite(path)
        size = len(content)
        content = path.read_bytes()
        assert not np.array_equal(pixels, np.asarray(Image.open(path)))
        with path.open("r+b") as file:
            file.write(content.ljust(size, b"\0")[: max(size, len(content))])
    else:
        overwrite(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def npy(folder):
    np.save(folder / "points.npy", IMAGES)
    return folder / "points.npy", folder / "points.npy"


def first_picture(folder):
    for row, image in enumerate(IMAGES):
        Image.fromarray(image).save(folder / f"{row:02d}.png", compress_level=0)
    return folder, folder / "00.png"


def last_picture(folder):
    return first_picture(folder)[0], folder / "23.png"


DATA = {"npy": npy, "read": first_picture, "unread": last_picture}


@pytest.fixture(params=DATA)
def data(request, tmp_path):
    """What is opened, and the file of it that changes."""
    (tmp_path / "data").mkdir()
    return DATA[request.param](tmp_path / "data")


def contents(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {name: content for name, content in found.items() if name != RECORD}


def packed(where, out):
    pack(where, out, shard_bytes=8 * 56, memory=1000, spectra=False, quiet=True)


def encoded(where, out):
    encode(where, out, Squares(), **HOW, memory=1000)


VERBS = {"pack": packed, "encode": encoded}


def between_shards(monkeypatch, verb, change):
    """Have the data change after the first shard."""
    module = f"floracle.data.{verb}"
    write_shard = __import__(module, fromlist=["write_shard"]).write_shard
    numbers = []

    def changing(folder, work, number, **how):
        if number == 1 and not numbers:
            numbers.append(number)
            change()
        return write_shard(folder, work, number, **how)

    monkeypatch.setattr(f"{module}.write_shard", changing)
    return numbers


def nothing_is_claimed(out):
    assert not any((out / name).exists() for name in MANIFESTS)
    assert not list(out.glob("*.safetensors"))
    assert not list(out.rglob("unfinished/*"))


def begins_again(verb, where, folder):
    """The same command makes of the data that is there now what any other run makes of it."""
    try:
        open_store(where)
    except Mistake:
        return
    VERBS[verb](where, folder / "out")
    VERBS[verb](where, folder / "other")
    assert contents(folder / "out").keys() == contents(folder / "other").keys()
    found, expected = (
        {name: content for name, content in contents(each).items() if "encoded-from" not in name}
        for each in (folder / "out", folder / "other")
    )
    assert found == expected


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("verb", VERBS)
def test_data_that_changes_between_shards_is_never_mixed(
    tmp_path, monkeypatch, data, verb, change
):
    where, path = data
    with monkeypatch.context() as patched:
        changed = between_shards(patched, verb, lambda: CHANGES[change](path))
        what = rf"{path.name} (changed while|is gone since|ended)|row 23 is no longer"
        with pytest.raises(Mistake, match=what):
            VERBS[verb](where, tmp_path / "out")
        assert changed
    nothing_is_claimed(tmp_path / "out")
    begins_again(verb, where, tmp_path)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", ["npy", "unread"])
def test_rows_are_compared_where_the_looks_of_a_file_say_nothing(
    tmp_path, monkeypatch, verb, kind
):
    (tmp_path / "data").mkdir()
    where, path = DATA[kind](tmp_path / "data")
    with monkeypatch.context() as patched:
        between_shards(patched, verb, lambda: behind_its_back(path))
        with pytest.raises(Mistake, match=r"data\S*: row \d+ is no longer what it was"):
            VERBS[verb](where, tmp_path / "out")
    nothing_is_claimed(tmp_path / "out")
    begins_again(verb, where, tmp_path)


def test_rows_are_compared_before_they_are_made_narrower(tmp_path, monkeypatch):
    path = tmp_path / "points.npy"
    np.save(path, IMAGES.reshape(24, 48).astype(np.float32))
    how = {"dtype": "fp16", "shard_bytes": 8 * 104, "memory": 1000, "spectra": False}
    between_shards(monkeypatch, "pack", lambda: behind_its_back(path))
    with pytest.raises(Mistake, match=r"points.npy: row \d+ is no longer what it was"):
        pack(path, tmp_path / "out", quiet=True, **how)
    nothing_is_claimed(tmp_path / "out")


def test_pictures_that_change_for_one_process_end_all(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    where, path = npy(tmp_path / "data")

    class Changing(Squares):
        def encode(self, images):
            touch(path)
            return super().encode(images)

    def work(group):
        coder = Changing() if group.rank else Squares()
        return encode(where, tmp_path / "out", coder, **HOW, group=group, memory=1000)

    with pytest.raises(Mistake, match=r"points\.npy changed"):
        in_threads(2, work, monkeypatch)
    nothing_is_claimed(tmp_path / "out")
    encoded(where, tmp_path / "out")


def test_shards_of_other_data_are_written_again(tmp_path, monkeypatch):
    """As versions that compared nothing may have left them."""
    (tmp_path / "data").mkdir()
    where, path = npy(tmp_path / "data")

    def ends():
        raise KeyboardInterrupt

    for out, images in (("out", IMAGES), ("other", IMAGES[::-1])):
        np.save(path, images)

        with monkeypatch.context() as patched:
            between_shards(patched, "pack", ends)
            with pytest.raises(KeyboardInterrupt):
                packed(where, tmp_path / out)
    for name in ("latents_rank00_shard000.safetensors", "floracle/unfinished/shard-00000.tensors"):
        shutil.copy2(tmp_path / "other" / name, tmp_path / "out" / name)
    np.save(path, IMAGES)
    packed(where, tmp_path / "out")
    packed(where, tmp_path / "whole")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.parametrize("verb", VERBS)
def test_labels_beside_the_data_are_part_of_it(tmp_path, verb):
    (tmp_path / "data").mkdir()
    where, path = npy(tmp_path / "data")
    labels = path.with_name("labels.npy")
    VERBS[verb](where, tmp_path / "out")
    np.save(labels, np.arange(24) % 2)
    with pytest.raises(Mistake, match="there"):
        VERBS[verb](where, tmp_path / "out")
    labels.unlink()
    VERBS[verb](where, tmp_path / "out")


# stores ----------------------------------------------------------------------------------------


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
        with pytest.raises(Mistake, match=f"{path.name} changed while it was read"):
            check_unchanged(store)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    store.check_unchanged()
    assert all(map(torch.equal, blocks_of(store), expected))


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
    except Mistake as mistake:
        assert "\n" not in str(mistake)  # noqa: PT017
    if change in ("overwritten", "replaced") and path.suffix in (".png", ".npy", ".npz"):
        seen = []  # what lies in folders is read by its name; the check below tells
    assert all(map(torch.equal, seen, expected))
    with pytest.raises(Mistake, match=rf"{path.name} (changed while|is gone since)"):
        store.check_unchanged()


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", DATA)
@pytest.mark.parametrize("memory", [1000, "1G"])
def test_files_that_change_while_a_store_opens_are_refused(
    tmp_path, monkeypatch, change, kind, memory
):
    (tmp_path / "data").mkdir()
    where, path = DATA[kind](tmp_path / "data")
    from floracle.data import scan

    monkeypatch.setattr(scan, "VALUES", 300)
    digests, calls = scan.row_digests, []

    def changing(block):
        calls.append(block)
        if len(calls) == 2:
            CHANGES[change](path)
        return digests(block)

    monkeypatch.setattr(scan, "row_digests", changing)
    with pytest.raises(Mistake, match=path.name):
        open_store(where, memory=memory)
    assert len(calls) >= 2


def test_labels_and_weights_that_change_while_a_store_opens_are_refused(tmp_path, monkeypatch):
    from floracle.data import scan

    for name in ("labels", "weights"):
        path = tmp_path / f"{name}.npy"
        np.save(path, np.arange(1, 25))
        with monkeypatch.context() as patched:
            digests = scan.row_digests
            patched.setattr(scan, "row_digests", lambda b: touch(path) or digests(b))  # noqa: B023
            with pytest.raises(Mistake, match=f"{path.name} changed"):
                open_store(torch.from_numpy(IMAGES), **{name: path})


def test_a_shard_that_changes_while_it_is_hashed_is_not_found_whole(tmp_path, monkeypatch):
    from floracle.data import packed_files

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
        with pytest.raises(Mistake, match=f"{name} changed"):
            open_store(tmp_path)
    with pytest.raises(Mistake, match=f"{name} is damaged"):
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
        except Mistake as mistake:
            assert f"{path.name} changed while" in str(mistake)  # noqa: PT017
        else:
            assert torch.equal(seen, torch.from_numpy(points))
        save(path, np.asarray(points, order=order))


def test_a_file_that_ends_in_the_middle_of_a_read_is_named(tmp_path, monkeypatch):
    import floracle.data.file_rows as module

    where, path = npy(tmp_path)
    store = open_store(where, memory=1000)
    read_at = module.read_at
    monkeypatch.setattr(
        module, "read_at", lambda *given: os.truncate(path, 500) or read_at(*given)
    )
    with pytest.raises(Mistake, match=r"points.npy ended while it was read; is something writing"):
        store.take(torch.arange(24))


@pytest.mark.parametrize("most", [1, 2, 64])
def test_a_read_has_few_files_open_at_a_time_and_none_after(tmp_path, monkeypatch, most):
    monkeypatch.setattr("floracle.data.file_rows.OPEN_FILES", most)
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
    with pytest.raises(Mistake, match=r"points\.npy changed"):
        store.check_unchanged()
