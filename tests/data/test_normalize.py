import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from floracle.data import integrity_check as scan
from floracle.data.channel_statistics import ChannelStatistics
from floracle.data.normalize import Normalizer
from floracle.data.store import open_store
from floracle.run.errors import InputError


def test_bytes_become_minus_one_to_one_to_the_last_bit():
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    expected = (images.astype(np.float32) - np.float32(127.5)) / np.float32(127.5)
    found = open_store(images).take(torch.tensor([0]))
    assert np.array_equal(found.numpy()[0], expected)
    assert found.min() == -1
    assert found.max() == 1


def test_all_else_is_left_as_stored():
    points = torch.randn(4, 5, dtype=torch.float64)
    assert torch.equal(open_store(points).take(torch.arange(4)), points.float())
    whole = torch.tensor([[-3, 70000]], dtype=torch.int32)
    assert open_store(whole).take(torch.tensor([0])).tolist() == [[-3.0, 70000.0]]
    facts = torch.tensor([[True, False]])
    assert open_store(facts).take(torch.tensor([0])).tolist() == [[1.0, 0.0]]


@pytest.mark.parametrize("dtype", [np.uint8, np.float16, np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 4, 5), (6,)])
def test_standard_is_the_mean_and_deviation_of_each_channel(dtype, shape):
    drawn = np.random.default_rng(0).uniform(0, 200, size=(30, *shape))
    values = drawn.astype(dtype)
    store = open_store(torch.from_numpy(values), normalize="standard")
    axes = (0, *range(2, values.ndim))
    exact = values.astype(np.float64)
    mean, std = exact.mean(axes).astype(np.float32), exact.std(axes).astype(np.float32)
    np.testing.assert_allclose(store.normalizer.mean, mean, rtol=1e-7)
    np.testing.assert_allclose(store.normalizer.std, std, rtol=1e-6)
    per_channel = (-1, *[1] * (len(shape) - 1))
    by_hand = values.astype(np.float32) - store.normalizer.mean.numpy().reshape(per_channel)
    by_hand = by_hand / store.normalizer.std.numpy().reshape(per_channel)
    for memory in ("1G", 64):
        again = open_store(torch.from_numpy(values), normalize="standard", memory=memory)
        assert np.array_equal(again.take(torch.arange(30)).numpy(), by_hand)
        blocks = torch.cat([block.points for block in again.blocks(rows=7)])
        assert np.array_equal(blocks.numpy(), by_hand.reshape(30, -1))


def test_constant_channel_keeps_its_size():
    points = torch.stack([torch.full((50,), 0.1), torch.linspace(0, 1, 50)], 1)
    store = open_store(points, normalize="standard")
    assert store.normalizer.std[0] == 1
    assert (store.take(torch.arange(50))[:, 0] == 0).all()


def test_held_out_data_wear_the_normalization_of_training_data():
    train, held = torch.randn(50, 3, 2, 2) * 5 + 2, torch.randn(10, 3, 2, 2)
    normalizer = open_store(train, normalize="standard").normalizer
    found = open_store(held, normalize=normalizer)
    assert found.normalizer is normalizer
    assert torch.equal(found.take(torch.arange(10)), normalizer.apply(held))


@given(st.integers(1, 40), st.integers(1, 7), st.integers(0, 2**31))
def test_spread_does_not_depend_on_the_blocks(count, cut, seed):
    values = torch.randn(count, 3, 2, generator=torch.Generator().manual_seed(seed)) + 1000
    whole, total = ChannelStatistics.of_block(values), None
    for part in values.split(cut):
        spread = ChannelStatistics.of_block(part)
        total = total.merge(spread) if total else spread
    assert total is not None
    assert total.count == whole.count == 2 * count
    torch.testing.assert_close(total.mean, whole.mean, rtol=1e-12, atol=0)
    torch.testing.assert_close(total.squares, whole.squares, rtol=1e-9, atol=1e-9)
    exact = values.double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(whole.squares / whole.count, exact.var(1, correction=0))


def test_there_and_back_again():
    normalizer = Normalizer(torch.tensor([1.0, -2.0]), torch.tensor([4.0, 0.5]))
    stored = torch.randint(-99, 99, (5, 2, 3, 3)).float()
    assert torch.equal(normalizer.invert(normalizer.apply(stored)), stored)
    flat = torch.randint(-99, 99, (5, 2)).float()
    assert torch.equal(normalizer.invert(normalizer.apply(flat)), flat)
    half = stored.bfloat16()
    assert torch.equal(normalizer.apply(half), normalizer.apply(half.float()))


def test_other_peoples_shapes_of_mean_and_std_fit():
    normalizer = Normalizer(torch.zeros(1, 4, 1, 1), torch.ones(1, 4, 1, 1) * 2)
    assert normalizer.mean.shape == (4,)
    assert Normalizer(torch.zeros(1, 1), torch.ones(1)).std.shape == ()


def test_statistics_do_not_change_the_fingerprint_with_block_size(monkeypatch):
    points = torch.randn(100, 3, 2, 2)
    first = open_store(points, normalize="standard")
    monkeypatch.setattr(scan, "BLOCK_VALUES", 36)
    again = open_store(points, normalize="standard", memory=100)
    torch.testing.assert_close(again.normalizer.mean, first.normalizer.mean, rtol=0, atol=0)
    assert again.fingerprint == first.fingerprint


@pytest.mark.parametrize(
    ("mean", "std", "words"),
    [
        (0.0, 0.0, "positive"),
        (0.0, -1.0, "positive"),
        (float("nan"), 1.0, "finite"),
        (0.0, float("inf"), "finite"),
        ([[0.0, 1.0], [1.0, 2.0]], 1.0, "scalar"),
    ],
)
def test_normalizers_that_normalize_nothing_are_refused(mean, std, words):
    with pytest.raises(InputError, match=words):
        Normalizer(torch.tensor(mean), torch.tensor(std))


def test_wrong_channels_and_words_are_refused():
    points = torch.randn(4, 3)
    with pytest.raises(InputError, match="2 channels, but the points have 3"):
        open_store(points, normalize=Normalizer(torch.zeros(2), torch.ones(2)))
    with pytest.raises(InputError, match=r"'stored', 'raw', 'standard', .*, not 'unit'"):
        open_store(points, normalize="unit")
    with pytest.raises(InputError, match="infinite"):
        open_store(points * 1e30, normalize=Normalizer(torch.tensor(0.0), torch.tensor(1e-30)))
