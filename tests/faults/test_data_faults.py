"""Broken, lying and malicious data: one clear mistake that names the file, nothing else."""

import gzip
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from floracle.data.store import open_store
from floracle.run.errors import InputError

VECTORS = np.arange(24, dtype=np.float32).reshape(6, 4)
IMAGES = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)


def idx(*, sizes=(3, 4, 5), content=None):
    return struct.pack(">IIII", 0x803, *sizes) + (IMAGES.tobytes() if content is None else content)


def npy(array):
    stream = io.BytesIO()
    np.lib.format.write_array(stream, array)
    return stream.getvalue()


def npz(save=np.savez):
    stream = io.BytesIO()
    save(stream, x=VECTORS, y=np.arange(6))
    return stream.getvalue()


def safetensors():
    entry = {"dtype": "F32", "shape": [6, 4], "data_offsets": [0, VECTORS.nbytes]}
    header = json.dumps({"x": entry}).encode()
    return struct.pack("<Q", len(header)) + header + VECTORS.tobytes()


def png(shape=(4, 4, 3)):
    stream = io.BytesIO()
    Image.fromarray(np.arange(np.prod(shape), dtype=np.uint8).reshape(shape)).save(stream, "PNG")
    return stream.getvalue()


WHOLE = {
    "a.npy": npy(VECTORS),
    "a.npz": npz(),
    "b.npz": npz(np.savez_compressed),
    "a.safetensors": safetensors(),
    "train-images-idx3-ubyte": idx(),
    "train-images-idx3-ubyte.gz": gzip.compress(idx()),
}


def refused(where, *words, **how):
    with pytest.raises(InputError) as caught:
        open_store(where, **how)
    text = str(caught.value)
    for word in words:
        assert word in text
    return text


@pytest.mark.parametrize("name", WHOLE)
def test_whole_files_open(tmp_path, name):
    (tmp_path / name).write_bytes(WHOLE[name])
    assert len(open_store(tmp_path / name)) in (3, 6)


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_files_cut_short_at_any_byte_are_refused(tmp_path, name):
    path = tmp_path / name
    for length in range(len(WHOLE[name])):
        path.write_bytes(WHOLE[name][:length])
        refused(path, name)


@pytest.mark.parametrize("name", ["a.npy", "a.safetensors", "train-images-idx3-ubyte"])
def test_files_that_go_on_are_refused(tmp_path, name):
    (tmp_path / name).write_bytes(WHOLE[name] + b"\0")
    refused(tmp_path / name, name)


def test_packed_idx_that_goes_on_is_refused(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx() + b"\0"))
    refused(path, path.name, "goes on")


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_open_or_are_refused_and_nothing_else(tmp_path, name, data):
    content = bytearray(WHOLE[name])
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        content[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.none() | st.integers(0, len(content)))
    (tmp_path / name).write_bytes(content[:cut])
    try:
        store = open_store(tmp_path / name, memory="64M")
    except InputError as mistake:
        assert name in str(mistake)  # noqa: PT017
    else:
        assert store.take(torch.arange(len(store))).isfinite().all()


@pytest.mark.slow
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=300), name=st.sampled_from(sorted(WHOLE)))
def test_any_bytes_open_or_are_refused(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, name)


@pytest.mark.slow
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(header=st.text(max_size=80) | st.from_regex(r"\{'descr': .{0,60}\}", fullmatch=True))
def test_any_npy_header_opens_or_is_refused(tmp_path, header):
    text = header.encode()
    size = struct.pack("<H", len(text))
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\x00" + size + text + bytes(96))
    refused(tmp_path / "a.npy", "a.npy")


@pytest.mark.slow
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 10_000), value=st.integers(0, 255))
def test_damaged_pictures_open_or_are_refused(tmp_path, place, value):
    content = bytearray(png())
    content[place % len(content)] = value
    (tmp_path / "a.png").write_bytes(content)
    try:
        open_store(tmp_path)
    except InputError as mistake:
        assert "a.png" in str(mistake)  # noqa: PT017


def test_missing_paths_suggest_their_neighbours(tmp_path):
    (tmp_path / "latents.npy").write_bytes(WHOLE["a.npy"])
    refused(tmp_path / "latent.npy", "there is no latent.npy", "did you mean 'latents.npy'?")
    refused(tmp_path / "latent" / "deep" / "x.npy", "there is no latent in", "latents.npy")
    (tmp_path / "hollow").mkdir()
    refused(tmp_path / "hollow" / "x.npy", "empty")
    refused(str(tmp_path / "latents.npy" / "x"), "there is no")
    refused("", "cannot open")
    refused(7, "cannot open a int")
    refused(None, "cannot open a NoneType")


