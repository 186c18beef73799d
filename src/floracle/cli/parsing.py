"""What options mean: seeds, labels, classes, lists of numbers, folders."""

from __future__ import annotations

import re
from pathlib import Path

from floracle.run.errors import InputError

MOST = 1_000_000
SEEDS = 2**32
SAY_NOTHING = {
    *("train", "training", "val", "validation", "valid", "test", "eval", "held-out"),
    *("data", "dataset", "images", "pictures", "latents", "points", "x", "packed"),
}
"""Names that many data sets have."""


def seeds_of(words: str) -> list[int]:
    """Seeds from "0:64" (64 is left out) or "3,5,8"."""
    seeds = range_of(words, "--seeds", "seed")
    if not all(0 <= seed < SEEDS for seed in seeds):
        raise InputError(f"--seeds lie in [0, 2**32), got {words}")
    return seeds


def range_of(words: str, option: str, what: str) -> list[int]:
    """Whole numbers from "0:64" (64 is left out) or "3,5,8"."""
    found = re.fullmatch(r"(\d{1,18}):(\d{1,18})", words)
    if found is None:
        return whole_numbers(words, option, "0:64 or 3,5,8")
    first, stop = int(found[1]), int(found[2])
    if not 0 < stop - first <= MOST:
        raise InputError(f"{option} {words} holds no {what}, or more than {MOST:,}")
    return list(range(first, stop))


def checked_seed(seed: int) -> int:
    """A seed in [0, 2³²)."""
    if not 0 <= seed < SEEDS:
        raise InputError(f"--seed lies in [0, 2**32), got {seed}")
    return seed


def classes_of(words: str, known: list[int]) -> list[int]:
    """Labels from each, whole, both, or a list of them; −1 is the whole set."""
    if words == "whole" or (words == "both" and len(known) < 2):
        return [-1]
    if words in ("each", "both"):
        if not known:
            raise InputError("--classes each needs labels, but the data has none; give --labels")
        return known if words == "each" else [*known, -1]
    labels = whole_numbers(words, "--classes", "each, whole, both or labels like 0,3,5")
    for label in labels:
        if label not in known:
            raise InputError(f"--classes: there is no class {label}; {_listed(known)}")
    return list(dict.fromkeys(labels))


def labels_for(words: str | None, count: int, known: list[int]) -> list[int] | None:
    """A label for each of `count` samples: one for all, or several taken in turn."""
    if words is None:
        return None
    labels = whole_numbers(words, "--labels", "3 or 0,1,2")
    for label in labels:
        if label not in known:
            raise InputError(f"--labels: there is no class {label}; {_listed(known)}")
    return [labels[i % len(labels)] for i in range(count)]


def whole_numbers(words: str, option: str, form: str) -> list[int]:
    """Non-negative whole numbers with commas between."""
    if not re.fullmatch(r"\d{1,18}(,\d{1,18})*", words):
        negative = ", and no negative number" if "-" in words else ""
        raise InputError(f"{option} {words!r} is not understood; write {form}{negative}")
    return [int(word) for word in words.split(",")]


def numbers(words: str, option: str) -> list[float]:
    """Positive numbers with commas between."""
    try:
        values = [float(word) for word in words.split(",")]
    except ValueError as error:
        raise InputError(f"{option} {words!r} is not understood; write 1000,2e4") from error
    if not all(0 < value < float("inf") for value in values):
        raise InputError(f"{option} must be positive numbers, got {words}")
    return values


def folder_for(verb: str, data: str) -> Path:
    """Where results go unless told otherwise; a name like train follows that of its folder."""
    if re.fullmatch(r"\w+:\S+", data):
        return Path("runs") / f"{verb}-{plain(data, 'data')}"
    place = Path(data).resolve()
    name = place.name.split(".")[0]
    if name.lower() in SAY_NOTHING:
        name = f"{place.parent.name}-{name}"
    return Path("runs") / f"{verb}-{plain(name, 'data')}"


def plain(name: str, otherwise: str = "field") -> str:
    """A name that a folder can have."""
    return re.sub(r"[^0-9A-Za-z_-]+", "-", name).strip("-") or otherwise


def _listed(known: list[int]) -> str:
    if not known:
        return "the data has no labels"
    few = ", ".join(map(str, known[:12]))
    return f"classes are {few}" + (f", … {known[-1]}" if len(known) > 12 else "")
