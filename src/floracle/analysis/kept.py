"""Stages that are kept while they are measured, so that a run goes on where it was stopped.

Classes lie in FOLDER/parts as soon as some of them are measured. Which classes share a part, and
in which order all is added up, depends on the settings alone: a run that went on has the same
numbers, bit for bit, as one that was never stopped.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from floracle.core.source import Source
from floracle.run.errors import Mistake
from floracle.run.exchange import barrier, first_says
from floracle.run.files import read_json, sweep, write_json
from floracle.run.processes import ALONE
from floracle.run.processes import Group as Processes
from floracle.run.progress import tracked
from floracle.run.results import Results, differences, load_results, save

from .groups import Group, Stages
from .pooled import Pool
from .saved import groups_of_part, part_of_groups
from .stages import AnyOracle, Plan, assembled, measured_in_turn, planned

PARTS = 64
"""Into about so many parts a run is kept while it goes on."""
TIMING = "timing.json"


@dataclass(frozen=True)
class Kept:
    """A measurement, and the folder it is kept in."""

    oracle: AnyOracle
    folder: Path
    settings: Mapping[str, Any]
    """times, pairs, classes and seed, and whatever else makes it another measurement."""
    held_out: Source | None = None

    @property
    def group(self) -> Processes:
        """The processes that measure together; the first of them writes, all of them read."""
        return getattr(self.oracle, "group", None) or ALONE

    @property
    def parts(self) -> Path:
        """Where finished classes wait for the others."""
        return self.folder / "parts"

    def stages(self) -> Stages:
        """All classes, those of an earlier run taken as they are."""
        plan, groups, pool = self._plan(), [], Pool({})
        batches = tracked(self._batches(plan), "classes", total=len(plan.labels), of=_count)
        for some, summed in batches:
            groups += some
            pool = pool.merge(summed)
        return replace(assembled(self.oracle, plan, groups, pool), settings=dict(self.settings))

    def clear(self) -> None:
        """Remove what only an unfinished run needs."""
        shutil.rmtree(self.parts, ignore_errors=True)
        sweep(self.folder)

    def _plan(self) -> Plan:
        """Classes, times and spectra: as saved, or made and saved."""
        saved = self._part("plan")
        if saved is not None:
            return _plan_of(saved)
        started, asked = time.monotonic(), self.settings
        plan = planned(
            self.oracle,
            times=asked["times"],
            pairs=asked["pairs"],
            labels=asked["classes"],
            seed=asked["seed"],
        )
        return _plan_of(self._saved(_results_of(plan, self.settings), "plan", started))

    def _batches(self, plan: Plan) -> Iterator[tuple[list[Group], Pool]]:
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

    def _measured(self, plan: Plan, labels: tuple[int, ...]) -> Results:
        groups, pool = [], Pool({})
        for group in measured_in_turn(self.oracle, plan, labels, held_out=self.held_out):
            pool = pool.merge(Pool.of(group))
            groups.append(replace(group, resamples=None))
        return part_of_groups(groups, pool, self.settings)

    def _part(self, name: str) -> Results | None:
        """A finished part of an earlier run; one with other settings is a mistake."""
        there = (self.parts / name / "result.json").exists()
        if not first_says(self.group, [there])[0]:
            return None
        found = load_results(self.parts / name)
        unlike = differences(self.settings, found.settings)
        if unlike:
            raise Mistake(
                f"{self.folder} holds an unfinished measurement with other settings"
                f" ({'; '.join(unlike)}); choose another --out, or remove {self.parts}"
            )
        return found

    def _saved(self, content: Results, name: str, started: float) -> Results:
        """Written by the first process and read again by all, so that they go on alike.

        The time taken is kept apart, so that numbers do not depend on it.
        """
        if self.group.first:
            save(content, self.parts / name)
            total = (seconds_taken(self.folder) or 0.0) + time.monotonic() - started
            write_json(self.folder / TIMING, {"seconds": round(total, 3)})
        barrier(self.group)
        return load_results(self.parts / name)


def seconds_taken(folder: Path) -> float | None:
    """How long a measurement took."""
    path = folder / TIMING
    return float(read_json(path)["seconds"]) if path.exists() else None


def _count(batch: tuple[list[Group], Pool]) -> int:
    return len(batch[0])


def _results_of(plan: Plan, settings: Mapping[str, Any]) -> Results:
    arrays = {f"spectrum/{label}": values for label, values in plan.spectra.items()}
    values = {
        "labels": list(plan.labels),
        "sizes": {str(label): size for label, size in plan.sizes.items()},
        "within": {str(label): value for label, value in plan.within.items()},
    }
    return Results("plan", settings, values, {"times": plan.times, **arrays})


def _plan_of(saved: Results) -> Plan:
    values, arrays = saved.values, saved.arrays
    return Plan(
        labels=tuple(values["labels"]),
        times=arrays["times"],
        pairs=saved.settings["pairs"],
        seed=saved.settings["seed"],
        spectra={int(k[9:]): v for k, v in arrays.items() if k.startswith("spectrum/")},
        sizes={int(label): size for label, size in values["sizes"].items()},
        within={int(label): value for label, value in values["within"].items()},
    )
