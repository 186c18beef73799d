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

from floracle.core.point_set import PointSet
from floracle.models.convention import Convention
from floracle.models.networks.lightningdit import LightningDiT
from floracle.models.weights import NAME, write_network
from floracle.run.errors import InputError
from floracle.run.exchange import broadcast_from_first
from floracle.run.folder_checks import check_run_folder
from floracle.run.output_folder import OutputFolder
from floracle.run.processes import ProcessGroup
from floracle.run.results import Results, differences, has_result, load_results, provenance

from .checkpoint import FOLDER, VERB, Checkpoint, clear, described, latest, writing
from .config import TrainingSettings
from .metrics_log import read_log

GROWS = ("images",)
"""Settings that may be larger in the next command, which then goes on with the same run."""


@dataclass(frozen=True)
class RunDirectory:
    """The folder of a run, and what the run is."""

    output: OutputFolder

    @property
    def out(self) -> Path:
        """The folder."""
        return self.output.path

    @property
    def asked(self) -> Mapping[str, Any]:
        """Settings, the fingerprint of the data, and what the network is; plain values."""
        return self.output.settings

    @property
    def group(self) -> ProcessGroup:
        """The processes that share it."""
        return self.output.group

    def done(self) -> Results | None:
        """What came of the run, if it is done; a shorter one that it was before is not enough."""
        done = self.group.first and has_result(self.out) and self._result() is not None
        return load_results(self.out) if broadcast_from_first(self.group, [done])[0] else None

    def _result(self) -> Results | None:
        found = load_results(self.out)
        shorter = found.settings.get("images", 0) < self.asked["images"]
        former = {**found.settings, "images": self.asked["images"]} if shorter else found.settings
        if unlike := differences(self.asked, former):
            raise InputError(
                f"{self.out / 'result.json'} is of another run ({'; '.join(unlike)}); remove it"
            )
        return None if shorter else found

    def begin(self, most: int) -> tuple[Checkpoint | None, list[str]]:
        """Where the run stands, and words about what was found damaged.

        No more than `most` checkpoints stay.
        """
        kept, words = None, []
        if self.group.first:
            kept, words = latest(self.out, self.asked)  # known before anything goes
            clear(self.out, most, -1 if kept is None else kept.images)
        images = broadcast_from_first(self.group, [-1 if kept is None else kept.images])[0]
        if not self.group.first and images >= 0:
            about = self.out / FOLDER / f"{images:012d}.json"
            if not about.exists():
                raise InputError(f"{self.out} is not the same folder for every process; share it")
            kept = described(about, self.asked)
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
            path, convention = self.out / NAME, Convention(null_label=average.null)
            with writing(path, self.out):
                write_network(path, average, convention=convention, **made)

    def finish(self, values: Mapping[str, Any]) -> None:
        """Write what came of the run: the curve of its loss, and where it ended."""
        lines = [line for line in read_log(self.out, self.asked).lines if "loss" in line]
        arrays = {
            "images": torch.tensor([line["images"] for line in lines]),
            "loss": torch.tensor([line["loss"] for line in lines], dtype=torch.float64),
        }
        known = provenance(data=self.asked["data"], processes=self.group.size)
        with writing(self.out / "result.json", self.out):
            self.output.save(Results("training", self.asked, values, arrays, known))


def settings_of(
    settings: TrainingSettings,
    data: PointSet,
    network: nn.Module,
    held_out: PointSet | None,
    null: int | None,
) -> dict[str, Any]:
    """What tells a run on some data apart from others; plain values."""
    plan = network.plan.settings() if isinstance(network, LightningDiT) else None
    return settings.plain() | {
        "data": data.fingerprint,
        "held_out": None if held_out is None else held_out.fingerprint,
        "null": null,
        "network": plan if plan is not None else type(network).__name__,
    }


def check_extension(out: Path, settings: TrainingSettings) -> None:
    """Refuse to make a run longer whose last batch was cut short, since later ones would move."""
    recorded = check_run_folder(out, VERB)
    images = None if recorded is None else recorded.get("images")
    if not isinstance(images, int) or images >= settings.images or images % settings.batch == 0:
        return
    raise InputError(
        f"{out} holds a run of {images:,} images, whose last batch is not whole, so that it cannot"
        f" be made longer; choose another --out"
    )


def machine(device: torch.device) -> dict[str, Any]:
    """What decides the last bits besides the run itself."""
    return {
        "device": device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def changes(kept: Checkpoint | None, device: torch.device) -> list[str]:
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
