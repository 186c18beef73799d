"""How many files a query runs through, and how often it switches between them.

    python benchmarks/call_profile.py

Counted with sys.setprofile over frames of this package alone: a switch is a call or a return that
leads from one file to another. What runs once (imports, opening data) is counted for the verb, and
not for the query, which is made once before it is counted.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch

import floracle
from floracle.cli import main

PACKAGE = str(Path(floracle.__file__).parent)


def profiled(action: Callable[[], Any]) -> tuple[Counter[str], int]:
    """Calls by file, and switches between files, of an action."""
    calls: Counter[str] = Counter()
    stack: list[str] = []
    switches = 0

    def watch(frame: FrameType, event: str, _: object) -> None:
        nonlocal switches
        file = frame.f_code.co_filename
        if not file.startswith(PACKAGE) or event not in ("call", "return"):
            return
        if event == "call":
            calls[file[len(PACKAGE) + 1 :]] += 1
            switches += bool(stack) and stack[-1] != file
            stack.append(file)
        elif stack:
            left = stack.pop()
            switches += bool(stack) and stack[-1] != left

    sys.setprofile(watch)
    try:
        action()
    finally:
        sys.setprofile(None)
    return calls, switches


def query() -> Callable[[], Any]:
    """One warm query of the oracle of the digits: 64 points at t = 0.5."""
    oracle = floracle.Oracle(floracle.open_store("digits"))
    x, t = floracle.noise(range(64), oracle.data.shape), torch.full((64,), 0.5)
    oracle(x, t)
    return lambda: oracle(x, t)


def verb() -> Callable[[], Any]:
    """`floracle sample oracle digits`, from the command line to its picture."""
    out = tempfile.mkdtemp()
    return lambda: main(["sample", "oracle", "digits", "--out", f"{out}/samples"])


if __name__ == "__main__":
    for name, made in (("one warm oracle(x, t)", query()), ("sample oracle digits", verb())):
        with contextlib.redirect_stdout(io.StringIO()):
            calls, switches = profiled(made)
        print(f"{name}: {len(calls)} files, {switches:,} switches, {calls.total():,} calls")
        for file, count in calls.most_common(None if "-v" in sys.argv else 8):
            print(f"  {count:7,} {file}")
