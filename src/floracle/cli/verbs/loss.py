"""`floracle loss`: the distance of fields from the oracle by time, and their held-out loss."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from floracle.cli import options
from floracle.cli.console import note_progress, say
from floracle.cli.data_options import (
    DATA_DEFAULTS,
    HELD_OUT_DEFAULTS,
    DataOptions,
    HeldOutOptions,
)
from floracle.cli.fields import (
    check_fields,
    checked_fields,
    conventions_of,
    fingerprints,
    load_field,
    name_fields,
    start_facts,
)
from floracle.cli.parsing import (
    check_seed,
    folder_name,
    parse_classes,
    parse_integers,
    parse_times,
)
from floracle.cli.tables import show_wide_table
from floracle.cli.verb_run import check_out, run_verb
from floracle.report.names import visible
from floracle.run.errors import InputError, suggestion

if TYPE_CHECKING:
    from floracle.core.fields import VelocityField
    from floracle.data.store import Store
    from floracle.oracle.oracle import Oracle
    from floracle.run.output_folder import OutputFolder

TIMES = "0,.05,.1,.15,.2,.3,.4,.5,.6,.7,.8,.9,.95"
BASELINES = ("gaussian", "class-gaussian", "none")
Steps = Annotated[options.Count, Parameter(help="Euler steps of these trajectories.")]


def loss(
    *fields: str,
    data: str,
    held_out_options: HeldOutOptions = HELD_OUT_DEFAULTS,
    names: str | None = None,
    classes: str | None = None,
    pairs: options.Pairs = 64,
    times: str = TIMES,
    trajectories: options.Count = 16,
    steps: Steps = 50,
    baselines: str | None = None,
    convention: options.ConventionList = None,
    data_options: DataOptions = DATA_DEFAULTS,
    oracle_options: options.OracleOptions = options.ORACLE_DEFAULTS,
    seed: options.Seed = 0,
    out: options.Out = None,
) -> Path:
    """Measure the distance of fields from the oracle of their training set, time by time.

    Several fields are measured on the same pairs and noise, drawn in one figure, and compared with
    the first. The losses on held-out data and on the fields' own trajectories are measured too.

    Parameters
    ----------
    fields
        One to five: networks, each a run, a checkpoint, module:function or file.py:function (see
        docs/how-to/models.md), or "oracle". The others are compared with the first.
    data
        The training set; see floracle stages --help.
    names
        Display names of the fields, comma-separated. Default: the last parts of their paths.
    classes
        each, whole, or labels such as 0,3,5; fields are given these labels. Default: each where
        there are labels, whole where not.
    times
        Times in [0, 1) to measure at, comma-separated.
    trajectories
        Trajectories of each field in each class; 0 for none.
    baselines
        Fields that know moments alone: gaussian, class-gaussian, both comma-separated, or none.
        Default: class-gaussian where there are labels, gaussian where not.
    out
        Folder for the report and its numbers. Default: runs/loss-NAMES.
    """
    arguments = dict(locals())  # first, while the options are all there is
    from floracle.core.point_set import classes as labels_in
    from floracle.report.loss.figures import FIELD_COLOURS

    # 1. What needs no data is checked first: a typing error should not cost a minute of reading.
    specs = name_fields(fields, names, limit=len(FIELD_COLOURS))
    conventions, grid = conventions_of(specs, convention), parse_times(times, "--times")
    _check(arguments, grid)
    oracle_options.check()
    check_out(out, "loss", data)
    # 2. Data, oracle and networks.
    memory = oracle_options.memory
    store = data_options.open(data, memory)
    other = held_out_options.open(store, data_options, memory)
    classes_of_data = labels_in(store)
    classes = classes or ("each" if classes_of_data else "whole")
    labels = parse_classes(classes, classes_of_data, store.classes)
    chosen_baselines = _choose_baselines(baselines, store)
    if other is not None:
        _check_held_out(labels, other, held_out_options.held_out_label_file)
    device = options.device_for(oracle_options.device)
    oracle = oracle_options.points_oracle(store, device=device)
    models = {
        name: load_field(spec, oracle, conventions[name], device) for name, spec in specs.items()
    }
    check_fields(models, store)
    # 3. The question, as it is saved; keys stay as they are, so that old answers are found.
    settings = {
        "fields": specs,
        "networks": fingerprints(models, store.shape),
        "conventions": conventions,
        "data": store.fingerprint,
        "held_out": None if other is None else other.fingerprint,
        "classes": labels,
        "pairs": pairs,
        "times": grid,
        "trajectories": trajectories,
        "steps": steps,
        "yardsticks": chosen_baselines,
        "seed": seed,
        **oracle_options.settings(),
        **data_options.settings(),
    }
    command = options.command_of(loss, arguments)
    return run_verb(
        "loss",
        out,
        Path("runs") / f"loss-{'-'.join(map(folder_name, specs))}",
        settings,
        compute=lambda output: _measure(
            output, oracle, checked_fields(models, store, oracle.path), other, command
        ),
        report=lambda output: _report(
            output, _facts(output.settings, store, other) | start_facts(models), command
        ),
        data=[store, other],
    )


def _check(arguments: Mapping[str, Any], times: list[float]) -> None:
    """Refuse what cannot be measured, and what would have no effect, before data is read."""
    if arguments["held_out_options"].held_out is None:
        options.refuse_unused(
            loss, arguments, ("held_out_label_file", "drop_overlap"), "--held-out"
        )
    if arguments["trajectories"] == 0:
        options.refuse_unused(loss, arguments, ("steps",), "--trajectories")
    if arguments["steps"] < 1:
        raise InputError(f"--steps is 1 at least, got {arguments['steps']}")
    if times[-1] == 1:
        raise InputError("fields end at t = 1: --times lie in [0, 1)")
    if arguments["classes"] == "both":
        raise InputError("losses are averaged over --classes, so they are each or whole, not both")
    if arguments["classes"] not in (None, "each", "whole"):
        parse_integers(arguments["classes"], "--classes", "each, whole or labels like 0,3,5")
    _parse_baselines(arguments["baselines"] or "none")
    check_seed(arguments["seed"])
    pairs, trajectories = arguments["pairs"], arguments["trajectories"]
    if pairs < 2 or trajectories == 1 or trajectories < 0:  # errors need two
        raise InputError(
            f"at least 2 --pairs and 2 --trajectories, or 0, are needed, got {pairs} and"
            f" {trajectories}"
        )


def _check_held_out(labels: list[int], held_out: Store, label_file: Path | None) -> None:
    """Refuse held-out data that lacks one of the classes."""
    from floracle.core.point_set import NO_LABEL
    from floracle.core.point_set import classes as labels_in

    held_out_classes = labels_in(held_out)
    missing = [label for label in labels if label != NO_LABEL and label not in held_out_classes]
    if missing:
        lack = f"no class {missing[0]}" if held_out_classes else "no labels"
        remedy = "--held-out-label-file" if label_file is None else "another --held-out-label-file"
        raise InputError(
            f"the held-out data {held_out.name} has {lack}, but each class is compared with its"
            f" own; give {remedy}, or --classes whole"
        )


def _choose_baselines(text: str | None, store: Store) -> list[str]:
    from floracle.core.point_set import classes as labels_in

    labelled = bool(labels_in(store)) and bool((store.labels >= 0).all())
    if text is None:
        return ["class-gaussian" if labelled else "gaussian"]
    names = _parse_baselines(text)
    if "class-gaussian" in names and not labelled:
        raise InputError("--baselines class-gaussian needs a label on every point; take gaussian")
    return names


def _parse_baselines(text: str) -> list[str]:
    """The baselines by their names, each once."""
    names = list(dict.fromkeys(text.split(",")))
    for name in names:
        if name not in BASELINES:
            raise InputError(f"--baselines: there is no {name!r}; {suggestion(name, BASELINES)}")
    if "none" in names and len(names) > 1:
        raise InputError(f"--baselines none excludes others, got {text}")
    return [name for name in names if name != "none"]


def _measure(
    output: OutputFolder,
    oracle: Oracle,
    fields: Mapping[str, VelocityField],
    held_out: Store | None,
    command: str,
) -> None:
    """Measure all fields on the forward path, then on their own trajectories; save both."""
    import torch

    from floracle.analysis.loss.oracle_loss import oracle_losses
    from floracle.analysis.loss.results import LossComparison
    from floracle.oracle.baselines.gaussian import class_gaussians, gaussian_field
    from floracle.run.results import provenance

    settings = output.settings
    baselines = {"gaussian": gaussian_field, "class-gaussian": class_gaussians}
    common: dict[str, Any] = {
        "times": torch.tensor(settings["times"], dtype=torch.float64),
        "classes": settings["classes"],
        "seed": settings["seed"],
        "baselines": {
            name: baselines[name](oracle.data, path=oracle.path) for name in settings["yardsticks"]
        },
    }
    # All fields see the same pairs and noise, so that their differences are paired.
    note_progress(f"measuring {', '.join(fields)} on {settings['pairs']} pairs a class")
    on_path = oracle_losses(fields, oracle, pairs=settings["pairs"], held_out=held_out, **common)
    along_own = {}
    if settings["trajectories"]:
        note_progress("measuring on their own trajectories")
        sampled = {"pairs": settings["trajectories"], "steps": settings["steps"], "along": "own"}
        along_own = oracle_losses(fields, oracle, **sampled, **common)
    output.save(LossComparison(on_path, along_own, settings, provenance(command=command)))


def _facts(settings: Mapping[str, Any], store: Store, held_out: Store | None) -> dict[str, str]:
    """What the report says of where its numbers come from."""
    from floracle.run.results import setting_of

    facts = {
        **options.path_settings(setting_of(settings, "path")),
        "fields": ", ".join(f"{name}: {spec}" for name, spec in settings["fields"].items()),
        "data": store.name,
        "data fingerprint": store.fingerprint,
    }
    if held_out is not None:
        facts["held-out data"] = f"{held_out.name}, {len(held_out):,} points"
    facts["pairs a class"] = str(settings["pairs"])
    if settings["trajectories"]:
        count, steps = settings["trajectories"], settings["steps"]
        facts["trajectories a class"] = f"{count}, {steps} Euler steps"
    return facts | {"seed": str(settings["seed"])}


def _report(output: OutputFolder, facts: dict[str, str], command: str) -> None:
    """Draw the losses, and print what they show."""
    from floracle.analysis.loss.results import LossComparison
    from floracle.report.loss import words
    from floracle.report.loss.page import write_loss_report
    from floracle.run.results import load_results

    result = LossComparison.of_results(load_results(output.path))
    page = write_loss_report(result, output.path, facts=facts, command=command)
    for name in result.path:
        show_wide_table(words.loss_table(result, name), name if len(result.path) > 1 else "")
    say(words.headline(result))
    for sentence in words.story(result):
        say(sentence)
    say(f"report: {visible(str(page))}")
