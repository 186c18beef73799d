"""Names, and shares, as they can be shown: strangers call their files what they like.

A name is shown as `repr` shows it, without quotes: what cannot be printed is escaped. So a figure
is valid SVG, and nothing moves the cursor of a terminal.
"""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


def visible(words: str) -> str:
    """Words with what cannot be printed escaped, as `repr` does it."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in words)


def inscription(name: str) -> str:
    """A name as matplotlib is to be given it: visible, and its dollars are no formulas."""
    return visible(name).replace("$", r"\$")


def quoted(word: str) -> str:
    """A word as a shell reads it back; bash understands the escapes."""
    if word.isprintable():
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{''.join(map(_escaped, escaped))}'"


def _escaped(letter: str) -> str:
    if letter.isprintable():
        return letter
    content = letter.encode("utf-8", "surrogateescape")
    return "".join(f"\\x{byte:02x}" for byte in content)


def percent(share: float, decimals: int = 0) -> str:
    """A share in percent; the sign stays with its number."""
    return f"{100 * share:.{decimals}f}\u00a0%".replace("-", "−")


def facts_of(*facts: Mapping[str, str]) -> list[tuple[str, str]]:
    """What is told of where numbers come from, all of it visible."""
    return [(key, visible(value)) for part in facts for key, value in part.items()]


@contextmanager
def any_letters() -> Iterator[None]:
    """Draw names in every script: readers of the SVG have fonts that the drawing does without."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield
