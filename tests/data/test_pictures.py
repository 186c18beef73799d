import os

import numpy as np
import pytest
import torch
from PIL import Image

from floracle.data.store import open_store
from floracle.run.errors import InputError

RANDOM = np.random.default_rng(0)


def noise(*shape):
    return RANDOM.integers(0, 256, shape, dtype=np.uint8)


def save(path, pixels, **how):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **how)


def as_bytes(store):
    points = store.take(torch.arange(len(store)))
    return (points * 127.5 + 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def test_class_folders_are_ranked_and_may_be_nested(tmp_path):
    for place in ("zebra/1.png", "ant/deep/er/2.PNG", "ant/1.webp", "bee/x.jpeg"):
        save(tmp_path / place, noise(6, 5, 3))
    (tmp_path / "ant/notes.txt").write_text("ignored")
    (tmp_path / "index.tsv").write_text("ignored")
    (tmp_path / ".DS_Store").write_text("hidden")
    (tmp_path / "ant/._1.png").write_text("hidden")
    (tmp_path / ".cache").mkdir()
    store = open_store(tmp_path)
    assert store.classes == ("ant", "bee", "zebra")
    assert store.labels.tolist() == [0, 0, 1, 2]
    assert store.shape == (3, 6, 5)
    assert store.ignored == 2
    assert store.layout == "pictures"
    files = ("ant/1.webp", "ant/deep/er/2.PNG", "bee/x.jpeg", "zebra/1.png")
    by_pillow = [np.asarray(Image.open(tmp_path / file).convert("RGB")) for file in files]
    assert np.array_equal(as_bytes(store), np.stack(by_pillow))


def test_flat_folder_has_no_classes(tmp_path):
    images = {name: noise(4, 4) for name in ("b.png", "a.png", "c.png")}
    for name, pixels in images.items():
        save(tmp_path / name, pixels)
    store = open_store(tmp_path)
    assert store.labels.tolist() == [-1] * 3
    assert store.classes == ()
    assert store.shape == (1, 4, 4)
    assert np.array_equal(as_bytes(store)[..., 0], np.stack([images[k] for k in sorted(images)]))
    stacked = np.stack([images[k] for k in sorted(images)])
    assert store.fingerprint == open_store(stacked).fingerprint


def test_pictures_beyond_the_budget_are_decoded_as_read(tmp_path):
    for row in range(9):
        save(tmp_path / f"{row % 3}/{row}.png", noise(6, 5, 3))
    ready, lazy = open_store(tmp_path), open_store(tmp_path, memory=100)
    assert ready.resident
    assert not lazy.resident
    assert lazy.fingerprint == ready.fingerprint
    rows = torch.tensor([8, 0, 3])
    assert torch.equal(lazy.take(rows), ready.take(rows))
    for one, other in zip(lazy.blocks(1, rows=2), ready.blocks(1, rows=2), strict=True):
        assert torch.equal(one.points, other.points)
    mirrored = open_store(tmp_path, flips=True, memory=100)
    assert torch.equal(mirrored.take(rows + 9), ready.take(rows).flip(-1))


def test_grey_beside_colour_becomes_colour(tmp_path):
    grey, colour = noise(4, 4), noise(4, 4, 3)
    save(tmp_path / "a.png", grey)
    save(tmp_path / "b.png", colour)
    found = as_bytes(open_store(tmp_path))
    assert np.array_equal(found[0], np.stack([grey] * 3, -1))
    assert np.array_equal(found[1], colour)


def test_kinds_of_pictures_become_bytes(tmp_path):
    levels = np.array([[0, 257, 128, 65535], [129, 385, 386, 65407]], np.uint16)
    save(tmp_path / "deep/16.png", levels)
    expected = np.round(levels / 257).astype(np.uint8)
    assert np.array_equal(as_bytes(open_store(tmp_path / "deep"))[0, ..., 0], expected)

    transparent = noise(4, 4, 4)
    save(tmp_path / "alpha/a.png", transparent)
    assert np.array_equal(as_bytes(open_store(tmp_path / "alpha"))[0], transparent[..., :3])

    colours = Image.fromarray(noise(4, 4, 3)).quantize(7)
    (tmp_path / "palette").mkdir()
    colours.save(tmp_path / "palette/p.png", transparency=bytes([0, 9, 99]))
    found = as_bytes(open_store(tmp_path / "palette"))[0]
    assert np.array_equal(found, np.asarray(colours.convert("RGB")))

    bits = noise(4, 4) > 127
    (tmp_path / "bits").mkdir()
    Image.fromarray(bits).save(tmp_path / "bits/1.png")
    assert np.array_equal(as_bytes(open_store(tmp_path / "bits"))[0, ..., 0], bits * np.uint8(255))

    grey = Image.fromarray(np.stack([noise(4, 4), noise(4, 4)], -1), "LA")
    (tmp_path / "la").mkdir()
    grey.save(tmp_path / "la/1.png")
    assert open_store(tmp_path / "la").shape == (1, 4, 4)

    (tmp_path / "print").mkdir()
    Image.fromarray(noise(8, 8, 4), "CMYK").save(tmp_path / "print/1.jpg")
    expected = np.asarray(Image.open(tmp_path / "print/1.jpg").convert("RGB"))
    assert np.array_equal(as_bytes(open_store(tmp_path / "print"))[0], expected)


def test_links_that_lead_back_neither_hang_nor_count_twice(tmp_path):
    for name in ("a", "b"):
        save(tmp_path / f"set/{name}/1.png", noise(4, 4))
    os.symlink(tmp_path / "set", tmp_path / "set/a/up")
    os.symlink(tmp_path / "set/a", tmp_path / "set/a/self")
    os.symlink(tmp_path, tmp_path / "set/top")
    os.symlink(tmp_path / "set", tmp_path / "set/same")
    os.symlink("circle", tmp_path / "set/a/circle")
    save(tmp_path / "elsewhere/2.png", noise(4, 4))
    os.symlink(tmp_path / "elsewhere", tmp_path / "set/c")
    store = open_store(tmp_path / "set")
    assert store.classes == ("a", "b", "c")
    assert store.labels.tolist() == [0, 1, 2]


def test_duplicate_pictures_merge(tmp_path):
    pixels = noise(4, 4, 3)
    save(tmp_path / "a/1.png", pixels)
    save(tmp_path / "a/2.webp", pixels, lossless=True)
    save(tmp_path / "b/3.png", pixels)
    save(tmp_path / "b/4.png", noise(4, 4, 3))
    store = open_store(tmp_path)
    assert store.duplicates == 2
    assert store.atoms().rows.tolist() == [0, 3]
    assert store.atoms(1).rows.tolist() == [2, 3]
    assert store.atoms(0).weights.tolist() == [1.0]


def test_splits_are_no_classes(tmp_path):
    save(tmp_path / "train/cat/1.png", noise(4, 4))
    save(tmp_path / "val/cat/1.png", noise(4, 4))
    with pytest.raises(InputError, match=r"divided into train, val; open one of them: .*train"):
        open_store(tmp_path)


@pytest.mark.slow
def test_real_photographs(shared):
    folder = shared / "data/images256/train"
    store = open_store(folder)
    assert len(store) == 1750
    assert store.shape == (3, 256, 256)
    assert store.classes == ("daisy", "dandelion", "roses", "sunflowers", "tulips")
    assert store.labels.bincount().tolist() == [350] * 5
    assert store.duplicates == 0
    files = sorted(folder.glob("*/*.webp"))
    for row in (0, 700, 1749):
        expected = np.asarray(Image.open(files[row]).convert("RGB"))
        found = (store.take(torch.tensor([row])) * 127.5 + 127.5).round().byte()[0]
        assert np.array_equal(found.permute(1, 2, 0).numpy(), expected)
