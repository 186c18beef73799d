"""Autoencoders of diffusers, and latent diffusion's names, against what diffusers computes."""

import os
import re
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from floracle.models.autoencoders.ldm_layers import KLArchitecture, KLAutoencoder
from floracle.models.autoencoders.load import load_autoencoder
from floracle.run.errors import InputError
from network_families import KL_SIZES as KL
from network_families import WEIGHTS

pytestmark = pytest.mark.slow  # importing diffusers takes seconds
TINY = {
    "encoder_block_out_channels": (8,) * 4,
    "decoder_block_out_channels": (8,) * 4,
    "num_encoder_blocks": (1,) * 4,
    "num_decoder_blocks": (1,) * 4,
}


@pytest.fixture(scope="module")
def library():
    """The diffusers package; its import warns about others' deprecations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers = pytest.importorskip("diffusers")
        for name in ("AutoencoderKL", "AutoencoderTiny"):
            getattr(diffusers, name)
    return diffusers


def saved(network, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network.eval().save_pretrained(folder)
    return folder


def pictures():
    return torch.rand(2, 3, 32, 16) * 2 - 1


@torch.no_grad()
def test_kl_latents_are_those_of_diffusers_shifted_and_scaled(library, tmp_path):
    network = library.AutoencoderKL(**KL)
    ours, images = load_autoencoder(saved(network, tmp_path / "vae")), pictures()
    expected = network.encode(images).latent_dist
    mean, std = ours.encode(images)
    assert_close(mean, (expected.mean - 0.0609) * 1.5305)
    assert std is not None
    assert_close(std, expected.std * 1.5305)
    assert_close(ours.decode(mean), network.decode(mean / 1.5305 + 0.0609).sample)
    assert (ours.channels, ours.downsampling, ours.gaussian) == (4, 2, True)


@torch.no_grad()
def test_tiny_latents_are_those_of_diffusers(library, tmp_path):
    network = library.AutoencoderTiny(**TINY)
    ours, images = load_autoencoder(saved(network, tmp_path / "vae")), pictures()
    mean, std = ours.encode(images)
    assert std is None
    assert_close(mean, network.encode(images).latents)
    assert_close(ours.decode(mean), network.decode(mean).sample)
    assert mean.shape[2:] == (32 // ours.downsampling, 16 // ours.downsampling)


def test_the_autoencoder_of_a_pipeline_is_found(library, tmp_path):
    saved(library.AutoencoderKL(**KL), tmp_path / "vae")
    (tmp_path / "model_index.json").write_text("{}")
    found = load_autoencoder(tmp_path)
    assert found.settings == load_autoencoder(tmp_path / "vae").settings


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def without(path):
    tensors = load_file(path)
    del tensors["decoder.conv_in.bias"]
    save_file(tensors, path, metadata={"format": "pt"})


def other(path):
    tensors = load_file(path)
    tensors["decoder.conv_in.bias"] = torch.zeros(5)
    save_file(tensors, path, metadata={"format": "pt"})


HARM = {
    "cut": (cut, r"is incomplete"),
    "missing": (without, r"lacks decoder\.conv_in\.bias"),
    "shape": (other, r"decoder\.conv_in\.bias is \[5\], not \[8\]"),
    "none": (lambda path: path.unlink(), r"has no diffusion_pytorch_model\.safetensors"),
}


@pytest.mark.parametrize("harm", HARM)
def test_damaged_folders_are_named(library, tmp_path, harm):
    folder = saved(library.AutoencoderKL(**KL), tmp_path / "vae")
    spoil, words = HARM[harm]
    spoil(folder / WEIGHTS)
    with pytest.raises(InputError, match=words):
        load_autoencoder(folder)


PARTS = {
    "nin_shortcut": "conv_shortcut",
    "mid.block_1": "mid_block.resnets.0",
    "mid.block_2": "mid_block.resnets.1",
    "mid.attn_1": "mid_block.attentions.0",
    "norm_out": "conv_norm_out",
}
ATTENTION = {"norm": "group_norm", "q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}


def in_their_words(name, levels):
    """What diffusers calls a tensor of latent diffusion."""
    for ours, theirs in PARTS.items():
        name = name.replace(ours, theirs)
    name = re.sub(r"down\.(\d+)\.", r"down_blocks.\1.", name)
    name = re.sub(r"up\.(\d+)\.", lambda m: f"up_blocks.{levels - 1 - int(m[1])}.", name)
    name = re.sub(r"\.block\.(\d+)\.", r".resnets.\1.", name)
    name = re.sub(r"\.attn\.(\d+)\.", r".attentions.\1.", name)
    name = name.replace("downsample.conv", "downsamplers.0.conv")
    name = name.replace("upsample.conv", "upsamplers.0.conv")
    if found := re.fullmatch(r"(.*attentions\.\d+)\.(\w+)\.(\w+)", name):
        name = f"{found[1]}.{ATTENTION[found[2]]}.{found[3]}"
    return name


@torch.no_grad()
@pytest.mark.parametrize("attended", [False, True])
def test_latent_diffusions_layers_compute_what_diffusers_does(library, tmp_path, attended):
    plan = KLArchitecture((32, 32, 64), 2, (False, False, attended), inner=4, channels=4)
    tensors = {
        name: torch.randn_like(value) * 0.1 + ("norm" in name and "weight" in name)
        for name, value in KLAutoencoder(plan).state_dict().items()
    }
    torch.save({"state_dict": tensors}, tmp_path / "kl.pt")
    kind = "Attn" if attended else ""
    theirs = library.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2 + (f"{kind}DownEncoderBlock2D",),
        up_block_types=(f"{kind}UpDecoderBlock2D",) + ("UpDecoderBlock2D",) * 2,
        block_out_channels=plan.widths,
        layers_per_block=plan.blocks,
        latent_channels=plan.channels,
    ).eval()
    named = {in_their_words(name, 3): value for name, value in tensors.items()}
    wanted = theirs.state_dict()
    assert named.keys() == wanted.keys()
    theirs.load_state_dict({name: named[name].reshape(wanted[name].shape) for name in wanted})
    ours, images = load_autoencoder(tmp_path / "kl.pt"), torch.rand(2, 3, 16, 24) * 2 - 1
    expected, (mean, std) = theirs.encode(images).latent_dist, ours.encode(images)
    assert_close(mean, expected.mean, rtol=1e-5, atol=1e-5 * float(expected.mean.abs().max()))
    assert std is not None
    assert_close(std, expected.std, rtol=1e-4, atol=1e-6)
    decoded = theirs.decode(mean).sample
    assert_close(ours.decode(mean), decoded, rtol=1e-5, atol=1e-5 * float(decoded.abs().max()))
