"""A process of a group freezes or dies: the others end in time, with one line, in every phase.

This file is also the program of those processes. One process imports torch and forks all of all
groups, since starting so many would take minutes. They do what a verb does, without its data:
exchanges, then work of the first process for which the others wait. The victim stops or kills
itself where its phase begins. Groups begin one after the other: a loaded machine is no fault.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from torch import distributed

from floracle import cli
from floracle.run import processes
from floracle.run.exchange import barrier, gather
from floracle.run.processes import current_group, joined
from floracle.training.gradient_allreduce import GradientSums, broadcast_weights

TIMEOUT = 3.0
IN_TIME = TIMEOUT + 10
"""Seconds after the fault in which everybody ends; twice as many where Python cleans up first."""
LONG = 3 * TIMEOUT
GIVEN_UP = 60
"""Seconds after which a process that has not ended is killed, and has failed its test."""


class Case(NamedTuple):
    """Processes of a group, and which of them comes to what harm."""

    phase: str
    size: int
    victim: int | None = None
    number: int = signal.SIGSTOP
    way: str = "verb"

    @property
    def survivors(self):
        return [rank for rank in range(self.size) if rank != self.victim]

    @property
    def name(self):
        harm = "well" if self.victim is None else signal.Signals(self.number).name
        return f"{self.way}-{self.phase}-{harm}-{self.victim}-of-{self.size}"


def of_every_rank(phase, number):
    return [Case(phase, size, victim, number) for size in (2, 3) for victim in range(size)]


PHASES = ("measuring", "beginning", "working", "training")
FROZEN = [case for phase in PHASES for case in of_every_rank(phase, signal.SIGSTOP)]
FROZEN.append(Case("working", 2, 1, way="initialised"))
KILLED = [case for phase in PHASES for case in of_every_rank(phase, signal.SIGKILL)]
FORMING = [Case("met", 2, 0), Case("linked", 3, 1)]
LIBRARY = Case("working", 2, 0, way="library")
BUSY = [Case("sleeping", 2), Case("computing", 2)]
PAUSED = Case("paused", 2)
CASES = [LIBRARY, *FORMING, *KILLED, *FROZEN, *BUSY, PAUSED]


# the processes --------------------------------------------------------------------------------


def play(case, rank):
    """Be one process of a group; returns its exit code."""

    def begins(phase):
        if phase == "formed":
            Path(f"formed-{rank}").touch()
        if (phase, rank) == (case.phase, case.victim):
            Path("fault").write_text(str(time.time()))
            os.kill(os.getpid(), case.number)

    def then(plain, phase):
        def call(*arguments):
            result = plain(*arguments)
            begins(phase)
            return result

        return call

    def work(*_, **__):
        group = current_group()
        gather([torch.ones(1)], group)
        begins("measuring")
        gather([torch.ones(1)], group)
        begins("beginning")
        broadcast_weights(torch.nn.Linear(2, 2), group)
        begins("training")
        GradientSums.over(group, torch.device("cpu")).tensor(torch.ones(3))
        begins("working")
        if group.first:
            {"sleeping": sleep, "computing": compute, "paused": pause}.get(case.phase, int)()
        barrier(group)

    processes._form_group = then(processes._form_group, "formed")
    processes._rendezvous = then(processes._rendezvous, "met")
    processes._connect = then(processes._connect, "linked")
    cli.build = lambda: work
    if case.way == "initialised":
        distributed.init_process_group("gloo")
    if case.way == "library":
        with joined():
            return work()
    return cli.main(["stages"])


def sleep():
    until = time.monotonic() + LONG
    while time.monotonic() < until:
        time.sleep(0.01)


def compute():
    """One call of torch that takes long."""
    begin = time.monotonic()
    torch.cdist(torch.rand(500, 500), torch.rand(500, 500), p=1.5)
    width = int(500 * LONG / (time.monotonic() - begin))
    begin = time.monotonic()
    torch.cdist(torch.rand(500, width), torch.rand(500, width), p=1.5)
    assert time.monotonic() - begin > TIMEOUT


def pause():
    Path("working").touch()
    while not Path("go").exists():
        time.sleep(0.01)


def become(case, rank, port):
    """What torchrun tells a process, in a folder of its group's own."""
    os.chdir(case.name)
    for stream in (1, 2):
        os.dup2(os.open(f"{stream}-of-{rank}", os.O_CREAT | os.O_WRONLY), stream)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(case.size), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}


class Watch:
    """All processes of all groups, and how and when each ended."""

    def __init__(self):
        self.pids, self.codes, self.times = {}, {}, {}

    def until(self, fact, seconds):
        """Wait for a fact, and note meanwhile who ends."""
        end = time.monotonic() + seconds
        while not fact() and time.monotonic() < end:
            self._look()
            time.sleep(0.02)

    def _look(self):
        for key in set(self.pids) - set(self.codes):
            pid, status = os.waitpid(self.pids[key], os.WNOHANG)
            if pid:
                self.codes[key] = os.waitstatus_to_exitcode(status)
                self.times[key] = time.time()

    def over(self, cases, *, survivors=False):
        """Whether all processes of groups have ended, or all that came to no harm."""
        return all(
            (case.name, rank) in self.codes
            for case in cases
            for rank in (case.survivors if survivors else range(case.size))
        )

    def send(self, number, cases):
        for case in cases:
            for rank in range(case.size):
                if (case.name, rank) not in self.codes:
                    os.kill(self.pids[case.name, rank], number)


