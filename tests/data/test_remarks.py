import numpy as np
import pytest
import torch
from PIL import Image

from floracle.data.store import open_store


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_channels_are_those_of_the_points():
    points = drawn(50, 4, 3, 3) * torch.tensor([1.0, 2, 3, 4])[:, None, None] + 7
    for how in ("stored", "standard", 0.5):
        for memory in (None, 64):
            store = open_store(points, normalize=how, memory=memory)
            seen = store.take(torch.arange(50)).double().transpose(0, 1).flatten(1)
            found = store.channels
            assert found.mean.dtype == torch.float64
            torch.testing.assert_close(found.mean, seen.mean(1), rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(found.std, seen.std(1, correction=0), rtol=1e-5, atol=0)
            torch.testing.assert_close(found.low, seen.amin(1), rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(found.high, seen.amax(1), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("channels", [2, 8, 32])
def test_moments_read_as_points_are_noticed(channels):
    mean = drawn(60, channels // 2, 4, 4) * 4 + 1
    std = (drawn(60, channels // 2, 4, 4, seed=1) * 0.3 - 3).exp()
    (remark,) = open_store(torch.cat([mean, std], 1)).remarks
    assert "[mean ‖ std]" in remark
    assert "layout='mean-std'" in remark
    logvar = (drawn(60, channels // 2, 4, 4, seed=1) * 2 - 18).clamp(-30, 20)
    (remark,) = open_store(torch.cat([mean, logvar], 1)).remarks
    assert "layout='mean-logvar'" in remark
    told = open_store(torch.cat([mean, logvar], 1), layout="mean-logvar", moments="sample")
    assert not any("moments" in remark for remark in told.remarks)


@pytest.mark.parametrize(
    ("scale", "shift"), [(5.0, 0.0), (0.18, 0.0), (1.0, 3.0), (1.0, -1.5), (30.0, 100.0)]
)
def test_latents_of_another_scale_are_noticed(scale, shift):
    latents = drawn(80, 4, 4, 4) * scale + shift
    (remark,) = open_store(latents).remarks
    assert "looks unnormalised" in remark
    suggested = float(remark.split("normalize=")[1].split(",")[0])
    assert suggested == pytest.approx(1 / scale, rel=0.05)
    assert open_store(latents, normalize="standard").remarks == ()
    if not shift:
        assert open_store(latents, normalize=suggested).remarks == ()


def test_pictures_of_floats_beyond_one_are_noticed():
    images = torch.rand(20, 3, 8, 8)
    (remark,) = open_store(images * 255).remarks
    assert "0 ... 255" in remark
    assert "mean 127.5" in remark
    (remark,) = open_store(images * 6 - 3).remarks
    assert "beyond -1 ... 1" in remark
    (remark,) = open_store(images).remarks
    assert "0 ... 1" in remark
    assert "Normalizer(0.5, 0.5)" in remark
    for fine in (images * 2 - 1, images.mul(255).byte()):
        assert open_store(fine).remarks == ()
    assert open_store(images * 255, normalize="standard").remarks == ()


def test_nothing_is_said_of_what_is_right():
    assert open_store("digits").remarks == ()
    assert open_store("digits", flips=True).remarks == ()
    assert open_store("gaussian:500x64").remarks == ()
    for shape in ((4, 8, 8), (16, 4, 4), (32, 2, 2), (2, 8, 8), (64,), (3, 8, 8)):
        fine = drawn(200, *shape) if len(shape) == 1 or shape[0] != 3 else drawn(200, *shape) * 0.1
        assert open_store(fine).remarks == ()
    bytes_ = np.random.default_rng(0).integers(0, 256, (50, 8, 8, 3), dtype=np.uint8)
    assert open_store(bytes_).remarks == ()
    assert open_store(bytes_, normalize="raw").remarks == ()
    assert open_store(bytes_.reshape(50, -1)).remarks == ()
    assert open_store(torch.randn(50, 4, 4, 4).exp()[:, :, 0, 0]).remarks == ()


def tiles(path):
    """The pictures of a sheet of 50 x 50, bytes [2500, 32, 32, 3]."""
    sheet = np.asarray(Image.open(path).convert("RGB"))
    return sheet.reshape(50, 32, 50, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)


@pytest.mark.slow
def test_nothing_is_said_of_real_pictures_and_latents(shared):
    data = shared / "data"
    images = tiles(data / "cifar10/test-00.webp")
    assert open_store(images).remarks == ()
    assert open_store(images, flips=True, normalize="standard").remarks == ()
    floats = images.transpose(0, 3, 1, 2).astype(np.float32)
    assert open_store(floats / 127.5 - 1).remarks == ()
    for shape in (floats.shape, (len(images), -1)):
        (remark,) = open_store((floats / 255).reshape(shape)).remarks
        assert "0 ... 1" in remark
        (remark,) = open_store(floats.reshape(shape)).remarks
        assert "0 ... 255" in remark
    assert open_store(data / "mnist/t10k-images-idx3-ubyte.gz").remarks == ()
    assert open_store(data / "fashion_mnist/t10k-images-idx3-ubyte.gz").remarks == ()
    for name in ("f16d32", "f16d32_vfdinov2"):
        path = data / f"vavae_tokens/{name}.safetensors"
        assert open_store(path).remarks == ()


def test_real_latents_of_another_scale_are_noticed(shared):
    path = shared / "data/vavae_tokens/f16d32.safetensors"
    latents = open_store(path).take(torch.arange(10_000)).reshape(10_000, 32, 1, 1)
    assert open_store(latents).remarks == ()
    (remark,) = open_store(latents / 0.18215).remarks
    assert "looks unnormalised" in remark
    assert "normalize=0.18" in remark
