"""What the tensors of a diffusion transformer tell about it, and how they are put into one."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from floracle.run.errors import InputError
from floracle.run.files import digest

from .layers import positions, rotary
from .lightningdit import SIZES, Architecture, LightningDiT

ESSENTIAL = (
    "x_embedder.proj.weight",
    "t_embedder.mlp.0.weight",
    "y_embedder.embedding_table.weight",
    "blocks.0.attn.qkv.weight",
    "blocks.0.adaLN_modulation.1.weight",
    "final_layer.linear.weight",
    "pos_embed",
)
"""Tensors that everybody in the family has."""
WEIGHTS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Types that weights are kept in."""
ANGLES = ("feat_rope.freqs_cos", "feat_rope.freqs_sin")
WITHOUT_NULL = (10, 100, 1000)
"""So many labels are read as the classes alone; otherwise the last one is the null label."""
CLOSE = 0.02
"""How far tables of cosines may be off ours: more than bfloat16 rounds them."""


def measured(tensors: Mapping[str, Tensor], where: object) -> dict[str, Any]:
    """The parts of an architecture that its tensors tell; heads only where they do."""
    check_family(tensors, where)
    shape = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    width, channels, patch = shape["x_embedder.proj.weight"][:3]
    head = _head(shape)
    rows = shape["y_embedder.embedding_table.weight"][0]
    parts = {
        "depth": len(_blocks(tensors)),
        "width": width,
        "patch": patch,
        "channels": channels,
        "side": math.isqrt(shape["pos_embed"][1]) * patch,
        "rows": rows,
        "rms": "blocks.0.norm1.weight" in shape,
        "swiglu": "blocks.0.mlp.w12.weight" in shape,
        "rope": ANGLES[0] in shape,
        "qk_norm": "blocks.0.attn.q_norm.weight" in shape,
        "shift": shape["blocks.0.adaLN_modulation.1.weight"][0] == 6 * width,
        "sigma": shape["final_layer.linear.weight"][0] == 2 * channels * patch**2,
    }
    return parts | ({"heads": width // head} if head else {})


def check_family(tensors: Mapping[str, Tensor], where: object) -> None:
    """Refuse tensors of another family, and those of which some are missing."""
    lost = [name for name in ESSENTIAL if name not in tensors]
    if not lost:
        return
    if len(lost) > len(ESSENTIAL) // 2:
        raise InputError(
            f"{where} has tensors like {_some(tensors)}, which is no family known here"
            f" (LightningDiT, SiT, REPA, folders of diffusers); write a function that makes the"
            f" network and load it as module:function with its convention"
        )
    raise InputError(
        f"{where} lacks {_some(lost)}; it was not saved in full, fetch or save it again"
    )


def planned(
    parts: Mapping[str, Any], heads: int | None, where: object
) -> tuple[Architecture, list[str]]:
    """An architecture from what tensors tell, and what had to be assumed beside it."""
    parts, assumed = dict(parts), []
    rows = parts.pop("rows")
    known = parts.pop("heads", None) or heads
    if known is None:
        alike = [
            s for s in SIZES.values() if (s.depth, s.width) == (parts["depth"], parts["width"])
        ]
        if not alike:
            raise InputError(
                f"{where}: {parts['depth']} blocks of width {parts['width']} are no size of the"
                f" family, and tensors do not tell the number of heads; give heads=…"
            )
        known = alike[0].heads
        assumed.append(f"{known} heads, as this size has")
    null = rows not in WITHOUT_NULL
    assumed.append(f"{rows - null} classes {'and a null label' if null else 'without null label'}")
    return Architecture(**parts, heads=known, classes=rows - null, null=null), assumed


def check_agreement(plan: Architecture, parts: Mapping[str, Any], where: object) -> None:
    """Refuse a configuration that contradicts the tensors beside it."""
    said = plan.settings() | {"rows": plan.rows}
    unlike = [
        f"{name} {said[name]} said, {value} there"
        for name, value in parts.items()
        if said[name] != value
    ]
    if unlike:
        raise InputError(
            f"{where}: its configuration contradicts its tensors ({'; '.join(unlike)}). If the"
            f" tensors are right, save them alone as .safetensors and load that"
        )


def filled(plan: Architecture, tensors: Mapping[str, Tensor], where: object) -> LightningDiT:
    """The network with these tensors; their own type and memory, nothing shared with the file."""
    check_angles(plan, tensors, where)
    given = {name: tensor for name, tensor in tensors.items() if name not in ANGLES}
    given.setdefault("pos_embed", positions(plan.side // plan.patch, plan.width))
    with torch.device("meta"):
        network = LightningDiT(plan)
    check_names(network.state_dict(), given, where)
    for name, tensor in given.items():
        if tensor.dtype not in WEIGHTS:
            raise InputError(f"{where}: {name} holds {tensor.dtype}, no weights; fetch it again")
        if not bool(tensor.isfinite().all()):
            raise InputError(f"{where}: {name} holds NaN or infinite numbers; training diverged")
    network.load_state_dict({name: given[name].clone() for name in given}, assign=True)
    return network.eval().requires_grad_(False)


def check_names(wanted: Mapping[str, Tensor], given: Mapping[str, Tensor], where: object) -> None:
    """Refuse tensors that are missing, too many, or of another shape."""
    lost = [name for name in wanted if name not in given]
    if lost:
        raise InputError(
            f"{where} lacks {len(lost)} tensors: {_some(lost)}; it was not saved in full, fetch"
            f" or save it again"
        )
    foreign = [name for name in given if name not in wanted]
    if foreign:
        raise InputError(
            f"{where} has {len(foreign)} tensors that this family has not: {_some(foreign)}; load"
            f" such a network as module:function"
        )
    for name, tensor in given.items():
        if tensor.shape != wanted[name].shape:
            raise InputError(
                f"{where}: {name} is {list(tensor.shape)}, but this architecture has"
                f" {list(wanted[name].shape)} there; load such a network as module:function"
            )


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """A hash of tensors: their names, types, shapes and bytes, in the order of their names."""
    plain = ((name, tensors[name].detach().cpu().contiguous()) for name in sorted(tensors))
    return digest(
        *(
            part
            for name, tensor in plain
            for part in (
                f"{name} {tensor.dtype} {list(tensor.shape)}",
                tensor.reshape(-1).view(torch.uint8).numpy().data,
            )
        )
    )


def check_angles(plan: Architecture, tensors: Mapping[str, Tensor], where: object) -> None:
    """Refuse rotary positions that are not the family's; their tables are made anew."""
    if not plan.rope or ANGLES[0] not in tensors:
        return
    own = rotary(plan.side // plan.patch, plan.width // plan.heads)
    for name, half in zip(ANGLES, own, strict=True):
        table = half.repeat_interleave(2, dim=1)
        if tensors[name].shape != table.shape or (tensors[name] - table).abs().max() > CLOSE:
            raise InputError(
                f"{where}: {name} is not the table of this family, so its rotary positions are"
                f" others; load such a network as module:function"
            )


def _blocks(tensors: Iterable[str]) -> set[str]:
    return {found[1] for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name))}


def _head(shape: Mapping[str, tuple[int, ...]]) -> int | None:
    if ANGLES[0] in shape:
        return shape[ANGLES[0]][-1]
    norm = shape.get("blocks.0.attn.q_norm.weight")
    return norm[0] if norm else None


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