def test_unknown_kinds_list_what_is_read(tmp_path):
    (tmp_path / "a.h5").write_bytes(b"?")
    refused(tmp_path / "a.h5", "a.h5", ".npy", ".safetensors", "gaussian")


def test_empty_folders(tmp_path):
    refused(tmp_path, str(tmp_path), "no pictures")
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "class").mkdir()
    refused(tmp_path, str(tmp_path), "no pictures")
    (tmp_path / "points.npz").write_text("x")
    refused(tmp_path, "name a file", "points.npz")


def test_empty_class_folders_would_shift_ranks(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
    (tmp_path / "a/1.png").write_bytes(png())
    (tmp_path / "c/1.png").write_bytes(png())
    refused(tmp_path, str(tmp_path / "b"), "no class")


def test_loose_pictures_beside_class_folders(tmp_path):
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats/1.png").write_bytes(png())
    (tmp_path / "loose.png").write_bytes(png())
    refused(tmp_path, "loose.png", "cats")


def test_one_picture_of_another_size(tmp_path):
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "b.png").write_bytes(png((5, 4, 3)))
    refused(tmp_path, "b.png is 4 x 5", "a.png is 4 x 4")


@pytest.mark.parametrize("content", [b"", b"text", png()[:50], b"GIF89a" + bytes(50)])
def test_unreadable_pictures_are_named(tmp_path, content):
    (tmp_path / "a.png").write_bytes(png())
    (tmp_path / "b.png").write_bytes(content)
    refused(tmp_path, "b.png")
    refused(tmp_path, "b.png", memory=64)


def test_picture_that_is_a_pipe_or_a_broken_link(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    refused(tmp_path, "a.png")
    (tmp_path / "a.png").unlink()
    os.symlink("nowhere", tmp_path / "a.png")
    refused(tmp_path, "a.png")
    os.mkfifo(tmp_path / "a.npy")
    refused(tmp_path / "a.npy", "a.npy")
    refused(VECTORS, "a.npy", labels=tmp_path / "a.npy")


def test_decompression_bomb(tmp_path):
    for side in (10_000, 40_000):
        head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
        chunk = b"IHDR" + head + struct.pack(">I", zlib.crc32(b"IHDR" + head))
        body = zlib.compress(bytes(100))
        data = b"IDAT" + body + struct.pack(">I", zlib.crc32(b"IDAT" + body))
        content = struct.pack(">I", 13) + chunk + struct.pack(">I", len(body)) + data
        (tmp_path / "bomb.png").write_bytes(b"\x89PNG\r\n\x1a\n" + content)
        refused(tmp_path, "bomb.png")


@pytest.mark.slow
def test_headers_that_lie_about_size_take_no_memory(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(idx(sizes=(2**31, 2**10, 2**10))))
    refused(path, path.name, "MiB")
    path.write_bytes(gzip.compress(idx(sizes=(1000, 10, 10))))
    refused(path, path.name, "cut short")
    path.write_bytes(gzip.compress(struct.pack(">IIII", 0x803, 1, 4, 4) + bytes(2**26)))
    refused(path, path.name, "goes on")
    header = npy(np.zeros((1, 1)))
    lie = header.replace(b"(1, 1)", b"(9999999, 999999)").replace(b" " * 11 + b"\n", b"\n")
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", lie)
    refused(tmp_path / "a.npz", "a.npz")
    with zipfile.ZipFile(tmp_path / "b.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", b"\x93NUMPY\x02\x00" + b"\xff\xff\xff\xff" + bytes(2**24))
    refused(tmp_path / "b.npz", "b.npz", "header claims")


def test_damage_inside_a_plain_npz_is_noticed(tmp_path):
    content = WHOLE["a.npz"].replace(VECTORS.tobytes(), (VECTORS + 1).tobytes())
    (tmp_path / "a.npz").write_bytes(content)
    refused(tmp_path / "a.npz", "a.npz", "CRC")
    large = np.random.default_rng(0).normal(size=(500, 50))  # not read whole with its header
    np.savez(tmp_path / "b.npz", x=large)
    content = bytearray((tmp_path / "b.npz").read_bytes())
    content[150_000] ^= 1
    (tmp_path / "b.npz").write_bytes(content)
    refused(tmp_path / "b.npz", "b.npz", "checksum")


class Trap:
    def __reduce__(self):
        return (os.mkdir, ("trap",))


def test_pickles_are_never_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    objects = np.array([[Trap(), 1]], dtype=object)
    np.save("a.npy", objects, allow_pickle=True)
    np.savez("a.npz", x=objects)
    Path("b.npy").write_bytes(pickle.dumps(VECTORS))
    Path("b.npz").write_bytes(pickle.dumps(VECTORS))
    refused("a.npy", "a.npy", "pickled")
    refused("a.npz", "a.npz", "pickled")
    refused("b.npy", "b.npy")
    refused("b.npz", "b.npz")
    refused(objects, "pickled")
    refused(VECTORS, "pickled", labels="a.npy")
    assert not Path("trap").exists()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((2, 2), complex),
        np.array([["a", "b"]]),
        np.zeros((2, 2), "M8[s]"),
        np.zeros((2, 2), [("a", "f4")]),
        np.zeros((0, 3), np.float32),
        np.zeros((3, 0), np.float32),
        np.zeros(3, np.float32),
        np.float32(3).reshape(()),
    ],
)
def test_what_cannot_be_points(tmp_path, array):
    refused(array)
    np.save(tmp_path / "a.npy", array)
    refused(tmp_path / "a.npy", "a.npy")


