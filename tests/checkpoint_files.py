"""Checkpoints as LightningDiT, SiT and REPA write them, of networks small enough for a test."""

import argparse
from dataclasses import replace

import torch

from floracle.models.networks.layers import rotary_tables
from floracle.models.networks.lightningdit import architecture, initialize

TINY = {"side": 8, "channels": 4, "classes": 5}
MODERN = architecture("nano", patch=1, **TINY)
PLAIN = replace(MODERN, rms=False, swiglu=False, rope=False, patch=2)
SIGMA = replace(PLAIN, sigma=True)


def network(plan, seed=0):
    """A network whose every part shows in its output."""
    generator = torch.Generator().manual_seed(seed)
    made = initialize(plan, generator).eval().requires_grad_(False)
    for name, values in made.named_parameters():
        if name != "pos_embed":
            values += 0.05 * torch.randn(values.shape, generator=generator)
    return made


def tensors(plan, seed=0, prefix=""):
    """Its tensors under the reference's names, the tables of angles among them."""
    found = dict(network(plan, seed).state_dict())
    if plan.rope:
        tables = rotary_tables(plan.side // plan.patch, plan.width // plan.heads)
        for name, half in zip(("cos", "sin"), tables, strict=True):
            found[f"feat_rope.freqs_{name}"] = half.repeat_interleave(2, dim=1)
    return {prefix + name: value for name, value in found.items()}


def config(plan, **model):
    """LightningDiT's settings, as its YAML files say them."""
    return {
        "data": {
            "image_size": plan.side * 16,
            "num_classes": plan.classes,
            "latent_norm": True,
            "latent_multiplier": 1.0,
        },
        "vae": {"model_name": "vavae_f16d32", "downsample_ratio": 16},
        "model": {
            "model_type": f"LightningDiT-B/{plan.patch}",
            "use_qknorm": plan.qk_norm,
            "use_swiglu": plan.swiglu,
            "use_rope": plan.rope,
            "use_rmsnorm": plan.rms,
            "wo_shift": not plan.shift,
            "in_chans": plan.channels,
        }
        | model,
        "transport": {"path_type": "Linear", "prediction": "velocity"},
    }


def lightningdit(path, plan, **more):
    """A checkpoint of its train.py: averaged weights beside those in training."""
    content = {
        "model": tensors(plan, seed=1, prefix="module."),
        "ema": tensors(plan),
        "opt": {"state": {}, "param_groups": [{"lr": 2e-4}]},
        "config": config(plan),
    }
    torch.save(content | more, path)
    return path


def sit(path, plan, **arguments):
    """A checkpoint of SiT's train.py."""
    said = {"model": "SiT-B/2", "image_size": plan.side * 8, "num_classes": plan.classes}
    said |= {"path_type": "Linear", "prediction": "velocity"} | arguments
    kept = {"model": tensors(plan, seed=1), "ema": tensors(plan), "opt": {}}
    torch.save(kept | {"args": argparse.Namespace(**said)}, path)
    return path


def repa(path, plan, *, legacy=0, **arguments):
    """A checkpoint of REPA's train.py, or of its early days, with `legacy` blocks before."""
    said = {"model": "SiT-B/2", "resolution": plan.side * 8, "num_classes": plan.classes}
    said |= {"path_type": "linear", "enc_type": "dinov2-vit-b", "encoder_depth": 8} | arguments
    ema = tensors(plan) | {"projectors.0.0.weight": torch.ones(3, 3)}
    if legacy:
        ema = {_numbered_anew(name, legacy): value for name, value in ema.items()}
    kept = {"model": tensors(plan, seed=1), "ema": ema, "opt": {}, "steps": 400_000}
    torch.save(kept | {"args": argparse.Namespace(**said)}, path)
    return path


def _numbered_anew(name, early):
    parts = name.split(".")
    if parts[0] == "blocks" and int(parts[1]) >= early:
        return ".".join(["decoder_blocks", str(int(parts[1]) - early), *parts[2:]])
    return name
