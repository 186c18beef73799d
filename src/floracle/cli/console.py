"""Standard output and standard error of a verb, and what becomes of text that they cannot take.

A verb prints through `guard_streams`: a full device or a reader that has gone does not stop it, so
its files are complete; `check_printed` reports afterwards what was lost. Characters that the
encoding of a terminal lacks are transliterated.
"""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO, cast

# C0 and C1: some terminals take 0x9b alone as the beginning of an escape sequence.
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
LIBRARY_OPTION = re.compile(r"\b(layout|moments|normalize)=('?)([\w.-]+)\2")
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


class OutputLost(Exception):
    """Standard output or standard error has not taken all that was printed."""


@dataclass(eq=False)
class StandardStream:
    """Standard output or standard error of a verb, which never fails.

    After the first failure nothing is written any more; `error` remembers it.
    """

    stream: TextIO
    error: OSError | None = None

    def write(self, text: str) -> int:
        """Write text, in characters that the encoding of the stream has."""
        self._attempt(lambda: self.stream.write(transliterate(text, self.stream.encoding)))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several lines, as `write` does."""
        self.write("".join(lines))

    def flush(self) -> None:
        """Pass on what the stream holds."""
        self._attempt(self.stream.flush)

    def __getattr__(self, name: str) -> Any:
        """Everything else, such as isatty and encoding, is the stream's own."""
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
        """Send what the stream still holds nowhere: Python would fail on it as it exits."""
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
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:  # the lowest free one
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def check_printed(results: object = None) -> None:
    """Raise `OutputLost` if something that was printed is lost; `results` is a verb's folder."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # a full device refuses a short text only now
        if isinstance(stream, StandardStream) and stream.error is not None:
            reason = (stream.error.strerror or str(stream.error)).lower()
            folder = f"; the results are in {results}" if isinstance(results, Path) else ""
            raise OutputLost(
                f"the output could not be written ({reason}){folder}"
            ) from stream.error


def transliterate(text: str, encoding: str | None) -> str:
    """Text in characters that an encoding has; those it lacks are written in ASCII."""
    try:
        text.encode(encoding or "utf-8")
    except UnicodeEncodeError:
        return "".join(_transliterate_letter(letter, encoding or "utf-8") for letter in text)
    return text


def _transliterate_letter(letter: str, encoding: str) -> str:
    with suppress(UnicodeEncodeError):
        letter.encode(encoding)
        return letter
    if letter in ASCII:
        return ASCII[letter]
    if greek := GREEK.match(unicodedata.name(letter, "")):
        return greek[2].capitalize() if greek[1] == "CAPITAL" else greek[2].lower()
    kind, _, base = unicodedata.decomposition(letter).partition(" ")
    if kind == "<super>":
        return "^" + _transliterate_letter(chr(int(base, 16)), "ascii")
    if "\udc80" <= letter <= "\udcff":  # a byte of a file name that is not UTF-8
        return f"\\x{ord(letter) - 0xDC00:02x}"
    return letter.encode("ascii", "backslashreplace").decode()


def as_typed(message: str) -> str:
    """A message of the library in one line, with options as they are typed.

    Files name their parts as they like; nothing of that may move the cursor.
    """
    # Control characters in a file name could move the cursor or colour the terminal.
    line = CONTROL.sub("?", " ".join(message.split()))
    line = line.replace("flips=True", "--flips").replace("flips=False", "--no-flips")
    return LIBRARY_OPTION.sub(r"--\1 \3", line)


def say(line: str) -> None:
    """Print a line on standard output."""
    sys.stdout.write(line + "\n")


def say_facts(facts: dict[str, str], width: int = 18) -> None:
    """Print names and values in two columns on standard output."""
    for name, fact in facts.items():
        say(f"{name:<{width}}{as_typed(fact)}")


def warn(message: str, kind: str = "note") -> None:
    """Print one line on standard error, whoever watches."""
    sys.stderr.write(f"{kind}: {as_typed(message)}\n")


def note_progress(line: str) -> None:
    """Print a line on standard error, if it is a terminal."""
    if sys.stderr.isatty():
        sys.stderr.write(line + "\n")
