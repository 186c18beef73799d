"""The user's mistakes, as one error type.

An `InputError` says what is wrong, where, and what to do. The command line prints it in one line
and ends with exit code 2; nothing has been written by then. In the library it is a ValueError.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class InputError(ValueError):
    """Something the user can put right: what, where, what to do."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """Words for the nearest known name, or the list of them."""
    known = list(known)
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]!r}?" if close else f"one of: {', '.join(known)}"
