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

from floracle.run.errors import InputError, suggestion
from floracle.run.files import check_hash, digest, read_json, write_aside
from floracle.run.records import read_record
from floracle.run.results import provenance

from .checkpoints import check_whole, read_safetensors
from .convention import Convention, convention_from_settings, convention_settings
from .networks.lightningdit import Architecture, LightningDiT
from .networks.tensors import digest_of, filled

FORMAT, UNSEALED = 2, 1
"""What is written now, and what 0.1.0 wrote, which had no digest."""
NAME = "network.safetensors"
"""What the file is called in a run's folder."""
KEY = "floracle"
KEPT = "checkpoint"
"""The kind of record that lies beside the tensors of a run's checkpoint."""
PARTS = {"ema": "average/", "model": "network/"}
"""Whose tensors a checkpoint of a run holds, by the names that other projects have for them."""


@dataclass(frozen=True)
class SavedNetwork:
    """A network as it was written: itself, how it is read, and where it came from."""

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
    described = {
        "format": FORMAT,
        "plan": network.plan.settings(),
        "convention": convention_settings(convention),
        "made": provenance(**made),
        "tensors": digest_of(tensors),
    }
    text = json.dumps({**described, "digest": _seal(described)}, sort_keys=True, allow_nan=False)
    with write_aside(path) as aside:
        save_file(tensors, aside, metadata={KEY: text, "format": "pt"})
        _sort_metadata(aside)
    return path


def _seal(described: Mapping[str, Any]) -> str:
    """A digest of what a file says, the digest of its tensors included."""
    return digest(json.dumps(described, sort_keys=True, allow_nan=False))


def _sort_metadata(path: Path) -> None:
    """Put the metadata of a .safetensors file in order, so that equal networks are equal files.

    safetensors writes it in any order, another one every time.
    """
    with path.open("r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) <= length:  # always, unless its writer leaves out more than we do
            file.seek(8)
            file.write(text.ljust(length))


def description(path: Path) -> Mapping[str, Any] | None:
    """What a file says about its network; None where it is not one of ours."""
    check_whole(path)
    try:
        with safe_open(path, "pt") as file:
            text = (file.metadata() or {}).get(KEY)
        found = None if text is None else json.loads(text)
    except (SafetensorError, OSError, json.JSONDecodeError, UnicodeDecodeError):
        return None  # reading the tensors says what is wrong
    return found if isinstance(found, Mapping) else None


def read_network(path: Path) -> SavedNetwork:
    """The network that `write_network` wrote, ready to be asked."""
    tensors, found = read_safetensors(path), description(path)
    if found is None:
        raise InputError(f"{path} is not a network that floracle wrote; load_model reads others")
    _check_sealed(path, found, tensors)
    try:
        plan = Architecture(**found["plan"])
        convention = convention_from_settings(found["convention"])
    except (KeyError, TypeError) as error:
        raise InputError(f"the header of {path} is damaged ({error}); write it again") from error
    return SavedNetwork(filled(plan, tensors, path), convention, found.get("made", {}))


def _check_sealed(path: Path, found: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Refuse what is not as it was written; files of 0.1.0 were not sealed."""
    if found.get("format") == UNSEALED:
        return
    if found.get("format") != FORMAT:
        raise InputError(
            f"{path} is a network of format {found.get('format')}, this version reads {FORMAT}"
        )
    said = {name: value for name, value in found.items() if name != "digest"}
    if found.get("digest") != _seal(said) or said.get("tensors") != digest_of(tensors):
        raise InputError(f"{path} is damaged: it is not as it was written; write or copy it again")


def is_kept(path: Path) -> bool:
    """Whether a file is a checkpoint of a training run: there is a JSON beside it that says so."""
    about = path.with_suffix(".json")
    if path.suffix != ".safetensors" or not about.is_file():
        return False
    try:
        said = read_json(about)
    except InputError:
        return False  # somebody else's file beside somebody else's checkpoint
    return isinstance(said, dict) and {"settings", "images", "hash"} <= said.keys()


def read_kept(path: Path, weights: str | None = None) -> SavedNetwork:
    """The network of a checkpoint of a training run: its average, or as it was trained ("model").

    Networks that were not made here are unknown to the run, and have to be loaded where they are.
    """
    said = read_record(path.with_suffix(".json"), KEPT)
    part = PARTS.get(weights or "ema")
    if part is None:
        raise InputError(f"{path} has no weights {weights!r}; {suggestion(weights or '', PARTS)}")
    plan = said["settings"].get("network")
    if not isinstance(plan, dict):
        raise InputError(
            f"{path} is a checkpoint of a network that was not made here; load its tensors"
            f" {part}… in code of your own, and name that as module:function"
        )
    check_hash(path, said["hash"])
    tensors = read_safetensors(path)
    own = {name.removeprefix(part): t for name, t in tensors.items() if name.startswith(part)}
    try:
        network = filled(Architecture(**plan), own, path)
    except TypeError as error:
        raise InputError(f"{path.with_suffix('.json')} describes no network ({error})") from error
    return SavedNetwork(network, Convention(null_label=network.null), {"images": said["images"]})
