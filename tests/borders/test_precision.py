"""Digits that float32 cannot hold are missed before any result is, and complex parts too."""

import numpy as np
import pytest
import torch

from floracle.data.normalize import Normalizer, scale_normalizer
from floracle.data.packing.pack import pack
from floracle.data.precision import MAX_LOSS, NOTED_LOSS
from floracle.data.store import open_store
from floracle.run.errors import InputError


def noise(count=300, dims=8):
    return torch.randn(count, dims, dtype=torch.float64)


def measured_loss(points):
    """RMS error over the standard deviation of what is stored, over all channels."""
    values = points.double().numpy()
    errors = values - values.astype(np.float32)
    return np.sqrt(errors.var(0).mean() / values.var(0).mean())


def said_loss(text):
    return float(text.split("lose ")[1].split(" %")[0]) / 100


@pytest.mark.parametrize("offset", [1e4, 3e4, 1e5])
def test_digits_that_are_lost_are_said(offset, tmp_path):
    points = noise() + offset
    expected = measured_loss(points)
    assert NOTED_LOSS < expected < MAX_LOSS
    np.save(tmp_path / "far.npy", points.numpy())
    for where in (points, points.numpy(), tmp_path / "far.npy"):
        (remark, *_) = open_store(where).remarks
        assert said_loss(remark) == pytest.approx(expected, rel=0.06)
        assert "data - data.mean(0) in float64" in remark
    pack(points, tmp_path / "packed", quiet=True)
    assert remark in open_store(tmp_path / "packed").remarks


@pytest.mark.parametrize("offset", [1e6, 1e8, -1e8, 1e15])
@pytest.mark.parametrize("normalize", ["stored", "raw", "standard", 2.0])
def test_points_that_become_others_are_refused(offset, normalize):
    with pytest.raises(InputError, match=r"float64 values lose (all|1\.\d %|2 %) of their spread"):
        open_store(noise() + offset, normalize=normalize)


@pytest.mark.parametrize("memory", [None, 2000])
def test_what_the_refusal_advises_keeps_all_digits(memory):
    points = noise() + 1e8
    store = open_store(points - points.mean(0), memory=memory)
    assert store.remarks == ()
    exact = points - points.mean(0)
    found = store.take(torch.arange(len(points))).double()
    assert (found - exact).abs().max() < 1e-6
    assert store.duplicates == 0


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint32, torch.uint64])
def test_whole_numbers_beyond_24_bits(dtype):
    """Not floats at all: row numbers, times in seconds, hashes."""
    small = torch.randint(0, 50, (100, 4))
    far = (small + 2**30).to(dtype)
    with pytest.raises(InputError, match="lose all of their spread as float32"):
        open_store(far)
    assert not any("float32" in remark for remark in open_store(small.to(dtype)).remarks)
    wide = (torch.rand(100, 4, dtype=torch.float64) * 2**31).long().to(dtype)
    assert not any("lose" in remark for remark in open_store(wide).remarks)


def test_whole_numbers_beyond_53_bits_are_compared_as_they_are():
    points = torch.randint(0, 50, (100, 4)) + 2**60
    with pytest.raises(InputError, match=r"\d+ row\(s\) that differ as int64 equal another one"):
        open_store(points)


def test_numbers_too_small_for_float32():
    for scale in (1e-44, 1e-60, 1e-200):
        with pytest.raises(InputError, match=r"too small for it; multiply them before"):
            open_store(noise() * scale)
    (remark,) = open_store(noise() * 1e-42).remarks
    assert "too small for it" in remark
    for fine in (1e-37, 1e-10, 1e30):
        assert open_store(noise() * fine).remarks == ()
    with pytest.raises(InputError, match="too large for float32"):
        open_store(noise() * 1e60)


def test_a_single_channel_that_loses_its_digits():
    points = noise()
    points[:, 3] = 100 + 1e-4 * points[:, 3]
    (remark,) = open_store(points).remarks
    assert remark.startswith("channel 3: float64 values lose 2.")
    for normalize in ("standard", Normalizer(torch.zeros(8), torch.ones(8))):
        with pytest.raises(InputError, match="of their spread"):
            open_store(points, normalize=normalize)


def test_rows_that_merge_are_counted():
    points = noise()
    points[0] = points[1] + 1e-12
    points[2] = points[3]
    store = open_store(points)
    assert store.duplicates == 2
    assert store.remarks == (
        "1 row(s) that differ as float64 equal another one as float32, and are merged with it",
    )
    points[:100] = points[100:200] + 1e-12
    with pytest.raises(InputError, match=r"100 row\(s\) that differ as float64"):
        open_store(points)
    assert open_store(torch.cat([noise(5), noise(5)]).repeat(2, 1)).duplicates == 10


@pytest.mark.parametrize("moments", ["mean", "sample", "gaussian"])
def test_moments_are_compared_before_they_are_computed_with(moments):
    gaussians = torch.cat([noise() + 3e6, noise().exp()], 1)
    with pytest.raises(InputError, match="of their spread as float32"):
        open_store(gaussians, layout="mean-std", moments=moments)
    sound = torch.cat([noise(), noise().exp()], 1)
    assert open_store(sound, layout="mean-std", moments=moments).remarks == ()


def test_nothing_is_said_of_values_that_keep_their_digits():
    fine = [noise(), noise() + 100, torch.full((5, 8), 0.1, dtype=torch.float64), noise(1) + 1e8]
    fine += [noise().float() + 1e6, torch.randint(-3, 4, (50, 4)), noise(3, 2)]
    for points in fine:
        assert not any("float32" in remark for remark in open_store(points).remarks)


def test_data_in_memory_stays_as_it_is():
    points = noise()
    before = points.clone()
    open_store(points)
    open_store(points, normalize="standard")
    assert torch.equal(points, before)


COMPLEX = [np.complex64, np.complex128]


@pytest.mark.parametrize("kind", COMPLEX)
def test_complex_numbers_are_refused_wherever_they_are_given(kind, tmp_path):
    values = (np.ones((6, 4)) * (1 + 2j)).astype(kind)
    np.save(tmp_path / "c.npy", values)
    np.savez(tmp_path / "c.npz", data=values)
    for where in (values, torch.from_numpy(values), tmp_path / "c.npy", tmp_path / "c.npz"):
        with pytest.raises(InputError, match="complex"):
            open_store(where)
    number = torch.from_numpy(values)[0, 0]
    points, six = torch.randn(6, 4), torch.from_numpy(values)[:, 0]
    for wrong in (
        lambda: open_store(points, weights=six),
        lambda: open_store(points, weights=six.tolist()),
        lambda: open_store(points, labels=six),
        lambda: open_store(points, normalize=1j),
        lambda: Normalizer(number, torch.tensor(1.0)),
        lambda: Normalizer(torch.tensor(0.0), number),
        lambda: scale_normalizer(number),
        lambda: scale_normalizer(2.0, number),
    ):
        with pytest.raises(InputError):
            wrong()
