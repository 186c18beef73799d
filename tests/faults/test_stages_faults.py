"""Stages that are killed and go on: the same bytes in the end, whatever the moment."""

import random
import shutil
import subprocess
import sys
import time

import pytest
import torch

from dying import told
from floracle.core.seeds import generator
from floracle.data.pack import pack

TAKEN = {"timing.json", "report.html"}
"""Hold how long it took, which differs between any two runs."""


def packed(folder, classes, each, dims):
    """A packed store of classes, some points of which are duplicates."""
    points = torch.randn(classes * each, dims, generator=generator(3))
    points[5] = points[5 + classes]
    labels = torch.arange(len(points)) % classes
    pack(points, folder / "packed", labels=labels, shard_bytes=4096 * dims, quiet=True)
    return folder / "packed"


def contents(folder):
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    assert found.keys() >= {"result.json", "arrays.safetensors", *TAKEN}
    return {name: content for name, content in found.items() if name not in TAKEN}


KILLED = """
import os, shutil, sys
from pathlib import Path
from floracle.cli import main
import floracle.analysis.kept, floracle.cli.stages, floracle.report.write as write
import floracle.data.packed, safetensors, torch
from floracle.run.files import write_text
from dying import watch_disk

data, folder, every, offset = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
write.draw = lambda place: write_text(place / write.PAGE, "drawing takes longer than all else")


def contents(place):
    files = (path for path in sorted(place.rglob("*")) if path.is_file())
    return {
        str(path.relative_to(place)): path.read_bytes()
        for path in files
        if path.name != "timing.json"
    }


def run(out, *moments):
    '''Measure in processes that die at the given moments, then in one that does not.'''
    for moment in (*moments, None):
        child = os.fork()
        if child == 0:
            sys.stdout = open(os.devnull, "w")
            done = watch_disk(moment)
            code = main(["stages", data, "--pairs", "4", "--times", "8", "--out", str(out)])
            (folder / "count").open("w").write(str(done[0]))
            os._exit(code)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code == 0 or (code == 9 and moment is not None), (moment, code)


run(folder / "whole")
total, expected = int((folder / "count").read_text()), contents(folder / "whole")
assert "result.json" in expected and not any(".floracle" in name for name in expected)
for moment in range(offset, total, every):
    out = folder / f"moment-{moment}"
    run(out, moment, *([moment * 7919 % total] if moment % 3 == 0 else []))
    found = contents(out)
    assert found.keys() == expected.keys(), (moment, found.keys() ^ expected.keys())
    assert all(found[name] == expected[name] for name in expected), moment
    shutil.rmtree(out)
print(total)
"""


def died(folder, every, offset):
    data = packed(folder, 2, 12, 6)
    return told(["-c", KILLED, str(data), str(folder), str(every), str(offset)])


@pytest.mark.slow
@pytest.mark.parametrize("offset", range(4))
def test_a_run_that_dies_at_every_write_sync_and_rename_goes_on(tmp_path, offset):
    assert died(tmp_path, 4, offset) > 150


def command(data, out):
    verb = [sys.executable, "-m", "floracle", "stages", str(data), "--pairs", "16"]
    return [*verb, "--times", "24", "--out", str(out)]


def measured(out):
    return len(list(out.glob(".floracle/parts/*/result.json")))


def killed(data, out, parts, pause):
    """A real run that is killed a little after it has kept so many parts."""
    running = subprocess.Popen(
        command(data, out), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while running.poll() is None and measured(out) < parts:
        time.sleep(0.002)
    time.sleep(pause)
    running.kill()
    running.wait()


def finish(data, out, expected):
    ended = subprocess.run(command(data, out), capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert expected is None or contents(out) == expected


@pytest.mark.slow
@pytest.mark.parametrize("seed", [5, 6], ids=["ten moments", "ten others"])
def test_a_long_run_killed_at_twenty_random_moments_goes_on_to_the_same_bytes(tmp_path, seed):
    data, out, drawn = packed(tmp_path, 24, 50, 192), tmp_path / "killed", random.Random(seed)
    finish(data, tmp_path / "whole", None)
    expected, kept = contents(tmp_path / "whole"), set()
    for _ in range(10):
        killed(data, out, measured(out) + drawn.randint(1, 6), 0.02 * drawn.random())
        kept.add(measured(out))
        if (out / "result.json").exists():
            finish(data, out, expected)
            shutil.rmtree(out)
    finish(data, out, expected)
    assert len(kept) >= 4, f"all kills came after {kept} parts"
