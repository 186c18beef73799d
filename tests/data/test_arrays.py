import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from floracle.data.store import open_store
from floracle.run.errors import InputError

VECTORS = np.random.default_rng(0).normal(size=(20, 6)).astype(np.float32)


def everything(store):
    return store.take(torch.arange(len(store))).numpy()


def write_safetensors(path, arrays, pad=0):
    """By the letter of the format: length, JSON, payload; `pad` spaces end the header."""
    entries, payload = {}, b""
    for name, (kind, array) in arrays.items():
        place = [len(payload), len(payload) + array.nbytes]
        entries[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": place}
        payload += array.tobytes()
    header = json.dumps(entries).encode() + b" " * pad
    path.write_bytes(struct.pack("<Q", len(header)) + header + payload)


@pytest.mark.parametrize(
    "kind", ["f2", "f4", "f8", "i1", "i8", "u2", "u4", "u8", "?", ">f4", ">i2"]
)
def test_npy_of_any_number_is_read_as_float32(tmp_path, kind):
    array = (VECTORS * 20).astype(np.int64) % 100 if kind in ("u2", "u4", "u8") else VECTORS * 20
    array = array.astype(kind)
    np.save(tmp_path / "points.npy", array)
    store = open_store(tmp_path / "points.npy")
    assert np.array_equal(everything(store), array.astype(np.float32))
    assert store.layout == "npy"
    lazy = open_store(tmp_path / "points.npy", memory=64)
    assert np.array_equal(everything(lazy), array.astype(np.float32))
    assert lazy.fingerprint == store.fingerprint == open_store(array).fingerprint


@pytest.mark.parametrize("memory", [None, 64])
@pytest.mark.parametrize("kind", ["f2", "f4", ">f4", ">f8", "g", "i8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_of_any_order_of_bytes_and_columns(tmp_path, monkeypatch, memory, kind, order):
    monkeypatch.setattr("floracle.data.rows.file_rows.STEP_VALUES", 50)
    points = (VECTORS * 20).reshape(20, 3, 2).astype(kind)
    np.savez(tmp_path / "points.npz", x=np.asarray(points, order=order))
    np.save(tmp_path / "points.npy", np.asarray(points, order=order))
    expected = torch.from_numpy(points.astype(np.float32))
    for name in ("points.npy", "points.npz"):
        store = open_store(tmp_path / name, memory=memory)
        assert store.fingerprint == open_store(points).fingerprint
        for rows in ([3, 4, 5, 19, 0, 0, 7, 6], list(range(20)), []):
            assert torch.equal(store.take(torch.tensor(rows, dtype=torch.int64)), expected[rows])
        for key in (slice(None), slice(2, 19, 3), slice(17, 40), slice(5, 5), slice(-3, None)):
            assert torch.equal(store.points[key], expected[key])


def test_npy_of_version_2(tmp_path):
    with (tmp_path / "points.npy").open("wb") as file:
        np.lib.format.write_array(file, VECTORS, version=(2, 0))
    assert np.array_equal(everything(open_store(tmp_path / "points.npy")), VECTORS)


@pytest.mark.parametrize("memory", [None, 64])
def test_no_file_is_mapped(tmp_path, memory):
    np.save(tmp_path / "points.npy", VECTORS)
    np.savez(tmp_path / "points.npz", x=VECTORS, labels=np.arange(20))
    write_safetensors(tmp_path / "points.safetensors", {"x": ("F32", VECTORS)})
    for name in ("points.npy", "points.npz", "points.safetensors"):
        store = open_store(tmp_path / name, memory=memory)
        (block,) = store.blocks(rows=20)
        assert str(tmp_path) not in Path("/proc/self/maps").read_text()
        assert np.array_equal(block.points.numpy(), VECTORS)


@pytest.mark.parametrize("channels", [1, 3])
def test_bytes_with_channels_last_are_pictures(channels):
    images = np.random.default_rng(1).integers(0, 256, (9, 5, 7, channels), dtype=np.uint8)
    store = open_store(images)
    assert store.shape == (channels, 5, 7)
    expected = (images.transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / np.float32(127.5)
    assert np.array_equal(everything(store), expected)
    assert np.array_equal(everything(open_store(images, memory=64)), expected)
    assert np.array_equal(everything(open_store(images[:, ::-1], memory=64)), expected[:, :, ::-1])


def test_grey_bytes_gain_a_channel_and_other_shapes_stay():
    assert open_store(np.zeros((4, 5, 7), np.uint8)).shape == (1, 5, 7)
    assert open_store(np.zeros((4, 3, 5, 7), np.uint8)).shape == (3, 5, 7)
    assert open_store(np.zeros((4, 5, 7, 4), np.uint8)).shape == (5, 7, 4)
    assert open_store(np.zeros((4, 5), np.uint8)).shape == (5,)
    assert open_store(np.zeros((4, 5, 7), np.float32)).shape == (5, 7)
    assert open_store(np.zeros((4, 5, 7, 3), np.float32)).shape == (5, 7, 3)
    assert open_store(np.zeros((4, 5, 7, 9, 3), np.uint8)).shape == (5, 7, 9, 3)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("key", ["images", "latents", "data", "x", "arr_0", "whatever"])
def test_npz_finds_points_and_labels(tmp_path, save, key):
    labels = np.arange(20, dtype=np.int32) % 4
    names = np.array([f"{row}.png" for row in range(20)])
    save(tmp_path / "set.npz", **{key: VECTORS, "y": labels, "names": names})
    store = open_store(tmp_path / "set.npz")
    assert np.array_equal(everything(store), VECTORS)
    assert store.labels.tolist() == labels.tolist()
    assert store.fingerprint == open_store(VECTORS, labels=labels).fingerprint
    lazy = open_store(tmp_path / "set.npz", memory=2000)
    assert np.array_equal(everything(lazy), VECTORS)


def test_npz_of_two_positional_arrays(tmp_path):
    np.savez(tmp_path / "set.npz", VECTORS, np.arange(20))
    assert open_store(tmp_path / "set.npz").labels.tolist() == list(range(20))
    np.savez(tmp_path / "pair.npz", VECTORS, VECTORS)
    assert open_store(tmp_path / "pair.npz").labels.tolist() == [-1] * 20


def test_npz_prefers_usual_names_and_lists_keys_where_it_cannot_tell(tmp_path):
    np.savez(tmp_path / "set.npz", latents=VECTORS, other=VECTORS * 2)
    assert np.array_equal(everything(open_store(tmp_path / "set.npz")), VECTORS)
    np.savez(tmp_path / "two.npz", latents=VECTORS, images=VECTORS)
    with pytest.raises(InputError, match=r"two\.npz.*latents \[20, 6\], images \[20, 6\]"):
        open_store(tmp_path / "two.npz")
    np.savez(tmp_path / "odd.npz", a=VECTORS, b=VECTORS)
    with pytest.raises(InputError, match=r"odd\.npz.*a \[20, 6\], b"):
        open_store(tmp_path / "odd.npz")
    np.savez(tmp_path / "flat.npz", a=np.zeros(3))
    with pytest.raises(InputError, match=r"flat\.npz.*a \[3\]"):
        open_store(tmp_path / "flat.npz")
    np.savez(tmp_path / "twice.npz", x=VECTORS, y=np.arange(20), labels=np.arange(20))
    with pytest.raises(InputError, match="labels more than once: labels, y"):
        open_store(tmp_path / "twice.npz")
    np.savez(tmp_path / "wide.npz", x=VECTORS, labels=np.zeros((20, 1), np.int64))
    with pytest.raises(InputError, match=r"wide\.npz have shape \[20, 1\]"):
        open_store(tmp_path / "wide.npz")


def test_plain_npz_is_read_whatever_its_alignment(tmp_path):
    for extra in range(8):
        path = tmp_path / f"set{extra}.npz"
        np.savez(path, **{"k" * (extra + 1): VECTORS})
        assert np.array_equal(everything(open_store(path, memory=300)), VECTORS)


def test_compressed_npz_needs_room(tmp_path):
    np.savez_compressed(tmp_path / "set.npz", x=np.zeros((1000, 1000), np.float32))
    with pytest.raises(InputError, match=r"set\.npz.*np\.savez"):
        open_store(tmp_path / "set.npz", memory="1M")


@pytest.mark.parametrize("pad", [0, 1, 2, 3, 5])
def test_safetensors_written_by_hand(tmp_path, pad):
    labels = np.arange(20) % 3
    arrays = {"latents": ("F32", VECTORS), "labels": ("I64", labels)}
    write_safetensors(tmp_path / "set.safetensors", arrays, pad=pad)
    store = open_store(tmp_path / "set.safetensors")
    assert np.array_equal(everything(store), VECTORS)
    assert store.labels.tolist() == labels.tolist()
    assert store.fingerprint == open_store(VECTORS, labels=labels).fingerprint
    lazy = open_store(tmp_path / "set.safetensors", memory=64)
    assert np.array_equal(everything(lazy), VECTORS)


def test_safetensors_of_half_precision(tmp_path):
    halves = VECTORS.astype(np.float16)
    write_safetensors(tmp_path / "half.safetensors", {"x": ("F16", halves)})
    store = open_store(tmp_path / "half.safetensors")
    assert np.array_equal(everything(store), halves.astype(np.float32))
    brain = (VECTORS.view(np.uint32) >> 16).astype(np.uint16)
    write_safetensors(tmp_path / "brain.safetensors", {"x": ("BF16", brain)})
    expected = (brain.astype(np.uint32) << 16).view(np.float32)
    for memory in (None, 64):
        store = open_store(tmp_path / "brain.safetensors", memory=memory)
        assert np.array_equal(everything(store), expected)
    assert store.size == brain.nbytes


def test_labels_beside_an_npy(tmp_path):
    np.save(tmp_path / "points.npy", VECTORS)
    assert open_store(tmp_path / "points.npy").labels.max() == -1
    np.save(tmp_path / "labels.npy", np.full(20, 1))
    assert open_store(tmp_path / "points.npy").labels.tolist() == [1] * 20
    np.save(tmp_path / "points.labels.npy", np.full(20, 2))
    assert open_store(tmp_path / "points.npy").labels.tolist() == [2] * 20
    np.save(tmp_path / "points_labels.npy", np.full(20, 3, ">i4"))
    assert open_store(tmp_path / "points.npy").labels.tolist() == [3] * 20
    np.save(tmp_path / "points_labels.npy", np.full(19, 3))  # of other data
    with pytest.raises(InputError, match="there are 20 points"):
        open_store(tmp_path / "points.npy")
    given = open_store(tmp_path / "points.npy", labels=str(tmp_path / "labels.npy"))
    assert given.labels.tolist() == [1] * 20


def test_every_container_gives_one_fingerprint(tmp_path):
    images = np.random.default_rng(2).integers(0, 256, (6, 4, 4, 3), dtype=np.uint8)
    np.save(tmp_path / "set.npy", images)
    np.savez(tmp_path / "set.npz", images=images)
    np.savez_compressed(tmp_path / "small.npz", images=images)
    write_safetensors(tmp_path / "set.safetensors", {"images": ("U8", images)})
    places = [tmp_path / name for name in ("set.npy", "set.npz", "small.npz", "set.safetensors")]
    prints = {open_store(place).fingerprint for place in (*places, images)}
    assert len(prints) == 1
    assert zipfile.is_zipfile(tmp_path / "set.npz")


def test_tensors_of_many_kinds():
    points = torch.from_numpy(VECTORS)
    for same in (points.T.contiguous().T, torch.nn.Parameter(points), points.expand(20, 6)):
        assert np.array_equal(everything(open_store(same)), VECTORS)
        assert open_store(same).fingerprint == open_store(points).fingerprint
    assert np.array_equal(everything(open_store(points.bfloat16())), points.bfloat16().float())


def test_samples_as_adm_writes_them(tmp_path):
    images = np.random.default_rng(3).integers(0, 256, (7, 6, 6, 3), dtype=np.uint8)
    labels = np.random.default_rng(4).integers(0, 1000, 7)
    np.savez(tmp_path / "VIRTUAL_7x6x6x3.npz", images, labels)
    store = open_store(tmp_path / "VIRTUAL_7x6x6x3.npz")
    expected = images.transpose(0, 3, 1, 2).astype(np.float32)
    assert np.array_equal(everything(store), (expected - 127.5) / np.float32(127.5))
    assert store.labels.tolist() == labels.tolist()
    assert store.shape == (3, 6, 6)
