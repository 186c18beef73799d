"""How the values of options are read: lists of numbers, seeds, labels, classes, times, folders."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from floracle.run.errors import InputError

MAX_RANGE = 1_000_000  # a longer list of seeds or rows is more likely a typing error
SEED_LIMIT = 2**32  # torch's generators take larger seeds, numpy's do not
INTEGER = r"\d{1,18}"  # fits int64
UNSPECIFIC_NAMES = {
    *("train", "training", "val", "validation", "valid", "test", "eval", "held-out"),
    *("data", "dataset", "images", "pictures", "latents", "points", "x", "packed"),
}
"""Names that many data sets have; the name of their parent folder is put in front."""


def parse_seeds(text: str) -> list[int]:
    """Seeds from "0:64" (64 is left out) or "3,5,8"."""
    seeds = parse_range(text, "--seeds", "seed")
    if not all(0 <= seed < SEED_LIMIT for seed in seeds):
        raise InputError(f"--seeds lie in [0, 2**32), got {text}")
    return seeds


def parse_rows(text: str) -> list[int]:
    """Rows from "0:64" (64 is left out) or "3,5,8"."""
    return parse_range(text, "--rows", "row")


def parse_range(text: str, option: str, noun: str) -> list[int]:
    """Integers from "0:64" (64 is left out) or "3,5,8"."""
    match = re.fullmatch(rf"({INTEGER}):({INTEGER})", text)
    if match is None:
        return parse_integers(text, option, "0:64 or 3,5,8")
    first, stop = int(match[1]), int(match[2])
    if not 0 < stop - first <= MAX_RANGE:
        raise InputError(f"{option} {text} holds no {noun}, or more than {MAX_RANGE:,}")
    return list(range(first, stop))


def check_seed(seed: int) -> int:
    """Return a seed in [0, 2³²); refuse others."""
    if not 0 <= seed < SEED_LIMIT:
        raise InputError(f"--seed lies in [0, 2**32), got {seed}")
    return seed


def parse_classes(text: str, classes: list[int], names: Sequence[str] = ()) -> list[int]:
    """Labels to measure, from each, whole, both, or a list of them; −1 is the whole set.

    `names` are those of the classes by label, for whoever writes names in place of labels.
    """
    if text == "whole" or (text == "both" and len(classes) < 2):
        return [-1]
    if text in ("each", "both"):
        if not classes:
            raise InputError(
                "--classes each needs labels, but the data has none; give --label-file"
            )
        return classes if text == "each" else [*classes, -1]
    _refuse_names(text, names, "--classes")
    labels = parse_integers(text, "--classes", "each, whole, both or labels like 0,3,5")
    check_labels(labels, classes, "--classes")
    return list(dict.fromkeys(labels))


def parse_labels(
    text: str | None, count: int, classes: list[int], names: Sequence[str] = ()
) -> list[int] | None:
    """A label for each of `count` samples: one for all, or several in rotation."""
    if text is None:
        return None
    _refuse_names(text, names, "--labels")
    labels = parse_integers(text, "--labels", "3 or 0,1,2")
    check_labels(labels, classes, "--labels")
    return [labels[i % len(labels)] for i in range(count)]


def _refuse_names(text: str, names: Sequence[str], option: str) -> None:
    """Say which label a class has that was written by its name."""
    for word in text.split(","):
        if not word.isdecimal() and word in names:
            raise InputError(f"{option} takes labels, and {word!r} is label {names.index(word)}")


def check_labels(labels: list[int], classes: list[int], option: str) -> None:
    """Refuse labels that no point of the data has."""
    for label in labels:
        if label not in classes:
            # A dozen and the last one: ImageNet has a thousand, and an error is one line.
            few = ", ".join(map(str, classes[:12]))
            few += f", …, {classes[-1]}" if len(classes) > 12 else ""
            raise InputError(
                f"{option}: class {label} does not occur in the data, which has"
                + (f" classes {few}" if classes else " no labels")
            )


def parse_integers(text: str, option: str, form: str) -> list[int]:
    """Non-negative integers, comma-separated."""
    if not re.fullmatch(rf"{INTEGER}(,{INTEGER})*", text):
        negative = ", and no negative number" if "-" in text else ""
        raise InputError(f"{option} {text!r} is not understood; write {form}{negative}")
    return [int(word) for word in text.split(",")]


def parse_floats(text: str, option: str, form: str) -> list[float]:
    """Numbers, comma-separated."""
    try:
        return [float(word) for word in text.split(",")]
    except ValueError as error:
        raise InputError(f"{option} {text!r} is not understood; write {form}") from error


def parse_positive(text: str, option: str) -> list[float]:
    """Positive finite numbers, comma-separated."""
    values = parse_floats(text, option, "1000,2e4")
    if not all(0 < value < float("inf") for value in values):
        raise InputError(f"{option} must be positive numbers, got {text}")
    return values


def parse_times(text: str, option: str) -> list[float]:
    """Times in [0, 1], comma-separated; returned without repetitions and in order."""
    times = parse_floats(text, option, "0,.1,.2,.5")
    if not all(0 <= time <= 1 for time in times):
        raise InputError(f"{option} takes times between noise (0) and data (1), got {text}")
    return sorted(set(times))  # grids and switch times must increase


def default_folder(verb: str, data: str) -> Path:
    """The folder of results without --out; an unspecific name follows that of its folder."""
    if re.fullmatch(r"\w+:\S+", data):  # gaussian:1797x64
        return Path("runs") / f"{verb}-{folder_name(data, 'data')}"
    path = Path(data).resolve()
    name = path.name.split(".")[0]
    if name.lower() in UNSPECIFIC_NAMES:
        name = f"{path.parent.name}-{name}"
    return Path("runs") / f"{verb}-{folder_name(name, 'data')}"


def folder_name(name: str, fallback: str = "field") -> str:
    """A name with only those characters that every file system takes."""
    return re.sub(r"[^0-9A-Za-z_-]+", "-", name).strip("-") or fallback
