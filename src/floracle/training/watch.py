"""What a run writes down while it goes on: metrics.jsonl, and TensorBoard where it is installed.

Every line is one JSON object with the images seen. A run that resumes cuts the lines beyond its
checkpoint, so that nothing is said twice; lines are on the disk before the checkpoint that
follows them is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from floracle.run.files import writable_folder, write_text

from .checkpoint import writing

NAME = "metrics.jsonl"
BOARD = "tensorboard"


@dataclass(frozen=True)
class Log:
    """Where lines go; made by `open_log`."""

    path: Path
    board: Any = None
    """A SummaryWriter; None where TensorBoard is not installed."""

    def add(self, images: int, **values: Any) -> None:
        """Write a line."""
        line = json.dumps({"images": images, **values}, allow_nan=False)
        with writing(self.path, self.path.parent):
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line + "\n")
            if self.board is not None:
                for name, value in _flat(values):
                    self.board.add_scalar(name, value, images)

    def notes(self, images: int, notes: Sequence[str]) -> None:
        """Write notes down, each once."""
        said = {
            line.get("note") for line in read_log(self.path.parent) if line["images"] == images
        }
        for note in notes:
            if note not in said:
                self.add(images, note=note)

    def settle(self) -> None:
        """Wait until all lines are on the disk."""
        with writing(self.path, self.path.parent):
            if self.path.exists():
                with self.path.open("rb") as file:
                    os.fsync(file.fileno())
            if self.board is not None:
                self.board.flush()

    def close(self) -> None:
        """No more lines."""
        if self.board is not None:
            self.board.close()


def open_log(out: Path, images: int) -> Log:
    """The log of a run that stands at so many images; what was said beyond them is cut."""
    path = writable_folder(out) / NAME
    if path.exists():
        lines = [line for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
        good = [line for line in lines if 0 <= _images(line) <= images]
        if good != lines or not path.read_bytes().endswith(b"\n"):
            with writing(path, out):
                write_text(path, "".join(line + "\n" for line in good))
    return Log(path, _board(out / BOARD, images))


def read_log(out: Path) -> list[dict[str, Any]]:
    """All whole lines of a run."""
    path = out / NAME
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if _images(line) >= 0]


def _images(line: str) -> int:
    """Where a line was written; −1 for one that is no whole line."""
    with suppress(json.JSONDecodeError, KeyError, TypeError, ValueError):
        return int(json.loads(line)["images"])
    return -1


def _board(folder: Path, images: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=images + 1)


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, float]]:
    """The numbers among nested values, by path; lists have none of their own."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield before + name, value
