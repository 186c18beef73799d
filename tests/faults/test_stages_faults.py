"""Stages that are killed and go on: the same bytes in the end, whatever the moment."""

import random
import shutil
import subprocess
import sys
import time

import pytest
import torch

from dying import every_step
from floracle.core.seeds import generator
from floracle.data.packing.pack import pack

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
def test_a_long_run_killed_at_random_moments_goes_on_to_the_same_bytes(tmp_path):
    data, out, drawn = packed(tmp_path, 24, 50, 192), tmp_path / "killed", random.Random(5)
    finish(data, tmp_path / "whole", None)
    expected, kept = contents(tmp_path / "whole"), set()
    for _ in range(40 if every_step() else 4):
        killed(data, out, measured(out) + drawn.randint(1, 6), 0.02 * drawn.random())
        kept.add(measured(out))
        if (out / "result.json").exists():
            finish(data, out, expected)
            shutil.rmtree(out)
    finish(data, out, expected)
    assert len(kept) >= 3, f"all kills came after {kept} parts"