def fork(case, watch):
    """Start a group; returns in this process once it is one, and not in its own."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = Path(case.name).resolve()
    folder.mkdir()
    for rank in range(case.size):
        watch.pids[case.name, rank] = os.fork()
        if not watch.pids[case.name, rank]:
            become(case, rank, port)
            code = play(case, rank)
            if case.victim is None:
                os._exit(code)  # Python takes a second to clean up, which nobody looks at here
            sys.exit(code)
    names = [f"formed-{rank}" for rank in range(case.size)]
    watch.until(
        lambda: (folder / "fault").exists() or all((folder / name).exists() for name in names),
        2 * TIMEOUT,
    )


def stop_all_at_once(case, watch):
    """Stop a group as a whole for longer than the timeout, while one waits for another."""
    watch.until(Path(case.name, "working").exists, TIMEOUT)
    watch.send(signal.SIGSTOP, [case])
    watch.until(lambda: False, 2 * TIMEOUT)
    watch.send(signal.SIGCONT, [case])
    watch.until(lambda: False, TIMEOUT)
    Path(case.name, "go").touch()


def run_all():
    """Run every group to its end, let the frozen processes go on, and write how all ended."""
    watch = Watch()
    for case in CASES:
        fork(case, watch)
    stop_all_at_once(PAUSED, watch)
    watch.until(lambda: watch.over(CASES, survivors=True), GIVEN_UP)
    times = dict(watch.times)
    watch.send(signal.SIGCONT, FROZEN)
    watch.until(lambda: watch.over(FROZEN), IN_TIME)
    watch.send(signal.SIGKILL, CASES)
    watch.until(lambda: watch.over(CASES), IN_TIME)
    rows = [[*key, code, times.get(key)] for key, code in watch.codes.items()]
    Path("ended.json").write_text(json.dumps(rows))


if __name__ == "__main__":
    run_all()


# the tests ------------------------------------------------------------------------------------

pytestmark = pytest.mark.slow


class Ended(NamedTuple):
    """How the processes of a group ended, by rank."""

    codes: list[int]
    seconds: list[float]
    """Of the survivors, from the fault to the end."""
    errs: list[str]

    @property
    def lines(self):
        return [line for err in self.errs for line in err.splitlines()]


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    folder = tmp_path_factory.mktemp("groups")
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "FLORACLE_TIMEOUT": str(TIMEOUT)}
    environment["TORCH_CPP_LOG_LEVEL"] = "ERROR"  # main says so, but after torch is imported here
    environment["RES_OPTIONS"] = "timeout:1 attempts:1"  # torch looks up the name of every peer
    subprocess.run([sys.executable, __file__], cwd=folder, env=environment, check=True)
    codes, times = {}, {}
    for name, rank, code, when in json.loads((folder / "ended.json").read_text()):
        codes[name, rank], times[name, rank] = code, when or float("inf")

    def of(case):
        place, ranks = folder / case.name, range(case.size)
        fault = place / "fault"
        begin = float(fault.read_text()) if fault.exists() else 0.0
        return Ended(
            [codes[case.name, rank] for rank in ranks],
            [times[case.name, rank] - begin for rank in case.survivors],
            [(place / f"2-of-{rank}").read_text() for rank in ranks],
        )

    return of


def name_of(case):
    return case.name


@pytest.mark.parametrize("case", FROZEN, ids=name_of)
def test_a_frozen_process_ends_all_with_one_line(case, ended):
    group = ended(case)
    assert max(group.seconds) < IN_TIME
    assert group.codes == [3] * case.size  # the frozen one as well, once it goes on
    (line,) = group.lines
    assert line.startswith("floracle: ")
    assert group.errs[case.victim] == ""
    if case.phase != "training":
        assert f"process {case.victim} of {case.size} has not been heard of for" in line


@pytest.mark.parametrize("case", KILLED, ids=name_of)
def test_a_killed_process_ends_all_with_one_line(case, ended):
    group = ended(case)
    assert max(group.seconds) < IN_TIME
    assert [group.codes[rank] for rank in case.survivors] == [3] * (case.size - 1)
    (line,) = group.lines
    assert "has ended" in line


@pytest.mark.parametrize("case", FORMING, ids=name_of)
def test_a_process_that_freezes_while_they_meet_ends_all(case, ended):
    group = ended(case)
    assert max(group.seconds) < 2 * IN_TIME
    assert [group.codes[rank] for rank in case.survivors] == [2] * (case.size - 1)
    for rank in case.survivors:  # who have no board yet to agree on who speaks
        (line,) = group.errs[rank].splitlines()
        assert f"process {rank} of {case.size} did not find the others" in line


def test_a_program_that_loses_a_process_ends_with_its_error(ended):
    group = ended(LIBRARY)
    assert max(group.seconds) < 2 * IN_TIME
    assert group.codes[1] == 1
    assert "PeerLost: process 0 of 2 has not been heard of for" in group.errs[1]


@pytest.mark.parametrize("case", BUSY, ids=name_of)
def test_a_process_that_works_for_long_is_waited_for(case, ended):
    group = ended(case)
    assert group.codes == [0, 0], group.errs
    assert group.lines == []


def test_processes_that_are_stopped_all_at_once_go_on(ended):
    group = ended(PAUSED)
    assert group.codes == [0, 0], group.errs
    assert group.lines == []
