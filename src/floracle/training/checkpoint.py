"""Checkpoints: everything that lives in a run, and nothing else.

    checkpoints/000001024000.safetensors    network, average, and both moments of AdamW
    checkpoints/000001024000.json           a record: images seen, settings, hash of the tensors

Rows, times and noise are functions of the images seen, so there is no random state to keep. The
tensors are written first and the JSON last, each aside, synced and renamed: a checkpoint is there
once its JSON is. Older ones go only then. One that is damaged, tensors or JSON, or that is of
another run, is named and the one before it taken; it stays where it is until it is written anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from floracle.models.weights import KEPT, PARTS
from floracle.run.errors import InputError
from floracle.run.files import check_hash, hash_file, write_aside
from floracle.run.records import OtherFormat, read_record, write_record
from floracle.run.results import differences, provenance

VERB = "train"
"""Whose runs these are."""
FOLDER = "checkpoints"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""What AdamW keeps of a parameter that has had a gradient."""


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
        found = {PARTS["model"] + n: v for n, v in self.network.state_dict().items()}
        found |= {PARTS["ema"] + n: v for n, v in self.average.state_dict().items()}
        for name, parameter in self.named().items():
            state = self.optimizer.state.get(parameter)
            if state:  # there is none before its first gradient
                found |= {f"{moment}/{name}": state[moment] for moment in MOMENTS}
        return {name: value.detach().cpu().contiguous() for name, value in found.items()}

    def restore(self, tensors: Mapping[str, Tensor], where: Path) -> None:
        """Become what was kept."""
        state = self.network.state_dict()
        wanted = {PARTS[part] + name: v for part in ("model", "ema") for name, v in state.items()}
        moments = {
            i: {m: f"{m}/{n}" for m in MOMENTS}
            for i, n in enumerate(self.named())
            if f"step/{n}" in tensors
        }
        for i, parameter in enumerate(self.named().values()):
            for moment, name in moments.get(i, {}).items():
                wanted[name] = torch.empty(()) if moment == "step" else parameter
        for name, value in wanted.items():
            there = tensors.get(name)
            if there is None or (there.shape, there.dtype) != (value.shape, value.dtype):
                raise InputError(f"{where} is of another network ({name}); choose another --out")
        for part, module in (("model", self.network), ("ema", self.average)):
            module.load_state_dict({name: tensors[PARTS[part] + name] for name in state})
        kept = {i: {m: tensors[n] for m, n in names.items()} for i, names in moments.items()}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": kept, "param_groups": groups})


@dataclass(frozen=True)
class Checkpoint:
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
    more: Mapping[str, Tensor] | None = None,
) -> Checkpoint:
    """Write a checkpoint, with more tensors if there are any; all but the `most` latest go."""
    path = out / FOLDER / f"{images:012d}.safetensors"
    with writing(path, out):
        with write_aside(path) as aside:
            save_file({**learner.tensors(), **(more or {})}, aside)
            found = hash_file(aside)
        about = {
            "images": images,
            "step": step,
            "settings": dict(settings),
            "processes": processes,
            "facts": dict(facts),
            "hash": found,
            "made": provenance(),
        }
        write_record(path.with_suffix(".json"), KEPT, about)
        clear(out, most, images)
    return Checkpoint(path, images, step, settings, processes, facts, found)


@contextmanager
def writing(path: Path, out: Path) -> Iterator[None]:
    """Say in one sentence that a file of a run could not be written, and what is safe."""
    try:
        yield
    except (OSError, SafetensorError, InputError) as error:
        refused = error.__cause__ if isinstance(error, InputError) else error
        if not isinstance(refused, (OSError, SafetensorError)):
            raise
        kept, _ = latest(out)
        good = "there is no checkpoint yet"
        if kept is not None:
            good = f"the last good checkpoint is {kept.path}"
        raise InputError(
            f"{path} could not be written ({refused}); {good}. Make room or mend the disk, and run"
            f" the same command again"
        ) from error


def abouts(out: Path) -> list[Path]:
    """The JSON files of all checkpoints, readable or not, the oldest first."""
    return sorted(path for path in (out / FOLDER).glob("*.json") if path.stem.isdigit())


def described(about: Path, settings: Mapping[str, Any] | None = None) -> Checkpoint:
    """The checkpoint that a JSON file is of; a damaged one is a mistake.

    So is one of another run than that of the settings, which may have become longer since.
    """
    said = read_record(about, KEPT)
    images, step, own = said.get("images"), said.get("step"), said.get("settings")
    facts, processes = said.get("facts"), said.get("processes")
    if not (isinstance(own, dict) and isinstance(facts, dict) and isinstance(processes, int)):
        raise InputError(f"{about} is damaged (it does not describe a checkpoint)")
    batch, total = own.get("batch"), own.get("images")
    if not (_is_count(images) and _is_count(step) and _is_count(batch) and _is_count(total)):
        raise InputError(f"{about} is damaged (it counts {images!r} images and {step!r} steps)")
    if images != int(about.stem) or images != min(step * batch, total):
        raise InputError(f"{about} is damaged (it is of {images:,} images after {step:,} steps)")
    former = {**own, "images": max(total, (settings or own)["images"])}
    if settings is not None and (unlike := differences(settings, former)):
        raise InputError(f"{about} is of another run ({'; '.join(unlike)})")
    path = about.with_suffix(".safetensors")
    return Checkpoint(path, images, step, own, processes, facts, said["hash"])


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and value > 0


def clear(out: Path, most: int, images: int) -> None:
    """Of checkpoints up to so many images keep the latest; remove tensors without a JSON."""
    for old in [about for about in abouts(out) if int(about.stem) <= images][:-most]:
        old.unlink(missing_ok=True)
        old.with_suffix(".safetensors").unlink(missing_ok=True)
    for path in (out / FOLDER).glob("*.safetensors"):
        if path.stem.isdigit() and not path.with_suffix(".json").exists():
            path.unlink(missing_ok=True)


def latest(
    out: Path, settings: Mapping[str, Any] | None = None
) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and words about newer ones that are not.

    With settings, those of other runs are passed over as well.
    """
    flaws = []
    for about in reversed(abouts(out)):
        try:
            kept = described(about, settings)
            check_hash(kept.path, kept.hash)
        except OtherFormat:
            raise
        except InputError as flaw:
            flaws.append(str(flaw))
        else:
            return kept, [f"{flaw}; the checkpoint before it is taken" for flaw in flaws]
    return None, [f"{flaw}; none is whole, so that the run starts again from 0" for flaw in flaws]


def read(kept: Checkpoint, part: str = "") -> dict[str, Tensor]:
    """The tensors of a checkpoint, or those whose names begin with that of a part."""
    try:
        with safe_open(kept.path, "pt") as file:
            names = [name for name in file.keys() if name.startswith(part)]  # noqa: SIM118
            return {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise InputError(f"{kept.path} cannot be read ({error}); remove it to go back") from error
