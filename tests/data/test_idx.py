import gzip
import hashlib
import struct

import numpy as np
import pytest
import torch

from floracle.data.store import open_store
from floracle.run.errors import InputError

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 4, 5), dtype=np.uint8)
LABELS = np.arange(12, dtype=np.uint8) % 5


def write_pair(folder, name="train-images-idx3-ubyte", *, packed=False):
    """Two idx files by the letter of the format; the path of the images."""
    opened = gzip.open if packed else open
    end = ".gz" if packed else ""
    own = name.replace("images", "labels").replace("idx3", "idx1")
    with opened(folder / (name + end), "wb") as file:
        file.write(struct.pack(">IIII", 0x803, *IMAGES.shape) + IMAGES.tobytes())
    with opened(folder / (own + end), "wb") as file:
        file.write(struct.pack(">II", 0x801, len(LABELS)) + LABELS.tobytes())
    return folder / (name + end)


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte", "images.idx3-ubyte"])
def test_idx_is_read_with_its_labels(tmp_path, name, packed):
    path = write_pair(tmp_path, name, packed=packed)
    store = open_store(path)
    expected = (IMAGES[:, None].astype(np.float32) - 127.5) / np.float32(127.5)
    assert np.array_equal(store.take(torch.arange(12)).numpy(), expected)
    assert store.labels.tolist() == LABELS.tolist()
    assert store.shape == (1, 4, 5)
    assert store.layout == "idx"
    assert store.fingerprint == open_store(IMAGES, labels=LABELS).fingerprint
    lazy = open_store(path, memory=600)
    assert np.array_equal(lazy.take(torch.arange(12)).numpy(), expected)
    assert not lazy.resident


def test_folder_means_its_training_pair(tmp_path):
    write_pair(tmp_path, "t10k-images-idx3-ubyte")
    assert len(open_store(tmp_path)) == 12
    train = write_pair(tmp_path, packed=True)
    train.write_bytes(gzip.compress(struct.pack(">IIII", 0x803, 12, 20, 1) + IMAGES.tobytes()))
    assert open_store(tmp_path).shape == (1, 20, 1)
    assert open_store(tmp_path / "t10k-images-idx3-ubyte").shape == (1, 4, 5)


def test_several_training_sets_are_listed(tmp_path):
    write_pair(tmp_path, "a-train-images-idx3-ubyte")
    write_pair(tmp_path, "b-train-images-idx3-ubyte")
    with pytest.raises(InputError, match="a-train-images-idx3-ubyte, b-train"):
        open_store(tmp_path)


def test_labels_may_be_missing(tmp_path):
    path = write_pair(tmp_path)
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    assert open_store(path).labels.max() == -1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "images", "labels", "first"),
    [
        (
            "mnist",
            "6bbc9ace898e44ae57da46a324031adb",
            "a25bea736e30d166cdddb491f175f624",
            [5, 0, 4, 1, 9, 2, 1, 3, 1, 4],
        ),
        ("fashion_mnist", None, None, [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]),
    ],
)
def test_real_sets_come_out_as_published(shared, name, images, labels, first):
    store = open_store(shared / "data" / name)
    assert len(store) == 60_000
    assert store.shape == (1, 28, 28)
    assert store.labels[:10].tolist() == first
    assert store.labels.bincount().sum() == 60_000
    assert store.duplicates == 0
    stored = (store.take(torch.arange(60_000)) * 127.5 + 127.5).round().byte().numpy()
    head = struct.pack(">IIII", 0x803, 60_000, 28, 28)
    unpacked = gzip.decompress(
        (shared / "data" / name / "train-images-idx3-ubyte.gz").read_bytes()
    )
    assert head + stored.tobytes() == unpacked
    if images and labels:
        assert hashlib.md5(unpacked).hexdigest() == images
        own = struct.pack(">II", 0x801, 60_000) + store.labels.to(torch.uint8).numpy().tobytes()
        assert hashlib.md5(own).hexdigest() == labels


def test_real_test_set_is_reached_by_name(shared):
    store = open_store(shared / "data/mnist/t10k-images-idx3-ubyte.gz")
    assert len(store) == 10_000
    assert store.labels[:5].tolist() == [7, 2, 1, 0, 4]
