"""What numbers mean is checked alike for all types and ranks: layout, range and scale."""

import json

import numpy as np
import pytest
import torch

from floracle.cli.console import as_typed
from floracle.data.normalize import Normalizer
from floracle.data.packing.pack import pack
from floracle.data.store import open_store
from floracle.run.errors import InputError


def pictures(count=40, channels=1, side=16):
    """Bytes with black and white, smooth as pictures are."""
    coarse = torch.rand(count, channels, 4, 4)
    smooth = torch.nn.functional.interpolate(coarse, side, mode="bilinear")
    images = (smooth * 300 - 20).clamp(0, 255).byte()
    images[0, :, 0, 0], images[0, :, 0, 1] = 0, 255
    return images


def only_remark(points, **options):
    (remark,) = open_store(points, **options).remarks
    return remark


SHAPES = [(40, 1, 16, 16), (40, 16, 16), (40, 256), (40, 16, 16, 1), (40, 4, 1, 8, 8)]
INTEGERS = [torch.int64, torch.int32, torch.int16, torch.uint16]


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("shape", SHAPES)
def test_levels_of_another_integer_type_are_named(dtype, shape):
    points = pictures().to(dtype).reshape(shape)
    remarks = open_store(points).remarks
    name = str(dtype).removeprefix("torch.")
    (remark,) = (remark for remark in remarks if "last" not in remark)
    assert f"these are {name} values 0 ... 255, used as they are" in remark
    assert "store them as uint8" in remark
    assert "in Python with Normalizer(127.5, 127.5)" in remark
    assert any("channels last" in remark for remark in remarks) == (shape[-1] == 1)


def test_what_the_warning_says_makes_bytes_of_them():
    images = pictures()
    expected = open_store(images).take(torch.arange(40))
    said = open_store(images.long(), normalize=Normalizer(127.5, 127.5))
    assert torch.equal(said.take(torch.arange(40)), expected)
    assert said.remarks == ()
    assert open_store(images.long().byte()).remarks == ()


def test_integers_of_16_bits_and_with_a_sign_are_named():
    images = pictures().int()
    assert "Normalizer(32767.5, 32767.5)" in only_remark((images * 257).to(torch.uint16))
    assert "int8 values -128 ... 127" in only_remark((images - 128).to(torch.int8))
    factor = float(only_remark(images - 128).split("normalize=")[1])
    assert factor == pytest.approx(1 / float((images - 128).double().std()), rel=0.01)
    assert "int32 values 0 ... 16711680" in only_remark(images * 65536)
    assert open_store(images, normalize="standard").remarks == ()
    assert open_store(images, normalize=1 / 127.5).remarks == ()


@pytest.mark.parametrize("shape", [(40, 1, 16, 16), (40, 256), (40, 4, 1, 8, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64])
def test_float_levels_of_any_rank_are_named(shape, dtype):
    floats = pictures().to(dtype).reshape(shape)
    assert "they reach 0 ... 255" in only_remark(floats)
    assert "mean 127.5 and std 127.5" in only_remark(floats)
    assert "of 0 ... 1" in only_remark(floats / 255)
    assert "in Python with Normalizer(0.5, 0.5)" in only_remark(floats / 255)
    assert "normalized twice" in only_remark(floats.float() / 127.5 * 2 - 3)
    assert open_store(floats.float() / 127.5 - 1).remarks == ()
    assert open_store(floats / 255, normalize=Normalizer(0.5, 0.5)).remarks == ()


def test_grey_pictures_without_an_axis_of_channels_are_read_alike():
    floats = pictures()[:, 0].float()
    assert "0 ... 255" in only_remark(floats)
    assert "0 ... 1" in only_remark(floats / 255)
    assert open_store(floats / 127.5 - 1).remarks == ()


def test_masks_are_named_whether_bool_or_bytes():
    masks = pictures() > 127
    assert "pictures of 0 and 1" in only_remark(masks)
    assert "reach only 0 ... 1 of 0 ... 255" in only_remark(masks.byte())
    assert "in Python with Normalizer(0.5, 0.5)" in only_remark(masks.byte())
    levels = (pictures() // 16).byte()
    assert "Normalizer(7.5, 7.5)" in only_remark(levels)
    assert "multiply them by 17 before" in only_remark(levels)
    assert open_store(masks.byte(), normalize="raw").remarks == ()
    assert open_store(levels, normalize=Normalizer(7.5, 7.5)).remarks == ()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64, torch.float32])
