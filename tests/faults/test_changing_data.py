"""Data that changes while it is read: one clear mistake, or the numbers of before; never both."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_encode_faults import HOW, Squares

from floracle.data.encoding.encode import encode
from floracle.data.packing.pack import pack
from floracle.data.store import open_store
from floracle.run.errors import InputError
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
    module = {"pack": "floracle.data.packing.pack", "encode": "floracle.data.encoding.encode"}[
        verb
    ]
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
    except InputError:
        return
    VERBS[verb](where, folder / "out")
    VERBS[verb](where, folder / "other")
    assert contents(folder / "out").keys() == contents(folder / "other").keys()
    found, expected = (
        {name: content for name, content in contents(each).items() if "encoded-from" not in name}
        for each in (folder / "out", folder / "other")
    )
    assert found == expected


@pytest.mark.slow
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("verb", VERBS)
def test_data_that_changes_between_shards_is_never_mixed(
    tmp_path, monkeypatch, data, verb, change
):
    where, path = data
    with monkeypatch.context() as patched:
        changed = between_shards(patched, verb, lambda: CHANGES[change](path))
        what = rf"{path.name} (changed while|is gone since|ended)|row 23 is no longer"
        with pytest.raises(InputError, match=what):
            VERBS[verb](where, tmp_path / "out")
        assert changed
    nothing_is_claimed(tmp_path / "out")
    begins_again(verb, where, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("kind", ["npy", "unread"])
def test_rows_are_compared_where_the_looks_of_a_file_say_nothing(
    tmp_path, monkeypatch, verb, kind
):
    (tmp_path / "data").mkdir()
    where, path = DATA[kind](tmp_path / "data")
    with monkeypatch.context() as patched:
        between_shards(patched, verb, lambda: behind_its_back(path))
        with pytest.raises(InputError, match=r"data\S*: row \d+ is no longer what it was"):
            VERBS[verb](where, tmp_path / "out")
    nothing_is_claimed(tmp_path / "out")
    begins_again(verb, where, tmp_path)


def test_rows_are_compared_before_they_are_made_narrower(tmp_path, monkeypatch):
    path = tmp_path / "points.npy"
    np.save(path, IMAGES.reshape(24, 48).astype(np.float32))
    how = {"dtype": "fp16", "shard_bytes": 8 * 104, "memory": 1000, "spectra": False}
    between_shards(monkeypatch, "pack", lambda: behind_its_back(path))
    with pytest.raises(InputError, match=r"points.npy: row \d+ is no longer what it was"):
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

    with pytest.raises(InputError, match=r"points\.npy changed"):
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
    with pytest.raises(InputError, match="there"):
        VERBS[verb](where, tmp_path / "out")
    labels.unlink()
    VERBS[verb](where, tmp_path / "out")
