"""`floracle train`: a network learns the field of data, on conditional or oracle targets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from floracle.cli.counts import Whole
from floracle.cli.data_options import DataOptions, show_remarks
from floracle.cli.output import Out, check_out, say_standing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from floracle.run.processes import ProcessGroup
    from floracle.training.config import TrainingSettings
    from floracle.training.train_metrics import TrainingProgress

OPENING = DataOptions()
HOUR = 3600


@Parameter(name="*")
@dataclass(frozen=True)
class TrainingOptions:
    """How the network learns; what is left out is as the recipe has it."""

    batch: Annotated[Whole | None, Parameter(help="Images in a step, over all processes.")] = None
    rate: Annotated[float | None, Parameter(help="The rate of AdamW, constant.")] = None
    decay: Annotated[float | None, Parameter(help="The weight decay of AdamW.")] = None
    clip: Annotated[float | None, Parameter(help="The largest norm of a gradient.")] = None
    ema: Annotated[float | None, Parameter(help="What of the average stays at a step.")] = None
    drop: Annotated[float | None, Parameter(help="The share of labels that are dropped.")] = None
    target: Annotated[
        Literal["conditional", "oracle", "bank"] | None,
        Parameter(help="What is learned: the pair's own velocity, the oracle's, or a bank's."),
    ] = None
    switch: Annotated[
        float | None,
        Parameter(help="From which t on the target is conditional; measured by default."),
    ] = None
    share: Annotated[
        float | None, Parameter(help="The residual variance that the measured switch leaves.")
    ] = None
    bank: Annotated[Whole | None, Parameter(help="Points of a class in a reference batch.")] = None
    times: Annotated[
        Literal["uniform", "logit-normal", "shifted", "split-aware"] | None,
        Parameter(help="Where times come from; split-aware is weighted to stay unbiased."),
    ] = None
    shift: Annotated[
        float | None, Parameter(help="Of shifted times; below 1 is nearer to the noise.")
    ] = None
    split: Annotated[
        float | None, Parameter(help="Of split-aware times; at the switch by default.")
    ] = None
    cosine: Annotated[float | None, Parameter(help="The weight of the cosine loss.")] = None
    precision: Annotated[
        Literal["float32", "bf16"] | None, Parameter(help="In which type the network computes.")
    ] = None
    accumulate: Annotated[
        Whole | None, Parameter(help="Pieces that a process takes its part of a batch in.")
    ] = None
    recompute: Annotated[
        bool | None, Parameter(help="Compute blocks again for the gradient, to save memory.")
    ] = None
    compile: Annotated[bool | None, Parameter(help="Compile the network first.")] = None
    seed: Annotated[Whole | None, Parameter(help="Where all random draws start.")] = None
    lines: Annotated[Whole | None, Parameter(help="Batches between lines of metrics.jsonl.")] = (
        None
    )
    keep: Annotated[Whole | None, Parameter(help="Checkpoints that are kept.")] = None


LEARNING = TrainingOptions()


def train(
    data: str,
    /,
    *,
    opening: DataOptions = OPENING,
    learning: TrainingOptions = LEARNING,
    model: str | None = None,
    patch: Whole | None = None,
    images: Whole | None = None,
    every: Whole | None = None,
    recipe: Literal["paper", "lightningdit", "sit"] = "paper",
    held_out: str | None = None,
    pairs: Whole = 64,
    samples: Whole = 64,
    out: Out = None,
    memory: str | None = None,
    device: str = "cpu",
) -> Path:
    """Train a network on data, towards its pairs' own velocities or the oracle's.

    The same command again goes on from the last checkpoint, to the same weights bit for bit, or
    answers at once. Processes started by torchrun share every batch.

    Parameters
    ----------
    data
        Pictures, arrays, latents of other projects, digits; see floracle stages --help.
    opening
        How data is read.
    learning
        How the network learns.
    model
        The size of the network: pico, nano, tiny, small, base, large, xl.
    patch
        Pixels of an edge that become one token; the fewest that leave at most 256 tokens.
    images
        Images seen in all, like 1e6.
    every
        Images between checkpoints, each with an evaluation; a tenth of all by default.
    recipe
        Whose settings hold where nothing else is said.
    held_out
        Data of the same kind that is not trained on, for the evaluations.
    pairs
        Pairs of each class that an evaluation measures losses of; 0 measures none.
    samples
        Samples that an evaluation draws; 0 draws none.
    out
        Folder for the run; runs/train-NAME by default.
    memory
        How much the data and the oracle may use, like 4G.
    device
        cpu or cuda.
    """
    import sys

    from floracle.cli.parsing import folder_for
    from floracle.run.budget import choose_device
    from floracle.run.output_folder import free_folder
    from floracle.run.processes import current_group, process_device, process_memory
    from floracle.training.build_model import build_model, large
    from floracle.training.checkpoint import VERB
    from floracle.training.evaluation import EvaluationPlan
    from floracle.training.loop import train as progress
    from floracle.training.run_directory import GROWS, settings_of

    named = {"model": model, "patch": patch, "images": images, "every": every}
    settings = _settings(recipe, learning, named)
    group = current_group()
    if group.first:
        check_out(out, VERB, data)
    own = process_memory(memory, group)
    place = str(choose_device(process_device(device, group)))
    store = opening.store(data, own)
    show_remarks(store)
    other = None if held_out is None else opening.held_out(held_out, store, own)
    network = build_model(settings, store)
    warning = large(network, settings.images, choose_device(place))
    if group.first and warning is not None:
        sys.stderr.write(f"note: {warning}\n")
    asked = settings_of(settings, store, network, other, network.null)
    folder = (
        free_folder(folder_for("train", data), VERB, asked, group, GROWS) if out is None else out
    )
    folder = folder.expanduser()
    if group.first:
        _say_where(folder, settings)
    run = progress(
        network,
        store,
        settings,
        out=folder,
        held_out=other,
        look=EvaluationPlan(pairs=pairs, samples=samples),
        device=place,
        memory=own,
    )
    _follow(run, settings, group)
    _summarise(folder, group)
    return folder


def _say_where(folder: Path, settings: TrainingSettings) -> None:
    """Whether the run is complete, or from where it goes on."""
    from floracle.run.results import has_result
    from floracle.training.checkpoint import abouts

    stands = max((int(about.stem) for about in abouts(folder)), default=None)
    if stands is None:
        return
    if stands >= settings.images and has_result(folder):
        say_standing(folder, "complete; a larger --images would make it longer")
    else:
        say_standing(folder, f"going on from {stands:,} of {settings.images:,} images")


def _settings(recipe: str, learning: TrainingOptions, named: dict[str, Any]) -> TrainingSettings:
    """The recipe's settings, and what was asked for in their place."""
    from dataclasses import asdict, replace

    from floracle.training.config import PRESETS

    asked = {**asdict(learning), **named}
    return replace(PRESETS[recipe], **{k: v for k, v in asked.items() if v is not None})


