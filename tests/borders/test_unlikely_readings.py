"""Readings that are possible and unlikely are named: sheets, hidden colours, labels, numbers."""

import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from floracle.cli.parsing import parse_classes, parse_labels
from floracle.data.packing.pack import pack
from floracle.data.store import open_store
from floracle.data.unlikely_readings import looks_numbered_otherwise
from floracle.run.errors import InputError

RANDOM = np.random.default_rng(0)


def noise(*shape):
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def save(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)


# Sheets ---------------------------------------------------------------------------------------


def strokes(count, size):
    """Bright strokes on black with a margin, as in MNIST."""
    tiles = np.zeros((count, size, size), np.uint8)
    inner = tiles[:, size // 6 : -size // 6, size // 6 : -size // 6]
    inner[...] = (RANDOM.random(inner.shape) > 0.7) * 255
    return tiles


def scenes(count, size):
    """Smooth tiles that end where the next one begins."""
    steps = RANDOM.normal(size=(count, size, size)) * 6
    tiles = np.cumsum(np.cumsum(steps, 1), 2) / 4 + RANDOM.uniform(60, 200, (count, 1, 1))
    return tiles.clip(0, 255).astype(np.uint8)


def sheet(tiles, rows, gap=0):
    tiles = np.pad(tiles, ((0, 0), (gap, 0), (gap, 0)))
    count, height, width = tiles.shape
    grid = tiles.reshape(rows, count // rows, height, width)
    return grid.swapaxes(1, 2).reshape(rows * height, -1)


@pytest.mark.parametrize("tiles", [strokes, scenes])
@pytest.mark.parametrize(("size", "gap"), [(28, 0), (32, 0), (32, 2)])
def test_sheets_of_small_pictures_are_noticed(tmp_path, tiles, size, gap):
    sheets = [sheet(tiles(8 * 10, size), 8, gap) for _ in range(4)]
    for number, pixels in enumerate(sheets):
        save(tmp_path / f"set/{number}.png", pixels)
    tile = size + gap
    words = f"sheets of {tile} × {tile} pictures, 8 × 10 on each: a whole sheet counts as one"
    for data in (tmp_path / "set", np.stack(sheets), np.stack(sheets) / np.float32(255)):
        if isinstance(data, np.ndarray) and data.dtype != np.uint8:
            data = data[:, None]
        assert any(words in remark for remark in open_store(data).remarks)


def test_pictures_that_repeat_nothing_are_not_called_sheets():
    smooth = np.cumsum(RANDOM.normal(size=(4, 200, 240, 3)) * 5, 1).clip(-127, 127) + 128
    for pictures in (noise(4, 200, 240, 3), smooth.astype(np.uint8), strokes(4, 120)):
        assert open_store(pictures).remarks == ()
    blocks = [io.BytesIO() for _ in range(3)]
    for block in blocks:  # edges of compression repeat in every picture
        Image.fromarray(smooth[0].astype(np.uint8)).save(block, "JPEG", quality=5)
    decoded = np.stack([np.asarray(Image.open(block)) for block in blocks])
    assert not any("sheets" in remark for remark in open_store(decoded).remarks)


@pytest.mark.slow
def test_photographs_and_real_sheets(shared):
    assert not any("sheets" in r for r in open_store(shared / "data/images256/val").remarks)
    remarks = open_store(shared / "data/cifar10").remarks
    assert any("sheets of 32 × 32 pictures, 50 × 50 on each" in remark for remark in remarks)
    assert any("labels.npz beside the pictures is not read" in remark for remark in remarks)


# Files beside pictures ------------------------------------------------------------------------


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("labels.npy", "labels.npy beside the pictures is not read"),
        ("metadata.jsonl", "metadata.jsonl beside the pictures is not read"),
        ("classes.txt", "classes.txt beside the pictures is not read"),
        ("README.txt", None),
        ("2.gif", r"1 files are passed over that may be pictures (2.gif)"),
        ("3.TIFF", r"1 files are passed over that may be pictures (3.TIFF)"),
    ],
)
def test_files_that_may_be_meant(tmp_path, packed, name, words):
    save(tmp_path / "set/0.png", noise(4, 4))
    save(tmp_path / "set/1.png", noise(4, 4))
    (tmp_path / "set" / name).write_bytes(b"x")
    path = tmp_path / "set"
    if packed:
        path = tmp_path / "set.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for file in (tmp_path / "set").iterdir():
                archive.write(file, file.name)
    remarks = open_store(path).remarks
    assert (words is None and remarks == ()) or words in remarks[0]
    (tmp_path / "set_labels.npy").write_bytes(b"x")
    assert any("set_labels.npy" in remark for remark in open_store(path).remarks)


