"""Autoencoders against what others computed: reference tensors, diffusers, a plain convention."""

import json
import math
import os
import pickle

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from floracle.cli import main
from floracle.data.store import open_store
from floracle.models.autoencoders.ldm_layers import KLArchitecture, KLAutoencoder
from floracle.models.autoencoders.load import load_autoencoder
from floracle.models.autoencoders.taef2 import FILES, TAEF2
from floracle.run.errors import InputError

VAVAE = KLArchitecture((128, 128, 256, 256, 512), 2, (False,) * 4 + (True,), inner=32, channels=32)
SMALL = KLArchitecture((32, 64), 1, (False, False), inner=5, channels=4)


def sine(*shape):
    """The fixed input of the reference tensors."""
    places = torch.arange(math.prod(shape), dtype=torch.float64)
    return (0.01 * places).sin().float().reshape(shape)


def picture(file):
    """A photograph in [−1, 1], [3, H, W]."""
    with Image.open(file) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).movedim(2, 0) / 127.5 - 1


def taef2(folder, dtype=torch.float16):
    """A folder of TAEF2 with weights drawn at random."""
    folder.mkdir(parents=True, exist_ok=True)
    network = TAEF2()
    for half, name in zip((network.encoder, network.decoder), FILES, strict=True):
        tensors = {key: value.to(dtype) for key, value in half.state_dict().items()}
        save_file(tensors, folder / name)
    return folder


def ldm(file, plan, **beside):
    """A checkpoint of latent diffusion's kind with weights drawn at random."""
    tensors = {name: value.clone() for name, value in KLAutoencoder(plan).state_dict().items()}
    torch.save({"state_dict": tensors | beside, "epoch": 3}, file)
    return tensors


@pytest.mark.slow
def test_taef2_agrees_with_its_reference_tensors(shared):
    folder = shared / "weights/taef2"
    expected, network = load_file(folder / "reference.safetensors"), load_autoencoder(folder)
    latents, std = network.encode(sine(1, 3, 64, 64))  # in [−1, 1], as 0.5 + 0.5 sin is in [0, 1]
    assert std is None
    assert_close(latents, expected["latent"], rtol=0, atol=2e-5)
    pictures = (network.decode(expected["latent"]) + 1) / 2
    assert_close(pictures, expected["reconstruction"], rtol=0, atol=2e-5)
    assert (network.channels, network.downsampling, network.gaussian) == (32, 8, False)


@pytest.mark.slow
def test_photographs_come_back_at_the_psnr_that_taef2_states(shared):
    """27.1 dB (19.0 to 35.1) by its README, of pictures before WebP had smoothed them."""
    network = load_autoencoder(shared / "weights/taef2")
    classes = sorted((shared / "data/images256/val").iterdir())
    files = [sorted(folder.iterdir())[7] for folder in classes if folder.is_dir()]
    images = torch.stack([picture(file) for file in files])
    error = ((network.decode(network.encode(images).mean).clamp(-1, 1) - images) / 2).square()
    psnr = -10 * error.flatten(1).mean(1).log10()
    assert psnr.min() > 19.0
    assert psnr.max() < 37.0
    assert 26.0 < psnr.mean() < 31.0


@pytest.mark.slow
def test_weights_are_in_the_fingerprint_and_their_type_too(tmp_path):
    folder = taef2(tmp_path / "a")
    one, same = load_autoencoder(folder), load_autoencoder(folder / FILES[0])
    half = load_autoencoder(folder, dtype=torch.bfloat16)
    assert one.settings == same.settings
    assert half.settings["dtype"] == "bfloat16"
    tensors = load_file(folder / FILES[1])
    tensors["19.bias"] += 0.25
    save_file(tensors, folder / FILES[1])
    assert load_autoencoder(folder).fingerprint != one.fingerprint


def test_pictures_and_latents_of_the_wrong_shape_are_refused(tmp_path):
    network = load_autoencoder(taef2(tmp_path / "a"))
    with pytest.raises(InputError, match=r"multiples of 8, got \[1, 3, 12, 16\]"):
        network.encode(torch.zeros(1, 3, 12, 16))
    with pytest.raises(InputError, match=r"got \[1, 1, 16, 16\]"):
        network.encode(torch.zeros(1, 1, 16, 16))
    with pytest.raises(InputError, match=r"decodes latents \[b, 32, h, w\], got \[1, 4, 2, 2\]"):
        network.decode(torch.zeros(1, 4, 2, 2))


