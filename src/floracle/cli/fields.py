"""Velocity fields as they are named on the command line: the oracle, or networks."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclopts import Parameter

from floracle.report.names import visible
from floracle.run.errors import InputError

from .console import warn
from .parsing import folder_name

if TYPE_CHECKING:
    from floracle.core.fields import VelocityField
    from floracle.core.paths import ProbabilityPath
    from floracle.core.point_set import PointSet
    from floracle.models.autoencoders.autoencoder import Autoencoder
    from floracle.models.field import ModelField
    from floracle.oracle.gaussian_data import GaussianOracle
    from floracle.oracle.oracle import Oracle

ORACLE = "oracle"


@Parameter(name="*")
@dataclass(frozen=True)
class TextOptions:
    """The text condition of SD3 and Flux."""

    prompt: str | None = None
    """Text condition of a pipeline of SD3 or Flux, read by its own encoders."""
    embeddings: Path | None = None
    """The same as embeddings: a .safetensors file, whose first text is used."""

    def __bool__(self) -> bool:
        """Whether there is a text."""
        return bool(self.settings())

    def settings(self) -> dict[str, Any]:
        """The options that are set, as plain values."""
        values = {"prompt": self.prompt, "embeddings": self.embeddings}
        return {name: str(value) for name, value in values.items() if value is not None}


NO_TEXT = TextOptions()


# --- names and conventions ---


def name_fields(
    fields: Sequence[str],
    names: str | None,
    option: str = "--names",
    *,
    limit: int = 1,
) -> dict[str, str]:
    """The fields by display name: as --names says, or the last part of each path.

    A figure has colours for `limit` fields.
    """
    if not fields:
        raise InputError('no field given; name "oracle" or a network')
    if len(fields) > limit:
        raise InputError(f"a figure shows up to {limit} fields, got {len(fields)}")
    display = [short_name(field) for field in fields]
    if names is not None:
        if not names.isprintable():
            raise InputError(f"{option} takes what can be printed, got {names!r}")
        display = [name.strip() for name in names.split(",")]
        if len(display) != len(fields) or "" in display:
            needed = "a name" if len(fields) == 1 else f"{len(fields)} comma-separated names"
            raise InputError(f"{option} needs {needed}, got {names!r}")
    # Compared as folders, since each field has one: a/b and a-b would share it.
    if len(set(map(folder_name, display))) < len(fields):
        raise InputError(f"fields need different names, got {', '.join(display)}; give --names")
    return dict(zip(display, fields, strict=True))


def short_name(field: str) -> str:
    """The last part of a path, without its ending; what cannot be printed is escaped."""
    path, function = field, ""
    if re.fullmatch(r".+:\w+", field, re.DOTALL):  # a file name may contain a line break
        path, _, function = field.rpartition(":")
    last = Path(path).name
    return visible(Path(last).stem if function or Path(path).is_file() else last or field)


def conventions_of(
    fields: Mapping[str, str], conventions: list[str] | None
) -> dict[str, str | None]:
    """The convention of each field: one for all networks, or one for each."""
    networks = [name for name, field in fields.items() if field != ORACLE]
    if conventions and not networks:
        raise InputError("--convention is for networks, but only the oracle is named")
    if conventions and len(conventions) not in (1, len(networks)):
        raise InputError(
            f"--convention is given {len(conventions)} times for {len(networks)} networks"
        )
    by_network = conventions or [None]
    by_network = by_network * len(networks) if len(by_network) == 1 else by_network
    by_name = dict(zip(networks, by_network, strict=True))
    return {name: by_name.get(name) for name in fields}


# --- loading and checking ---


def load_field(
    name: str,
    oracle: Oracle | GaussianOracle | None,
    convention: str | None = None,
    device: str | None = None,
    *,
    text: TextOptions = NO_TEXT,
) -> VelocityField:
    """The oracle, or a network; what was assumed of the network is printed.

    A text is label 0 of networks of diffusers.
    """
    from floracle.models.convention import parse_convention
    from floracle.models.zoo import load_model

    if name == ORACLE:
        if oracle is None:
            raise InputError("the oracle needs a training set; give --data")
        return oracle
    with warnings.catch_warnings(record=True) as renamed:  # words of version 0.1
        warnings.simplefilter("always")
        declared = None if convention is None else parse_convention(convention)
    for note in renamed:
        warn(f"--convention: {note.message}")
    model = load_model(name, convention=declared, device=device, **text.settings())
    warn(f"{model.name}: {model.assumed}")
    return model


def check_fields(
    fields: Mapping[str, VelocityField], store: PointSet, *, text: bool = False
) -> None:
    """Refuse networks that do not fit the data, by their shape and classes."""
    from floracle.models.field import check_fit

    for field in fields.values():
        check_fit(field, store, text=text)


def start_facts(fields: Mapping[str, VelocityField]) -> dict[str, str]:
    """What a report says of fields whose predictions give no velocity at t = 0."""
    from floracle.models.convention import start_note
    from floracle.models.field import ModelField

    return {
        f"start of {name}": start_note(field.convention)
        for name, field in fields.items()
        if isinstance(field, ModelField) and field.convention.first_time
    }


def on_path(field: VelocityField, path: ProbabilityPath) -> VelocityField:
    """A field on a path: a network is converted to it, an oracle was made for it."""
    from floracle.core import fields
    from floracle.oracle.gaussian_data import GaussianOracle
    from floracle.oracle.oracle import Oracle

    return field if isinstance(field, Oracle | GaussianOracle) else fields.on_path(field, path)


def checked_fields(
    fields: Mapping[str, VelocityField],
    store: PointSet,
    path: ProbabilityPath,
    *,
    text: bool = False,
    declared: bool = True,
) -> dict[str, VelocityField]:
    """The fields on a path, after the convention of each network was checked against the data."""
    for field in fields.values():
        check_convention(field, store, text=text, declared=declared)
    return {name: on_path(field, path) for name, field in fields.items()}


def fingerprints(fields: Mapping[str, VelocityField], shape: Sequence[int]) -> dict[str, str]:
    """A fingerprint of what each network computes; results are answers for these alone.

    What is noticed meanwhile, such as active dropout, is printed as a warning.
    """
    from floracle.models.field import ModelField
    from floracle.models.identity import field_fingerprint

    digests = {}
    for name, field in fields.items():
        if isinstance(field, ModelField):
            identity = field_fingerprint(field, shape)
            for message in identity.notes:
                warn(message, "warning")
            digests[name] = identity.digest
    return digests


def check_convention(
    field: VelocityField, data: PointSet, *, text: bool = False, declared: bool = True
) -> None:
    """Refuse data of another unit than a network's; warn if it disagrees with its convention.

    Networks of diffusers with a `text` know their own convention: they are checked only if another
    one was `declared`. The oracle needs no check.
    """
    from floracle.data.training_points import check_points
    from floracle.models.field import ModelField

    if remark := check_points(field, data):
        warn(remark, "warning")
    if isinstance(field, ModelField) and not (text and not declared):
        _check_convention(field, data, text=text)


def _check_convention(field: ModelField, data: PointSet, *, text: bool) -> None:
    import torch

    from floracle.models.check import cheap_check

    labels = torch.zeros(len(data), dtype=torch.int64) if text else None
    try:
        verdict = cheap_check(field, data, labels=labels)
    except RuntimeError as error:
        if "memory" in str(error).lower():  # reported by `describe_external`, with the way out
            raise
        shape = " × ".join(map(str, data.shape))
        raise InputError(
            f"{field.name} fails on samples of {shape}, the shape of the data:"
            f" {' '.join(str(error).split())[:200]}; take data of the shape it was trained on"
        ) from error
    if verdict is None:
        return
    if verdict.answer == "cannot say":
        reason = verdict.reason.removeprefix("cannot say: ")
        hint = " (--normalize sets the scale of the data)" if "scale" in reason else ""
        warn(f"the convention of {field.name} cannot be checked: {reason}{hint}")
    else:
        declare = f"pass --convention {verdict.convention}" if verdict.convention else ""
        warn(
            f"the convention of {field.name} seems to be wrong: {verdict.reason};"
            f" {declare or verdict.advice}",
            "warning",
        )


def try_network(field: VelocityField, shape: list[int], labels: list[int] | None) -> None:
    """Evaluate a network on one sample, so that what it refuses is known at once."""
    import torch

    from floracle.core.seeds import noise
    from floracle.sampling.solvers import evaluate_field

    with torch.no_grad():
        label = None if labels is None else torch.tensor(labels)
        evaluate_field(field, noise([0], shape), 0.0, label)


def load_decoder(
    autoencoder: Path | None, shape: list[int], device: str, sources: Sequence[object]
) -> Autoencoder | None:
    """The autoencoder that decodes samples of this shape for the pictures.

    `sources` are data and fields: latents that another autoencoder made are refused.
    """
    from floracle.data.training_points import autoencoder_of
    from floracle.models.autoencoders.load import load_autoencoder

    if autoencoder is None:
        return None
    decoder = load_autoencoder(autoencoder, device=device)
    if len(shape) != 3 or shape[0] != decoder.channels:
        raise InputError(
            f"{decoder.name} decodes latents of {decoder.channels} channels, but samples are"
            f" {shape}; name the autoencoder that has encoded them, or leave --autoencoder out"
        )
    for source in sources:
        made = autoencoder_of(source)
        if made and made != decoder.identity:
            raise InputError(
                f"--autoencoder {autoencoder} is {decoder.identity}, but the latents of"
                f" {getattr(source, 'name', 'the data')} are those of {made}; name that one"
            )
    return decoder
