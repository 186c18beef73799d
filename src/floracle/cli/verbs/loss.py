"""`floracle loss`: how far fields are from the oracle by time, and how they do on unseen data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from floracle.cli.counts import Whole
from floracle.cli.data_options import DataOptions, PathName, show_remarks
from floracle.cli.field_options import (
    called,
    check_useful,
    command_of,
    conventions,
    points_oracle,
    times_of,
)
from floracle.cli.fields import field_of, followed, identities, path_settings, warn_of_misreading
from floracle.cli.output import Out, check_out, output_of
from floracle.cli.parsing import plain

if TYPE_CHECKING:
    from floracle.core.fields import VelocityField
    from floracle.data.store import Store
    from floracle.oracle.oracle import Oracle
    from floracle.run.output_folder import OutputFolder

OPENING = DataOptions()
TIMES = "0,.05,.1,.15,.2,.3,.4,.5,.6,.7,.8,.9,.95"
YARDSTICKS = ("gaussian", "class-gaussian", "none")


def loss(
    *fields: str,
    data: str,
    held_out: str | None = None,
    held_out_labels: Path | None = None,
    names: str | None = None,
    classes: str | None = None,
    pairs: Whole = 64,
    times: str = TIMES,
    trajectories: Whole = 16,
    steps: Whole = 50,
    yardsticks: str | None = None,
    convention: list[str] | None = None,
    path: PathName = "linear",
    opening: DataOptions = OPENING,
    seed: Whole = 0,
    out: Out = None,
    memory: str | None = None,
    device: str = "cpu",
) -> Path:
    """Measure how far fields are from the oracle of their training set, time by time.

    Several fields, the checkpoints of a run say, are measured on the same pairs and noise and
    drawn in one figure; where they differ is told, and where one cannot say. Beside it are the
    losses on data that was held out, and on the states of the fields' own trajectories.

    Parameters
    ----------
    fields
        One to five: networks, each a run, a checkpoint, module:function or file.py:function; see
        docs/how-to/models.md; or "oracle". The others are compared with the first.
    data
        The training set; see floracle stages --help.
    held_out
        Data of the same kind that was not trained on.
    held_out_labels
        A .npy file with a label for each held-out point.
    names
        What to call the fields, with commas between.
    classes
        each, whole, or labels like 0,3,5; each where there are labels. Fields are asked with them.
    pairs
        Pairs of data and noise drawn for each class.
    times
        Times in [0, 1) to measure at.
    trajectories
        Trajectories of each field that are followed in each class; 0 for none.
    steps
        Euler steps of these trajectories.
    yardsticks
        gaussian, class-gaussian, both with a comma between, or none: fields that know moments
        alone. class-gaussian where there are labels, gaussian where not.
    convention
        How networks are to be read: a project's name, or words like
        predicts=data,null_label=10. Once for all of them, or as often as there are networks.
    path
        The path from noise to data, on which fields are followed and whose times these are; a
        network is taken there from its own.
    opening
        How data is read.
    seed
        Where the random draws start.
    out
        Folder for the page and its numbers; runs/loss-NAMES by default.
    memory
        How much may be used, like 4G; half of what is free by default.
    device
        cpu or cuda:0.
    """
    typed = dict(locals())
    from floracle.cli.parsing import checked_seed
    from floracle.report.loss.figures import COLOURS
    from floracle.run.budget import choose_device
    from floracle.run.errors import InputError
    from floracle.run.results import stored_answer

    places = called(fields, names)
    if len(places) > len(COLOURS):
        raise InputError(f"up to {len(COLOURS)} fields can be told apart, got {len(places)}")
    read, measured = conventions(places, convention), times_of(times, "--times")
    _check(typed, measured)
    checked_seed(seed)
    if pairs < 2 or trajectories == 1 or trajectories < 0:
        raise InputError(
            f"at least 2 --pairs and 2 --trajectories, or 0, are needed, got {pairs} and"
            f" {trajectories}"
        )
    check_out(out, "loss", data)
    store = opening.store(data, memory)
    show_remarks(store)
    other = None
    if held_out is not None:
        other = opening.held_out(held_out, store, memory, held_out_labels)
    chosen, beside = _classes(classes, store), _yardsticks(yardsticks, store)
    if other is not None:
        _check_classes(chosen, other, held_out_labels)
    where = str(choose_device(device))
    oracle = points_oracle(store, memory, where, path)
    loaded = {name: field_of(place, oracle, read[name], where) for name, place in places.items()}
    settings = {
        "fields": places,
        "networks": identities(loaded, store.shape),
        "conventions": read,
        "data": store.fingerprint,
        "held_out": None if other is None else other.fingerprint,
        "classes": chosen,
        "pairs": pairs,
        "times": measured,
        "trajectories": trajectories,
        "steps": steps,
        "yardsticks": beside,
        "seed": seed,
        **path_settings(path),
        **opening.settings(),
    }
    default = Path("runs") / f"loss-{'-'.join(map(plain, places))}"
    with output_of("loss", out, default, settings, data=[store, other]) as output:
        job = LossJob(output, store, other, command_of(loss, "loss", typed))
        if stored_answer(output.path, output.settings) is None:
            for field in loaded.values():
                warn_of_misreading(field, store)
            moving = {name: followed(field, oracle.path) for name, field in loaded.items()}
            _measure(job, oracle, moving)
        _report(job)
    return output.path


@dataclass(frozen=True)
class LossJob:
    """What is measured, and where that goes."""

    output: OutputFolder
    store: Store
    held_out: Store | None
    command: str


def _measure(job: LossJob, oracle: Oracle, fields: dict[str, VelocityField]) -> None:
    """Measure all fields on the path, and on their own trajectories where that is asked."""
    import torch

    from floracle.analysis.loss.oracle_loss import oracle_losses
    from floracle.analysis.loss.results import LossComparison
    from floracle.cli.console import note
    from floracle.run.results import provenance

    asked = job.output.settings
    known: dict[str, Any] = {
        "times": torch.tensor(asked["times"], dtype=torch.float64),
        "classes": asked["classes"],
        "seed": asked["seed"],
        "baselines": {name: _yardstick(name, oracle) for name in asked["yardsticks"]},
    }
    note(f"measuring {', '.join(fields)} on {asked['pairs']} pairs a class")
    on_path = oracle_losses(fields, oracle, pairs=asked["pairs"], held_out=job.held_out, **known)
    own = {}
    if asked["trajectories"]:
        note("following them on their own")
        more = {"pairs": asked["trajectories"], "steps": asked["steps"], "along": "own"}
        own = oracle_losses(fields, oracle, **more, **known)
    job.output.save(LossComparison(on_path, own, asked, provenance(command=job.command)))


def _facts(job: LossJob) -> dict[str, str]:
    asked, held_out = job.output.settings, job.held_out
    facts = {
        **path_settings(asked.get("path", "linear")),
        "fields": ", ".join(f"{name}: {where}" for name, where in asked["fields"].items()),
        "data": job.store.name,
        "data fingerprint": job.store.fingerprint,
    }
    if held_out is not None:
        facts["held-out data"] = f"{held_out.name}, {len(held_out):,} points"
    facts["pairs a class"] = str(asked["pairs"])
    if asked["trajectories"]:
        facts["trajectories a class"] = f"{asked['trajectories']}, {asked['steps']} Euler steps"
    return facts | {"seed": str(asked["seed"])}


def _report(job: LossJob) -> None:
    """Draw the losses, and say on the terminal what they show."""
    from floracle.analysis.loss.results import LossComparison
    from floracle.cli.columns import show
    from floracle.cli.console import say
    from floracle.report.loss import words as fields_words
    from floracle.report.loss.page import write_losses
    from floracle.report.names import visible
    from floracle.run.results import load_results

    found = LossComparison.of_results(load_results(job.output.path))
    command = found.provenance.get("command", job.command)
    page = write_losses(found, job.output.path, facts=_facts(job), command=command)
    for name in found.path:
        show(fields_words.loss_table(found, name), name if len(found.path) > 1 else "")
    say(fields_words.headline(found))
    for sentence in fields_words.story(found):
        say(sentence)
    say(f"page: {visible(str(page))}")


def _check(typed: dict[str, Any], times: list[float]) -> None:
    """Refuse what cannot be measured, and what would have no effect, before data is read."""
    from floracle.cli.parsing import whole_numbers
    from floracle.run.errors import InputError

    if typed["held_out"] is None:
        check_useful(loss, typed, ("held_out_labels",), "--held-out")
    if typed["trajectories"] == 0:
        check_useful(loss, typed, ("steps",), "--trajectories")
    if typed["steps"] < 1:
        raise InputError(f"--steps is 1 at least, got {typed['steps']}")
    if times[-1] == 1:
        raise InputError("fields end at t = 1: --times lie in [0, 1)")
    if typed["classes"] == "both":
        raise InputError("losses are averaged over --classes, so they are each or whole, not both")
    if typed["classes"] not in (None, "each", "whole"):
        whole_numbers(typed["classes"], "--classes", "each, whole or labels like 0,3,5")
    _named_yardsticks(typed["yardsticks"] or "none")


def _check_classes(chosen: list[int], held_out: Store, labels: Path | None) -> None:
    """Refuse held-out data that has not all the classes that are asked for."""
    from floracle.core.point_set import NO_LABEL
    from floracle.core.point_set import classes as labels_in
    from floracle.run.errors import InputError

    known = labels_in(held_out)
    missing = [label for label in chosen if label != NO_LABEL and label not in known]
    if missing:
        has = f"no class {missing[0]}" if known else "no labels"
        way = "--held-out-labels" if labels is None else "other --held-out-labels"
        raise InputError(
            f"the held-out data {held_out.name} has {has}, but each class is compared with its"
            f" own; give {way}, or --classes whole"
        )


def _classes(words: str | None, store: Store) -> list[int]:
    """The classes to measure: each of them unless told otherwise, or the whole set."""
    from floracle.cli.parsing import classes_of
    from floracle.core.point_set import classes as labels_in

    known = labels_in(store)
    return classes_of(words or ("each" if known else "whole"), known)


def _yardsticks(words: str | None, store: Store) -> list[str]:
    from floracle.core.point_set import classes as labels_in
    from floracle.run.errors import InputError

    labelled = bool(labels_in(store)) and bool((store.labels >= 0).all())
    if words is None:
        return ["class-gaussian" if labelled else "gaussian"]
    names = _named_yardsticks(words)
    if "class-gaussian" in names and not labelled:
        raise InputError("--yardsticks class-gaussian needs a label on every point; take gaussian")
    return names


def _named_yardsticks(words: str) -> list[str]:
    """The yardsticks that were named, each once."""
    from floracle.run.errors import InputError, suggestion

    names = list(dict.fromkeys(words.split(",")))
    for name in names:
        if name not in YARDSTICKS:
            raise InputError(f"--yardsticks: there is no {name!r}; {suggestion(name, YARDSTICKS)}")
    if "none" in names and len(names) > 1:
        raise InputError(f"--yardsticks none leaves nothing beside it, got {words}")
    return [name for name in names if name != "none"]


def _yardstick(name: str, oracle: Oracle) -> VelocityField:
    from floracle.oracle.baselines.gaussian import class_gaussians, gaussian_field

    of = gaussian_field if name == "gaussian" else class_gaussians
    return of(oracle.data, path=oracle.path)
