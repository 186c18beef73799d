"""Runs that die at every step that changes the disk, and go on to the same bytes.

A module of tests brings `images(folder)`, which makes data, `write(where, out)`, which makes a
store of it, and `contents(out)`, what has to be the same in the end.
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

import floracle.data.idx
import floracle.data.verify  # noqa: F401  (loaded once, not in every child)
from floracle.data import packed_files

DIED, TOLD = 9, 143
"""The exit codes of a process that died here, and of one that was told to end."""


def died(tests, folder, every, offset=0):
    """Let runs die at every so many-th step; returns how many steps there are.

    All of it happens in a process of its own, which forks before any thread is started.
    """
    words = [__file__, Path(tests).stem, str(folder), str(every), str(offset)]
    return told(words, Path(tests).parent)


def told(words, *places):
    """The number that Python prints when it is started so, with modules of tests at hand."""
    paths = map(str, [Path(__file__).parent, *places])
    ended = subprocess.run(
        [sys.executable, *words],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        timeout=float((os.environ.get("FLORACLE_EVERY_STEP") and 7200) or 280),
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return int(ended.stdout)


def _survived(tests, folder, every, offset):
    where = tests.images(folder / "data")

    def written(out, *moments):
        """Write in processes that die at the given moments, then in one that does not."""
        for moment in (*moments, None):
            code = _in_a_child(lambda: tests.write(where, out), moment, folder / "steps")
            assert code in ((0,) if moment is None else (0, DIED)), code

    written(folder / "whole")
    steps, expected = int((folder / "steps").read_text()), tests.contents(folder / "whole")
    for moment in range(offset, steps, every):
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
    name, folder, every, offset = sys.argv[1:]
    sys.stdout.write(
        str(_survived(importlib.import_module(name), Path(folder), int(every), int(offset)))
    )
