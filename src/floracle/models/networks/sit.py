"""SiT, DiT's network trained as a flow (Ma et al. 2024), and REPA's (Yu et al. 2025).

It is LightningDiT with nothing modern in it. SiT makes 2C outputs and nobody reads the second half
(`learn_sigma`). REPA trains the same network against features of another one, through `projectors`
that sampling does not need, and counts its time from the data.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor

from floracle.models.convention import Convention
from floracle.run.errors import InputError, suggestion

from .lightningdit import SIZES, Architecture
from .transport import transport

PIXELS = 8
"""Pixels of an edge that become one number of the latents of these projects."""
LETTERS = {"S": "small", "B": "base", "L": "large", "XL": "xl", "1p0B": "1p0b", "1p6B": "1p6b"}


def plain(plan: Architecture, *, sigma: bool) -> Architecture:
    """The same size with nothing modern in it."""
    return replace(plan, rms=False, swiglu=False, rope=False, sigma=sigma)


def named_size(model: object, family: str, where: object) -> Architecture:
    """The size that a name like "SiT-XL/2" stands for."""
    found = re.fullmatch(rf"{family}-(\w+)/(\d+)", str(model))
    if found is None or found[1] not in LETTERS:
        known = [f"{family}-{letter}/2" for letter in LETTERS]
        raise InputError(f"{where}: there is no model {model!r}; {suggestion(str(model), known)}")
    return replace(SIZES[LETTERS[found[1]]], patch=int(found[2]))


def of_sit(arguments: Mapping[str, Any], parts: Mapping[str, Any], where: object) -> Architecture:
    """The architecture that SiT's command line asks for; its outputs are as the tensors say."""
    plan = plain(named_size(arguments.get("model"), "SiT", where), sigma=parts["sigma"])
    side = int(arguments.get("image_size", 256)) // PIXELS
    return replace(plan, side=side, classes=int(arguments.get("num_classes", 1000)))


def of_repa(arguments: Mapping[str, Any], parts: Mapping[str, Any], where: object) -> Architecture:
    """The architecture that REPA's command line asks for; its channels are as the tensors say."""
    plan = plain(named_size(arguments.get("model"), "SiT", where), sigma=False)
    return replace(
        plan,
        side=int(arguments.get("resolution", 256)) // PIXELS,
        channels=parts["channels"],
        classes=int(arguments.get("num_classes", 1000)),
        qk_norm=bool(arguments.get("qk_norm", False)),
    )


def is_repa(tensors: Mapping[str, Tensor], arguments: Mapping[str, Any]) -> bool:
    """Whether there are signs of REPA: its projectors, its old names, its options."""
    signs = ("projectors.", "decoder_blocks.")
    return "enc_type" in arguments or any(name.startswith(signs) for name in tensors)


def without_projectors(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What sampling needs, under today's names: REPA once numbered its late blocks anew."""
    early = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    found = {}
    for name, tensor in tensors.items():
        late = re.match(r"decoder_blocks\.(\d+)\.(.*)", name)
        if late:
            found[f"blocks.{int(late[1]) + len(early)}.{late[2]}"] = tensor
        elif not name.startswith("projectors."):
            found[name] = tensor
    return found


def sit_convention(arguments: Mapping[str, Any], where: object) -> Convention:
    """How SiT's options say that the network is read."""
    asked = arguments.get("path_type", "Linear"), arguments.get("prediction", "velocity")
    return transport(*asked, where=where)


def repa_convention(arguments: Mapping[str, Any], where: object) -> Convention:
    """How REPA's options say that the network is read."""
    found = transport(arguments.get("path_type", "linear"), "velocity", where=where)
    return replace(found, noise_time=1, data_time=0)