# Transparency ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["RGBA", "LA", "P"])
def test_colours_under_transparency_are_counted_and_said(tmp_path, kind):
    visible = [noise(4, 4, 3) for _ in range(3)]
    for number in range(12):
        pixels = np.dstack([visible[number % 3], np.full((4, 4), 255, np.uint8)])
        pixels[:2, :, 3] = 0
        pixels[:2, :, :3] = number  # nobody sees this
        image = Image.fromarray(pixels)
        if kind == "LA":
            image = image.convert("LA")
        if kind == "P":
            image = image.quantize(17)
        image.save(tmp_path / f"{number:02d}.png")
    Image.fromarray(noise(4, 4, 4)).putalpha(255)
    opaque = Image.fromarray(noise(4, 4, 3)).convert(kind)
    opaque.save(tmp_path / "99.png")
    store = open_store(tmp_path)
    (remark,) = store.remarks
    assert "12 of 13 pictures are transparent in places, such as 00.png" in remark
    assert "the colours stored under it count" in remark
    if kind == "RGBA":
        assert len(store.atoms().rows) == 13


def test_a_picture_that_is_opaque_throughout_needs_no_word(tmp_path):
    save(tmp_path / "0.png", np.dstack([noise(4, 4, 3), np.full((4, 4), 255, np.uint8)]))
    assert open_store(tmp_path).remarks == ()


# Numbers of classes ---------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["", "class"])
def test_folders_with_numbers_that_are_not_their_labels(tmp_path, head):
    for number in range(12):
        save(tmp_path / f"set/{head}{number}/0.png", noise(4, 4))
    store = open_store(tmp_path / "set")
    assert store.classes[2] == f"{head}10"
    assert (
        f"label 2 is '{head}10', label 3 is '{head}11', label 4 is '{head}2'" in store.remarks[0]
    )
    pack(tmp_path / "set", tmp_path / "packed", quiet=True)
    assert open_store(tmp_path / "packed").remarks == store.remarks
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for file in (tmp_path / "set").rglob("*.png"):
            archive.write(file, file.relative_to(tmp_path / "set"))
    assert open_store(tmp_path / "set.zip").remarks == store.remarks


@pytest.mark.parametrize(
    ("names", "differ"),
    [
        (["0", "1", "2"], False),
        ([f"{number:02d}" for number in range(12)], False),
        (["1", "2", "3"], True),  # label 0 is folder 1
        (["3", "7"], True),
        (["cat", "dog"], False),
        (["n01440764", "n01443537"], False),  # names that nobody takes for labels
        (["a1", "b2"], False),
        (["x1", "x10", "x2"], False),
        ([], False),
    ],
)
def test_which_names_are_taken_for_labels(names, differ):
    assert bool(looks_numbered_otherwise(names)) == differ


def test_a_name_in_place_of_a_label_is_told_its_label():
    names = ("ant", "cat", "10")
    with pytest.raises(InputError, match="--labels takes labels, and 'cat' is label 1"):
        parse_labels("cat", 2, [0, 1, 2], names)
    with pytest.raises(InputError, match="--classes takes labels, and 'ant' is label 0"):
        parse_classes("1,ant", [0, 1, 2], names)
    assert parse_classes("each", [0, 1, 2], names) == [0, 1, 2]
    assert parse_labels("2", 2, [0, 1, 2], names) == [2, 2]
    with pytest.raises(InputError, match="not understood"):
        parse_labels("dog", 2, [0, 1, 2], names)


def test_remarks_reach_the_store_of_points_read_again():
    sheets = np.stack([sheet(scenes(64, 28), 8) for _ in range(3)])
    store = open_store(sheets, normalize="raw", memory=2**16)
    assert any("sheets" in remark for remark in store.remarks)
    assert torch.equal(store.take(torch.tensor([1]))[0, 0], torch.from_numpy(sheets[1]).float())
