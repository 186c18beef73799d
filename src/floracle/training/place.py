"""A run's folder: which run it is of, where it stands, and what has come of it.

run.json              settings, data and network, written first
metrics.jsonl         a line every few batches
checkpoints/          everything that lives (checkpoint.py)
evaluations/          losses by time and samples, by images seen
network.safetensors   the averaged network, which `floracle.load_model` opens
result.json           written last: the run is done
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from floracle.core.source import Source
from floracle.models.convention import Convention
from floracle.models.lightningdit import LightningDiT
from floracle.models.weights import NAME, write_network
from floracle.run.errors import Mistake
from floracle.run.exchange import first_says
from floracle.run.files import read_json, sweep, write_json
from floracle.run.processes import Group
from floracle.run.results import Results, differences, load_results, provenance, save

from .checkpoint import FOLDER, Kept, clear, described, latest, writing
from .config import Settings
from .watch import read_log

ABOUT = "run.json"


@dataclass(frozen=True)
class Place:
    """The folder of a run, and what the run is."""

    out: Path
    asked: Mapping[str, Any]
    """Settings, the fingerprint of the data, and what the network is; plain values."""
    group: Group

    def done(self) -> Results | None:
        """What came of the run, if it is done; another run's folder is a mistake."""
        there = self.group.first and self._checked()
        if not bool(first_says(self.group, [bool(there)])[0]):
            return None
        return load_results(self.out)

    def _checked(self) -> bool:
        about = self.out / ABOUT
        if about.exists():
            found = read_json(about)
            unlike = differences(self.asked, found if isinstance(found, dict) else {})
            if unlike:
                raise Mistake(
                    f"{self.out} holds a run with other settings ({'; '.join(unlike)}); choose"
                    f" another --out"
                )
        elif self.out.is_dir() and any(self.out.iterdir()) and not _only_swept(self.out):
            raise Mistake(f"{self.out} holds something else than a run; choose another --out")
        return (self.out / "result.json").exists()

    def begin(self, most: int) -> tuple[Kept | None, list[str]]:
        """Where the run stands, and words about what was found damaged; writes run.json.

        What killed runs left is swept, and no more than `most` checkpoints stay.
        """
        kept, words = None, []
        if self.group.first:
            sweep(self.out)
            with writing(self.out / ABOUT, self.out):
                write_json(self.out / ABOUT, dict(self.asked))
            kept, words = latest(self.out)  # what is whole is known before anything goes
            clear(self.out, most, -1 if kept is None else kept.images)
        images = first_says(self.group, [-1 if kept is None else kept.images])[0]
        if not self.group.first and images >= 0:
            about = self.out / FOLDER / f"{images:012d}.json"
            if not about.exists():
                raise Mistake(f"{self.out} is not the same folder for every process; share it")
            kept = described(about)
        if kept is not None and kept.processes != self.group.size:
            words.append(
                f"this run was made by {kept.processes} processes so far and goes on with"
                f" {self.group.size}: the same batches, but sums in another order, so that the"
                f" last bits may differ"
            )
        return kept, words

    def write_average(self, average: nn.Module, images: int) -> None:
        """Write the averaged network, where it is one that `load_model` knows."""
        if isinstance(average, LightningDiT):
            made = {"images": images, "data": self.asked["data"]}
            path, convention = self.out / NAME, Convention(null=average.null)
            with writing(path, self.out):
                write_network(path, average, convention=convention, **made)

    def finish(self, values: Mapping[str, Any]) -> None:
        """Write what came of the run: the curve of its loss, and where it ended."""
        lines = [line for line in read_log(self.out) if "loss" in line]
        arrays = {
            "images": torch.tensor([line["images"] for line in lines]),
            "loss": torch.tensor([line["loss"] for line in lines], dtype=torch.float64),
        }
        known = provenance(data=self.asked["data"], processes=self.group.size)
        with writing(self.out / "result.json", self.out):
            save(Results("training", self.asked, values, arrays, known), self.out)


def place_of(
    out: Path,
    settings: Settings,
    data: Source,
    network: nn.Module,
    held_out: Source | None,
    group: Group,
    *,
    null: int | None,
) -> Place:
    """The place of a run on some data."""
    plan = network.plan.settings() if isinstance(network, LightningDiT) else None
    asked = settings.plain() | {
        "data": data.fingerprint,
        "held_out": None if held_out is None else held_out.fingerprint,
        "null": null,
        "network": plan if plan is not None else type(network).__name__,
    }
    return Place(out, asked, group)


def machine(device: torch.device) -> dict[str, Any]:
    """What decides the last bits besides the run itself."""
    return {
        "device": device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def changes(kept: Kept | None, device: torch.device) -> list[str]:
    """A word where a run goes on with other parts than it was made with."""
    if kept is None:
        return []
    unlike = differences(machine(device), kept.facts["machine"])
    if not unlike:
        return []
    return [
        f"this run goes on elsewhere than it began ({'; '.join(unlike)}), so that it may end with"
        f" other bits"
    ]


def _only_swept(out: Path) -> bool:
    """Whether a folder holds nothing but what a run that was killed at its start left."""
    return all(path.name.startswith(".") and path.suffix == ".part" for path in out.iterdir())
