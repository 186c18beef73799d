"""What verbs that follow fields have in common: names, how they are read, counts, times, rows."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .data_options import DataOptions, SampleDataOptions
from .fields import ORACLE, Text
from .parsing import plain, range_of

if TYPE_CHECKING:
    from floracle.data.store import Store
    from floracle.oracle.oracle import Oracle


def called(fields: Sequence[str], names: str | None, option: str = "--names") -> dict[str, str]:
    """Where each field is, by its name: asked for, or the last part of its path."""
    from floracle.run.errors import InputError

    if not fields:
        raise InputError('name a field: "oracle", or a network')
    given = [short_name(field) for field in fields]
    if names is not None:
        if not names.isprintable():
            raise InputError(f"{option} takes what can be printed, got {names!r}")
        given = [name.strip() for name in names.split(",")]
        if len(given) != len(fields) or "" in given:
            wanted = "a name" if len(fields) == 1 else f"{len(fields)} names with commas between"
            raise InputError(f"{option} needs {wanted}, got {names!r}")
    if len(set(map(plain, given))) < len(fields):
        raise InputError(f"fields need different names, got {', '.join(given)}; give --names")
    return dict(zip(given, fields, strict=True))


def short_name(field: str) -> str:
    """The last part of a path, without its ending; what cannot be printed is escaped."""
    from floracle.report.names import visible

    place, function = field, ""
    if re.fullmatch(r".+:\w+", field, re.DOTALL):
        place, _, function = field.rpartition(":")
    last = Path(place).name
    return visible(Path(last).stem if function or Path(place).is_file() else last or field)


def conventions(fields: dict[str, str], given: list[str] | None) -> dict[str, str | None]:
    """How each field is to be read: one convention for all networks, or one for each."""
    from floracle.run.errors import InputError

    networks = [name for name, where in fields.items() if where != ORACLE]
    if given and not networks:
        raise InputError("--convention says how a network is read, but only the oracle is named")
    if given and len(given) not in (1, len(networks)):
        raise InputError(f"--convention is given {len(given)} times for {len(networks)} networks")
    each = list(given or [None])
    each = each * len(networks) if len(each) == 1 else each
    read = dict(zip(networks, each, strict=True))
    return {name: read.get(name) for name in fields}


def times_of(words: str, option: str) -> list[float]:
    """Times between noise and data, with commas between, each once and in order."""
    from floracle.run.errors import InputError

    try:
        times = [float(word) for word in words.split(",")]
    except ValueError as error:
        raise InputError(f"{option} {words!r} is not understood; write 0,.1,.2,.5") from error
    if not all(0 <= time <= 1 for time in times):
        raise InputError(f"{option} takes times between noise (0) and data (1), got {words}")
    return sorted(set(times))


def rows_of(words: str) -> list[int]:
    """Rows from "0:64" (64 is left out) or "3,5,8"."""
    return range_of(words, "--rows", "row")


def check_useful(
    verb: Callable[..., object], typed: dict[str, Any], names: Sequence[str], needed: str
) -> None:
    """Refuse options of which nothing would come, since what they are for was not asked."""
    from inspect import signature

    from floracle.run.errors import InputError

    for name in names:
        if typed[name] != signature(verb).parameters[name].default:
            option = f"--{name.replace('_', '-')}"
            raise InputError(f"{option} is for {needed}; give that too, or leave {option} out")


def points_oracle(store: Store, memory: str | None, device: str, path: str = "linear") -> Oracle:
    """The oracle of points; Gaussians have none of the points that is asked for here."""
    from floracle.core.paths import PATHS
    from floracle.oracle.oracle import Oracle
    from floracle.run.errors import InputError

    if store.stds is not None:
        raise InputError("losses and landings are of points; open the data with --moments mean")
    return Oracle(store, path=PATHS[path], memory=memory, device=device)


def command_of(verb: Callable[..., object], name: str, typed: dict[str, Any]) -> str:
    """What to type to make a page again; options left alone are left out."""
    from inspect import signature

    from floracle.report.names import quoted

    words = ["floracle", name]
    for parameter in signature(verb).parameters.values():
        value, option = typed[parameter.name], f"--{parameter.name.replace('_', '-')}"
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.POSITIONAL_ONLY):
            words += [value] if isinstance(value, str) else value
        elif isinstance(value, (DataOptions, SampleDataOptions, Text)):
            words += value.words()
        elif isinstance(value, bool):
            words.append(option if value else f"--no-{parameter.name}")
        elif parameter.name != "out" and value != parameter.default:
            for one in value if isinstance(value, list) else [value]:
                words += [option, str(one)]
    return " ".join(map(quoted, words))