@pytest.mark.parametrize("count", [10, 500])
def test_rows_that_come_last_are_refused(dtype, count):
    """As in the files of SVHN: [32, 32, 3, N]."""
    reversed_ = pictures(count, 3).permute(2, 3, 1, 0).to(dtype)
    with pytest.raises(InputError, match=r"\[16, 16, 3, \d+\], which looks like \[H, W, C, N\]"):
        open_store(reversed_)
    with pytest.raises(InputError, match=r"numpy.moveaxis\(data, -1, 0\)"):
        open_store(reversed_.numpy())
    assert len(open_store(np.moveaxis(reversed_.numpy(), -1, 0))) == count
    assert len(open_store(reversed_.flatten(1))) == 16


@pytest.mark.parametrize(
    ("axes", "order"),
    [((2, 3, 1, 0), "H, W, 1, N"), ((1, 2, 3, 0), "C, H, W, N"), ((2, 3, 0), "H, W, N")],
)
def test_other_orders_with_rows_last_are_refused(axes, order, tmp_path):
    images = pictures(200) if len(axes) == 4 else pictures(200)[:, 0]
    axes = axes if len(axes) == 4 else (1, 2, 0)
    np.save(tmp_path / "reversed.npy", images.permute(*axes).numpy())
    with pytest.raises(InputError, match=rf"looks like \[{order}\]"):
        open_store(tmp_path / "reversed.npy")


@pytest.mark.parametrize("shape", [(32, 24, 3, 40), (16, 16, 3, 3), (3, 16, 16, 40)])
def test_bytes_with_rows_last_are_refused_at_any_sides(shape):
    """As MATLAB has pictures that are wider than high, few pictures, channels first of all."""
    levels = torch.randint(0, 256, shape)
    for points in (levels, levels.byte()):
        with pytest.raises(InputError, match="rows belong first"):
            open_store(points)
    assert len(open_store(torch.randn(16, 16, 3, 3))) == 16


def test_frames_with_their_channels_last_are_named():
    video = pictures(40, 3).reshape(10, 4, 3, 16, 16).permute(0, 1, 3, 4, 2)
    assert "numpy.moveaxis(data, -1, 1)" in only_remark(video)
    with pytest.raises(InputError, match="may not be the channels"):
        open_store(video, normalize="standard")
    assert open_store(video.permute(0, 4, 1, 2, 3)).remarks == ()


@pytest.mark.parametrize(
    "shape",
    [
        (64, 64, 16),  # tokens of as many channels as there are
        (1, 16, 16, 16),  # a single latent
        (32, 32, 3, 3),
        (16, 16, 1, 1),
        (3, 3, 16, 16),
        (16, 16, 16, 16),
        (8, 8, 8, 64),
    ],
)
def test_latents_whose_axes_are_alike_are_opened(shape):
    assert len(open_store(torch.randn(shape))) == shape[0]


@pytest.mark.parametrize("last", [1, 3, 4])
def test_floats_with_their_channels_last_are_named(last):
    images = pictures(40, last, 16).float() / 127.5 - 1
    assert "channels last" in only_remark(images.permute(0, 2, 3, 1))
    assert "numpy.moveaxis(data, -1, 1)" in only_remark(images.permute(0, 2, 3, 1))
    assert not any("channels last" in remark for remark in open_store(images).remarks)


def test_bytes_of_four_channels_last_are_named():
    assert "channels last" in only_remark(pictures(40, 4).permute(0, 2, 3, 1))


