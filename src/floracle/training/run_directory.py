"""The folder of a run: which run it is of, its last checkpoint, and its result.

run.json              settings, data and network, written first
metrics.jsonl         a line every few batches
checkpoints/          network, average and optimizer (checkpoint.py)
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
from floracle.data.training_points import describe_points
from floracle.models.convention import Convention
from floracle.models.networks.lightningdit import LightningDiT
from floracle.models.weights import NETWORK_FILE, write_network
from floracle.run.errors import InputError
from floracle.run.exchange import broadcast_from_first
from floracle.run.output_folder import OutputFolder
from floracle.run.processes import ProcessGroup
from floracle.run.results import Results, differences, has_result, load_results, provenance

from .checkpoint import (
    FOLDER,
    Checkpoint,
    explain_write_errors,
    latest_checkpoint,
    read_record_of,
    remove_old,
)
from .config import TrainingSettings
from .metrics_log import read_log

GROWS = ("images",)  # settings that may be larger in a command that continues the run


@dataclass(frozen=True)
class RunDirectory:
    """The folder of a run, and the run's identity."""

    output: OutputFolder

    @property
    def out(self) -> Path:
        """The folder."""
        return self.output.path

    @property
    def identity(self) -> Mapping[str, Any]:
        """Settings, the fingerprint of the data, and what the network is; plain values."""
        return self.output.settings

    @property
    def group(self) -> ProcessGroup:
        """The processes that share it."""
        return self.output.group

    def done(self) -> Results | None:
        """The result of the run, if it is done; that of a shorter run is not enough."""
        done = self.group.first and has_result(self.out) and self._result_is_ours()
        return load_results(self.out) if broadcast_from_first(self.group, [done])[0] else None

    def _result_is_ours(self) -> bool:
        """Whether the result is of the whole run; refused if it is of another one."""
        saved = load_results(self.out).settings
        shorter = saved.get("images", 0) < self.identity["images"]
        former = {**saved, "images": self.identity["images"]} if shorter else saved
        if unlike := differences(self.identity, former):
            raise InputError(
                f"{self.out / 'result.json'} is of another run ({'; '.join(unlike)}); remove it"
            )
        return not shorter

    def begin(self, most: int) -> tuple[Checkpoint | None, list[str]]:
        """The newest good checkpoint, and sentences about damage; at most `most` stay."""
        # 1. The first process looks; nothing is removed before the last good one is known
        checkpoint, notes = None, []
        if self.group.first:
            checkpoint, notes = latest_checkpoint(self.out, self.identity)
            remove_old(self.out, most, -1 if checkpoint is None else checkpoint.images)
        # 2. The others read the same record
        own_images = -1 if checkpoint is None else checkpoint.images
        images = broadcast_from_first(self.group, [own_images])[0]
        if not self.group.first and images >= 0:
            path = self.out / FOLDER / f"{images:012d}.json"
            if not path.exists():
                raise InputError(f"{self.out} is not the same folder for every process; share it")
            checkpoint = read_record_of(path, self.identity)
        if checkpoint is not None and checkpoint.processes != self.group.size:
            notes.append(
                f"this run was made by {checkpoint.processes} processes so far and goes on with"
                f" {self.group.size}: the same batches, but sums in another order, so that the"
                f" last bits may differ"
            )
        return checkpoint, notes

    def write_average(self, average: nn.Module, images: int, data: PointSet) -> None:
        """Write the averaged network, where it is one that `load_model` knows."""
        if isinstance(average, LightningDiT):
            made = {
                "images": images,
                "data": self.identity["data"],
                "points": describe_points(data),
            }
            path, convention = self.out / NETWORK_FILE, Convention(null_label=average.null)
            with explain_write_errors(path, self.out):
                write_network(path, average, convention=convention, **made)

    def finish(self, values: Mapping[str, Any]) -> None:
        """Write the result of the run: the curve of its loss, and `values`."""
        lines = [line for line in read_log(self.out, self.identity).lines if "loss" in line]
        arrays = {
            "images": torch.tensor([line["images"] for line in lines]),
            "loss": torch.tensor([line["loss"] for line in lines], dtype=torch.float64),
        }
        origin = provenance(data=self.identity["data"], processes=self.group.size)
        with explain_write_errors(self.out / "result.json", self.out):
            self.output.save(Results("training", self.identity, values, arrays, origin))


def settings_of(
    settings: TrainingSettings,
    data: PointSet,
    network: nn.Module,
    held_out: PointSet | None,
    null_label: int | None,
) -> dict[str, Any]:
    """The identity of a run: its settings, data and network; plain values."""
    plan = network.plan.settings() if isinstance(network, LightningDiT) else None
    return settings.plain() | {
        "data": data.fingerprint,
        "held_out": None if held_out is None else held_out.fingerprint,
        "null": null_label,
        "network": plan if plan is not None else type(network).__name__,
    }


def machine(device: torch.device) -> dict[str, Any]:
    """What decides the last bits besides the run itself."""
    return {
        "device": device.type,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def machine_changes(checkpoint: Checkpoint | None, device: torch.device) -> list[str]:
    """A sentence where a run continues on another machine than it was made on."""
    if checkpoint is None:
        return []
    unlike = differences(machine(device), checkpoint.facts["machine"])
    if not unlike:
        return []
    return [
        f"this run goes on elsewhere than it began ({'; '.join(unlike)}), so that it may end with"
        f" other bits"
    ]
