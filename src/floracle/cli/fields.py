"""A field by its name on the command line: the oracle, or a network, checked against the data."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

if TYPE_CHECKING:
    from floracle.core.fields import VelocityField
    from floracle.core.paths import ProbabilityPath as NoisePath
    from floracle.core.point_set import PointSet
    from floracle.models.field import ModelField
    from floracle.oracle.gaussian_data import GaussianOracle
    from floracle.oracle.oracle import Oracle

ORACLE = "oracle"


@Parameter(name="*")
@dataclass(frozen=True)
class Text:
    """What SD3 and Flux are asked with."""

    prompt: Annotated[
        str | None,
        Parameter(help="The text for a pipeline of SD3 or Flux, read by its own encoders."),
    ] = None
    embeddings: Annotated[
        Path | None,
        Parameter(help="The text as embeddings, a .safetensors file; the first one is taken."),
    ] = None

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.settings())

    def words(self) -> list[str]:
        """The options as they are typed, those left alone left out."""
        return [word for name, value in self.settings().items() for word in (f"--{name}", value)]

    def settings(self) -> dict[str, Any]:
        """What was given, as plain values."""
        given = {"prompt": self.prompt, "embeddings": self.embeddings}
        return {name: str(value) for name, value in given.items() if value is not None}


NO_TEXT = Text()


def field_of(
    name: str,
    oracle: Oracle | GaussianOracle | None,
    convention: str | None = None,
    device: str | None = None,
    *,
    text: Text = NO_TEXT,
) -> VelocityField:
    """A field by its name: the oracle, or a network with what was assumed of it said.

    The text is label 0 of networks of diffusers.
    """
    from floracle.models.zoo import load_model
    from floracle.run.errors import InputError

    from .console import as_typed

    if name == ORACLE:
        if oracle is None:
            raise InputError("the oracle is the field of a training set, and none was named")
        return oracle
    found = load_model(name, convention=convention, device=device, **text.settings())
    sys.stderr.write(f"note: {as_typed(f'{found.name}: {found.assumed}')}\n")
    return found


def followed(field: VelocityField, path: NoisePath) -> VelocityField:
    """A field on a path: a network is taken there, an oracle was made for it."""
    from floracle.core.fields import on_path
    from floracle.oracle.gaussian_data import GaussianOracle
    from floracle.oracle.oracle import Oracle

    return field if isinstance(field, Oracle | GaussianOracle) else on_path(field, path)


def path_settings(path: str) -> dict[str, str]:
    """The path among settings; the linear one goes without saying."""
    return {} if path == "linear" else {"path": path}


def identities(fields: Mapping[str, VelocityField], shape: Sequence[int]) -> dict[str, str]:
    """What each network among the fields computes, as a fingerprint that results are kept under.

    What is noticed on the way, such as dropout that was left on, is said on standard error.
    """
    from floracle.models.field import ModelField
    from floracle.models.identity import field_fingerprint

    from .console import as_typed

    found = {}
    for name, field in fields.items():
        if isinstance(field, ModelField):
            identity = field_fingerprint(field, shape)
            for note in identity.notes:
                sys.stderr.write(f"warning: {as_typed(note)}\n")
            found[name] = identity.digest
    return found


def warn_of_misreading(
    field: VelocityField, data: PointSet, *, told: bool = False, declared: bool = True
) -> None:
    """Say on standard error what speaks against how a network is read, and what to declare.

    Networks of diffusers that were `told` a text are asked with that, and know how they are read
    unless a convention was `declared`; the oracle needs no check.
    """
    from floracle.models.field import ModelField

    if isinstance(field, ModelField) and not (told and not declared):
        _warn(field, data, told=told)


def _warn(field: ModelField, data: PointSet, *, told: bool) -> None:
    import torch

    from floracle.models.check import cheap_check
    from floracle.run.errors import InputError

    from .console import as_typed

    labels = torch.zeros(len(data), dtype=torch.int64) if told else None
    try:
        verdict = cheap_check(field, data, labels=labels)
    except RuntimeError as error:
        if "memory" in str(error).lower():
            raise
        shape = " × ".join(map(str, data.shape))
        raise InputError(
            f"{field.name} fails on samples of {shape}, those of the data:"
            f" {' '.join(str(error).split())[:200]}; take data of the shape it was trained on"
        ) from error
    if verdict is None:
        return
    if verdict.answer == "cannot say":
        why = verdict.reason.removeprefix("cannot say: ")
        said = f"note: nobody can say whether {field.name} is read as it should be: {why}"
        said += " (--normalize sets the scale of the data)" if "scale" in why else ""
    else:
        said = f"warning: {field.name} seems to be read wrongly: {verdict.reason}"
        said += f"; say --convention {verdict.convention}"
    sys.stderr.write(f"{as_typed(said)}\n")