@pytest.mark.parametrize("shape", [(16, 8), (28, 28), (32, 32, 3), (16, 16, 1), (24, 3, 16, 16)])
def test_standard_is_refused_where_the_first_axis_may_not_be_channels(shape):
    """Tokens would be normalized one by one, pictures row by row, video frame by frame."""
    points = torch.randn(50, *shape)
    with pytest.raises(InputError, match="the first axis may not be the channels"):
        open_store(points, normalize="standard")
    assert len(open_store(points)) == 50


def test_standard_in_the_order_that_the_refusal_names_is_by_channel():
    scale = torch.tensor([1.0, 5.0, 0.2])
    tokens = torch.randn(50, 16, 3) * scale
    store = open_store(tokens.transpose(1, 2).unsqueeze(-1), normalize="standard")
    channels = store.take(torch.arange(50)).double().transpose(0, 1).flatten(1)
    torch.testing.assert_close(channels.std(1, correction=0), torch.ones(3).double())
    measured = tokens.double().flatten(0, 1).std(0, correction=0).float()
    torch.testing.assert_close(store.normalizer.std, measured)


def test_latents_of_three_channels_are_not_mirrored():
    latents = torch.randn(30, 3, 8, 8)
    assert open_store(latents).remarks == ()
    for wrong in (latents, latents * 0.18, latents * 3 + 1):
        with pytest.raises(InputError, match="may be latents, which cannot be mirrored"):
            open_store(wrong, flips=True)
    for right in (pictures(30, 3), pictures(30, 3) / 127.5 - 1, pictures(30, 3) / 255):
        assert len(open_store(right, flips=True)) == 60
    # a field of one channel lies in space
    assert len(open_store(latents[:, :1], flips=True)) == 60


def test_three_channels_of_another_scale_are_named():
    assert "unnormalised" in only_remark(torch.randn(40, 3, 8, 8) * 5.5)


SCALED = {"tokens": (64, 16), "video": (4, 3, 8, 8), "flat": (1024,), "two channels": (2, 8, 8)}
SCALED |= {"frames": (6, 4, 8, 8), "latents": (16, 8, 8), "sequence": (16, 64)}


@pytest.mark.parametrize("shape", SCALED.values(), ids=SCALED)
def test_latents_that_were_never_scaled_are_named_at_any_rank(shape):
    latents = torch.randn(40, *shape)
    assert open_store(latents).remarks == ()
    for scale, shift in ((5.49, 0.0), (0.18215, 0.0), (1.0, 3.0)):
        remark = only_remark(latents * scale + shift)
        assert "looks unnormalised" in remark
        suggested = float(remark.split("normalize=")[1].split(",")[0])
        assert suggested == pytest.approx(1 / scale, rel=0.05)
    assert open_store(latents * 5.49, normalize=1 / 5.49).remarks == ()
    frames = len(shape) == 4 and shape[1] == 3
    assert ("normalize='standard'" in remark) == (len(shape) != 2 and not frames)


@pytest.mark.parametrize("shape", [(32,), (8, 6, 6, 2)])
def test_moments_are_noticed_in_vectors_and_video(shape):
    mean, deviation = torch.randn(60, *shape) * 4, torch.randn(60, *shape)
    remark = only_remark(torch.cat([mean, (deviation * 0.3 - 3).exp()], 1))
    assert "[mean ‖ std]" in remark
    remark = only_remark(torch.cat([mean, (deviation * 2 - 18).clamp(-30, 20)], 1))
    assert "[mean ‖ log variance]" in remark


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_packed_stores_say_the_same(tmp_path, dtype):
    levels = pictures().to(dtype)
    pack(levels, tmp_path / "packed", quiet=True)
    assert open_store(tmp_path / "packed").remarks == open_store(levels).remarks
    assert len(open_store(levels).remarks) == 1


