"""`floracle stages`: measure the two stages of a data set and write a report.

Classes are kept in OUT/parts as soon as they are measured, so that the same command goes on where
it was stopped, to the same numbers bit for bit. With result.json in place it answers at once.
"""

from __future__ import annotations

import shlex
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .opening import Opening, oracle_of, show_remarks

if TYPE_CHECKING:
    from floracle.analysis.groups import Group, Stages
    from floracle.analysis.pooled import Pool
    from floracle.analysis.stages import Plan
    from floracle.data.store import Store
    from floracle.oracle.gaussians import GaussianOracle
    from floracle.oracle.oracle import Oracle
    from floracle.run.results import Results

OPENING = Opening()
PARTS = 64
"""Into about so many parts a run is kept while it goes on."""


def stages(
    data: str,
    /,
    *,
    opening: Opening = OPENING,
    out: Path | None = None,
    classes: str = "both",
    pairs: int = 512,
    times: int = 50,
    seed: int = 0,
    held_out: str | None = None,
    deep: bool = False,
    memory: str | None = None,
    device: str = "cpu",
    path: Literal["linear", "cosine", "trigonometric"] = "linear",
) -> None:
    """Measure where navigation ends in a data set, and write a report.

    The same command again goes on where it was stopped, or answers at once.

    Parameters
    ----------
    data
        Pictures, arrays, idx, latents of other projects, digits, or gaussian:POINTSxDIMS.
    opening
        How data is read.
    out
        Folder for the report and its numbers; runs/stages-NAME by default.
    classes
        each, whole, both, or labels like 0,3,5.
    pairs
        Pairs of data and noise drawn for each class.
    times
        Times between noise and data.
    seed
        Where the random draws start.
    held_out
        Data of the same kind that the training set does not hold.
    deep
        Look deeper: simple fields beside the oracle, trajectories, layout and detail.
    memory
        How much may be used, like 4G; half of what is free by default.
    device
        cpu or cuda:0.
    path
        The path from noise to data.
    """
    from floracle.core.source import classes as labels_in
    from floracle.run.budget import chosen_device
    from floracle.run.errors import Mistake

    from .console import say
    from .options import check_writable, checked_seed, classes_of, folder_for

    checked_seed(seed)
    if pairs < 2 or times < 8:
        raise Mistake(f"at least 2 --pairs and 8 --times are needed, got {pairs} and {times}")
    chosen_device(device)
    folder = check_writable(out or folder_for("stages", data))
    store = opening.store(data, memory)
    show_remarks(store)
    other = None if held_out is None else _held_out(held_out, store, opening, memory)
    chosen = classes_of(classes, labels_in(store))
    _check_held_out(store, other, chosen)
    settings = {
        "times": times,
        "pairs": pairs,
        "classes": chosen,
        "seed": seed,
        "path": path,
        **opening.settings(),
        "data": store.fingerprint,
        "held_out": other.fingerprint if other is not None else None,
    }
    asked = {"--classes": classes, "--held-out": held_out, "--path": path}
    asked |= {"--pairs": pairs, "--times": times, "--seed": seed}
    facts = {
        "name": store.name,
        "layout": store.layout,
        "shape": list(store.shape),
        "points": len(store),
        "duplicates": store.duplicates,
        "held_out": _held_out_words(other),
        "command": _command(data, opening, asked),
        "remarks": list(store.remarks) or None,
        "mirrored": store.flips,
    }
    oracle = oracle_of(store, path, memory=memory, device=device)
    _finish(Job(oracle, store, other, folder, settings, facts), deep=deep)
    _summarise(folder)
    say(f"report: {folder / 'report.html'}")


@dataclass(frozen=True)
class Job:
    """What is measured, and where it goes."""

    oracle: Oracle | GaussianOracle
    store: Store
    held_out: Store | None
    folder: Path
    settings: dict[str, Any]
    facts: dict[str, Any]

    @property
    def parts(self) -> Path:
        """Where finished classes wait for the others."""
        return self.folder / "parts"


