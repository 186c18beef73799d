"""Processes that do not do the same: all are told what differs, and none waits for ever."""

from __future__ import annotations

import pytest
import torch

from floracle.oracle.oracle import Oracle
from floracle.oracle.queries import prepare_queries
from floracle.oracle.scan import scan
from floracle.run.errors import InputError
from floracle.run.exchange import PeerLost
from floracle.run.processes import ALONE
from many import in_threads


def cloud(count, dims, *, seed=0):
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(seed))


def same(parts):
    for part in parts[1:]:
        assert all(torch.equal(one, other) for one, other in zip(part, parts[0], strict=True))


def test_alone_is_no_group_at_all(points_source):
    oracle = Oracle(points_source(cloud(9, 4)), group=ALONE)
    assert oracle.alone() is oracle
    assert oracle.class_points().group.alone


OTHERS = {
    "samples x": lambda rank: (torch.ones(2, 4) + rank, torch.ones(2) / 2, None),
    "times t": lambda rank: (torch.ones(2, 4), torch.ones(2) / (2 + rank), None),
    "labels": lambda rank: (torch.ones(2, 4), torch.ones(2) / 2, torch.tensor([0, rank])),
}


@pytest.mark.parametrize("name", OTHERS)
def test_processes_that_ask_different_things_are_told(points_source, name, monkeypatch):
    data = points_source(cloud(9, 4), torch.arange(9) % 2)

    def work(group):
        Oracle(data, group=group)(*OTHERS[name](group.rank))

    with pytest.raises(InputError, match=f"process 1 has other {name} than process 0"):
        in_threads(2, work, monkeypatch)


def test_processes_with_different_data_are_told(points_source, monkeypatch):
    def work(group):
        data = points_source(cloud(9, 4, seed=group.rank))
        Oracle(data, group=group)(torch.ones(2, 4), torch.ones(2) / 2)

    with pytest.raises(InputError, match="other data"):
        in_threads(2, work, monkeypatch)


def test_no_labels_are_the_label_of_everything(points_source, monkeypatch):
    data = points_source(cloud(9, 4))

    def work(group):
        labels = torch.tensor([-1, -1]) if group.rank else None
        return (Oracle(data, group=group)(torch.ones(2, 4), torch.ones(2) / 2, labels),)

    same(in_threads(2, work, monkeypatch))


def test_another_number_of_queries_at_a_time_is_no_deadlock(points_source, monkeypatch):
    """A process whose rounding decided otherwise rescans while others ask on."""
    data = points_source(cloud(9, 4))

    def work(group):
        oracle = Oracle(data, group=group)
        members = oracle.class_points()
        x = torch.ones(2 + group.rank, 4)
        scan(members, prepare_queries(members, x, torch.full((len(x),), 0.5), oracle.path))

    with pytest.raises(PeerLost, match="2 queries and 3 queries"):
        in_threads(2, work, monkeypatch)
