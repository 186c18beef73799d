"""Checkpoints: the network, its average and the optimizer, and nothing else.

    checkpoints/000001024000.safetensors    network, average, and both moments of AdamW
    checkpoints/000001024000.json           a record: images seen, settings, hash of the tensors

Rows, times and noise are functions of the images seen, so there is no random state to keep. The
tensors are written first and the record last, each aside, synced and renamed: a checkpoint exists
once its record does. Older ones are removed only then. One that is damaged, tensors or record, or
that is of another run, is named and the one before it is used; it stays until it is written anew.
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

from floracle.models.weights import CHECKPOINT_KIND, PREFIXES
from floracle.run.errors import InputError
from floracle.run.files import check_hash, hash_file, write_aside
from floracle.run.records import OtherFormat, read_record, write_record
from floracle.run.results import differences, provenance

VERB = "train"
FOLDER = "checkpoints"
MOMENTS = ("step", "exp_avg", "exp_avg_sq")  # AdamW's, of a parameter that has had a gradient


@dataclass(frozen=True)
class Learner:
    """A network, the average of its weights, and its optimizer."""

    network: nn.Module
    average: nn.Module
    optimizer: Optimizer

    def named(self) -> dict[str, nn.Parameter]:
        """The parameters that are trained."""
        return {n: p for n, p in self.network.named_parameters() if p.requires_grad}

    def tensors(self) -> dict[str, Tensor]:
        """All weights and moments by name, on the CPU."""
        tensors = {PREFIXES["model"] + n: v for n, v in self.network.state_dict().items()}
        tensors |= {PREFIXES["ema"] + n: v for n, v in self.average.state_dict().items()}
        for name, parameter in self.named().items():
            state = self.optimizer.state.get(parameter)
            if state:  # there is none before its first gradient
                tensors |= {f"{moment}/{name}": state[moment] for moment in MOMENTS}
        return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}

    def restore(self, tensors: Mapping[str, Tensor], path: Path) -> None:
        """Take over the tensors of a checkpoint; refused if they are of another network."""
        # 1. What a checkpoint of this network has: weights, average, and moments where there are
        weights = self.network.state_dict()
        expected = {PREFIXES[part] + n: v for part in ("model", "ema") for n, v in weights.items()}
        moments: dict[int, dict[str, str]] = {}
        for i, (name, parameter) in enumerate(self.named().items()):
            if f"step/{name}" in tensors:
                moments[i] = {moment: f"{moment}/{name}" for moment in MOMENTS}
                for moment, key in moments[i].items():
                    expected[key] = torch.empty(()) if moment == "step" else parameter
        # 2. All of it is there, in the same shapes, before anything changes
        for key, value in expected.items():
            saved = tensors.get(key)
            if saved is None or (saved.shape, saved.dtype) != (value.shape, value.dtype):
                raise InputError(f"{path} is of another network ({key}); choose another --out")
        # 3. Take it over
        for part, module in (("model", self.network), ("ema", self.average)):
            module.load_state_dict({name: tensors[PREFIXES[part] + name] for name in weights})
        state = {i: {m: tensors[key] for m, key in keys.items()} for i, keys in moments.items()}
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as its record describes it."""

    path: Path
    """Of its tensors."""
    images: int
    step: int
    settings: Mapping[str, Any]
    processes: int
    facts: Mapping[str, Any]
    """What else the run has measured and must not measure again."""
    hash: str

    @property
    def record(self) -> Path:
        """The path of its record."""
        return self.path.with_suffix(".json")


def optimizer_for(network: nn.Module, **options: Any) -> AdamW:
    """AdamW over the parameters that are trained."""
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    return AdamW(parameters, fused=True, **options)


