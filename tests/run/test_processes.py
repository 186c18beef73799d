import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from floracle.run import exchange, processes
from floracle.run import joint_exit as ending
from floracle.run.errors import InputError
from floracle.run.exchange import (
    PeerLost,
    broadcast_from_first,
    check_same,
    gather,
    gather_parts,
    merge_over_group,
)
from floracle.run.heartbeat import Heartbeat, limit_board_calls
from floracle.run.processes import ALONE, ProcessGroup, contiguous_share, is_launched, joined
from many import Started, in_threads


@dataclass(frozen=True)
class Words:
    """A summary whose merging shows its order."""

    letters: torch.Tensor
    scale: float

    def merge(self, other):
        return Words(torch.cat([self.letters, other.letters]), self.scale)


def each_rank(size):
    return [ProcessGroup(rank, size) for rank in range(size)]


# alone -----------------------------------------------------------------------------------------


def test_alone_nothing_changes_and_no_torch_is_imported():
    script = (
        "import sys\nfrom floracle.run import joint_exit as ending, exchange, processes as p\n"
        "with p.joined() as group: assert group is p.ALONE is p.current_group()\n"
        "assert p.contiguous_share(7) == slice(0, 7)\n"
        "assert exchange.broadcast_from_first(group, [3]) == [3]\n"
        "exchange.barrier(group); exchange.check_same(group, {'x': 'y'})\n"
        "assert ending.agree_on_exit(group, 2) == (True, 2) and 'torch' not in sys.modules"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


def test_alone_a_summary_is_its_own_merge():
    words = Words(torch.arange(3), 2.0)
    assert merge_over_group(ALONE, words) is words
    assert gather_parts(ALONE, words) == [words]
    (parts,) = gather([words.letters])
    assert parts[0] is words.letters


def test_one_of_several_is_known_by_all_that_torchrun_says(monkeypatch):
    told = dict(zip(processes.LAUNCH_VARIABLES, ("0", "2", "127.0.0.1", "29500"), strict=True))
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert is_launched()
    for name in told:
        with monkeypatch.context() as without:
            without.delenv(name)
            assert not is_launched()
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert not is_launched()


@pytest.mark.slow
@given(count=st.integers(0, 10_000), size=st.integers(1, 64))
def test_shares_are_contiguous_balanced_and_cover_everything(count, size):
    shares = [contiguous_share(count, group) for group in each_rank(size)]
    assert [shares[0].start, shares[-1].stop] == [0, count]
    assert all(one.stop == two.start for one, two in pairwise(shares))
    lengths = [one.stop - one.start for one in shares]
    assert max(lengths) - min(lengths) <= 1


def test_memory_and_devices_are_divided_by_machine(monkeypatch):
    group = ProcessGroup(5, 8, local_rank=1, local_size=4)
    assert processes.process_memory("4G", group) == str(2**30)
    assert processes.process_memory("4G", ALONE) == "4G"
    assert 0 < int(processes.process_memory(None, group)) < 2**50
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert processes.process_device("cuda", group) == "cuda:1"
    assert (
        processes.process_device("cuda", ProcessGroup(6, 8, local_rank=2, local_size=4))
        == "cuda:0"
    )
    assert processes.process_device("cuda:3", group) == "cuda:3"
    assert processes.process_device("cpu", group) == "cpu"


def test_idle_cores_are_mentioned_once(monkeypatch):
    monkeypatch.setattr(ending, "usable_cores", lambda: 16)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    words = ending.idle_cores_note(ProcessGroup(0, 2, 0, 2))
    assert words is not None
    assert "OMP_NUM_THREADS=8" in words
    assert ending.idle_cores_note(ProcessGroup(1, 2, 1, 2)) is None
    assert ending.idle_cores_note(ProcessGroup(0, 16, 0, 16)) is None
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert ending.idle_cores_note(ProcessGroup(0, 2, 0, 2)) is None


@pytest.mark.parametrize("seconds", ["soon", "-1", "0", "nan", "inf"])
def test_a_timeout_that_is_none_is_refused(seconds, monkeypatch):
    monkeypatch.setenv(processes.TIMEOUT_VARIABLE, seconds)
    with pytest.raises(InputError, match="FLORACLE_TIMEOUT"):
        processes.timeout_seconds()


# together --------------------------------------------------------------------------------------

KINDS = (torch.bool, torch.uint8, torch.int64, torch.bfloat16, torch.float32, torch.float64)


def test_tensors_of_any_kind_and_shape_reach_everyone(monkeypatch):
    def drawn(rank):
        shapes = [(), (rank, 3), (0,), (2, 1, rank + 1)] + [(400 * rank,)] * 2
        seeded = torch.Generator().manual_seed(rank)
        return [
            torch.randint(2, shape, generator=seeded).to(dtype).mT
            if len(shape) > 1
            else torch.randint(2, shape, generator=seeded).to(dtype)
            for shape, dtype in zip(shapes, KINDS, strict=True)
        ]

    for parts in in_threads(3, lambda group: gather(drawn(group.rank), group), monkeypatch):
        for rank, part in enumerate(parts):
            for one, other in zip(part, drawn(rank), strict=True):
                assert one.dtype == other.dtype
                assert torch.equal(one, other)


def test_not_a_number_and_minus_zero_travel_bit_for_bit(monkeypatch):
    odd = torch.tensor([float("nan"), -0.0, float("-inf"), 5e-324], dtype=torch.float64)
    for parts in in_threads(2, lambda group: gather([odd], group), monkeypatch):
        for (part,) in parts:
            assert torch.equal(part.view(torch.int64), odd.view(torch.int64))


def test_summaries_merge_in_the_order_of_ranks(monkeypatch):
    def work(group):
        return merge_over_group(group, Words(torch.full((group.rank,), group.rank), 0.5))

    for words in in_threads(4, work, monkeypatch):
        assert words.letters.tolist() == [1, 2, 2, 3, 3, 3]
        assert words.scale == 0.5


def test_the_first_decides(monkeypatch):
    found = in_threads(3, lambda group: broadcast_from_first(group, [group.rank, 7]), monkeypatch)
    assert found == [[0, 7]] * 3


def test_what_differs_is_named_with_its_process(monkeypatch):
    def work(group):
        check_same(group, {"data": "aa", "times t": "cc"})
        check_same(group, {"data": "aa", "times t": "bb" if group.rank == 2 else "cc"})

    with pytest.raises(InputError, match="process 2 has other times t than process 0"):
        in_threads(3, work, monkeypatch)


def test_processes_that_go_separate_ways_are_told(monkeypatch):
    def work(group):
        gather([torch.ones(3)], group, what="sums" if group.rank else "norms")

    with pytest.raises(PeerLost, match="norms and sums"):
        in_threads(2, work, monkeypatch)


def test_a_link_that_breaks_is_one_clear_error(monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("[pair.cc:553] Connection closed by peer [127.0.0.1]:1717")

    def late(*_, **__):
        raise RuntimeError("[unbound_buffer.cc:81] Timed out waiting 300000ms for recv operation")

    group = ProcessGroup(1, 4, connections={"prompt": None, "patient": None})  # pyright: ignore
    monkeypatch.setattr(torch.distributed, "all_gather", broken)
    with pytest.raises(PeerLost, match="another of the 4 processes has ended"):
        gather([torch.ones(1)], group)
    monkeypatch.setattr(torch.distributed, "all_gather", late)
    with pytest.raises(PeerLost, match="FLORACLE_TIMEOUT"):
        exchange.barrier(group)


# hearts ----------------------------------------------------------------------------------------


class Memory:
    """A board of one process."""

    def __init__(self):
        self.values, self.answers = {}, threading.Event()
        self.answers.set()

    def set(self, key, value):
        self.values[key] = value.encode()

    def multi_get(self, keys):
        self.answers.wait()
        return [self.values[key] for key in keys]


@pytest.fixture
def hearts():
    board = Memory()
    several = [Heartbeat(board, rank, 1.0, [0, 0, 0]) for rank in range(3)]  # pyright: ignore
    for heart in several:
        heart.beat()
    for heart in several:
        heart.start()
    yield several
    board.answers.set()
    for heart in several:
        heart.stopping.set()


def within(seconds, fact):
    until = time.monotonic() + seconds
    while not fact() and time.monotonic() < until:
        time.sleep(0.02)
    return fact()


@pytest.mark.slow
def test_a_heart_that_stops_is_missed_by_the_others(hearts):
    time.sleep(1.5)
    assert hearts[0].silent_for(1) is None
    hearts[2].stopping.set()
    assert within(10, lambda: hearts[0].silent_for(1))
    rank, seconds = hearts[0].silent_for(1)
    assert (rank, hearts[1].silent_for(10)) == (2, None)
    assert seconds >= 1


@pytest.mark.slow
def test_a_board_that_does_not_answer_is_told_from_a_process(hearts):
    hearts[0].board.answers.clear()
    time.sleep(0.5)
    for _ in range(5):
        assert hearts[0].silent_for(2) is None
        hearts[0].look(0.5)
    assert hearts[0].silent_for(2) == (None, 2)
    hearts[0].board.answers.set()
    assert within(10, lambda: hearts[0].look(0.5) or hearts[0].silent_for(1) is None)


@pytest.mark.slow
def test_calls_to_a_board_that_does_not_answer_end(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as board, socket.create_server(("", 0)) as other:
        monkeypatch.setenv("MASTER_PORT", str(board.getsockname()[1]))
        call = socket.create_connection(board.getsockname(), timeout=10)
        apart = socket.create_connection(("127.0.0.1", other.getsockname()[1]), timeout=0.1)
        with call, apart:
            with limit_board_calls(0.2):
                assert call.recv(1) == b""
            with pytest.raises(TimeoutError):
                apart.recv(1)


# real processes --------------------------------------------------------------------------------

REAL = """
import os, sys, torch
from floracle.core.spectrum import Moments
from floracle.run.exchange import barrier, broadcast_from_first, gather, merge_over_group
from floracle.run.processes import current_group, joined

with joined() as group:
    with joined() as again:
        assert again is group is current_group() and not group.alone
    assert torch.get_num_threads() == 1
    drawn = torch.randn(group.rank, 5, generator=torch.Generator().manual_seed(group.rank))
    parts = [part[0] for part in gather([drawn], group)]
    assert [len(part) for part in parts] == list(range(group.size))
    assert torch.equal(parts[group.rank], drawn)
    many = gather([torch.arange(100_000) + group.rank], group)
    assert [int(part[0][-1]) for part in many] == [99_999 + rank for rank in range(group.size)]
    ones = torch.ones(2, dtype=torch.float64)
    own = Moments(torch.tensor(1.0).double(), ones * group.rank, ones)
    found = merge_over_group(group, own)
    sys.stdout.write(found.mean.numpy().tobytes().hex() + " " + str(found.mean[0].item()))
    assert broadcast_from_first(group, [group.rank + 4]) == [4]
    barrier(group)
assert current_group().alone and not torch.distributed.is_initialized()
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_real_processes_meet_and_hold_the_same(size, tmp_path):
    codes, outs, errs = Started(size, ["-c", REAL], where=tmp_path).ended()
    assert codes == [0] * size, errs
    assert len(set(outs)) == 1
    assert float(outs[0].split()[1]) == pytest.approx((size - 1) / 2, rel=1e-15)


SILENT = """
import sys, time, torch
from floracle.run.exchange import PeerLost, gather
from floracle.run.processes import joined
with joined() as group:
    gather([torch.ones(1)], group)
    if group.rank:
        time.sleep(30)
    start = time.monotonic()
    try:
        gather([torch.ones(1)], group)
    except PeerLost as error:
        sys.stdout.write(f"{time.monotonic() - start:.1f} {error}")
"""


@pytest.mark.slow
def test_silence_ends_after_the_timeout(tmp_path):
    started = Started(2, ["-c", SILENT], where=tmp_path, FLORACLE_TIMEOUT="2")
    out, _ = started.processes[0].communicate(timeout=60)
    started.kill(1)
    started.processes[1].communicate()
    seconds, words = out.split(" ", 1)
    assert 1 < float(seconds) < 10
    assert "FLORACLE_TIMEOUT" in words


@pytest.mark.slow
def test_death_is_noticed_at_once(tmp_path):
    dies = SILENT.replace("time.sleep(30)", "os.kill(os.getpid(), 9)").replace("sys", "os, sys", 1)
    _, outs, _ = Started(2, ["-c", dies], where=tmp_path).ended()
    seconds, words = outs[0].split(" ", 1)
    assert float(seconds) < 10
    assert "has ended" in words


@pytest.mark.slow
def test_who_waits_in_vain_for_the_others_is_told_how_to_work_alone(tmp_path, monkeypatch):
    for name, value in zip(processes.LAUNCH_VARIABLES, ("1", "2", "127.0.0.1", "9"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="unset WORLD_SIZE"), joined(timeout=1):
        pass
    assert os.environ["RANK"] == "1"
