"""Progress bars with the time left, on standard error if that is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")


def track(
    items: Iterable[T],
    name: str,
    total: float,
    *,
    of: Callable[[T], float] = lambda _: 1,
    quiet: bool = False,
) -> Iterator[T]:
    """Pass items on while a bar shows how much of `total` is done; an item is `of(item)` of it."""
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    hidden = quiet or not console.is_terminal
    with Progress(*columns, console=console, disable=hidden, transient=True) as bar:
        task = bar.add_task(name, total=total)
        for item in items:
            yield item
            bar.advance(task, of(item))