def write_checkpoint(
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
    """Write a checkpoint, with `more` tensors if there are any; all but the `most` latest go."""
    path = out / FOLDER / f"{images:012d}.safetensors"
    with explain_write_errors(path, out):
        with write_aside(path) as aside:
            save_file({**learner.tensors(), **(more or {})}, aside)
            hashed = hash_file(aside)
        record = {
            "images": images,
            "step": step,
            "settings": dict(settings),
            "processes": processes,
            "facts": dict(facts),
            "hash": hashed,
            "made": provenance(),
        }
        write_record(path.with_suffix(".json"), CHECKPOINT_KIND, record)
        remove_old(out, most, images)
    return Checkpoint(path, images, step, settings, processes, facts, hashed)


@contextmanager
def explain_write_errors(path: Path, out: Path) -> Iterator[None]:
    """Say in one sentence that a file of a run could not be written, and what is safe."""
    try:
        yield
    except (OSError, SafetensorError, InputError) as error:
        cause = error.__cause__ if isinstance(error, InputError) else error
        if not isinstance(cause, (OSError, SafetensorError)):
            raise
        raise InputError(
            f"{path} could not be written ({cause});"
            f" {last_good(out, 'there is no checkpoint yet')}. Make room or mend the disk, and run"
            f" the same command again"
        ) from error


def last_good(out: Path, otherwise: str) -> str:
    """A clause that names the last good checkpoint."""
    checkpoint, _ = latest_checkpoint(out)
    if checkpoint is None:
        return otherwise
    return f"the last good checkpoint is {checkpoint.path}"


def record_paths(out: Path) -> list[Path]:
    """The records of all checkpoints, readable or not, the oldest first."""
    return sorted(path for path in (out / FOLDER).glob("*.json") if path.stem.isdigit())


def read_record_of(path: Path, settings: Mapping[str, Any] | None = None) -> Checkpoint:
    """The checkpoint that a record describes; refused if it is damaged.

    With settings, one of another run is refused too; the run may have become longer since.
    """
    record = read_record(path, CHECKPOINT_KIND)
    images, step, own = record.get("images"), record.get("step"), record.get("settings")
    facts, processes = record.get("facts"), record.get("processes")
    if not (isinstance(own, dict) and isinstance(facts, dict) and isinstance(processes, int)):
        raise InputError(f"{path} is damaged (it does not describe a checkpoint)")
    batch, total = own.get("batch"), own.get("images")
    if not (_is_count(images) and _is_count(step) and _is_count(batch) and _is_count(total)):
        raise InputError(f"{path} is damaged (it counts {images!r} images and {step!r} steps)")
    if images != int(path.stem) or images != min(step * batch, total):
        raise InputError(f"{path} is damaged (it is of {images:,} images after {step:,} steps)")
    former = {**own, "images": max(total, (settings or own)["images"])}
    if settings is not None and (unlike := differences(settings, former)):
        raise InputError(f"{path} is of another run ({'; '.join(unlike)})")
    tensors = path.with_suffix(".safetensors")
    return Checkpoint(tensors, images, step, own, processes, facts, record["hash"])


def _is_count(value: Any) -> TypeGuard[int]:
    return type(value) is int and value > 0


def remove_old(out: Path, most: int, images: int) -> None:
    """Of checkpoints up to so many images keep the latest; remove tensors without a record."""
    for old in [path for path in record_paths(out) if int(path.stem) <= images][:-most]:
        old.unlink(missing_ok=True)
        old.with_suffix(".safetensors").unlink(missing_ok=True)
    for path in (out / FOLDER).glob("*.safetensors"):
        if path.stem.isdigit() and not path.with_suffix(".json").exists():
            path.unlink(missing_ok=True)


def latest_checkpoint(
    out: Path, settings: Mapping[str, Any] | None = None
) -> tuple[Checkpoint | None, list[str]]:
    """The newest good checkpoint, and sentences about newer ones that are damaged.

    With settings, those of other runs are passed over as well.
    """
    flaws = []
    for path in reversed(record_paths(out)):
        try:
            checkpoint = read_record_of(path, settings)
            check_hash(checkpoint.path, checkpoint.hash)
        except OtherFormat:  # of a newer version: not damaged, so nothing is overwritten
            raise
        except InputError as flaw:
            flaws.append(str(flaw))
        else:
            return checkpoint, [f"{flaw}; the checkpoint before it is taken" for flaw in flaws]
    return None, [f"{flaw}; none is whole, so that the run starts again from 0" for flaw in flaws]


def read_checkpoint(checkpoint: Checkpoint, prefix: str = "") -> dict[str, Tensor]:
    """The tensors of a checkpoint whose names begin with a prefix."""
    try:
        with safe_open(checkpoint.path, "pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            return {name: file.get_tensor(name) for name in names}
    except (OSError, SafetensorError) as error:
        raise InputError(
            f"{checkpoint.path} cannot be read ({error}); remove it to go back"
        ) from error
