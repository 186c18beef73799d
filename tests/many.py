"""Several processes for tests: real ones, or threads that exchange through memory."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import torch.distributed as dist

from floracle.run.processes import ProcessGroup


def in_threads(size, work, monkeypatch):
    """What `work(group)` returns for every rank; an error in any of them is raised."""
    meeting, slots = threading.Barrier(size, timeout=60), [None] * size

    def all_gather(found, content, group, async_op):
        slots[group] = content
        meeting.wait()
        for to, given in zip(found, list(slots), strict=True):
            to.copy_(given)
        meeting.wait()
        return SimpleNamespace(wait=lambda *_: True, is_completed=lambda: True)

    def one(rank):
        try:
            links = {"prompt": rank, "patient": rank}
            return work(ProcessGroup(rank, size, rank, size, links))  # pyright: ignore
        except BaseException:
            meeting.abort()
            raise

    monkeypatch.setattr(dist, "all_gather", all_gather)
    with ThreadPoolExecutor(size) as pool:
        tasks = [pool.submit(one, rank) for rank in range(size)]
    errors = [task.exception() for task in tasks if task.exception()]
    for error in sorted(errors, key=lambda error: "Barrier" in repr([error, error.__cause__])):
        raise error  # what broke the others' exchange comes first
    return [task.result() for task in tasks]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Started:
    """Processes that were started as torchrun starts them, but by hand."""

    def __init__(self, size, arguments, *, where, each=None, **more):
        shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1"}
        shared |= {"MASTER_PORT": str(free_port()), "OMP_NUM_THREADS": "1", **more}
        self.processes = [
            subprocess.Popen(
                [sys.executable, *arguments, *(each(rank) if each else ())],
                env={**os.environ, **shared, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=where,
            )
            for rank in range(size)
        ]

    def kill(self, rank, number=signal.SIGKILL):
        self.processes[rank].send_signal(number)

    def ended(self, timeout=90):
        """Exit codes, outputs and errors by rank; whoever hangs is killed and fails the test."""
        try:
            told = [one.communicate(timeout=timeout) for one in self.processes]
        finally:
            for one in self.processes:
                one.kill()
        outs, errs = zip(*told, strict=True)
        return [one.returncode for one in self.processes], outs, errs