def _follow(
    run: Iterator[TrainingProgress], settings: TrainingSettings, group: ProcessGroup
) -> None:
    """Say where the run stands: in a line where a person watches, and after every checkpoint."""
    import sys

    from floracle.cli.console import as_typed, say

    watched = sys.stderr.isatty() and group.first
    for at in run:
        for note in at.notes:
            sys.stderr.write(f"note: {as_typed(note)}\n")
        if watched:
            sys.stderr.write(f"\r\x1b[K{_words(at)}")
        if at.checkpoint is not None:
            if watched:
                sys.stderr.write("\r\x1b[K")
            say(_words(at) + _looked(at))


def _words(at: TrainingProgress) -> str:
    share = at.images / at.total
    return (
        f"{at.images:,} of {at.total:,} images ({share:.0%}), loss {at.loss:.4f},"
        f" {at.images_per_second:,.0f} images/s, {_time(at.left)} left"
    )


def _looked(at: TrainingProgress) -> str:
    """The oracle loss of both stages, where it was measured."""
    if at.evaluation is None:
        return ""
    oracle = at.evaluation["oracle"]
    return (
        f"; oracle loss {oracle['navigation']:.4f} in navigation,"
        f" {oracle['refinement']:.4f} in refinement"
    )


def _time(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{seconds / HOUR:.1f} h"


def _summarise(folder: Path, group: ProcessGroup) -> None:
    from floracle.cli.console import say
    from floracle.models.weights import NAME
    from floracle.report.training.page import write_run
    from floracle.run.results import load_results

    if not group.first:
        return
    found = load_results(folder)
    values = found.values
    say(f"{values['parameters']:,} parameters, {values['images']:,} images")
    say(f"conditional targets from t = {values['switch']:.3f} on, navigation until there")
    say(f"network: {folder / NAME}")
    say(f"page: {write_run(folder)}")
