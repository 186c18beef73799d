"""Checkpoints: everything that lives in a run, and nothing else.

    checkpoints/000001024000.safetensors    network, average, and both moments of AdamW
    checkpoints/000001024000.json           images seen, settings, and the hash of the tensors

Rows, times and noise are functions of the images seen, so there is no random state to keep. The
tensors are written first and the JSON last, each aside, synced and renamed: a checkpoint is there
once its JSON is. Older ones go only then. One that is damaged is named, and the one before it
taken.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from floracle.run.errors import Mistake
from floracle.run.files import read_json, write_json, written_aside
from floracle.run.results import provenance

FORMAT = 1
FOLDER = "checkpoints"
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Learner:
    """What lives: a network, the average of its weights, and its optimizer."""

    network: nn.Module
    average: nn.Module
    optimizer: Optimizer

    def named(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained."""
        return {n: p for n, p in self.network.named_parameters() if p.requires_grad}

    def tensors(self) -> dict[str, Tensor]:
        """All of it, by name, on the CPU."""
        found = {f"network/{n}": v for n, v in self.network.state_dict().items()}
        found |= {f"average/{n}": v for n, v in self.average.state_dict().items()}
        for name, parameter in self.named().items():
            state = self.optimizer.state.get(parameter) or {}
            none = torch.zeros_like(parameter)  # a parameter that never had a gradient
            found |= {f"{moment}/{name}": state.get(moment, none) for moment in MOMENTS}
        return {name: value.detach().cpu().contiguous() for name, value in found.items()}

    def restore(self, tensors: Mapping[str, Tensor], step: int, where: Path) -> None:
        """Become what was kept after so many steps."""
        wanted = {f"network/{name}": v for name, v in self.network.state_dict().items()}
        for name, value in wanted.items():
            if name not in tensors or tensors[name].shape != value.shape:
                raise Mistake(f"{where} is of another network ({name}); choose another --out")
        for part, module in (("network", self.network), ("average", self.average)):
            chosen = {n: tensors[f"{part}/{n}"] for n in module.state_dict()}
            module.load_state_dict(chosen)
        moments = {
            i: {"step": torch.tensor(float(step))} | {m: tensors[f"{m}/{n}"] for m in MOMENTS}
            for i, n in enumerate(self.named())
        }
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": moments, "param_groups": groups})


@dataclass(frozen=True)
class Kept:
    """A checkpoint as its JSON describes it."""

    path: Path
    """Of its tensors."""
    images: int
    step: int
    settings: Mapping[str, Any]
    processes: int
    facts: Mapping[str, Any]
    """What else the run has found out and must not measure again."""
    hash: str

    @property
    def about(self) -> Path:
        """Its JSON."""
        return self.path.with_suffix(".json")


def optimizer_for(network: nn.Module, **options: Any) -> AdamW:
    """AdamW over what is trained."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return AdamW(parameters, fused=True, **options)


def keep(
    out: Path,
    learner: Learner,
    *,
    images: int,
    step: int,
    settings: Mapping[str, Any],
    processes: int,
    facts: Mapping[str, Any],
    most: int,
) -> Kept:
    """Write a checkpoint, then let go of all but the `most` latest."""
    path = out / FOLDER / f"{images:012d}.safetensors"
    try:
        with written_aside(path) as aside:
            save_file(learner.tensors(), aside)
            found = hash_of(aside)
        about = {
            "format": FORMAT,
            "images": images,
            "step": step,
            "settings": dict(settings),
            "processes": processes,
            "facts": dict(facts),
            "hash": found,
            "made": provenance(),
        }
        write_json(path.with_suffix(".json"), about)
    except (OSError, SafetensorError) as error:
        last = [one for one in listed(out) if one.images < images]
        good = f"the last good one is {last[-1].path}" if last else "there is none before it"
        raise Mistake(
            f"the checkpoint {path} could not be written ({error}); {good}. Make room and run the"
            f" same command again"
        ) from error
    kept = Kept(path, images, step, settings, processes, facts, found)
    clear(out, most)
    return kept


def listed(out: Path) -> list[Kept]:
    """The checkpoints of a run, the oldest first; those without a readable JSON do not count."""
    found = []
    for about in sorted((out / FOLDER).glob("*.json")):
        with suppress(Mistake, KeyError, TypeError, AttributeError):
            said = read_json(about)
            if said["format"] != FORMAT:
                continue
            names = ("images", "step", "settings", "processes", "facts", "hash")
            path = about.with_suffix(".safetensors")
            found.append(Kept(path, *(said[name] for name in names)))
    return sorted(found, key=lambda kept: kept.images)


def clear(out: Path, most: int) -> None:
    """Remove all but the latest checkpoints, and tensors that no JSON belongs to."""
    there = listed(out)
    for old in there[:-most]:
        old.about.unlink(missing_ok=True)
        old.path.unlink(missing_ok=True)
    known = {kept.path for kept in there[-most:]}
    for path in (out / FOLDER).glob("*.safetensors"):
        if path not in known:
            path.unlink(missing_ok=True)


def latest(out: Path) -> tuple[Kept | None, list[str]]:
    """The newest checkpoint that is whole, and words about newer ones that are not."""
    words = []
    for kept in reversed(listed(out)):
        flaw = flaw_of(kept)
        if flaw is None:
            return kept, words
        words.append(f"{kept.path} is damaged ({flaw}); the checkpoint before it is taken")
    return None, words


def flaw_of(kept: Kept) -> str | None:
    """What is wrong with a checkpoint; None where it is whole."""
    try:
        if hash_of(kept.path) != kept.hash:
            return f"its {kept.path.stat().st_size:,} bytes are not those that were written"
    except OSError as error:
        return error.strerror or str(error)
    return None


def read(kept: Kept) -> dict[str, Tensor]:
    """The tensors of a checkpoint."""
    try:
        with safe_open(kept.path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise Mistake(f"{kept.path} cannot be read ({error}); remove it to go back") from error


def hash_of(path: Path) -> str:
    """The hash of a file, 128 bits of BLAKE2b in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
