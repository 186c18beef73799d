"""A training run on one page: what was learned by time and by images, samples, and the settings.

It is drawn from what the run wrote down, at any moment: while it goes on, or once it is done.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from floracle.models.networks.families import title
from floracle.models.networks.lightningdit import Architecture
from floracle.report.formatting import format_duration, format_percent, format_time
from floracle.report.html import data_uri, inlined, rendered
from floracle.report.loss.page import write_figures
from floracle.report.names import any_letters, facts_of, quoted, visible
from floracle.report.tables import ReportRow, Table
from floracle.run.errors import InputError
from floracle.run.files import write_text
from floracle.run.folder_checks import check_run_folder
from floracle.training.checkpoint import VERB, abouts, described
from floracle.training.evaluation import FOLDER
from floracle.training.metrics_log import read_log
from floracle.version import VERSION

from .figures import STAGES, halfway, run_drawings, split_of

PAGE = "training.html"
WIDEST = 1100
"""Pixels across that samples have on the page at most."""
SHOWN = (
    "target",
    "times",
    "batch",
    "rate",
    "ema",
    "drop",
    "precision",
    "cosine",
    "clip",
    "seed",
    "data",
    "held_out",
)
"""Settings that are named on the page, in this order; run.json has all of them."""


@dataclass(frozen=True)
class TrainingRun:
    """What a run has written down so far."""

    folder: Path
    settings: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]
    """Of metrics.jsonl, with a loss, by images."""
    looks: Sequence[Mapping[str, Any]]
    """Evaluations: `images`, `t`, and curves by name."""

    @property
    def images(self) -> int:
        """Seen so far."""
        return int(max(line["images"] for line in (*self.lines, *self.looks)))

    @property
    def total(self) -> int:
        """To be seen."""
        return int(self.settings["images"])

    @property
    def samples(self) -> Path | None:
        """The latest picture of samples."""
        there = [path for path in (self.folder / FOLDER).glob("*.png") if path.stem.isdigit()]
        return max(there, default=None)

    @property
    def switch(self) -> float | None:
        """From when on the target was conditional, where the run has said so by now."""
        asked = self.settings.get("switch")
        if asked is not None or self.settings.get("target") == "conditional":
            return asked
        for about in reversed(abouts(self.folder)):  # its tensors may be large, and are not read
            with suppress(InputError):
                return described(about).facts.get("switch")
        return None


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a training run."""
    with suppress(InputError):
        return check_run_folder(folder, VERB) is not None
    return False


def read_run(folder: Path) -> TrainingRun:
    """The run in a folder, as far as it has come."""
    settings = check_run_folder(folder, VERB)
    if settings is None:
        raise InputError(f"{folder} is not the folder of a training run")
    log = read_log(folder, settings).lines
    lines = [line for line in log if "loss" in line]
    looks = [
        {"images": line["images"], **line["evaluation"]} for line in log if line.get("evaluation")
    ]
    if not lines:
        raise InputError(f"{folder} has no line of progress yet; wait for some batches")
    return TrainingRun(folder, settings, lines, looks)


def write_run(folder: Path) -> Path:
    """Draw a run into its folder; returns the page."""
    run = read_run(folder)
    with any_letters():
        drawings = run_drawings(run.lines, run.looks)
        write_figures(drawings, folder)
        content = rendered(
            "training/page.html.j2",
            name=visible(folder.resolve().name),
            headline=headline(run),
            story=story(run),
            figures=inlined(drawings),
            samples=_inline(run.samples),
            losses=losses_table(run),
            facts=facts_of(_facts(run)),
            command=f"floracle report {quoted(str(folder))}",
            version=VERSION,
        )
    write_text(folder / PAGE, content)
    return folder / PAGE


def headline(run: TrainingRun) -> str:
    """Where it stands, and how far from the oracle."""
    if not run.looks:
        return f"{run.images:,} of {run.total:,} images, loss {run.lines[-1]['loss']:.3g}."
    last = run.looks[-1]
    loss, split = last["oracle"], run_split(run)
    return (
        f"After {last['images']:,} images the oracle loss is {loss['navigation']:.2g} in"
        f" navigation and {loss['refinement']:.2g} in refinement, from t = {split} on."
    )


