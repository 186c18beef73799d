"""Stages that are kept while they are measured, so that a run goes on where it was stopped.

Classes are kept as parts of the run's folder as soon as some of them are measured. Which classes
share a part, and in which order all is added up, depends on the settings alone: a run that went on
has the same numbers, bit for bit, as one that was never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from floracle.analysis.saved import groups_of_part, part_of_groups
from floracle.core.point_set import PointSet
from floracle.run.errors import InputError
from floracle.run.exchange import barrier, broadcast_from_first
from floracle.run.output_folder import PLAN_PART, OutputFolder
from floracle.run.progress import track
from floracle.run.records import read_record, write_record
from floracle.run.results import Results

from .measure import AnyOracle, StagesPlan, assemble_stages, measure_classes, plan_stages
from .pooled import Pool
from .result import ClassStages, Stages

PARTS = 64
"""Into about so many parts a run is kept while it goes on."""
TIMING = "timing.json"


@dataclass(frozen=True)
class ResumableStages:
    """A measurement, and the folder it is kept in."""

    oracle: AnyOracle
    output: OutputFolder
    """Its settings are times, pairs, classes and seed, and what else makes another measurement."""
    held_out: PointSet | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """What is measured."""
        return self.output.settings

    def stages(self) -> Stages:
        """All classes, those of an earlier run taken as they are."""
        plan, groups, pool = self._plan(), [], Pool({})
        batches = track(self._batches(plan), "classes", total=len(plan.labels), of=_count)
        for some, summed in batches:
            groups += some
            pool = pool.merge(summed)
        return replace(
            assemble_stages(self.oracle, plan, groups, pool), settings=dict(self.settings)
        )

    def write_timing(self) -> None:
        """Write down how long all parts took, apart from the numbers, which depend on no time."""
        output = self.output
        parts = [output.load_part(name) for name in output.finished_parts]
        seconds = sum(part.provenance.get("seconds", 0.0) for part in parts if part is not None)
        write_record(output.path / TIMING, "timing", {"seconds": round(seconds, 3)})

    def _plan(self) -> StagesPlan:
        """Classes, times and spectra: as saved, or made and saved."""
        saved = self._part(PLAN_PART)
        if saved is not None:
            return _plan_of(saved)
        started, asked = time.monotonic(), self.settings
        plan = plan_stages(
            self.oracle,
            times=asked["times"],
            pairs=asked["pairs"],
            labels=asked["classes"],
            seed=asked["seed"],
        )
        return _plan_of(self._saved(_results_of(plan, self.settings), PLAN_PART, started))

    def _batches(self, plan: StagesPlan) -> Iterator[tuple[list[ClassStages], Pool]]:
        """Every class as it was saved, measured first where it was not; some to a part."""
        size = max(1, len(plan.labels) // PARTS)
        for start in range(0, len(plan.labels), size):
            labels = plan.labels[start : start + size]
            name = str(labels[0]) if len(labels) == 1 else f"{labels[0]}-{labels[-1]}"
            saved = self._part(name)
            if saved is None:
                started = time.monotonic()
                saved = self._saved(self._measured(plan, labels), name, started)
            yield groups_of_part(saved)

    def _measured(self, plan: StagesPlan, labels: tuple[int, ...]) -> Results:
        groups, pool = [], Pool({})
        for group in measure_classes(self.oracle, plan, labels, held_out=self.held_out):
            pool = pool.merge(Pool.of(group))
            groups.append(replace(group, resamples=None))
        return part_of_groups(groups, pool, self.settings)

    def _part(self, name: str) -> Results | None:
        """A finished part of an earlier run, if the first process sees one."""
        found = self.output.load_part(name) if self.output.group.first else None
        if not broadcast_from_first(self.output.group, [found is not None])[0]:
            return None
        return self._read(name) if found is None else found

    def _saved(self, content: Results, name: str, started: float) -> Results:
        """Written by the first process and read again by all, so that they go on alike."""
        if self.output.group.first:
            seconds = time.monotonic() - started
            self.output.save_part(replace(content, provenance={"seconds": seconds}), name)
        barrier(self.output.group)
        return self._read(name)

    def _read(self, name: str) -> Results:
        """A part that the first process has written."""
        found = self.output.load_part(name)
        if found is None:
            raise InputError(
                f"{self.output.path} is not the same folder for every process, or was removed"
                " meanwhile; share it, and run the same command again"
            )
        return found


def seconds_taken(folder: Path) -> float | None:
    """How long a measurement took."""
    path = folder / TIMING
    return float(read_record(path, "timing")["seconds"]) if path.exists() else None


def _count(batch: tuple[list[ClassStages], Pool]) -> int:
    return len(batch[0])


def _results_of(plan: StagesPlan, settings: Mapping[str, Any]) -> Results:
    arrays = {f"spectrum/{label}": values for label, values in plan.spectra.items()}
    values = {
        "labels": list(plan.labels),
        "sizes": {str(label): size for label, size in plan.sizes.items()},
        "within": {str(label): value for label, value in plan.within.items()},
    }
    return Results("plan", settings, values, {"times": plan.times, **arrays})


def _plan_of(saved: Results) -> StagesPlan:
    values, arrays = saved.values, saved.arrays
    return StagesPlan(
        labels=tuple(values["labels"]),
        times=arrays["times"],
        pairs=saved.settings["pairs"],
        seed=saved.settings["seed"],
        spectra={int(k[9:]): v for k, v in arrays.items() if k.startswith("spectrum/")},
        sizes={int(label): size for label, size in values["sizes"].items()},
        within={int(label): value for label, value in values["within"].items()},
    )