def test_packed_stores_of_an_older_version_are_checked_too(tmp_path, monkeypatch):
    monkeypatch.setattr("floracle.data.store.data_warnings", lambda *_, **__: ())
    pack(pictures().float(), tmp_path / "old", quiet=True)
    pack(pictures(), tmp_path / "bytes", quiet=True)
    manifest = json.loads((tmp_path / "old/floracle/manifest.json").read_text())
    assert manifest["remarks"] == []
    assert "0 ... 255" in only_remark(tmp_path / "old")
    assert open_store(tmp_path / "bytes").remarks == ()


@pytest.mark.parametrize("dtype", [torch.uint16, torch.uint32, torch.uint64, torch.bool])
def test_pictures_of_any_type_are_mirrored(dtype):
    images = pictures(6).to(dtype)
    store = open_store(images, flips=True, normalize="raw")
    assert torch.equal(store.take(torch.arange(6, 12)), images.float().flip(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int16, torch.bfloat16])
def test_a_column_of_another_matrix_is_read(dtype):
    matrix = torch.arange(40).reshape(4, 10).to(dtype)
    for points in (matrix[:, :1], matrix[:, 3:4], matrix.T[:, :1]):
        expected = open_store(points.clone(memory_format=torch.contiguous_format))
        assert open_store(points).fingerprint == expected.fingerprint


@pytest.mark.parametrize("moments", ["mean", "sample", "gaussian"])
def test_a_normalizer_of_another_number_of_channels_is_refused(moments):
    """Before the pass: not of the rows [2C, ...] that moments are stored as."""
    gaussians, six = torch.rand(5, 6, 2, 2), Normalizer(torch.zeros(6), torch.ones(6))
    with pytest.raises(InputError, match="the normalizer has 6 channels, but the points have 3"):
        open_store(gaussians, layout="mean-std", moments=moments, normalize=six)


def test_no_warning_names_an_option_that_cannot_be_typed():
    """What a warning says to write is written on the command line by the same name."""
    images = pictures()
    strange = [images.long(), images.float(), images / 255, images // 16, images.int() * 65536]
    strange += [torch.randn(40, 4, 4, 4) * 5, torch.randn(40, 3, 8, 8) * 5]
    for points in strange:
        typed = as_typed(only_remark(points))
        value = typed.partition("--normalize ")[2].split(",")[0].split()
        assert "--normalize Normalizer" not in typed
        assert not value or value[0] in ("standard", "raw") or float(value[0]) > 0, typed


def test_nothing_is_said_of_sound_points():
    sound = [torch.randn(200, *shape) for shape in SCALED.values()]
    sound += [torch.randn(200, dims) * 30 for dims in (1, 2, 3, 8)]  # toys of any scale
    sound += [torch.randint(0, 4, (200, 8)), torch.randint(-1, 2, (200, 64))]
    sound += [torch.randn(200, 32).double(), torch.rand(200, 12).exp(), torch.randn(7, 784)]
    sound += [torch.eye(20)[:, :10], torch.ones(3, 20), torch.tanh(torch.randn(100, 3, 8, 8) / 2)]
    for points in sound:
        assert open_store(points).remarks == (), points.shape


@pytest.mark.slow
def test_nothing_is_said_of_real_sets_at_any_rank(shared):
    for name in ("mnist", "fashion_mnist"):
        images = open_store(shared / f"data/{name}/t10k-images-idx3-ubyte.gz").stored[:]
        for shape in ((-1, 1, 28, 28), (-1, 28, 28), (-1, 784)):
            assert open_store(images.reshape(shape)).remarks == ()
            assert open_store((images.float() / 127.5 - 1).reshape(shape)).remarks == ()
            assert "0 ... 1" in only_remark((images.float() / 255).reshape(shape))
            assert "0 ... 255" in only_remark(images.long().reshape(shape))
    for name in ("f16d32", "f16d32_vfdinov2"):
        tokens = open_store(shared / f"data/vavae_tokens/{name}.safetensors").stored[:]
        for shape in ((-1, 32), (625, 16, 32), (625, 4, 4, 32)):
            assert open_store(tokens.reshape(shape)).remarks == ()
            assert "unnormalised" in only_remark(tokens.reshape(shape) / 0.18215)
