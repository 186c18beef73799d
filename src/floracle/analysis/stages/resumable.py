"""A stages measurement that can be interrupted and resumed.

Classes are saved as parts of the run's folder as soon as some of them are measured. Which classes
share a part, and in which order everything is added up, depends on the settings alone: a resumed
run has the same numbers, bit for bit, as one that was never stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from floracle.core.point_set import PointSet
from floracle.run.errors import InputError
from floracle.run.exchange import barrier, broadcast_from_first
from floracle.run.output_folder import PLAN_PART, OutputFolder
from floracle.run.progress import track
from floracle.run.records import read_record, write_record
from floracle.run.results import Results

from .class_stages import ClassStages, with_current_names
from .measure import assemble_stages, measure_and_pool
from .plan import AnyOracle, StagesPlan, plan_stages
from .pooled import Pool
from .result import Stages, groups_of_results

PARTS = 64
"""Parts of a run with many classes, about."""
TIMING = "timing.json"


@dataclass(frozen=True)
class ResumableStages:
    """A measurement, and the folder it is saved in."""

    oracle: AnyOracle
    output: OutputFolder
    """Its settings are times, pairs, classes and seed, and what else makes another measurement."""
    held_out: PointSet | None = None

    @property
    def settings(self) -> Mapping[str, Any]:
        """What is measured."""
        return self.output.settings

    def stages(self) -> Stages:
        """All classes; parts of an earlier run are read, not measured again."""
        plan, groups, pool = self._load_or_make_plan(), [], Pool({})
        batches = self._load_or_measure_batches(plan)
        for batch, batch_pool in track(batches, "classes", total=len(plan.labels), of=_batch_size):
            groups += batch
            pool = pool.merge(batch_pool)
        stages = assemble_stages(self.oracle, plan, groups, pool)
        return replace(stages, settings=dict(self.settings))

    def write_timing(self) -> None:
        """Write how long all parts took into a file apart: results depend on no time."""
        output = self.output
        parts = [output.load_part(name) for name in output.finished_parts]
        seconds = sum(part.provenance.get("seconds", 0.0) for part in parts if part is not None)
        write_record(output.path / TIMING, "timing", {"seconds": round(seconds, 3)})

    def _load_or_make_plan(self) -> StagesPlan:
        settings = self.settings

        def make_plan() -> Results:
            plan = plan_stages(
                self.oracle,
                times=settings["times"],
                pairs=settings["pairs"],
                labels=settings["classes"],
                seed=settings["seed"],
            )
            return plan.to_results(settings)

        return StagesPlan.of_results(self._load_or_compute(PLAN_PART, make_plan))

    def _load_or_measure_batches(
        self, plan: StagesPlan
    ) -> Iterator[tuple[list[ClassStages], Pool]]:
        """All classes, a few to a part."""
        size = max(1, len(plan.labels) // PARTS)
        for start in range(0, len(plan.labels), size):
            labels = plan.labels[start : start + size]
            name = str(labels[0]) if len(labels) == 1 else f"{labels[0]}-{labels[-1]}"

            def measure(labels: Sequence[int] = labels) -> Results:
                groups, pool = measure_and_pool(self.oracle, plan, labels, held_out=self.held_out)
                return _part_to_results(groups, pool, self.settings)

            yield _part_of_results(self._load_or_compute(name, measure))

    def _load_or_compute(self, name: str, compute: Callable[[], Results]) -> Results:
        """A part of an earlier run if the first process finds it, else a new one.

        New parts are written by the first process and read again by all, so that all processes,
        and resumed runs, go on with the same numbers.
        """
        output = self.output
        saved = output.load_part(name) if output.group.first else None
        if not broadcast_from_first(output.group, [saved is not None])[0]:
            started = time.monotonic()
            results = compute()
            if output.group.first:
                seconds = time.monotonic() - started
                output.save_part(replace(results, provenance={"seconds": seconds}), name)
            barrier(output.group)
        saved = output.load_part(name) if saved is None else saved
        if saved is None:
            raise InputError(
                f"{output.path} is not the same folder for every process, or was removed"
                " meanwhile; share it, and run the same command again"
            )
        return saved


def seconds_taken(folder: Path) -> float | None:
    """How long a measurement took, in seconds."""
    path = folder / TIMING
    return float(read_record(path, "timing")["seconds"]) if path.exists() else None


def _batch_size(batch: tuple[list[ClassStages], Pool]) -> int:
    return len(batch[0])


def _part_to_results(
    groups: Sequence[ClassStages], pool: Pool, settings: Mapping[str, Any]
) -> Results:
    """Some classes, and their share of the pool."""
    arrays = {f"pool/{name}": values for name, values in pool.sums.items()}
    for group in groups:
        arrays |= group.to_arrays(f"{group.label}/")
    return Results("part", settings, {"groups": [group.to_values() for group in groups]}, arrays)


def _part_of_results(part: Results) -> tuple[list[ClassStages], Pool]:
    pool = {name[5:]: values for name, values in part.arrays.items() if name.startswith("pool/")}
    return groups_of_results(part), Pool(with_current_names(pool))
