"""Commands under torchrun: the same files as alone, one voice, and a clear end for all."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from floracle.analysis.load import load
from floracle.cli import MISTAKE, VERBS, main
from floracle.cli import _outcome as outcome
from floracle.run.processes import ProcessGroup
from many import Started

DIGITS = ["sample", "oracle", "digits", "--seeds", "0:6", "--labels", "3,5", "--steps", "10"]
POINTS = ["sample", "oracle", "gaussian:90x80", "--seeds", "0:5", "--steps", "8"]

DYING = """
import os, signal, sys
os.environ["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # main says so, but here torch is imported before it
from floracle.cli import main
from floracle.oracle.oracle import Oracle
calls, plain = [], Oracle.__call__
def call(*arguments):
    calls.append(arguments)
    if len(calls) == 3 and os.environ["RANK"] == "{rank}":
        {end}
    return plain(*arguments)
Oracle.__call__ = call
sys.exit(main())
"""
KILLED = "os.kill(os.getpid(), signal.SIGKILL)"
ASTRAY = "arguments = (arguments[0], arguments[1] + 1, *arguments[2:])"


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLORACLE_DEBUG", raising=False)


def together(size, arguments, **more):
    return Started(size, ["-m", "floracle", *arguments], where=".", **more).ended()


def torchrun(size, arguments):
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(size)]
    return subprocess.run(
        [sys.executable, *launcher, *arguments], capture_output=True, text=True, timeout=120
    )


def ours(words):
    """The lines that floracle said, among those of torchrun."""
    return [line for line in words.splitlines() if line.startswith("floracle: ")]


def said_once(errs, *words):
    """All that was said on standard error: one line, whoever said it."""
    lines = [line for err in errs for line in err.splitlines()]
    assert len(lines) == 1, lines
    assert lines[0].startswith("floracle: ")
    assert all(word in lines[0] for word in words), lines[0]


def assert_same_samples(folder, alone):
    with np.load(f"{folder}/samples.npz") as found, np.load(f"{alone}/samples.npz") as expected:
        assert found.files == expected.files
        for name in ("labels", "seeds", "rows"):
            assert (found[name] == expected[name]).all()
        assert np.abs(found["distances"] - expected["distances"]).max() <= 1e-6
        bytes_ = expected["arr_0"].dtype == np.uint8  # halves round up, which 1e-7 can decide
        apart = np.abs(found["arr_0"].astype(float) - expected["arr_0"])
        assert apart.max() <= (1 if bytes_ else 1e-6)


@pytest.mark.parametrize("verb", [verb for verb in VERBS if not VERBS[verb].parallel])
def test_what_one_process_does_is_refused(verb, capsys):
    assert outcome([verb, "digits"], ProcessGroup(0, 2)) == MISTAKE
    assert f"{verb} is the work of one process" in capsys.readouterr().err


@pytest.mark.slow
def test_torchrun_writes_what_one_process_writes_and_finds_it_again(capsys):
    assert main([*DIGITS, "--out", "alone"]) == 0
    out = capsys.readouterr().out.splitlines()
    found = torchrun(2, ["-m", "floracle", *DIGITS, "--out", "two"])
    assert found.returncode == 0, found.stderr
    assert ours(found.stderr) == []
    said = found.stdout.splitlines()
    assert said[-2:] == [out[-2], "samples: two/samples.npz"]
    assert len(said) == len(out)
    assert_same_samples("two", "alone")
    names = sorted(file.name for file in Path("alone").iterdir())
    assert sorted(file.name for file in Path("two").iterdir()) == names
    before = Path("two/result.json").stat().st_mtime_ns
    codes, outs, errs = together(2, [*DIGITS, "--out", "two"])
    assert codes == [0, 0], errs
    assert outs == (found.stdout, "")
    assert Path("two/result.json").stat().st_mtime_ns == before


@pytest.mark.slow
def test_samples_of_four_processes_are_those_of_one():
    assert main([*POINTS, "--out", "alone"]) == 0
    codes, _, errs = together(4, [*POINTS, "--out", "many"])
    assert codes == [0] * 4, errs
    assert not any(errs)
    assert_same_samples("many", "alone")


@pytest.mark.slow
def test_stages_of_several_processes_are_those_of_one():
    size = 3
    asked = ["stages", "digits", "--pairs", "8", "--times", "12"]
    assert main([*asked, "--out", "alone"]) == 0
    codes, _, errs = together(size, [*asked, "--out", "many"])
    assert codes == [0] * size, errs
    found, alone = load("many"), load("alone")
    for group, other in zip(found.groups, alone.groups, strict=True):
        for name, curve in group.curves.items():
            expected = other.curves[name].mean
            apart = (curve.mean - expected).abs().max()
            assert apart <= 1e-6 * expected.abs().max(), (group.label, name)


@pytest.mark.slow
def test_help_and_mistakes_are_said_once():
    codes, outs, errs = together(2, ["sample", "--help"])
    assert codes == [0, 0], errs
    assert [bool(out) for out in outs] == [True, False]
    codes, outs, errs = together(2, ["sample", "oracle", "/nowhere/at/all"])
    assert codes == [2, 2]
    said_once(errs, "there is no")
    assert not any(outs)
    assert list(Path().iterdir()) == []


@pytest.mark.slow
def test_a_mistake_of_one_process_ends_all_with_one_line():
    np.save("points.npy", np.random.default_rng(0).normal(size=(40, 8)))
    files = ["points.npy", "nowhere.npy"]
    started = Started(
        2, ["-m", "floracle", "sample", "oracle"], where=".", each=lambda rank: [files[rank]]
    )
    codes, _, errs = started.ended()
    assert codes == [2, 2]
    said_once(errs, "nowhere.npy", "(process 1 of 2, on ")
    assert not Path("runs").exists()


@pytest.mark.slow
def test_processes_that_go_different_ways_are_told():
    Path("script.py").write_text(DYING.format(rank=1, end=ASTRAY))
    codes, _, errs = Started(2, ["script.py", *POINTS], where=".").ended()
    assert codes == [2, 2]
    said_once(errs, "process 1 has other samples x than process 0")


@pytest.mark.slow
@pytest.mark.parametrize(("size", "rank"), [(2, 0), (4, 2)])
def test_death_of_one_ends_all_at_once(size, rank):
    Path("script.py").write_text(DYING.format(rank=rank, end=KILLED))
    started = Started(size, ["script.py", *POINTS], where=".")
    assert started.processes[rank].wait(timeout=90) == -9
    begin = time.monotonic()
    codes, _, errs = started.ended(timeout=30)
    assert time.monotonic() - begin < 20
    assert [code for own, code in enumerate(codes) if own != rank] == [3] * (size - 1)
    said_once(errs, "has ended", "start all of them again")
    assert not list(Path("runs").rglob("*.npz"))


@pytest.mark.slow
def test_death_under_torchrun_is_one_line_of_ours():
    Path("script.py").write_text(DYING.format(rank=1, end=KILLED))
    begin = time.monotonic()
    found = torchrun(2, ["script.py", *POINTS])
    assert found.returncode != 0
    assert time.monotonic() - begin < 60
    (line,) = ours(found.stderr)
    assert "has ended" in line


@pytest.mark.slow
def test_a_mistake_of_the_first_under_torchrun_is_one_line_of_ours():
    """Only the first process looks into the folder; the others wait for it in vain."""
    assert main([*POINTS, "--out", "run"]) == 0
    found = torchrun(2, ["-m", "floracle", *POINTS, "--out", "run", "--shift", ".5"])
    assert found.returncode != 0
    (line,) = ours(found.stderr)
    assert "shift: 1.0 there, 0.5 asked" in line
    assert "exitcode  : 2" in found.stderr
