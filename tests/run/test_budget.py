import pytest
import torch

from floracle.run.budget import FREE_MEMORY_SHARE, choose_device, free_memory, memory_budget
from floracle.run.errors import InputError


@pytest.mark.parametrize(
    ("asked", "size"),
    [
        ("4G", 4 * 2**30),
        ("4g", 4 * 2**30),
        (" 4 GiB ", 4 * 2**30),
        ("800M", 800 * 2**20),
        ("800MB", 800 * 2**20),
        ("1.5k", 1536),
        ("2T", 2 * 2**40),
        ("123", 123),
        ("123b", 123),
        (2**30, 2**30),
    ],
)
def test_sizes_as_people_write_them(asked, size):
    assert memory_budget(asked) == size


@pytest.mark.parametrize("asked", ["", "G", "four", "4X", "-4G", "1e3", "4,5G", "nan"])
def test_what_is_no_size_is_a_mistake(asked):
    with pytest.raises(InputError, match="is not a size; write 800M or 4G"):
        memory_budget(asked)


@pytest.mark.parametrize("asked", [0, -1, "0", "0.1"])
def test_nothing_is_no_budget(asked):
    with pytest.raises(InputError, match="must be positive"):
        memory_budget(asked)


def test_the_default_is_a_share_of_what_is_free(monkeypatch):
    monkeypatch.setattr("floracle.run.budget.free_memory", lambda: 1000)
    assert memory_budget() == FREE_MEMORY_SHARE * 1000
    assert memory_budget(None) == 500


def test_something_is_free():
    assert free_memory() >= 2**28


def test_devices():
    assert choose_device() == choose_device("cpu") == torch.device("cpu")
    with pytest.raises(InputError, match="'tpu9' is unknown; write cpu or cuda:0"):
        choose_device("tpu9")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_an_absent_device_is_a_mistake():
    with pytest.raises(InputError, match="sees no CUDA device"):
        choose_device("cuda:0")