def run_split(run: TrainingRun) -> str:
    """Where the stages part, in words."""
    return format_time(split_of(run.lines))


def story(run: TrainingRun) -> list[str]:
    """What can be said."""
    told, seconds = [], sum(line.get("seconds", 0.0) for line in run.lines)
    if run.images < run.total:
        told.append(f"So far {run.images:,} of {run.total:,} images are seen.")
    told.append(
        f"{format_duration(seconds)} of training, {run.images / max(seconds, 1e-9):,.0f} images a"
        f" second."
    )
    if len(run.looks) > 1:
        told.append(_progress(run.looks))
    if run.looks and "difference" in run.looks[-1]:
        told.append(_unseen(run.looks[-1]))
    return told


def _progress(looks: Sequence[Mapping[str, Any]]) -> str:
    last, half = looks[-1], halfway(looks)
    fell = [1 - last["oracle"][stage] / half["oracle"][stage] for stage in STAGES]
    ways = [
        f"{'fell' if share >= 0 else 'rose'} by {format_percent(abs(share))}" for share in fell
    ]
    same = (fell[0] >= 0) == (fell[1] >= 0)
    return (
        f"From {half['images']:,} images on the oracle loss {ways[0]} in navigation and"
        f" {ways[1].partition(' ')[2] if same else ways[1]} in refinement."
    )


def _unseen(look: Mapping[str, Any]) -> str:
    """What unseen data costs more, in the stage and at the time where it is the clearest."""
    more = look["difference"]
    sure = [
        (mean / error, t, mean, error)
        for t, mean, error in zip(look["t"], more["mean"], more["error"], strict=True)
        if error
    ]
    ratio, t, mean, error = max(sure, default=(0.0, 0.0, 0.0, 0.0))
    if ratio < 3:  # of the largest of many
        return "Whether unseen data costs more than training data one cannot say."
    return (
        f"At t = {format_time(t)} unseen data costs {mean:.2g} ± {error:.1g} more: if both sets"
        f" are alike, the network knows its training data."
    )


def losses_table(run: TrainingRun) -> Table | None:
    """Losses of both stages by images seen; None where nothing was looked at."""
    if not run.looks:
        return None
    names = {"oracle": "oracle loss", "conditional": "conditional", "held_out": "unseen data"}
    there = [name for name in names if name in run.looks[-1]]
    rows = []
    for look in run.looks:
        cells = [f"{look['images']:,}"]
        for name in there:
            cells += [f"{look[name][stage]:.3g}" if name in look else "–" for stage in STAGES]
        rows.append(ReportRow(cells, main=look is run.looks[-1]))
    head = ("images", *("navigation", "refinement") * len(there))
    return Table(head, rows, over=[("", 1), *((names[name], 2) for name in there)])


def _facts(run: TrainingRun) -> dict[str, str]:
    known: dict[str, Any] = {"network": _network(run.settings.get("network"))}
    known |= {name.replace("_", " "): run.settings.get(name) for name in SHOWN}
    switch = run.switch
    known["conditional targets from"] = None if switch is None else f"t = {switch:.3f}"
    return {name: visible(str(value)) for name, value in known.items() if value is not None}


def _network(plan: Any) -> str:
    """The architecture by its name; a network of the user's own by its class."""
    try:
        return title("LightningDiT", Architecture(**plan))
    except (TypeError, InputError):
        return str(plan)


def _inline(picture: Path | None) -> dict[str, str] | None:
    """A picture for the page; a large one is made smaller, the file keeps its size."""
    if picture is None:
        return None
    content, kind = picture.read_bytes(), "png"
    with Image.open(io.BytesIO(content)) as image:
        if image.width > WIDEST:
            smaller, kind = io.BytesIO(), "jpeg"
            image.convert("RGB").resize(
                (WIDEST, round(WIDEST * image.height / image.width)), Image.Resampling.LANCZOS
            ).save(smaller, "JPEG", quality=90)
            content = smaller.getvalue()
    return {"uri": data_uri(content, kind), "kind": kind, "images": f"{int(picture.stem):,}"}
