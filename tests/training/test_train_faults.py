"""Runs that are killed and go on: the same weights in the end, whatever the moment."""

import json
import random
import time

import pytest
from safetensors.torch import load_file

from dying import every_step, told
from many import Started

KILLED = """
import os, shutil, sys, tempfile
from dataclasses import replace
from pathlib import Path
import torch
import floracle
from floracle.training import checkpoint, metrics_log as watch, run_directory as place
from floracle.training.config import TrainingSettings
from floracle.training.evaluation import EvaluationPlan
from floracle.models import weights
from floracle.models.networks.lightningdit import Architecture, initialize
from floracle.run import results
from floracle.run.processes import joined
from dying import DIED, counting, half_the_bytes, tried
from many import free_port

folder, share, processes = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[4])
pairs = 2 if sys.argv[3] == "looking" else 0
look = EvaluationPlan(pairs=pairs, times=1, classes=1, samples=0)
settings = TrainingSettings(images=60, batch=16, rate=1e-3, every=32, lines=2, keep=1)
settings = replace(settings, target="oracle", switch=0.4)
data = floracle.open_store("digits")
TIMED = {"seconds", "images_per_second"}


def train(out):
    plan = Architecture(1, 8, 1, patch=4, channels=1, side=8, classes=10)
    net = initialize(plan, torch.Generator().manual_seed(0))
    for _ in floracle.train(net, data, settings, out=out, look=look):
        pass


def contents(out):
    files = [path for path in sorted(out.rglob("*")) if path.is_file()]
    found = {str(path.relative_to(out)): path.read_bytes() for path in files}
    lines = watch.read_log(out).lines
    found["metrics.jsonl"] = [{k: v for k, v in line.items() if k not in TIMED} for line in lines]
    return found


def dying(moment):
    '''Count everything that changes the disk, and end at the moment given.'''
    done, watched = counting(moment)

    def half_tensors(tensors, path):
        half_the_bytes(path, b"x" * 999)

    def half_line(log, images, **values):
        with log.path.open("a") as file:
            file.write('{"images": %d, "lo' % images)

    os.fsync, tempfile.mkstemp = watched(os.fsync), watched(tempfile.mkstemp)
    Path.write_bytes = watched(Path.write_bytes, half_the_bytes)
    for module in (checkpoint, weights):
        module.save_file = watched(module.save_file, half_tensors)
    watch.MetricsLog.add = watched(watch.MetricsLog.add, half_line)
    for name in ("replace", "unlink", "mkdir", "chmod"):
        setattr(Path, name, watched(getattr(Path, name)))
    return done


def begun(out, rank, port, moment):
    '''A process that trains alone, or as one of two of which the first is to die.'''
    child = os.fork()
    if child:
        return child
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(processes), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        done = dying(None if rank else moment)
        with joined(timeout=20):
            train(out)
        if rank == 0:
            (folder / "count").open("w").write(str(done[0]))
        os._exit(0)
    except BaseException as error:
        if moment is None:
            print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)


def run(out, *moments):
    '''Train in processes of which the first dies at the given moments, then in whole ones.'''
    for moment in (*moments, None):
        port = free_port()
        children = [begun(out, rank, port, moment) for rank in range(processes)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
        if moment is None:
            assert set(codes) == {0}, codes
        else:
            assert codes[0] in (0, DIED) and set(codes[1:]) <= {0, 1}, (moment, codes)


train(folder / "loading")  # what torch imports late is loaded once, not in every child
run(folder / "whole")
total, expected = int((folder / "count").read_text()), contents(folder / "whole")
assert {"result.json", "network.safetensors", "run.json"} <= expected.keys()
for moment in tried(total, share):
    out = folder / f"moment-{moment}"
    run(out, moment, *([moment * 7919 % total] if moment % 3 == 0 else []))
    found = contents(out)
    assert found.keys() == expected.keys(), (moment, found.keys() ^ expected.keys())
    unlike = [name for name in expected if found[name] != expected[name]]
    assert not unlike, (moment, unlike)
    shutil.rmtree(out)
print(total)
"""


def died(folder, share, looking, processes=1):
    return told(["-c", KILLED, str(folder), str(share), looking, str(processes)])


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2], ids=["alone", "two"])
def test_a_run_that_dies_at_a_write_sync_or_rename_goes_on(tmp_path, processes):
    assert died(tmp_path, 12, "blind", processes) > 100


@pytest.mark.slow
def test_so_does_one_that_dies_around_its_evaluations(tmp_path):
    assert died(tmp_path, 12, "looking") > 150


def command(out):
    verb = ["-m", "floracle", "train", "digits", "--model", "nano", "--patch", "4"]
    verb += ["--images", "2560", "--batch", "32", "--every", "160", "--rate", "1e-3"]
    verb += ["--pairs", "0", "--samples", "0", "--target", "oracle", "--lines", "5"]
    return [*verb, "--out", str(out)]


def images(out):
    """Where the lines of a run are."""
    log = out / "metrics.jsonl"
    lines = log.read_text().splitlines() if log.exists() else []
    return [json.loads(line)["images"] for line in lines if line.endswith("}")]


def finish(out, processes):
    codes, _, errors = Started(processes, command(out), where=out.parent).ended()
    assert set(codes) == {0}, errors
    tensors = load_file(out / "network.safetensors")
    return {name: values.numpy().tobytes() for name, values in tensors.items()}


def killed(out, processes, *, more, pause, victim):
    """A real run of which a process is killed after some more lines."""
    running = Started(processes, command(out), where=out.parent)
    until = len(images(out)) + more
    while running.processes[0].poll() is None and len(images(out)) < until:
        time.sleep(0.005)
    time.sleep(pause)
    running.kill(victim)
    codes, _, _ = running.ended()
    assert codes[victim] in (-9, 0)
    return codes[victim] == -9


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2], ids=["alone", "two"])
def test_a_run_killed_at_random_moments_goes_on_to_the_same_bytes(tmp_path, processes):
    kills, drawn = 10 if every_step() else 2, random.Random(processes)
    expected = finish(tmp_path / "whole", processes)
    out, died = tmp_path / "killed", 0
    for k in range(kills):
        pause, more = 0.05 * drawn.random(), drawn.randint(1, 3)
        died += killed(out, processes, more=more, pause=pause, victim=k % processes)
    assert died == kills
    assert finish(out, processes) == expected
    assert images(out) == images(tmp_path / "whole")
