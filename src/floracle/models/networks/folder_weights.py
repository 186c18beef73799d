"""The tensors of a folder that diffusers or transformers wrote.

They lie in one file, in shards that an index lists, or in either of a variant, such as fp16. The
plain file comes first; a variant is read where it is the only one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from floracle.models.checkpoints import read_network_tensors
from floracle.models.state_dict import list_names, unwrapped_names, weight_type
from floracle.models.typed_config import read_settings, table, text
from floracle.run.errors import InputError
from floracle.run.files import read_json

RENAMED = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
"""Parts of attention in autoencoders, by the names that diffusers gave them before 0.18."""
POSITIONS = "embeddings.position_ids"
"""The numbers 0, 1, 2 …, which transformers before 4.31 wrote beside the weights of CLIP."""


@dataclass(frozen=True)
class FolderWeights:
    """The tensors of one network, mapped from the disk."""

    folder: Path
    tensors: Mapping[str, Tensor]
    assumed: list[str]


def read_weights(folder: Path, stem: str, owner: str) -> FolderWeights:
    """The tensors under a stem of file names; `owner` is what to save again without them."""
    entry, variant = _entry_file(folder, stem, owner)
    read = _read_shards if entry.suffix == ".json" else read_network_tensors
    stored = read(entry)
    names = {name: _current_name(name) for name in stored if not name.endswith(POSITIONS)}
    tensors = {names[name]: stored[name] for name in names}
    if not tensors or len(tensors) < len(names):
        fault = "two tensors for one name" if names else "no tensors"
        raise InputError(f"{entry} has {fault}; save the {owner} again, or fetch it again")
    weight_type(tensors, entry)
    return FolderWeights(
        folder, tensors, [f"the variant {variant}, the only one"] if variant else []
    )


def _entry_file(folder: Path, stem: str, owner: str) -> tuple[Path, str]:
    """The file or the index of shards to read, and the name of its variant."""
    pattern = rf"{stem}(?:\.(\w+))?\.safetensors(?:\.index(?:\.(\w+))?\.json)?"
    variants: dict[str, list[Path]] = {}
    for file in sorted(folder.iterdir()):
        if match := re.fullmatch(pattern, file.name):
            variants.setdefault(match[1] or match[2] or "", []).append(file)
    if not variants:
        shards = any(folder.glob(f"{stem}*-of-*.safetensors"))
        what = f"{stem}.safetensors" + (".index.json to list its shards" if shards else "")
        raise InputError(
            f"{folder} has no {what}; save the {owner} again with"
            f" save_pretrained(…, safe_serialization=True)"
        )
    if "" not in variants and len(variants) > 1:
        raise InputError(
            f"{folder} has the variants {' and '.join(variants)} of {stem}.safetensors, and not"
            f" the plain one; leave one of them there"
        )
    variant = "" if "" in variants else next(iter(variants))
    if len(files := variants[variant]) > 1:
        raise InputError(
            f"{folder} has both {' and '.join(file.name for file in files)}; remove the one that"
            f" is out of date"
        )
    return files[0], variant


def _read_shards(index: Path) -> dict[str, Tensor]:
    """All tensors that an index lists, each from the shard that it names."""
    content = read_settings(read_json(index), {"weight_map": table}, index)
    files = read_settings(
        content.get("weight_map", {}),
        dict.fromkeys(content.get("weight_map", {}), _file_name),
        f"the weight_map of {index}",
    )
    tensors: dict[str, Tensor] = {}
    for file in sorted(set(files.values())):
        shard = read_network_tensors(index.parent / file)
        listed = unwrapped_names({name: f for name, f in files.items() if f == file}, index)
        faults = {"lacks": listed.keys() - shard, "also has": shard.keys() - listed}
        for fault, names in faults.items():
            if names:
                raise InputError(
                    f"{index.parent / file} {fault} {list_names(sorted(names))}, unlike its"
                    f" {index.name}; fetch both again"
                )
        tensors |= shard
    return tensors


def _file_name(value: object) -> str:
    """The name of a file beside the index: nothing outside of its folder is read."""
    name = text(value)
    if not re.fullmatch(r"[\w.-]+\.safetensors", name):
        raise ValueError("the name of a .safetensors file in the same folder")
    return name


def _current_name(name: str) -> str:
    """The name that diffusers gives a tensor today."""
    match = re.fullmatch(r"(.*attentions\.\d+\.)(\w+)(\.(?:weight|bias))", name)
    return f"{match[1]}{RENAMED.get(match[2], match[2])}{match[3]}" if match else name
