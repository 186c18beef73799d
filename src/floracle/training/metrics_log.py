"""The log of a run: metrics.jsonl, and TensorBoard where it is installed.

Every line is one JSON object with the images seen, and a digest of itself and of the run. A run
that resumes cuts the lines beyond its checkpoint, so that nothing stands twice; lines are on the
disk before the checkpoint that follows them is. Lines that were changed afterwards, or are of
another run, are left out, and their number is reported.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from floracle.run.files import digest, read_regular, write_text
from floracle.run.folder_checks import check_run_folder

from .checkpoint import VERB, explain_write_errors

NAME = "metrics.jsonl"
BOARD = "tensorboard"


@dataclass(frozen=True)
class LogLines:
    """The lines of a log."""

    lines: list[dict[str, Any]]
    """Whole lines of this run, in their order; without their digests."""
    damaged: int
    """The number of damaged lines, without a last one that was cut off."""


@dataclass(frozen=True)
class MetricsLog:
    """A log that is open for writing; made by `open_log`."""

    path: Path
    settings: Mapping[str, Any]
    """Of the run."""
    board: Any = None
    """A SummaryWriter; None where TensorBoard is not installed."""

    def add(self, images: int, **values: Any) -> None:
        """Write a line."""
        line = _seal_line({"images": images, **values}, self.settings)
        with explain_write_errors(self.path, self.path.parent):
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            if self.board is not None:
                for name, value in _flatten(values):
                    self.board.add_scalar(name, value, images)

    def notes(self, images: int, notes: Sequence[str]) -> None:
        """Write notes down, each once."""
        lines = read_log(self.path.parent, self.settings).lines
        written = {line.get("note") for line in lines if line["images"] == images}
        for note in notes:
            if note not in written:
                self.add(images, note=note)

    def settle(self) -> None:
        """Wait until all lines are on the disk."""
        with explain_write_errors(self.path, self.path.parent):
            if self.path.exists():
                with self.path.open("rb") as file:
                    os.fsync(file.fileno())
            if self.board is not None:
                self.board.flush()

    def close(self) -> None:
        """No more lines."""
        if self.board is not None:
            self.board.close()


def open_log(out: Path, settings: Mapping[str, Any], images: int) -> MetricsLog:
    """The log of a run that stands at so many images; lines beyond them are cut."""
    path = out / NAME
    if os.path.lexists(path):
        lines = [line for line in read_log(out, settings).lines if line["images"] <= images]
        content = "".join(_seal_line(line, settings) + "\n" for line in lines)
        if content.encode() != read_regular(path):
            with explain_write_errors(path, out):
                write_text(path, content)
    return MetricsLog(path, settings, _board(out / BOARD, images))


def read_log(out: Path, settings: Mapping[str, Any] | None = None) -> LogLines:
    """All lines of a run that are as they were written; by default of the run that lies there."""
    settings, path = settings or check_run_folder(out, VERB) or {}, out / NAME
    if not os.path.lexists(path):
        return LogLines([], 0)
    *complete, last = read_regular(path).decode("utf-8", "replace").split("\n")
    lines = [_open_line(line, settings) for line in complete]
    good = [line for line in lines if line is not None]
    if last and (line := _open_line(last, settings)) is not None:  # only its line end is missing
        good.append(line)
    return LogLines(good, lines.count(None))


def _seal_line(line: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """A line of the log, with a digest that binds it to its run."""
    return json.dumps({**line, "digest": _digest(line, settings)}, allow_nan=False)


def _open_line(text: str, settings: Mapping[str, Any]) -> dict[str, Any] | None:
    """The values of a line; None where it is not as it was written."""
    with suppress(ValueError, RecursionError):
        line = json.loads(text)
        if isinstance(line, dict) and line.pop("digest", None) == _digest(line, settings):
            return line
    return None


def _digest(line: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    """Of a line and of its run, which is the same run however long it becomes."""
    run = {name: value for name, value in settings.items() if name != "images"}
    return digest(*(json.dumps(part, sort_keys=True, allow_nan=False) for part in (line, run)))


def _board(folder: Path, images: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=images + 1)


def _flatten(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    """The numbers among nested values, by path; lists have none of their own."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{before}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield before + name, value
