"""Checkpoints: everything that lives in a run, and nothing else.

    checkpoints/000001024000.safetensors    network, average, and both moments of AdamW
    checkpoints/000001024000.json           images seen, settings, and the hash of the tensors

Rows, times and noise are functions of the images seen, so there is no random state to keep. The
tensors are written first and the JSON last, each aside, synced and renamed: a checkpoint is there
once its JSON is. Older ones go only then. One that is damaged, tensors or JSON, is named and the
one before it taken; it stays where it is until it is written anew.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from floracle.models.weights import KEPT, PARTS
from floracle.run.errors import Mistake
from floracle.run.files import check_hash, hash_of, read_json, write_json, written_aside
from floracle.run.results import provenance

FORMAT = KEPT
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
        wanted = {PARTS["model"] + name: v for name, v in self.network.state_dict().items()}
        for name, value in wanted.items():
            if name not in tensors or tensors[name].shape != value.shape:
                raise Mistake(f"{where} is of another network ({name}); choose another --out")
        for part, module in (("model", self.network), ("ema", self.average)):
            chosen = {n: tensors[PARTS[part] + n] for n in module.state_dict()}
            module.load_state_dict(chosen)
        moments = {
            i: {m: tensors[f"{m}/{n}"] for m in MOMENTS}
            for i, n in enumerate(self.named())
            if f"step/{n}" in tensors
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


class Foreign(Mistake):
    """A checkpoint that another version of floracle wrote."""


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
    with writing(path, out):
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
        clear(out, most, images)
    return Kept(path, images, step, settings, processes, facts, found)


@contextmanager
def writing(path: Path, out: Path) -> Iterator[None]:
    """Say in one sentence that a file of a run could not be written, and what is safe."""
    try:
        yield
    except (OSError, SafetensorError, Mistake) as error:
        refused = error.__cause__ if isinstance(error, Mistake) else error
        if not isinstance(refused, (OSError, SafetensorError)):
            raise
        kept, _ = latest(out)
        good = "there is no checkpoint yet"
        if kept is not None:
            good = f"the last good checkpoint is {kept.path}"
        raise Mistake(
            f"{path} could not be written ({refused}); {good}. Make room or mend the disk, and run"
            f" the same command again"
        ) from error


def abouts(out: Path) -> list[Path]:
    """The JSON files of all checkpoints, readable or not, the oldest first."""
    return sorted(path for path in (out / FOLDER).glob("*.json") if path.stem.isdigit())


def described(about: Path) -> Kept:
    """The checkpoint that a JSON file is of; a damaged file and another format are mistakes."""
    try:
        said = read_json(about)
    except (Mistake, OSError) as error:
        raise Mistake(f"{about} is damaged (it is no readable JSON)") from error
    names = ("images", "step", "settings", "processes", "facts", "hash")
    if not isinstance(said, dict) or not {"format", *names} <= said.keys():
        raise Mistake(f"{about} is damaged (it does not describe a checkpoint)")
    if said["format"] != FORMAT:
        made = said.get("made") or {}
        raise Foreign(
            f"{about} is a checkpoint of format {said['format']}, and this version reads"
            f" {FORMAT}; go on with floracle {made.get('floracle', 'of then')}, or choose another"
            f" --out"
        )
    return Kept(about.with_suffix(".safetensors"), *(said[name] for name in names))


def clear(out: Path, most: int, images: int) -> None:
    """Of checkpoints up to so many images keep the latest; remove tensors without a JSON."""
    for old in [about for about in abouts(out) if int(about.stem) <= images][:-most]:
        old.unlink(missing_ok=True)
        old.with_suffix(".safetensors").unlink(missing_ok=True)
    for path in (out / FOLDER).glob("*.safetensors"):
        if path.stem.isdigit() and not path.with_suffix(".json").exists():
            path.unlink(missing_ok=True)


def latest(out: Path) -> tuple[Kept | None, list[str]]:
    """The newest checkpoint that is whole, and words about newer ones that are not."""
    flaws = []
    for about in reversed(abouts(out)):
        try:
            kept = described(about)
            check_hash(kept.path, kept.hash)
        except Foreign:
            raise
        except Mistake as flaw:
            flaws.append(str(flaw))
        else:
            return kept, [f"{flaw}; the checkpoint before it is taken" for flaw in flaws]
    return None, [f"{flaw}; none is whole, so that the run starts again from 0" for flaw in flaws]


def read(kept: Kept) -> dict[str, Tensor]:
    """The tensors of a checkpoint."""
    try:
        with safe_open(kept.path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise Mistake(f"{kept.path} cannot be read ({error}); remove it to go back") from error
