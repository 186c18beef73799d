"""Names as they can be shown: users may call files and fields anything.

A name is shown as `repr` shows it, without quotes: what cannot be printed is escaped. So a figure
is valid SVG, and nothing moves the cursor of a terminal.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping


def visible(text: str) -> str:
    """Text whose unprintable characters are escaped, as `repr` does it."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in text)


def shorten(name: str, length: int) -> str:
    """A name cut to a number of characters."""
    return name if len(name) <= length else f"{name[: length - 1]}…"


def inscription(name: str) -> str:
    """A name as matplotlib takes it: visible, and its dollar signs begin no formula."""
    return visible(name).replace("$", r"\$")


def quoted(word: str) -> str:
    """A word as a shell reads it back; bash understands the escapes."""
    if word.isprintable():
        return shlex.quote(word)
    escaped = word.replace("\\", "\\\\").replace("'", "\\'")
    return f"$'{''.join(map(_escape, escaped))}'"


def _escape(letter: str) -> str:
    if letter.isprintable():
        return letter
    # A surrogate stands for a byte of a file name that is not UTF-8; it becomes that byte again.
    content = letter.encode("utf-8", "surrogateescape")
    return "".join(f"\\x{byte:02x}" for byte in content)


def fact_rows(*facts: Mapping[str, str]) -> list[tuple[str, str]]:
    """Names and values of facts as rows of a page, all of it visible."""
    return [(key, visible(value)) for mapping in facts for key, value in mapping.items()]


def version_facts(provenance: Mapping[str, object]) -> dict[str, str]:
    """The versions that a result was made with."""
    floracle, torch, python = (provenance.get(name) for name in ("floracle", "torch", "python"))
    return {"versions": f"floracle {floracle}, torch {torch}, Python {python}"}
