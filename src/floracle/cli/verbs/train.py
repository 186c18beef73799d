"""`floracle train`: train a network on conditional or oracle targets."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cyclopts import Parameter

from floracle.cli import options
from floracle.cli.console import say, warn
from floracle.cli.data_options import (
    DATA_DEFAULTS,
    HELD_OUT_DEFAULTS,
    DataOptions,
    HeldOutOptions,
)
from floracle.cli.parsing import default_folder
from floracle.cli.verb_run import check_out, say_state
from floracle.run.errors import InputError
from floracle.run.processes import current_group, process_memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from floracle.run.processes import ProcessGroup
    from floracle.training.config import TrainingSettings
    from floracle.training.train_metrics import TrainingProgress

SETTING_OF_OPTION = {"time_density": "times", "target_until": "switch"}
"""Options that are called otherwise than the saved setting."""


@Parameter(name="*")
@dataclass(frozen=True)
class TrainingOptions:
    """How the network is trained; options that are left out are as the recipe has them."""

    batch: options.Count | None = None
    """Images in a step, over all processes. Default: 512."""
    rate: float | None = None
    """Learning rate of AdamW, constant. Default: 1e-4."""
    decay: float | None = None
    """Weight decay of AdamW. Default: 0."""
    clip: float | None = None
    """Largest norm of a gradient. Default: 1."""
    ema: float | None = None
    """EMA decay of a step. Default: 0.9999."""
    drop: float | None = None
    """Label dropout for classifier-free guidance, as a share. Default: 0.1."""
    target: Literal["conditional", "oracle", "bank"] | None = None
    """Target; bank estimates the oracle velocity from a few points. Default: conditional."""
    target_until: float | None = None
    """Time until which --target holds; later ones are conditional. Default: see --share."""
    share: float | None = None
    """Share of the irreducible loss left at that time, if it is measured. Default: 0.01."""
    bank: options.Count | None = None
    """Points of a class in a reference batch. Default: 256."""
    time_density: Literal["uniform", "logit-normal", "shifted", "split-aware"] | None = None
    """Density of training times; split-aware is weighted to stay unbiased. Default: uniform."""
    shift: float | None = None
    """Shift s of shifted times; below 1 nearer to the noise. Default: 1."""
    split: float | None = None
    """Split of split-aware times. Default: as --target-until."""
    cosine: float | None = None
    """Weight of the cosine loss. Default: 0."""
    precision: Literal["float32", "bf16"] | None = None
    """Type in which the network computes. Default: float32."""
    accumulate: options.Count | None = None
    """Pieces in which a process computes its part of a batch. Default: 1."""
    recompute: bool | None = None
    """Recompute activations in the backward pass, which saves memory."""
    compile: bool | None = None
    """Compile the network first."""
    seed: options.Count | None = None
    """Seed of all random draws. Default: 0."""
    lines: options.Count | None = None
    """Batches between lines of metrics.jsonl. Default: 20."""
    keep: options.Count | None = None
    """Checkpoints that are kept. Default: 2."""


RECIPE_DEFAULTS = TrainingOptions()


def train(
    data: str,
    /,
    *,
    data_options: DataOptions = DATA_DEFAULTS,
    training_options: TrainingOptions = RECIPE_DEFAULTS,
    model: str | None = None,
    patch: options.Count | None = None,
    images: options.Count | None = None,
    every: options.Count | None = None,
    recipe: Literal["paper", "lightningdit", "sit"] = "paper",
    held_out_options: HeldOutOptions = HELD_OUT_DEFAULTS,
    pairs: options.Count = 64,
    samples: options.Count = 64,
    out: options.Out = None,
    memory: options.Memory = None,
    device: options.Device = "cpu",
) -> Path:
    """Train a network on conditional or oracle targets.

    The same command again goes on from the last checkpoint, to the same weights bit for bit, or
    answers at once. Processes started by torchrun share every batch.

    Parameters
    ----------
    data
        Pictures, arrays, latents of other projects, digits; see floracle stages --help.
    model
        Size of the network: pico, nano, tiny, small, base, large, xl. Default: xl.
    patch
        Pixels of an edge that become one token. Default: the fewest that leave at most 256 tokens.
    images
        Images seen in all, such as 1e6. Default: 128e6.
    every
        Images between checkpoints, each with an evaluation. Default: a tenth of all images.
    recipe
        The recipe whose settings are the defaults; those listed here are the paper's.
    pairs
        Pairs per class whose losses an evaluation measures; 0 for none.
    samples
        Samples that an evaluation generates; 0 for none.
    out
        Folder for the run. Default: runs/train-NAME.
    """
    from floracle.run.budget import choose_device
    from floracle.run.output_folder import free_folder
    from floracle.training.build_model import build_model, warn_of_size
    from floracle.training.checkpoint import VERB
    from floracle.training.evaluation import EvaluationPlan
    from floracle.training.loop import train as train_network
    from floracle.training.run_directory import GROWS, settings_of

    durations = {"model": model, "patch": patch, "images": images, "every": every}
    settings = _settings(recipe, training_options, durations)
    group = current_group()
    if group.first:
        check_out(out, VERB, data)
    memory_share = process_memory(memory, group)
    device = options.device_for(device, group)
    store = data_options.open(data, memory_share)
    other = held_out_options.open(store, data_options, memory_share)
    network = build_model(settings, store)
    warning = warn_of_size(network, settings.images, choose_device(device))
    if group.first and warning is not None:
        warn(warning)
    # A run may be longer than the one in the folder (GROWS); everything else must be the same.
    if out is None:
        default = default_folder("train", data)
        run_settings = settings_of(settings, store, network, other, network.null)
        out = free_folder(default, VERB, run_settings, group, GROWS)
    folder = out.expanduser()
    if group.first:
        _say_state(folder, settings)
    run = train_network(
        network,
        store,
        settings,
        out=folder,
        held_out=other,
        look=EvaluationPlan(pairs=pairs, samples=samples),
        device=device,
        memory=memory_share,
    )
    _say_progress(run, group)
    if group.first:
        _report(folder)
    return folder


def _settings(
    recipe: str, training_options: TrainingOptions, durations: Mapping[str, Any]
) -> TrainingSettings:
    """The settings of the recipe, with the options in their place."""
    from floracle.training.config import PRESETS

    values = {SETTING_OF_OPTION.get(name, name): v for name, v in asdict(training_options).items()}
    values |= durations
    # None is an option that was not given, so the value of the recipe stays.
    try:
        return replace(PRESETS[recipe], **{k: v for k, v in values.items() if v is not None})
    except InputError as error:  # begins with the setting; the user typed an option
        setting, _, reason = str(error).partition(" ")
        names = {setting: option for option, setting in SETTING_OF_OPTION.items()}
        if setting not in values:
            raise
        raise InputError(f"{options.option_name(names.get(setting, setting))} {reason}") from error


def _say_state(folder: Path, settings: TrainingSettings) -> None:
    """Print whether the run is complete, or where it goes on."""
    from floracle.run.results import has_result
    from floracle.training.checkpoint import record_paths

    images = max((int(about.stem) for about in record_paths(folder)), default=None)
    if images is None:
        return
    if images >= settings.images and has_result(folder):
        say_state(folder, "complete; a larger --images would make it longer")
    else:
        say_state(folder, f"going on from {images:,} of {settings.images:,} images")


def _say_progress(run: Iterator[TrainingProgress], group: ProcessGroup) -> None:
    """Print where the run stands: in one line of a terminal, and after every checkpoint."""
    import sys

    on_terminal = sys.stderr.isatty() and group.first
    for progress in run:
        for note in progress.notes:
            warn(note)
        if on_terminal:  # \r and \x1b[K: over the line before
            sys.stderr.write(f"\r\x1b[K{_progress_words(progress)}")
        if progress.checkpoint is not None:
            if on_terminal:
                sys.stderr.write("\r\x1b[K")
            say(_progress_words(progress) + _evaluation_words(progress))


def _progress_words(progress: TrainingProgress) -> str:
    share = progress.images / progress.total
    return (
        f"{progress.images:,} of {progress.total:,} images ({share:.0%}), loss"
        f" {progress.loss:.4f}, {progress.images_per_second:,.0f} images/s,"
        f" {_duration(progress.seconds_left)} left"
    )


def _evaluation_words(progress: TrainingProgress) -> str:
    """The oracle loss of both stages, where it was measured."""
    if progress.evaluation is None:
        return ""
    oracle = progress.evaluation["oracle"]
    return (
        f"; oracle loss {oracle['navigation']:.4f} in navigation,"
        f" {oracle['refinement']:.4f} in refinement"
    )


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def _report(folder: Path) -> None:
    """Draw the page of the run, and print where everything is."""
    from floracle.models.weights import NETWORK_FILE
    from floracle.report.training.page import write_training_report
    from floracle.run.results import load_results

    values = load_results(folder).values
    say(f"{values['parameters']:,} parameters, {values['images']:,} images")
    say(f"conditional targets from t = {values['switch']:.3f} on, navigation until there")
    say(f"network: {folder / NETWORK_FILE}")
    say(f"report: {write_training_report(folder)}")