def vavae_names():
    """The names and shapes of a VA-VAE (f16d32), written out from its known structure."""
    found = {}

    def conv(name, channels, out, side=3):
        found[f"{name}.weight"], found[f"{name}.bias"] = (out, channels, side, side), (out,)

    def norm(name, width):
        found[f"{name}.weight"] = found[f"{name}.bias"] = (width,)

    def block(name, channels, out):
        norm(f"{name}.norm1", channels)
        conv(f"{name}.conv1", channels, out)
        norm(f"{name}.norm2", out)
        conv(f"{name}.conv2", out, out)
        if channels != out:
            conv(f"{name}.nin_shortcut", channels, out, 1)

    def attention(name, width):
        norm(f"{name}.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            conv(f"{name}.{part}", width, width, 1)

    for half, last in (("encoder", 64), ("decoder", 3)):
        block(f"{half}.mid.block_1", 512, 512)
        attention(f"{half}.mid.attn_1", 512)
        block(f"{half}.mid.block_2", 512, 512)
        norm(f"{half}.norm_out", 512 if half == "encoder" else 128)
        conv(f"{half}.conv_out", 512 if half == "encoder" else 128, last)
    conv("encoder.conv_in", 3, 128)
    conv("decoder.conv_in", 32, 512)
    conv("quant_conv", 64, 64, 1)
    conv("post_quant_conv", 32, 32, 1)
    downwards = ((128, 128), (128, 128), (128, 256), (256, 256), (256, 512))
    for level, (channels, width) in enumerate(downwards):
        for place, entry in enumerate((channels, width)):
            block(f"encoder.down.{level}.block.{place}", entry, width)
        if level < 4:
            conv(f"encoder.down.{level}.downsample.conv", width, width)
    upwards = ((128, 128), (256, 128), (256, 256), (512, 256), (512, 512))
    for level, (channels, width) in enumerate(upwards):
        for place, entry in enumerate((channels, width, width)):
            block(f"decoder.up.{level}.block.{place}", entry, width)
        if level > 0:
            conv(f"decoder.up.{level}.upsample.conv", width, width)
    for place in range(2):
        attention(f"encoder.down.4.attn.{place}", 512)
    for place in range(3):
        attention(f"decoder.up.4.attn.{place}", 512)
    return found


def test_every_tensor_of_a_vavae_has_its_place():
    with torch.device("meta"):
        network = KLAutoencoder(VAVAE)
    there = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    assert there == vavae_names()
    assert VAVAE.downsampling == 16


@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_shapes_of_a_checkpoint_are_read_off_its_tensors(tmp_path, prefix):
    plan = KLArchitecture((32, 32, 64), 2, (False, False, True), inner=6, channels=4)
    tensors = {
        f"{prefix}{name}": value for name, value in KLAutoencoder(plan).state_dict().items()
    }
    torch.save({"state_dict": tensors | {"loss.logvar": torch.zeros(())}}, tmp_path / "kl.ckpt")
    network = load_autoencoder(tmp_path / "kl.ckpt")
    assert isinstance(network.network, KLAutoencoder)
    for name, value in network.network.state_dict().items():
        assert torch.equal(value, tensors[f"{prefix}{name}"]), name
    assert (network.channels, network.downsampling, network.gaussian) == (4, 4, True)
    assert network.assumed.startswith("1 tensors beside the autoencoder left out")
    mean, std = network.encode(sine(2, 3, 16, 16))
    assert mean.shape == (2, 4, 4, 4)
    assert std is not None
    assert std.min() > 0
    assert network.decode(mean).shape == (2, 3, 16, 16)


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def without(path, name):
    tensors = load_file(path)
    del tensors[name]
    save_file(tensors, path)


def nan(path):
    tensors = load_file(path)
    tensors["0.bias"][3] = torch.nan
    save_file(tensors, path)


@pytest.mark.slow
def test_damaged_files_of_taef2_are_named(tmp_path):
    harms = {
        "cut": (lambda folder: cut(folder / FILES[0]), r"taef2_encoder\S+ is incomplete"),
        "half": (lambda folder: (folder / FILES[1]).unlink(), r"has no taef2_decoder"),
        "key": (
            lambda folder: without(folder / FILES[1], "1.bias"),
            r"lacks 1\.bias;",
        ),
        "nan": (lambda folder: nan(folder / FILES[0]), r"0\.bias holds NaN"),
        "swapped": (
            lambda folder: (folder / FILES[0]).write_bytes((folder / FILES[1]).read_bytes()),
            r"taef2_encoder\S+ lacks \d+ tensors: 0\.weight",
        ),
        "empty": (lambda folder: (folder / FILES[0]).write_bytes(b""), r"incomplete"),
    }
    for name, (harm, words) in harms.items():
        folder = taef2(tmp_path / name)
        harm(folder)
        with pytest.raises(InputError, match=words):
            load_autoencoder(folder)


class Code:
    """What a pickle can hold beside tensors."""

    def __reduce__(self):
        return os.getcwd, ()


def test_checkpoints_that_are_none_are_refused(tmp_path):
    whole = ldm(tmp_path / "whole.pt", SMALL)
    lost = {name: value for name, value in whole.items() if name != "decoder.mid.attn_1.k.bias"}
    level = {name: value for name, value in whole.items() if "encoder.down.0.block" not in name}
    odd = whole | {"encoder.conv_out.weight": torch.zeros(10, 33, 3, 3)}
    cases = {
        "lost.pt": (lost, r"lacks decoder\.mid\.attn_1\.k\.bias;"),
        "level.pt": (level, r"lacks encoder\.down\.0\.block\.0\.conv1\.weight"),
        "odd.pt": (odd, r"encoder\.conv_out\.weight is \[10, 33, 3, 3\], not \[10, 64, 3, 3\]"),
        "dit.pt": ({"pos_embed": torch.zeros(3)}, r"is no autoencoder of latent diffusion"),
        "code.pt": ({"state_dict": whole, "hook": Code()}, r"holds pickled code"),
    }
    for name, (content, words) in cases.items():
        torch.save(content, tmp_path / name)
        with pytest.raises(InputError, match=words):
            load_autoencoder(tmp_path / name)
    cut(tmp_path / "whole.pt")
    with pytest.raises(InputError, match="incomplete"):
        load_autoencoder(tmp_path / "whole.pt")
    (tmp_path / "bare.pt").write_bytes(pickle.dumps([1, 2], protocol=2))
    with pytest.raises(InputError, match=r"bare\.pt"):
        load_autoencoder(tmp_path / "bare.pt")


def test_places_without_an_autoencoder_are_named(tmp_path):
    with pytest.raises(InputError, match=r"there is no .*nowhere; name a folder"):
        load_autoencoder(tmp_path / "nowhere")
    with pytest.raises(InputError, match="is no autoencoder"):
        load_autoencoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DModel"}))
    with pytest.raises(InputError, match="holds a UNet2DModel; AutoencoderKL and AutoencoderTiny"):
        load_autoencoder(tmp_path)
    with pytest.raises(InputError, match="is not a checkpoint by its ending"):
        load_autoencoder(tmp_path / "config.json")


@pytest.mark.slow
def test_scale_and_shift_may_be_asked_for(tmp_path):
    """Stable Diffusion's .18215, which its checkpoint does not tell; VA-VAE's is 1."""
    ldm(tmp_path / "kl.pt", SMALL)
    told, asked = (
        load_autoencoder(tmp_path / "kl.pt", **given)
        for given in ({}, {"scale": 0.18215, "shift": 0.5})
    )
    assert (told.scale, told.shift) == (1.0, 0.0)
    assert told.assumed.startswith("scale 1, shift 0: a checkpoint has none")
    assert asked.assumed.startswith("scale 0.18215 and shift 0.5 as given, not 1 and 0")
    images = sine(1, 3, 16, 16)
    z, mapped = told.encode(images), asked.encode(images)
    assert_close(mapped.mean, (z.mean - 0.5) * 0.18215)
    assert_close(mapped.std, z.std * 0.18215)
    assert_close(asked.decode(mapped.mean), told.decode(z.mean), rtol=1e-4, atol=1e-5)
    assert asked.settings == told.settings | {"scale": 0.18215, "shift": 0.5}
    only = load_autoencoder(tmp_path / "kl.pt", shift=0.5)
    assert (only.scale, only.shift) == (1.0, 0.5)
    for given in ({"scale": 0.0}, {"scale": -1.0}, {"scale": math.nan}, {"shift": math.inf}):
        with pytest.raises(InputError, match="must be a finite number"):
            load_autoencoder(tmp_path / "kl.pt", **given)


@pytest.mark.slow
def test_latents_that_are_far_from_deviation_one_are_told(tmp_path, capsys):
    """By `floracle encode`, and when such latents are opened without their statistics."""
    folder = taef2(tmp_path / "a")
    for place in range(4):
        name = tmp_path / "images" / "only" / f"{place}.png"
        name.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(place).integers(0, 256, (64, 64, 3), np.uint8)
        Image.fromarray(noise).save(name)
    words = ["encode", str(tmp_path / "images"), "--autoencoder", str(folder)]

    def deviations(out):
        return torch.load(out / "latents_stats.pt", weights_only=True)["std"].flatten()

    assert main([*words[:2], str(tmp_path / "one"), *words[2:], "--scale", "100"]) == 0
    told = capsys.readouterr().out
    factor = float(told.partition("needs a factor: --scale ")[2].split()[0])
    again = tmp_path / "two"
    assert main([*words[:2], str(again), *words[2:], "--scale", str(factor)]) == 0
    found = deviations(again)
    assert found.square().mean().sqrt() == pytest.approx(1, rel=1e-3)
    assert_close(deviations(tmp_path / "one"), found * 100 / factor, rtol=1e-3, atol=1e-4)
    assert ("needs a factor" in capsys.readouterr().out) == bool(
        ((found < 0.5) | (found > 2)).any()
    )
    raw = torch.cat(
        [load_file(file)["latents"] for file in (tmp_path / "one").glob("*.safetensors")]
    )
    np.save(tmp_path / "raw.npy", raw.numpy())
    assert "looks unnormalised" in open_store(tmp_path / "raw.npy").remarks[0]
    assert not open_store(tmp_path / "one").remarks  # by its statistics
