"""The error type for everything that the user can put right.

An `InputError` says what is wrong, where, and what to do. The command line prints it in one line
and ends with exit code 2. In the library it is a ValueError.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MAX_SHOWN = 60  # characters of a value in an error


class InputError(ValueError):
    """Something the user can put right: what, where, what to do."""


def suggestion(word: object, names: Iterable[str]) -> str:
    """The nearest of several names, or all of them, as the end of a sentence."""
    names = list(names)
    close = difflib.get_close_matches(str(word), names, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"one of: {', '.join(names)}"


def brief(value: object) -> str:
    """A value as an error shows it: on one line, and never long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]} ..."
