"""One network in one file: tensors as safetensors, and in their header, as JSON, what they are.

One file is whole or not there, so weights and description never part. Other programs read it as
any safetensors file; the tensors have the names of the reference implementation.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from floracle.core.fields import Convention
from floracle.run.errors import InputError, suggestion
from floracle.run.files import check_hash, digest, read_json, write_aside
from floracle.run.records import read_record
from floracle.run.results import provenance

from .checkpoints import check_whole, read_safetensors
from .convention import convention_from_settings, convention_settings
from .networks.lightningdit import LightningDiT, architecture_from_settings
from .networks.tensors import build_network
from .state_dict import hash_tensors
from .typed_config import count, read_settings, table, text

FORMAT = 2
FORMAT_WITHOUT_DIGEST = 1  # of version 0.1.0
NETWORK_FILE = "network.safetensors"  # in a run's folder
HEADER_KEY = "floracle"
CHECKPOINT_KIND = "checkpoint"
"""The kind of record that lies beside the tensors of a run's checkpoint."""
PREFIXES = {"ema": "average/", "model": "network/"}
"""Prefixes of a run's checkpoint for its averaged and its trained weights."""


@dataclass(frozen=True)
class SavedNetwork:
    """A network as it was written: its weights, its convention, and where it came from."""

    network: LightningDiT
    convention: Convention
    made: Mapping[str, Any]


def write_network(
    path: str | Path, network: LightningDiT, *, convention: Convention | None = None, **made: Any
) -> Path:
    """Write one network, whole or not at all; `made` says where it came from (JSON values)."""
    path = Path(path)
    convention = convention or Convention(null_label=network.null)
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()
    }
    header = {
        "format": FORMAT,
        "plan": network.plan.settings(),
        "convention": convention_settings(convention),
        "made": provenance(**made),
        "tensors": hash_tensors(tensors),
    }
    text = json.dumps({**header, "digest": _hash_header(header)}, sort_keys=True, allow_nan=False)
    with write_aside(path) as temporary:
        save_file(tensors, temporary, metadata={HEADER_KEY: text, "format": "pt"})
        _sort_metadata(temporary)
    return path


def _hash_header(header: Mapping[str, Any]) -> str:
    """A digest of a file's description, the digest of its tensors included."""
    return digest(json.dumps(header, sort_keys=True, allow_nan=False))


def _sort_metadata(path: Path) -> None:
    """Sort the metadata of a .safetensors file, so that equal networks are equal files.

    safetensors writes it in random order.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:  # always, unless safetensors becomes terser than we are
            file.seek(8)
            file.write(text.ljust(length))


def read_header(path: Path) -> Mapping[str, Any] | None:
    """A file's description of its network; None where it is not one of ours."""
    check_whole(path)
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(HEADER_KEY)
        header = None if text is None else json.loads(text)
    except (SafetensorError, OSError, json.JSONDecodeError, UnicodeDecodeError):
        return None  # reading the tensors says what is wrong
    return header if isinstance(header, Mapping) else None


def read_network(path: Path) -> SavedNetwork:
    """The network that `write_network` wrote, ready for evaluation."""
    tensors, header = read_safetensors(path), read_header(path)
    if header is None:
        raise InputError(f"{path} is not a network that floracle wrote; load_model reads others")
    _check_digests(path, header, tensors)
    plan = architecture_from_settings(header.get("plan"), f"the plan in the header of {path}")
    try:
        convention = convention_from_settings(header["convention"])
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the header of {path} is damaged ({error}); write it again") from error
    made = header.get("made")
    network = build_network(plan, tensors, path)
    return SavedNetwork(network, convention, made if isinstance(made, Mapping) else {})


def _check_digests(path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Refuse what is not as it was written; files of 0.1.0 have no digest."""
    if header.get("format") == FORMAT_WITHOUT_DIGEST:
        return
    if header.get("format") != FORMAT:
        raise InputError(
            f"{path} is a network of format {header.get('format')}; this version reads {FORMAT}"
        )
    hashed = {name: value for name, value in header.items() if name != "digest"}
    is_whole = header.get("digest") == _hash_header(hashed)
    if not is_whole or hashed.get("tensors") != hash_tensors(tensors):
        raise InputError(f"{path} is damaged: it is not as it was written; write or copy it again")


def is_run_checkpoint(path: Path) -> bool:
    """Whether a file is a checkpoint of a training run: a JSON file beside it says so."""
    record = path.with_suffix(".json")
    if path.suffix != ".safetensors" or not record.is_file():
        return False
    try:
        content = read_json(record)
    except InputError:
        return False  # a file of another program beside a checkpoint of another project
    return isinstance(content, dict) and {"settings", "images", "hash"} <= content.keys()


def read_run_checkpoint(path: Path, weights: str | None = None) -> SavedNetwork:
    """The network of a checkpoint of a training run: its average ("ema"), or itself ("model").

    A network that was not built here cannot be loaded from its checkpoint alone.
    """
    record = read_record(path.with_suffix(".json"), CHECKPOINT_KIND)
    prefix = PREFIXES.get(weights or "ema")
    if prefix is None:
        hint = suggestion(weights or "", PREFIXES)
        raise InputError(f"{path} has no weights {weights!r}; {hint}")
    schema = {"settings": table, "images": count(0, 2**63), "hash": text}
    content = read_settings(record, schema, path.with_suffix(".json"))
    plan = content["settings"].get("network")
    if not isinstance(plan, dict):
        raise InputError(
            f"{path} is a checkpoint of a network that floracle did not build; load its tensors"
            f" {prefix}… in code of your own, and name that as module:function"
        )
    check_hash(path, content["hash"])
    tensors = {
        name.removeprefix(prefix): tensor
        for name, tensor in read_safetensors(path).items()
        if name.startswith(prefix)
    }
    source = f"the network in {path.with_suffix('.json')}"
    network = build_network(architecture_from_settings(plan, source), tensors, path)
    made = {"images": content["images"]}
    return SavedNetwork(network, Convention(null_label=network.null), made)
