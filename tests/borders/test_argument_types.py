"""Arguments of a wrong type are refused at the door, each in one sentence that names it."""

import numpy as np
import pytest
import torch

from floracle.data.encoding.encode import encode
from floracle.data.normalize import Normalizer, scale_normalizer
from floracle.data.packing.pack import pack
from floracle.data.store import open_store
from floracle.run.errors import InputError

PICTURES = (torch.rand(4, 3, 16, 16) * 255).byte()

OPENING = {
    "flips": (["none", 1, 0, "yes", [True], PICTURES], "flips is True, False or None"),
    "moments": ([1, True, ["mean"], PICTURES], "moments are read as mean, sample, gaussian"),
    "layout": ([True, 3, ["npy"], PICTURES], "layout is a name"),
    "normalize": (
        [True, None, [2.0], torch.tensor(2.0), PICTURES, 1j, float("nan"), 10**400],
        "normalize is 'stored', 'raw', 'standard', a positive number or a Normalizer",
    ),
    "weights": ([{}, {0: 1.0}, iter([1.0] * 4), object()], "weights are no list of numbers"),
    "labels": ([{0: 1}, iter([0] * 4), {1, 2}, [10**30] * 4], "labels given are no list of whole"),
    "memory": ([-1, 0], "memory must be positive"),
}
MEMORY_TYPES = [PICTURES, True, [1], float("nan"), float("inf"), 1j, (2,), {}]
DOORS = [
    pytest.param(name, value, message, id=f"{name}-{number}")
    for name, (values, message) in OPENING.items()
    for number, value in enumerate(values)
] + [
    pytest.param("memory", value, "memory is a number of bytes", id=f"memory type {number}")
    for number, value in enumerate(MEMORY_TYPES)
]


@pytest.mark.parametrize(("name", "value", "message"), DOORS)
def test_open_store_refuses_a_wrong_type(name, value, message):
    with pytest.raises(InputError, match=message) as error:
        open_store(PICTURES, **{name: value})
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("data", [None, 3, [1.0, 2.0], b"digits", {"a": 1}, object()])
def test_open_store_refuses_what_is_no_data(data):
    with pytest.raises(InputError, match="cannot open a"):
        open_store(data)


def test_right_types_still_do():
    assert len(open_store(PICTURES, flips=True)) == 8
    assert len(open_store(PICTURES, flips=False, memory=1e9)) == 4
    assert len(open_store(PICTURES, normalize=np.float64(0.5), weights=np.arange(1, 5))) == 4
    store = open_store(PICTURES, weights=torch.ones(4, dtype=torch.bfloat16))
    assert store.weights is not None
    assert store.weights.tolist() == [1.0] * 4


PACKING = {
    "dtype": [5, None, torch.float16],
    "shard_bytes": [[1], -1, True],
    "spectra": ["no", None, 1],
    "flips": ["none", 1],
    "labels": [{0: 1}],
    "memory": [[1], -1],
    "out": [None, 3, b"out"],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in PACKING.items() for value in values]
)
def test_pack_refuses_a_wrong_type(name, value, tmp_path):
    arguments = {"out": tmp_path / "out", name: value}
    with pytest.raises(InputError):
        pack(PICTURES, quiet=True, **arguments)
    assert not (tmp_path / "out").exists()


class Encoder:
    """An autoencoder that must not be reached."""

    name, channels, downsampling, gaussian, settings = "encoder", 4, 8, True, {}

    def encode(self, *_, **__):
        raise AssertionError("the arguments were not refused")


ENCODING = {
    "flips": ["none", 1, None],
    "moments": [1, None],
    "dtype": [5, None, torch.float16],
    "seed": ["x", 1.5, True, None],
    "batch": [2.5, "4", None, True],
    "shard_images": [2.5, None],
    "labels": [{0: 1}],
    "memory": [[1], -1],
    "out": [None, 3],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in ENCODING.items() for value in values]
)
def test_encode_refuses_a_wrong_type(name, value, tmp_path):
    arguments = {"out": tmp_path / "out", name: value}
    with pytest.raises(InputError, match=r"."):
        encode(PICTURES, autoencoder=Encoder(), quiet=True, **arguments)
    assert not (tmp_path / "out").exists()


def test_encode_says_what_the_pictures_are_if_they_are_none(tmp_path):
    for wrong in (PICTURES.long(), PICTURES / 255):
        with pytest.raises(InputError, match=r"of (int64|float32) 0 \.\.\. .*; store pictures as"):
            encode(wrong, tmp_path / "out", Encoder(), quiet=True)


@pytest.mark.parametrize("value", ["a", None, {}, [[1.0], [2.0, 3.0]], True, 1j, object()])
def test_a_normalizer_is_made_of_real_numbers(value):
    for make in (
        lambda: Normalizer(value, torch.tensor(1.0)),
        lambda: Normalizer(torch.tensor(0.0), value),
        lambda: scale_normalizer(value),
        lambda: scale_normalizer(1.0, value),
    ):
        with pytest.raises(InputError, match=r"(mean|std|scale|bias) (is a number|holds)"):
            make()
    assert Normalizer(0.5, 0.5).mean == 0.5
    assert scale_normalizer([1.0, 2.0]).std.tolist() == [1.0, 0.5]
