"""Words and tables on the terminal, and what becomes of those that it cannot take.

A verb prints through `guard_streams`: a full device or a reader that has left does not stop it, so
that its files are complete; `check_printed` says afterwards what was lost. Characters that the
encoding of a terminal lacks are transliterated.
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO, cast

if TYPE_CHECKING:
    from rich.text import Text

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
SAID = re.compile(r"\b(layout|moments|normalize)=('?)([\w.-]+)\2")
ASCII = {
    "\u0302": "^",  # the circumflex of an estimate
    "\u00a0": " ",
    "ᾱ": "alphabar",
    **{"−": "-", "–": "-", "—": "-", "‐": "-", "‘": "'", "’": "'", "′": "'", "“": '"', "”": '"'},
    **{"×": "x", "·": ".", "…": "...", "±": "+-", "½": "1/2", "‖": "||", "√": "sqrt ", "∞": "inf"},
    **{"→": "->", "←": "<-", "≤": "<=", "≥": ">=", "≠": "!=", "≈": "~", "⚠": "!"},
}
"""How characters are written in ASCII; Greek letters by their names, superscripts with ^."""
GREEK = re.compile(r"GREEK (SMALL|CAPITAL) LETTER (\w+)")


class Unwritten(Exception):
    """Standard output or standard error has not taken all that was printed."""


@dataclass(eq=False)
class StandardStream:
    """Standard output or standard error of a verb, which never fails.

    From the first failure on nothing is written any more; `error` remembers it.
    """

    stream: TextIO
    error: OSError | None = None

    def write(self, words: str) -> int:
        """Write words, in characters that the encoding of the stream has."""
        self._attempt(lambda: self.stream.write(transliterate(words, self.stream.encoding)))
        return len(words)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several lines, as `write` does."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Pass on what the stream holds."""
        self._attempt(self.stream.flush)

    def __getattr__(self, name: str) -> Any:
        """Everything else, like isatty and encoding, is the stream's own."""
        return getattr(self.stream, name)

    def _attempt(self, action: Callable[[], object]) -> None:
        if self.error is not None:
            return
        try:
            action()
        except OSError as error:
            self.error = error
            self._discard()

    def _discard(self) -> None:
        """Let what the stream still holds go nowhere: Python would fail on it as it exits."""
        with suppress(OSError):
            descriptor, null = self.stream.fileno(), os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, descriptor)
            os.close(null)
            self.stream.flush()


@contextmanager
def guard_streams() -> Iterator[None]:
    """Let everything that is printed go through `StandardStream`."""
    _open_standard_descriptors()
    with ExitStack() as stack:
        for redirect, name in ((redirect_stdout, "stdout"), (redirect_stderr, "stderr")):
            stream = getattr(sys, name)
            if stream is None:  # its descriptor was closed when Python started
                stream = stack.enter_context(Path(os.devnull).open("w", encoding="utf-8"))
            guarded = StandardStream(stream)
            stack.enter_context(redirect(cast("TextIO", guarded)))
            stack.callback(guarded.flush)
        yield


def _open_standard_descriptors() -> None:
    """Open the null device in place of closed descriptors 0 to 2: no data file may get these."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # the lowest that is free
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def check_printed(results: object = None) -> None:
    """Raise `Unwritten` if something that was printed is lost; `results` is a verb's folder."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        if isinstance(stream, StandardStream) and stream.error is not None:
            reason = (stream.error.strerror or str(stream.error)).lower()
            place = f"; the results are in {results}" if isinstance(results, Path) else ""
            raise Unwritten(f"the output could not be written ({reason}){place}") from stream.error


def transliterate(words: str, encoding: str | None) -> str:
    """Words in characters that an encoding has; those it lacks are written in ASCII."""
    try:
        words.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return "".join(_transliterated(letter, encoding or "utf-8") for letter in words)
    return words


def _transliterated(letter: str, encoding: str) -> str:
    with suppress(UnicodeEncodeError):
        letter.encode(encoding)
        return letter
    if letter in ASCII:
        return ASCII[letter]
    if greek := GREEK.match(unicodedata.name(letter, "")):
        return greek[2].capitalize() if greek[1] == "CAPITAL" else greek[2].lower()
    kind, _, plain = unicodedata.decomposition(letter).partition(" ")
    if kind == "<super>":
        return "^" + _transliterated(chr(int(plain, 16)), "ascii")
    if "\udc80" <= letter <= "\udcff":  # a byte of a file's name that is no UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("ascii", "backslashreplace").decode()


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

    heading = _text(title) if title else None
    table = Table(box=SIMPLE_HEAD, title=heading, title_justify="left")
    for i, name in enumerate(head):
        table.add_column(_text(name), justify="left" if i == 0 else "right", no_wrap=i > 0)
    for row in rows:
        table.add_row(*map(_text, row))
    console = Console(highlight=False)
    if not console.is_terminal:  # a file or pipe has no width
        console = Console(highlight=False, width=200)
    console.print(table)


def _text(words: str) -> Text:
    """Words of a table, whose columns are as wide as what is really printed."""
    from rich.text import Text

    return Text(transliterate(words, sys.stdout.encoding))


def say(words: str) -> None:
    """A line on standard output."""
    sys.stdout.write(words + "\n")


def note(words: str) -> None:
    """A line on standard error, where a person watches."""
    if sys.stderr.isatty():
        sys.stderr.write(words + "\n")
