"""Words and tables on the terminal."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Sequence

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
SAID = re.compile(r"\b(layout|moments|normalize)=('?)([\w.-]+)\2")


def as_typed(words: str) -> str:
    """What the library says, in one line and with options as they are typed.

    Files of strangers name their parts as they like; nothing of that may move the cursor.
    """
    line = CONTROL.sub("?", " ".join(words.split()))
    line = line.replace("flips=True", "--flips").replace("flips=False", "--no-flips")
    return SAID.sub(r"--\1 \3", line)


def show_table(head: Sequence[str], rows: Iterable[Sequence[str]], title: str = "") -> None:
    """Print a compact table on standard output; its first column is on the left."""
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=SIMPLE_HEAD, title=Text(title) if title else None, title_justify="left")
    for i, name in enumerate(head):
        table.add_column(Text(name), justify="left" if i == 0 else "right", no_wrap=i > 0)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console = Console(highlight=False)
    if not console.is_terminal:  # a file or pipe has no width
        console = Console(highlight=False, width=200)
    console.print(table)


def say(words: str) -> None:
    """A line on standard output."""
    sys.stdout.write(words + "\n")


def note(words: str) -> None:
    """A line on standard error, where a person watches."""
    if sys.stderr.isatty():
        sys.stderr.write(words + "\n")
