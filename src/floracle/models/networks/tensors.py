"""The architecture that the tensors of a diffusion transformer determine, and building it."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from floracle.models.state_dict import fill_network, list_names
from floracle.run.errors import InputError

from .layers import position_embedding, rotary_tables
from .lightningdit import SIZES, Architecture, LightningDiT

ESSENTIAL = {
    "x_embedder.proj.weight": 4,
    "t_embedder.mlp.0.weight": 2,
    "y_embedder.embedding_table.weight": 2,
    "blocks.0.attn.qkv.weight": 2,
    "blocks.0.adaLN_modulation.1.weight": 2,
    "final_layer.linear.weight": 2,
    "pos_embed": 3,
}
"""Tensors that every network of the family has, and how many dimensions each has."""
PATCH_KERNEL = "x_embedder.proj.weight"
ROTARY_TABLES = ("feat_rope.freqs_cos", "feat_rope.freqs_sin")
CLASSES_WITHOUT_NULL = (10, 100, 1000)
"""Label tables of these sizes have no null label; otherwise it is the last row."""
MAX_TABLE_ERROR = 0.02  # of cosines stored in bfloat16, which rounds them by less
ADVICE = "load such a network as module:function"


def measure_tensors(tensors: Mapping[str, Tensor], file: object) -> dict[str, Any]:
    """The parts of an architecture that its tensors determine; `heads` only where they do."""
    _check_family(tensors, file)
    shape = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    width, channels, patch = shape["x_embedder.proj.weight"][:3]
    outputs = shape["final_layer.linear.weight"][0]
    measured = {
        "depth": len({m[1] for name in tensors if (m := re.match(r"blocks\.(\d+)\.", name))}),
        "width": width,
        "patch": patch,
        "channels": channels,
        "side": math.isqrt(shape["pos_embed"][1]) * patch,
        "rows": shape["y_embedder.embedding_table.weight"][0],
        "rms": "blocks.0.norm1.weight" in shape,
        "swiglu": "blocks.0.mlp.w12.weight" in shape,
        "rope": ROTARY_TABLES[0] in shape,
        "qk_norm": "blocks.0.attn.q_norm.weight" in shape,
        "shift": shape["blocks.0.adaLN_modulation.1.weight"][0] == 6 * width,  # 4 without it
        "sigma": outputs == 2 * channels * patch**2,
    }
    # The width of one head is that of the rotary tables, or of the norm of its queries.
    for name in (ROTARY_TABLES[0], "blocks.0.attn.q_norm.weight"):
        if name in shape:
            return measured | {"heads": width // max(shape[name][-1:], default=width)}
    return measured


def _check_family(tensors: Mapping[str, Tensor], file: object) -> None:
    """Refuse tensors of another family, and those of which some are missing."""
    missing = [name for name in ESSENTIAL if name not in tensors]
    if len(missing) > len(ESSENTIAL) // 2:
        raise InputError(
            f"{file} has tensors like {list_names(list(tensors))}, which is no supported family"
            f" (LightningDiT, SiT, REPA, folders of diffusers); write a function that builds the"
            f" network and load it as module:function with its convention"
        )
    if missing:
        raise InputError(
            f"{file} lacks {list_names(missing)}; it was not saved in full, fetch or save it again"
        )
    for name, rank in ESSENTIAL.items():
        shape = list(tensors[name].shape)
        if len(shape) != rank or not all(shape):
            raise InputError(
                f"{file}: {name} is {shape}, and every network of this family has {rank} numbers"
                f" above 0 there; {ADVICE}"
            )
    widths = [tensors[name].shape[axis] for name, axis in (("pos_embed", 2), (PATCH_KERNEL, 0))]
    if widths[0] != widths[1]:
        raise InputError(
            f"{file}: pos_embed is {widths[0]} wide and {PATCH_KERNEL} {widths[1]}, so they are"
            f" not of one network; fetch or save it again"
        )


def infer_architecture(
    measured: Mapping[str, Any], heads: int | None, file: object
) -> tuple[Architecture, list[str]]:
    """An architecture from what tensors determine, and what had to be assumed beside it."""
    parts, assumed = dict(measured), []
    rows = parts.pop("rows")
    heads = parts.pop("heads", None) or heads
    if heads is None:
        size = next(
            (s for s in SIZES.values() if (s.depth, s.width) == (parts["depth"], parts["width"])),
            None,
        )
        if size is None:
            raise InputError(
                f"{file}: {parts['depth']} blocks of width {parts['width']} are no size of the"
                f" family, and tensors do not determine the number of heads; give heads=…"
            )
        heads = size.heads
        assumed.append(f"{heads} heads, as this size has")
    null = rows not in CLASSES_WITHOUT_NULL
    assumed.append(f"{rows - null} classes {'and a null label' if null else 'without null label'}")
    return Architecture(**parts, heads=heads, classes=rows - null, null=null), assumed


def check_agreement(plan: Architecture, measured: Mapping[str, Any], file: object) -> None:
    """Refuse settings that contradict the tensors beside them."""
    settings = plan.settings() | {"rows": plan.rows}
    conflicts = [
        f"{name} is {settings[name]} in the settings, {value} in the tensors"
        for name, value in measured.items()
        if settings[name] != value
    ]
    if conflicts:
        raise InputError(
            f"{file}: its settings contradict its tensors ({'; '.join(conflicts)}). If the tensors"
            f" are right, save them alone as .safetensors and load that"
        )


def build_network(plan: Architecture, tensors: Mapping[str, Tensor], file: object) -> LightningDiT:
    """The network of this architecture with these tensors, in their own type.

    Settings are compared with the tensors first, since nothing else bounds what is built of them.
    The table of positions is fixed, and computed where it is left out.
    """
    if "pos_embed" not in tensors:
        tokens = position_embedding(plan.side // plan.patch, plan.width)
        tensors = {**tensors, "pos_embed": tokens}
    measured = measure_tensors(tensors, file)
    # Files of this library hold no rotary tables, which give the heads of other files.
    undetermined = () if ROTARY_TABLES[0] in tensors else ("rope", "heads")
    compared = {name: value for name, value in measured.items() if name not in undetermined}
    check_agreement(plan, compared, file)
    _check_rotary_tables(plan, tensors, file)
    weights = without_tables(tensors)
    with torch.device("meta"):
        network = LightningDiT(plan)
    return fill_network(network, weights, file, advice=ADVICE)


def without_tables(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that are weights: tables of rotary angles are computed anew, in float32."""
    return {name: tensor for name, tensor in tensors.items() if name not in ROTARY_TABLES}


def _check_rotary_tables(plan: Architecture, tensors: Mapping[str, Tensor], file: object) -> None:
    """Refuse rotary positions that are not the family's; their tables are computed anew."""
    if not plan.rope or ROTARY_TABLES[0] not in tensors:
        return
    expected = rotary_tables(plan.side // plan.patch, plan.width // plan.heads)
    for name, half in zip(ROTARY_TABLES, expected, strict=True):
        table = half.repeat_interleave(2, dim=1)  # stored once for each number of a pair
        stored = tensors[name].float() if name in tensors else table.new_empty(0)
        is_table = stored.shape == table.shape
        if not (is_table and bool((stored - table).abs().max() <= MAX_TABLE_ERROR)):
            raise InputError(
                f"{file}: {name} is not the table of this family, so its rotary positions are"
                f" others; {ADVICE}"
            )