def _finish(job: Job, *, deep: bool) -> None:
    """Measure what is not there yet, and draw it."""
    from floracle.report.examples import examples
    from floracle.report.write import PAGE, draw, save_stages
    from floracle.run.results import answered

    found = answered(job.folder, job.settings)
    if found is None:
        measured = _measured(job)
        save_stages(measured, examples(job.oracle, measured, job.store), job.folder)
    deeper = deep and _deeper(job)
    if found is None or deeper or not (job.folder / PAGE).exists():
        draw(job.folder)
    shutil.rmtree(job.parts, ignore_errors=True)
    for left in job.folder.glob(".*.part"):  # of a run that was killed while it wrote
        left.unlink(missing_ok=True)


def _deeper(job: Job) -> bool:
    """Look deeper where that was not done yet; whether anything is new."""
    from floracle.analysis.deep import look_deeper
    from floracle.analysis.saved import stages_of_results
    from floracle.oracle.oracle import Oracle
    from floracle.report.write import DEEP
    from floracle.run.errors import Mistake
    from floracle.run.results import load_results, save

    if (job.folder / DEEP / "result.json").exists():
        return False
    if not isinstance(job.oracle, Oracle):
        raise Mistake("--deep compares fields of points; open the data with --moments mean")
    stages = stages_of_results(load_results(job.folder))
    save(look_deeper(job.oracle, stages, seed=job.settings["seed"]), job.folder / DEEP)
    return True


def _measured(job: Job) -> Stages:
    """All classes, those of an earlier run taken as they are."""
    from floracle.analysis.pooled import Pool
    from floracle.analysis.stages import assembled
    from floracle.run.progress import tracked

    plan = _plan(job)
    groups, pool = [], Pool({})
    for some, summed in tracked(_batches(job, plan), "classes", total=len(plan.labels), of=_count):
        groups += some
        pool = pool.merge(summed)
    found = assembled(job.oracle, plan, groups, pool)
    facts = {key: value for key, value in job.facts.items() if value is not None}
    return replace(found, settings=job.settings, provenance={**found.provenance, **facts})


def _count(batch: tuple[list[Group], Pool]) -> int:
    return len(batch[0])


def _plan(job: Job) -> Plan:
    """Classes, times and spectra: as saved, or made and saved."""
    from floracle.analysis.stages import Plan, planned
    from floracle.run.results import Results, save

    saved = _part(job, "plan")
    started = time.monotonic()
    if saved is None:
        asked = job.settings
        plan = planned(
            job.oracle,
            times=asked["times"],
            pairs=asked["pairs"],
            labels=asked["classes"],
            seed=asked["seed"],
        )
        arrays = {f"spectrum/{label}": values for label, values in plan.spectra.items()}
        sizes = {str(label): size for label, size in plan.sizes.items()}
        within = {str(label): value for label, value in plan.within.items()}
        values = {"labels": list(plan.labels), "sizes": sizes, "within": within}
        content = Results("plan", asked, values, {"times": plan.times, **arrays})
        save(content, job.parts / "plan")
        _spent(job, time.monotonic() - started)
        return plan
    return Plan(
        labels=tuple(saved.values["labels"]),
        times=saved.arrays["times"],
        pairs=job.settings["pairs"],
        seed=job.settings["seed"],
        spectra={int(k[9:]): v for k, v in saved.arrays.items() if k.startswith("spectrum/")},
        sizes={int(label): size for label, size in saved.values["sizes"].items()},
        within={int(label): value for label, value in saved.values["within"].items()},
    )