def test_tensors_that_cannot_be_points():
    refused(torch.zeros(2, 2, dtype=torch.complex64))
    refused(torch.zeros(2, 2).to_sparse(), "sparse")
    refused(torch.zeros(2, 2, device="meta"), "without values")
    refused(torch.zeros(2, 2).to(torch.float8_e4m3fn))
    refused(np.ma.masked_array(np.zeros((2, 2)), [[True, False]] * 2), "masked")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_named_by_row(tmp_path, dtype, value):
    points = np.zeros((30, 3), dtype)
    points[[4, 7, 8, 9, 10, 11, 29], 1] = value
    np.save(tmp_path / "a.npy", points)
    refused(tmp_path / "a.npy", "a.npy", "7 row(s)", "4, 7, 8, 9, 10, ...")
    refused(points, "7 row(s)")


def test_values_beyond_float32_are_not_finite_points():
    refused(np.array([[1.0], [1e300]]), "1 row(s)", "too large for float32", ": 1;")


def test_mirrored_pictures_that_are_not_finite_are_counted_once():
    images = torch.zeros(3, 1, 4, 4)
    images[1, 0, 2, 2] = float("nan")
    refused(images, "1 row(s)", ": 1;", flips=True)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ([0, 1], "[2]"),
        ([[0]] * 6, "[6, 1]"),
        ([0, 1, 2, 3, 4, -2], "-2"),
        ([0, 1, 2, 3, 4, 2**40], str(2**40)),
        ([0.0, 1, 2, 3, 4, 5], "float64"),
        (["a"] * 6, "labels"),
        ([True] * 6, "bool"),
        ([None] * 6, "labels"),
        ([[0], [0, 1]], "labels"),
        (3, "labels"),
        ([], "[0]"),
        (np.full(6, 2**64 - 1, np.uint64), str(2**64 - 1)),
        (torch.zeros(6), "float32"),
    ],
)
def test_labels_that_are_no_labels(labels, words):
    refused(VECTORS, words, labels=labels)


def test_labels_in_files_that_do_not_fit(tmp_path):
    np.save(tmp_path / "a.npy", VECTORS)
    np.save(tmp_path / "labels.npy", np.arange(5))
    refused(tmp_path / "a.npy", "labels.npy", "[5]", "6 points")
    refused(VECTORS, "labels.npy", labels=tmp_path / "labels.npy")
    refused(VECTORS, "there is no", labels=str(tmp_path / "none.npy"))
    np.savez(tmp_path / "a.npz", x=VECTORS, labels=np.arange(7))
    refused(tmp_path / "a.npz", "'labels'", "a.npz", "[7]")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(idx())
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x801, 2) + b"\0\1")
    refused(tmp_path / "train-images-idx3-ubyte", "train-labels-idx1-ubyte", "3 points")


def test_idx_of_another_kind(tmp_path):
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(struct.pack(">II", 0x801, 60) + bytes(60))
    refused(path, path.name, "no idx file of bytes of 3 axes")
    path.write_bytes(idx(sizes=(0, 4, 5), content=b""))
    refused(path, path.name, "empty")


@pytest.mark.slow
def test_unreadable_by_permission():
    """Root may read everything, so the file is opened by a process that is nobody."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        path = Path(folder) / "a.npy"
        np.save(path, VECTORS)
        path.chmod(0)
        script = (  # everything is read before, since others may not read this installation
            "import os\n"
            "import floracle.data.layouts.npy, floracle.data.layout_registry\n"
            "from floracle.data.store import open_store\n"
            "from floracle.run.errors import InputError\n"
            "if os.geteuid() == 0: os.setuid(65534)\n"
            f"try: open_store({str(path)!r})\n"
            "except InputError as mistake: print(mistake)"
        )
        command = [sys.executable, "-c", script]
        said = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd="/")
    assert "a.npy" in said.stdout, said.stderr
    assert "permission" in said.stdout.lower()


def test_memory_must_be_a_size():
    refused(VECTORS, "memory", memory="lots")
    refused(VECTORS, "memory", memory=0)
