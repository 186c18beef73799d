"""A small file of every family of networks and autoencoders, its output, and how to edit it."""

import argparse
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from checkpoint_files import MODERN, PLAIN, lightningdit, network, repa, sit, tensors
from floracle.models.autoencoders.ldm_layers import KLArchitecture, KLAutoencoder
from floracle.models.autoencoders.load import load_autoencoder
from floracle.models.autoencoders.taef2 import FILES, TAEF2
from floracle.models.networks.lightningdit import Architecture
from floracle.models.weights import PREFIXES, write_network
from floracle.models.zoo import load_model
from floracle.run.files import hash_file
from floracle.run.records import write_record
from tiny_pipelines import FLUX_SIZES, SD3_SIZES

SMALL = Architecture(2, 32, 4)
"""Stands for the base size in these tests: names such as "SiT-B/2" mean it."""
MODERN_SMALL, PLAIN_SMALL = (
    replace(plan, depth=SMALL.depth, width=SMALL.width, heads=SMALL.heads)
    for plan in (MODERN, PLAIN)
)
SPLIT = replace(PLAIN_SMALL, depth=2)
WEIGHTS = "diffusion_pytorch_model.safetensors"
KL_SIZES = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 8),
    "latent_channels": 4,
    "norm_num_groups": 4,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
}
TINY_SIZES = {
    "encoder_block_out_channels": (8,) * 3,
    "decoder_block_out_channels": (8,) * 3,
    "num_encoder_blocks": (1,) * 3,
    "num_decoder_blocks": (1,) * 3,
}
TEXT = {"prompt_embeds": (2, 6, 32), "pooled_prompt_embeds": (2, 24)}


@dataclass(frozen=True)
class Family:
    """A file of one family."""

    write: Callable[[Path], Path]
    """Write it into a folder; the path that loads it."""
    load: Callable[[Path], object]
    weights: str
    """The file with its tensors, in that folder."""
    table: str | None = None
    """Where its tensors stand in that file."""
    config: str | None = None
    """The JSON file with its settings, or the key of them in the file with the tensors."""
    sealed: bool = False
    """Whether a digest covers it all."""


def outputs(loaded):
    """What a loaded network computes at a fixed input."""
    generator = torch.Generator().manual_seed(3)
    if hasattr(loaded, "encode"):
        return loaded.encode(torch.rand(1, 3, 32, 32, generator=generator) * 2 - 1).mean
    shape = (loaded.shape[0], 8, 8)
    x = torch.randn(3, *shape, generator=generator)
    return loaded(x, torch.tensor([0.2, 0.5, 0.9]), torch.tensor([0, 1, 0]))


def text_embeddings():
    generator = torch.Generator().manual_seed(4)
    return {name: torch.randn(shape, generator=generator) for name, shape in TEXT.items()}


def _bare(folder):
    save_file(tensors(MODERN_SMALL), folder / "bare.safetensors")
    return folder / "bare.safetensors"


def _own(folder):
    return write_network(folder / "network.safetensors", network(MODERN_SMALL))


def _run_checkpoint(folder):
    path = folder / "000000000480.safetensors"
    values = network(MODERN_SMALL).state_dict()
    save_file({p + name: v.clone() for p in PREFIXES.values() for name, v in values.items()}, path)
    settings = {"network": MODERN_SMALL.settings()}
    record = {"settings": settings, "images": 480, "hash": hash_file(path)}
    write_record(path.with_suffix(".json"), "checkpoint", record)
    return path


def _ldm(folder):
    torch.manual_seed(0)
    plan = KLArchitecture((32, 64), 1, (False, False), inner=5, channels=4)
    state = KLAutoencoder(plan).state_dict()
    torch.save(
        {"state_dict": {name: value.clone() for name, value in state.items()}}, folder / "kl.ckpt"
    )
    return folder / "kl.ckpt"


def _taef2(folder):
    torch.manual_seed(0)
    made = TAEF2()
    for half, name in zip((made.encoder, made.decoder), FILES, strict=True):
        save_file(dict(half.state_dict()), folder / name)
    return folder


def _diffusers(kind, sizes):
    def write(folder):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import diffusers

            torch.manual_seed(0)
            getattr(diffusers, kind)(**sizes).save_pretrained(folder)
        return folder

    return write


def _load_transformer(path):
    return load_model(path, embeddings=text_embeddings())


FAMILIES = {
    "lightningdit": Family(
        lambda folder: lightningdit(folder / "0400000.pt", MODERN_SMALL),
        load_model,
        "0400000.pt",
        "ema",
        "config",
    ),
    "sit": Family(
        lambda folder: sit(folder / "0400000.pt", PLAIN_SMALL),
        load_model,
        "0400000.pt",
        "ema",
        "args",
    ),
    "repa": Family(
        lambda folder: repa(folder / "last.pt", SPLIT, legacy=1, encoder_depth=1),
        load_model,
        "last.pt",
        "ema",
        "args",
    ),
    "bare": Family(_bare, load_model, "bare.safetensors"),
    "own": Family(_own, load_model, "network.safetensors", sealed=True),
    "run": Family(_run_checkpoint, load_model, "000000000480.safetensors", sealed=True),
    "ldm": Family(_ldm, load_autoencoder, "kl.ckpt", "state_dict"),
    "taef2": Family(_taef2, load_autoencoder, FILES[0]),
}
DIFFUSERS_FAMILIES = {
    name: Family(_diffusers(kind, sizes), load, WEIGHTS, config="config.json")
    for name, kind, sizes, load in [
        ("sd3", "SD3Transformer2DModel", SD3_SIZES, _load_transformer),
        ("flux", "FluxTransformer2DModel", FLUX_SIZES, _load_transformer),
        ("kl", "AutoencoderKL", KL_SIZES, load_autoencoder),
        ("tiny", "AutoencoderTiny", TINY_SIZES, load_autoencoder),
    ]
}


def read_tensors(family, folder):
    """The tensors of a family's file, to be edited."""
    path = folder / family.weights
    return dict(load_file(path) if path.suffix == ".safetensors" else read_pt(path)[family.table])


def write_tensors(family, folder, changed):
    """The same file with other tensors."""
    path = folder / family.weights
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            metadata = file.metadata()
        save_file(changed, path, metadata=metadata)
    else:
        torch.save(read_pt(path) | {family.table: changed}, path)


def read_config(family, folder):
    """The settings of a family's file, to be edited."""
    if family.config.endswith(".json"):
        return json.loads((folder / family.config).read_text())
    values = read_pt(folder / family.weights)[family.config]
    return dict(vars(values) if isinstance(values, argparse.Namespace) else values)


def write_config(family, folder, config):
    """The same file with other settings."""
    if family.config.endswith(".json"):
        (folder / family.config).write_text(json.dumps(config))
        return
    path = folder / family.weights
    values = argparse.Namespace(**config) if family.config == "args" else config
    torch.save(read_pt(path) | {family.config: values}, path)


def read_pt(path):
    with torch.serialization.safe_globals([argparse.Namespace]):
        return torch.load(path, weights_only=True)


ALL = FAMILIES | DIFFUSERS_FAMILIES


def written(name, folder, change=None):
    """A family's file with changed tensors; the path that loads it."""
    family = ALL[name]
    path = family.write(folder)
    if change is not None:
        write_tensors(family, folder, change(read_tensors(family, folder)))
    return path
