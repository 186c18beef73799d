"""A training run on one page: what was learned by time and by images, samples, and settings.

It is drawn from what the run has written, at any moment: while it goes on, or once it is done.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from floracle.models.networks.families import network_title
from floracle.models.networks.lightningdit import Architecture
from floracle.report.figure import write_figures
from floracle.report.formatting import format_duration, format_percent, format_time
from floracle.report.html import data_uri, render_page
from floracle.report.names import fact_rows, quoted, visible
from floracle.report.tables import ReportRow, Table
from floracle.run.errors import InputError
from floracle.run.files import write_text
from floracle.run.folder_checks import check_run_folder
from floracle.training.checkpoint import VERB, read_record_of, record_paths
from floracle.training.evaluation import FOLDER
from floracle.training.metrics_log import read_log

from .figures import STAGES, halfway, stage_boundary, training_figures

PAGE = "training.html"
MAX_SAMPLES_WIDTH = 1100
"""Pixels across that samples have on the page."""
MEMORIZING_ERRORS = 3.0
"""Standard errors from which on a difference is significant: it is the largest of many times."""
SHOWN_SETTINGS = (
    "target", "times", "batch", "rate", "ema", "drop", "precision", "cosine", "clip", "seed",
    "data", "held_out",
)  # fmt: skip
"""Settings on the page, in this order; run.json has all of them."""
SETTING_NAMES = {
    "drop": "label dropout for classifier-free guidance",
    "ema": "EMA decay",
    "rate": "learning rate",
    "clip": "gradient clipping",
    "cosine": "cosine decay",
    "held_out": "held-out data",
}


@dataclass(frozen=True)
class TrainingRun:
    """What a run has written so far."""

    folder: Path
    settings: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]
    """Of metrics.jsonl, with a loss, by images."""
    evaluations: Sequence[Mapping[str, Any]]
    """Each with `images`, `t`, and curves by name."""

    @property
    def images(self) -> int:
        """Images seen so far."""
        return int(max(line["images"] for line in (*self.lines, *self.evaluations)))

    @property
    def total(self) -> int:
        """Images to be seen."""
        return int(self.settings["images"])

    @property
    def samples(self) -> Path | None:
        """The latest picture of samples."""
        files = (path for path in (self.folder / FOLDER).glob("*.png") if path.stem.isdigit())
        return max(files, default=None)

    @property
    def switch(self) -> float | None:
        """The time from which on targets are conditional, where the run has written it by now."""
        switch = self.settings.get("switch")
        if switch is not None or self.settings.get("target") == "conditional":
            return switch
        # The JSON of checkpoints alone: their tensors may be large, and are not read.
        for path in reversed(record_paths(self.folder)):
            with suppress(InputError):
                return read_record_of(path).facts.get("switch")
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
    if not lines:
        raise InputError(f"{folder} has no line of progress yet; wait for some batches")
    evaluations = [
        {"images": line["images"], **line["evaluation"]} for line in log if line.get("evaluation")
    ]
    return TrainingRun(folder, settings, lines, evaluations)


def write_training_report(folder: Path) -> Path:
    """Write the report of a run into its folder; returns the page."""
    run = read_run(folder)
    drawings = training_figures(run.lines, run.evaluations)
    write_figures(drawings, folder)
    page = render_page(
        "training/page.html.j2",
        drawings,
        name=visible(folder.resolve().name),
        headline=headline(run),
        story=story(run),
        samples=_inline_samples(run.samples),
        losses=losses_table(run),
        facts=fact_rows(_facts(run)),
        command=f"floracle report {quoted(str(folder))}",
    )
    write_text(folder / PAGE, page)
    return folder / PAGE


def headline(run: TrainingRun) -> str:
    """How far the run is, and how far its network is from the oracle."""
    if not run.evaluations:
        return f"{run.images:,} of {run.total:,} images, loss {run.lines[-1]['loss']:.3g}."
    last = run.evaluations[-1]
    loss, boundary = last["oracle"], format_time(stage_boundary(run.lines))
    return (
        f"After {last['images']:,} images the oracle loss is {loss['navigation']:.2g} in"
        f" navigation and {loss['refinement']:.2g} in refinement, from t = {boundary} on."
    )


def story(run: TrainingRun) -> list[str]:
    """What can be said of progress, speed and memorization."""
    sentences, seconds = [], sum(line.get("seconds", 0.0) for line in run.lines)
    if run.images < run.total:
        sentences.append(f"So far {run.images:,} of {run.total:,} images are seen.")
    rate = run.images / max(seconds, 1e-9)  # images a second
    sentences.append(f"{format_duration(seconds)} of training, {rate:,.0f} images per second.")
    if len(run.evaluations) > 1:
        sentences.append(_describe_progress(run.evaluations))
    if run.evaluations and "difference" in run.evaluations[-1]:
        sentences.append(_describe_memorization(run.evaluations[-1]))
    return sentences


def _describe_progress(evaluations: Sequence[Mapping[str, Any]]) -> str:
    """By how much the oracle loss has changed since half of the images."""
    last, half = evaluations[-1], halfway(evaluations)
    # 1 − L_last / L_half of each stage: above 0 the loss fell.
    changes = [1 - last["oracle"][stage] / half["oracle"][stage] for stage in STAGES]
    verbs = ["fell" if change >= 0 else "rose" for change in changes]
    percents = [format_percent(abs(change)) for change in changes]
    second = f"by {percents[1]}" if verbs[0] == verbs[1] else f"{verbs[1]} by {percents[1]}"
    return (
        f"Since {half['images']:,} images the oracle loss {verbs[0]} by {percents[0]} in"
        f" navigation and {second} in refinement."
    )


def _describe_memorization(evaluation: Mapping[str, Any]) -> str:
    """The excess loss on held-out data at the time where it is the most significant."""
    excess = evaluation["difference"]
    points = [
        (mean / error, t, mean, error)
        for t, mean, error in zip(evaluation["t"], excess["mean"], excess["error"], strict=True)
        if error
    ]
    errors, t, mean, error = max(points, default=(0.0, 0.0, 0.0, 0.0))
    if errors < MEMORIZING_ERRORS:
        return "The loss on held-out data is not significantly higher than on training data."
    return (
        f"At t = {format_time(t)} the loss on held-out data is {mean:.2g} ± {error:.1g} higher: if"
        " both sets have the same distribution, the network has memorized training data."
    )


def losses_table(run: TrainingRun) -> Table | None:
    """Losses of both stages by images seen; None without evaluations."""
    if not run.evaluations:
        return None
    last = run.evaluations[-1]
    titles = {
        "oracle": "oracle loss", "conditional": "conditional loss", "held_out": "held-out data",
    }  # fmt: skip
    names = [name for name in titles if name in last]
    rows = []
    for evaluation in run.evaluations:
        cells = [f"{evaluation['images']:,}"]
        for name in names:
            losses = evaluation.get(name)
            cells += ["–" if losses is None else f"{losses[stage]:.3g}" for stage in STAGES]
        rows.append(ReportRow(cells, main=evaluation is last))
    head = ("images", *STAGES * len(names))
    return Table(head, rows, over=[("", 1), *((titles[name], 2) for name in names)])


def _facts(run: TrainingRun) -> dict[str, str]:
    facts: dict[str, Any] = {"network": _network_title(run.settings.get("network"))}
    for name in SHOWN_SETTINGS:
        facts[SETTING_NAMES.get(name, name)] = run.settings.get(name)
    if run.switch is not None:
        facts["conditional targets from"] = f"t = {run.switch:.3f}"
    return {name: str(value) for name, value in facts.items() if value is not None}


def _network_title(network: Any) -> str:
    """An architecture by its name; a network of the user's own by its class."""
    try:
        return network_title("LightningDiT", Architecture(**network))
    except (TypeError, InputError):
        return str(network)


def _inline_samples(picture: Path | None) -> dict[str, str] | None:
    """A picture for the page; a large one is made smaller, the file keeps its size."""
    if picture is None:
        return None
    content, kind = picture.read_bytes(), "png"
    with Image.open(io.BytesIO(content)) as image:
        if image.width > MAX_SAMPLES_WIDTH:
            size = MAX_SAMPLES_WIDTH, round(MAX_SAMPLES_WIDTH * image.height / image.width)
            smaller, kind = io.BytesIO(), "jpeg"
            resized = image.convert("RGB").resize(size, Image.Resampling.LANCZOS)
            resized.save(smaller, "JPEG", quality=90)
            content = smaller.getvalue()
    return {"uri": data_uri(content, kind), "kind": kind, "images": f"{int(picture.stem):,}"}
