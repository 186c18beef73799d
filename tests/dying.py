"""Runs that die at steps that change the disk, and go on to the same bytes.

Some steps spread over the run are tried; FLORACLE_EVERY_STEP=1 tries every one, which takes
long. A module of tests brings `images(folder)`, which makes data, `write(where, out)`, which
makes a store of it, and `contents(out)`, what has to be the same in the end.
"""

from __future__ import annotations

import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import floracle.data.layouts.idx
import floracle.data.packing.verify  # noqa: F401  (loaded once, not in every child)
from floracle.data.packed import files as packed_files

DIED, TOLD = 9, 143
"""The exit codes of a process that died here, and of one that was told to end."""


def every_step():
    """Whether nothing is left out, however long it takes."""
    return bool(os.environ.get("FLORACLE_EVERY_STEP"))


def tried(total, share):
    """The steps out of so many at which runs die: `share` of them, spread evenly, or all."""
    return range(total) if every_step() else range(1, total, max(1, total // share))


def died(tests, folder, share):
    """Let runs die at so many of their steps; returns how many steps there are.

    All of it happens in a process of its own, which forks before any thread is started.
    """
    words = [__file__, Path(tests).stem, str(folder), str(share)]
    return told(words, Path(tests).parent)


def told(words, *places):
    """The number that Python prints when it is started so, with modules of tests at hand."""
    paths = map(str, [Path(__file__).parent, *places])
    ended = subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=7200 if every_step() else 280,
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return int(ended.stdout)


def _survived(tests, folder, share):
    where = tests.images(folder / "data")

    def written(out, *moments):
        """Write in processes that die at the given moments, then in one that does not."""
        for moment in (*moments, None):
            code = _in_a_child(lambda: tests.write(where, out), moment, folder / "steps")
            assert code in ((0,) if moment is None else (0, DIED)), code

    written(folder / "whole")
    steps, expected = int((folder / "steps").read_text()), tests.contents(folder / "whole")
    for moment in tried(steps, share):
        out = folder / f"moment-{moment}"
        written(out, moment, *([(moment * 7919) % steps] if moment % 5 == 0 else []))
        found = tests.contents(out)
        assert found.keys() == expected.keys(), (moment, found.keys() ^ expected.keys())
        assert found == expected, moment
        shutil.rmtree(out)
    return steps


def _in_a_child(work, moment, counted):
    """The exit code of a child that works and dies at a moment; the steps go to a file."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    steps = watch_disk(moment)
    try:
        work()
        with open(counted, "w") as file:
            file.write(str(steps[0]))
    except BaseException as error:
        sys.stderr.write(f"{error!r}\n")
        os._exit(1)
    os._exit(0)


def counting(moment, *, told=False):
    """How many steps there were, and what makes steps of a function.

    There is one before it, one halfway where it has a half, and one after it; the process ends at
    the moment given, or is `told` to by SIGTERM.
    """
    steps = [0]

    def step(half=None):
        steps[0] += 1
        if steps[0] != (-1 if moment is None else moment + 1):
            return
        if told:
            os.kill(os.getpid(), signal.SIGTERM)
        else:
            if half:
                half()
            os._exit(DIED)

    def watched(run, halfway=None):
        def counted(*given, **named):
            step()
            if halfway:
                step(partial(halfway, *given))
            result = run(*given, **named)
            step()
            return result

        return counted

    return steps, watched


def watch_disk(moment, *, told=False):
    """Count everything that changes the disk, and end at the moment given."""
    steps, watched = counting(moment, told=told)
    os.fsync, os.replace = watched(os.fsync), watched(os.replace)
    tempfile.mkstemp = watched(tempfile.mkstemp)
    Path.write_bytes = watched(Path.write_bytes, half_the_bytes)
    for name in ("replace", "unlink", "mkdir", "rmdir", "chmod"):
        setattr(Path, name, watched(getattr(Path, name)))
    packed_files.append = watched(packed_files.append, _half_a_part)
    return steps


def _half_a_part(file, content):
    file.write(content[: len(content) // 2])


def half_the_bytes(path, content):
    """Write the first half of a file."""
    with open(path, "wb") as file:
        file.write(content[: len(content) // 2])


if __name__ == "__main__":
    name, folder, share = sys.argv[1:]
    sys.stdout.write(str(_survived(importlib.import_module(name), Path(folder), int(share))))