def _batches(job: Job, plan: Plan) -> Iterator[tuple[list[Group], Pool]]:
    """Every class as it was saved, measured first where it was not; some classes to a part."""
    from floracle.analysis.saved import groups_of_part
    from floracle.run.results import load_results, save

    size = max(1, len(plan.labels) // PARTS)
    for start in range(0, len(plan.labels), size):
        labels = plan.labels[start : start + size]
        name = str(labels[0]) if len(labels) == 1 else f"{labels[0]}-{labels[-1]}"
        saved = _part(job, name)
        if saved is None:
            started = time.monotonic()
            save(_measured_part(job, plan, labels), job.parts / name)
            _spent(job, time.monotonic() - started)
            saved = load_results(job.parts / name)
        yield groups_of_part(saved)


def _measured_part(job: Job, plan: Plan, labels: tuple[int, ...]) -> Results:
    from floracle.analysis.pooled import Pool
    from floracle.analysis.saved import part_of_groups
    from floracle.analysis.stages import measured

    groups, pool = [], Pool({})
    for label in labels:
        group = measured(job.oracle, plan, label, held_out=job.held_out)
        pool = pool.merge(Pool.of(group))
        groups.append(replace(group, resamples=None))
    return part_of_groups(groups, pool, job.settings)


def _part(job: Job, name: str):  # noqa: ANN202
    """A finished part of an earlier run; one with other settings is a mistake."""
    from floracle.run.errors import Mistake
    from floracle.run.results import differences, load_results

    if not (job.parts / name / "result.json").exists():
        return None
    found = load_results(job.parts / name)
    unlike = differences(job.settings, found.settings)
    if unlike:
        raise Mistake(
            f"{job.folder} holds an unfinished measurement with other settings"
            f" ({'; '.join(unlike)}); choose another --out, or remove {job.parts}"
        )
    return found


def _spent(job: Job, seconds: float) -> None:
    """Add to the time taken, which is kept apart so that numbers do not depend on it."""
    from floracle.report.write import TIMING, seconds_taken
    from floracle.run.files import write_json

    total = (seconds_taken(job.folder) or 0.0) + seconds
    write_json(job.folder / TIMING, {"seconds": round(total, 3)})


def _held_out(where: str, store: Store, opening: Opening, memory: str | None) -> Store:
    """What was held out of the data, read and normalized alike."""
    from floracle.data.store import open_store

    return open_store(
        where,
        flips=opening.flips,
        normalize=store.normalizer,
        layout=opening.layout,
        moments=opening.moments,
        memory=memory,
    )


def _check_held_out(store: Store, other: Store | None, chosen: list[int]) -> None:
    from floracle.core.source import classes as labels_in
    from floracle.run.errors import Mistake

    if other is None:
        return
    if other.shape != store.shape:
        raise Mistake(
            f"held-out points have shape {list(other.shape)}, those of the data"
            f" {list(store.shape)}"
        )
    absent = [label for label in chosen if label >= 0 and label not in labels_in(other)]
    if absent:
        raise Mistake(
            f"the held-out data has no point of class {absent[0]}; choose --classes that it has"
        )


def _held_out_words(other: Store | None) -> str | None:
    return f"{other.name}, {len(other):,} points" if other is not None else None


def _command(data: str, opening: Opening, asked: dict[str, Any]) -> str:
    """What to type to measure the same again."""
    words = ["floracle", "stages", data, *opening.words()]
    usual = {"--classes": "both", "--path": "linear"}
    for option, value in asked.items():
        if value is not None and value != usual.get(option):
            words += [option, str(value)]
    return shlex.join(words)


SHOWN = 24
"""Classes on the terminal at most; the report has them all."""


def _summarise(folder: Path) -> None:
    """The landmarks on the terminal."""
    from floracle.analysis.saved import stages_of_results
    from floracle.report import words
    from floracle.run.results import load_results

    from .console import say, show_table

    found = stages_of_results(load_results(folder))
    groups = sorted(found.groups, key=lambda g: (g.label < 0, abs(g.label)))
    shown = [*[g for g in groups if g.label >= 0][:SHOWN], *[g for g in groups if g.label < 0]]
    rows = [
        (
            found.name(group.label),
            f"{group.points:,}",
            words.time(group.centre.value),
            words.time(group.predicted_centre),
            words.time(group.collapse.value),
            words.time(group.predicted_collapse),
            words.time(group.end.value),
            words.interval(group.end),
        )
        for group in shown
    ]
    head = ("", "points", "centre", "(predicted)", "collapse", "(predicted)", "end", "95 %")
    show_table(head, rows)
    if len(shown) < len(groups):
        say(f"… and {len(groups) - len(shown)} classes more in the report")
    say(words.headline(found))
    say(words.law(found.main))
