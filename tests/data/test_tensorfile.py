import json
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from floracle.data.rows.tensorfile import read_header
from floracle.data.store import open_store
from floracle.run.errors import InputError

X = np.arange(12, dtype=np.float32).reshape(3, 4)
PAYLOAD = X.tobytes() + np.arange(3).tobytes()
PLACE = {"dtype": "F32", "shape": [3, 4], "data_offsets": [0, 48]}
LABELS = {"dtype": "I64", "shape": [3], "data_offsets": [48, 72]}


def write(path, header):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + PAYLOAD)
    return path


def test_tensors_are_those_of_the_library(tmp_path):
    kinds = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.bool)
    kinds += (torch.uint8, torch.uint16, torch.int8, torch.int16, torch.int32, torch.int64)
    tensors = {f"{kind}": (torch.randn(5, 3) * 9).abs().to(kind) for kind in kinds}
    tensors |= {"scalar": torch.tensor(3.0), "empty": torch.zeros(0, 4)}
    path = tmp_path / "a.safetensors"
    save_file(tensors, path, metadata={"note": "x"})
    file, known = read_header(path), load_file(path)
    assert file.metadata == {"note": "x"}
    assert set(file.entries) == set(known)
    rows = torch.tensor([4, 0, 0])
    for name, expected in known.items():
        (found,) = file.rows(name)
        assert (tuple(found.shape), found.dtype) == (tuple(expected.shape), expected.dtype)
        if name not in ("scalar", "empty"):
            assert torch.equal(found[:], expected)
            assert torch.equal(found[rows], expected[rows])


def test_by_the_letter_of_the_format(tmp_path):
    path = write(tmp_path / "a.safetensors", {"x": PLACE, "labels": LABELS})
    store = open_store(path)
    assert np.array_equal(store.take(torch.arange(3)).numpy(), X)
    assert store.labels.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"x": PLACE}, "is cut short or damaged"),
        ({"x": PLACE, "labels": LABELS | {"data_offsets": [40, 64]}}, "overlap at byte"),
        ({"x": PLACE, "labels": LABELS | {"shape": [2], "data_offsets": [56, 72]}}, "leave a gap"),
        ({"x": PLACE, "labels": LABELS | {"shape": [4], "data_offsets": [48, 80]}}, "cut short"),
        ({"x": PLACE | {"shape": [3, 5]}, "labels": LABELS}, "takes 60 bytes, but its place"),
        ({"x": PLACE | {"shape": [3, 2**62]}, "labels": LABELS}, "takes"),
        ({"x": PLACE | {"shape": [3.0, 4]}, "labels": LABELS}, "has shape"),
        ({"x": PLACE | {"shape": [-3, -4]}, "labels": LABELS}, "has shape"),
        ({"x": PLACE | {"shape": [True, 12]}, "labels": LABELS}, "has shape"),
        ({"x": PLACE | {"shape": [1] * 40 + [12]}, "labels": LABELS}, "has shape"),
        ({"x": PLACE | {"data_offsets": [48, 0]}, "labels": LABELS}, "takes 48"),
        ({"x": PLACE | {"data_offsets": [-8, 40]}, "labels": LABELS}, "has shape"),
        ({"x": PLACE | {"dtype": "F8_E4M3"}, "labels": LABELS}, "F8_E4M3.*types read: BOOL"),
        ({"x": PLACE | {"dtype": ["F32"]}, "labels": LABELS}, "of type"),
        ({"x": [3, 4], "labels": LABELS}, "no type, shape and place"),
        ({"x": PLACE, "labels": LABELS, "__metadata__": 3}, "metadata"),
        (b'{"x": 1, "x": 1}', "stands in the header twice"),
        (b"[]", "no list of tensors"),
        (b"[" * 100_000, "recursion"),
        (b"{", "cannot be read"),
        (b"\xff", "cannot be read"),
    ],
)
def test_headers_that_lie(tmp_path, header, words):
    path = write(tmp_path / "a.safetensors", header)
    with pytest.raises(InputError, match=words) as caught:
        open_store(path)
    assert "a.safetensors" in str(caught.value)


@pytest.mark.parametrize("length", [2**64 - 1, 2**40, 2**20 + 1, 100_000])
def test_headers_longer_than_any(tmp_path, length):
    path = tmp_path / "a.safetensors"
    path.write_bytes(struct.pack("<Q", length) + b"{" + b" " * (2**16))
    with pytest.raises(InputError, match=f"claims {length} bytes"):
        open_store(path)
