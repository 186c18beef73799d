"""What a stages run will take is said, kept to, or refused before anything is computed."""

import json
import re
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import floracle
from floracle.analysis import curves
from floracle.analysis.cost import speeds as speeds_module
from floracle.analysis.cost.estimate import estimate_cost
from floracle.analysis.cost.memory_needs import check_memory, memory_needs
from floracle.analysis.cost.stages_shape import StagesShape, class_sizes
from floracle.analysis.stages import measure as stages
from floracle.core.spectrum import spectra
from floracle.data.store import Store, open_store
from floracle.report.stages.examples import ARRAYS, examples
from floracle.run.errors import InputError

PROGRAM = 500 * 2**20
"""Bytes of the program and of blocks that do not grow with the data."""

WITHIN = """
import json, resource, sys
from dataclasses import replace
import torch, floracle
from floracle.analysis.cost.stages_shape import oracle_memory
from floracle.report.stages.examples import examples
from floracle.data.store import open_store
points, dims, memory = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
drawn = torch.randn(points, dims, generator=torch.Generator().manual_seed(0))
store = open_store(drawn, memory=memory)
oracle = floracle.Oracle(store, memory=oracle_memory(store, memory))
apart = replace(store, joined_with=store.fingerprint)  # as if it were other data
stages = floracle.stages(oracle, pairs=32, times=12, held_out=apart)
examples(oracle, stages, store)
print(json.dumps(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024))
"""


@pytest.fixture
def labelled(points_source):
    drawn = torch.randn(60, 24, generator=torch.Generator().manual_seed(1))
    return points_source(drawn, torch.arange(60) % 3)


def run_of(store, **more):
    return StagesShape(store, **({"labels": (-1,), "pairs": 512, "times": 50} | more))


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"pairs": 10**12}, "1,000,000,000,000 pairs at 50 times"),
        ({"times": 10**9}, "512 pairs at 1,000,000,000 times"),
        ({"memory": "1K", "pairs": 10**7}, "fewer --pairs or --times"),
    ],
    ids=["pairs", "times", "advice"],
)
def test_what_no_memory_holds_is_refused_at_once(asked, words):
    """The size of what is measured is known beforehand, and so is what to give instead."""
    store, started = floracle.open_store("digits"), time.monotonic()
    with pytest.raises(InputError, match=words):
        check_memory(run_of(store, **asked))
    assert time.monotonic() - started < 5


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 1_000_000), (40, 200_000)], ids=str)
@pytest.mark.parametrize("deep", [False, True], ids=["plain", "deep"])
def test_the_memory_that_a_refusal_names_is_enough(shape, deep):
    """Advice that is refused in its turn would be none."""
    store = open_store(torch.arange(shape[0]).float()[:, None].expand(*shape))
    with pytest.raises(InputError, match=r"--memory \d+M") as refused:
        check_memory(run_of(store, deep=deep, memory="100M"))
    named = re.search(r"--memory (\d+M)", str(refused.value))
    check_memory(run_of(store, deep=deep, memory=named and named[1]))


@pytest.mark.slow
def test_points_of_very_many_dimensions_stay_within_the_memory():
    """Pairs, held-out pairs and examples are followed as many at a time as fit."""
    child = [sys.executable, "-c", WITHIN, "3", "200000", "400M"]
    told = subprocess.run(child, check=True, capture_output=True, text=True)
    assert json.loads(told.stdout) < 400 * 2**20 + PROGRAM


@pytest.mark.slow
def test_classes_are_counted_without_a_look_at_each(monkeypatch):
    """A dry run of a hundred thousand classes takes no longer than one of ten."""
    count = 100_000
    labels = np.repeat(np.arange(count), 2)
    store = open_store(torch.randn(2 * count, 2), labels=labels)

    def looked_at(*_):
        raise AssertionError("a class is looked at by itself")

    monkeypatch.setattr(Store, "atoms", looked_at)
    monkeypatch.setattr(speeds_module, "MIN_TIMING_SECONDS", 0)
    found = estimate_cost(run_of(store, labels=(*range(count), -1), pairs=16))
    assert found.classes == count + 1
    assert found.seconds > 60


def test_atoms_of_classes_are_counted_as_the_data_merges_them():
    """Rows that repeat in a class are one atom of it, and one of the whole set across classes."""
    points, labels = torch.tensor([[0.0], [1], [1], [2], [1], [0]]), [0, 0, 0, 1, 1, 7]
    store = open_store(points, labels=labels)
    asked = (1, -1, 7, 0)
    assert class_sizes(store, asked).tolist() == [len(store.atoms(one).rows) for one in asked]
    with pytest.raises(InputError, match="no class 3"):
        class_sizes(store, (3,))


@pytest.mark.slow
def test_every_phase_is_in_the_cost(monkeypatch):
    monkeypatch.setattr(speeds_module, "MIN_TIMING_SECONDS", 0)
    store = floracle.open_store("digits")
    plain = estimate_cost(run_of(store))
    whole = estimate_cost(run_of(store, held_out=store, deep=True))
    assert {"start-up", "spectra", "pairs", "examples", "drawing"} == set(plain.phases)
    assert {"held-out pairs", "deep"} == set(whole.phases) - set(plain.phases)
    assert whole.seconds == pytest.approx(sum(whole.phases.values()))
    assert len(list(memory_needs(run_of(store, held_out=store, deep=True)))) == 8


def test_resamples_in_pieces_are_the_same(monkeypatch):
    """Bit for bit: pieces are drawn from the same stream."""
    values = torch.rand(70, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = curves.bootstrap_means(values, 3)
    monkeypatch.setattr(curves, "RESAMPLE_BLOCK_BYTES", 16 * 70 * 7)
    assert torch.equal(curves.bootstrap_means(values, 3), whole)


def test_queries_that_do_not_fit_are_answered_in_turn(monkeypatch, labelled):
    """With the same answers, and no more at a time than the memory holds."""
    monkeypatch.setattr("floracle.oracle.oracle.SMALL_BYTES", 0)
    x, t = torch.randn(40, 24), torch.linspace(0.01, 0.9, 40)
    asked, scan = [], floracle.oracle.oracle.scan

    def counted(members, queries, **options):
        asked.append(len(queries.x))
        return scan(members, queries, **options)

    monkeypatch.setattr("floracle.oracle.oracle.scan", counted)
    whole = floracle.Oracle(labelled)(x, t)
    some = floracle.Oracle(labelled, memory=40_000)(x, t)
    assert asked[0] == 40
    assert max(asked[1:]) < 20
    assert sum(asked[1:]) == 40
    assert_close(some, whole, rtol=1e-5, atol=1e-5)


def test_what_is_held_is_what_classes_take(labelled):
    """Whatever was let go of in between; counted on, not added up anew for every class."""
    oracle = floracle.Oracle(labelled, memory=2 * 20 * 24 * 4)
    for label in (0, 1, 2, 0, 0, 1):
        oracle.class_points(label)
        sizes = [cached.points.points.nbytes for cached in oracle._cache.classes.values()]
        assert oracle._cache.bytes == sum(sizes) <= 2 * 20 * 24 * 4


def test_spectra_in_small_blocks_are_the_same(labelled):
    """Of inner products and of covariances; the whole set as the sum of its classes too."""
    for labels in ((0, -1), (0, 1, 2, -1)):
        found, usual = spectra(labelled, labels, room=1), spectra(labelled, labels)
        for label in labels:
            assert_close(found[label], usual[label], rtol=1e-5, atol=1e-6)


def test_examples_in_pieces_are_the_same(monkeypatch):
    """Noisy samples that do not fit together are followed some at a time."""
    store = floracle.open_store("digits")
    measured = stages.stages(floracle.Oracle(store), pairs=8, times=12, classes=[0, 1, -1])
    whole = examples(floracle.Oracle(store), measured, store)
    sizes, posterior = [], floracle.Oracle.posterior

    def counted(oracle, x, *more, **options):
        sizes.append(len(x))
        return posterior(oracle, x, *more, **options)

    monkeypatch.setattr(floracle.Oracle, "posterior", counted)
    some = examples(floracle.Oracle(store, memory=2**17), measured, store)
    assert len(sizes) > 3
    for name in ARRAYS:
        ours, theirs = getattr(some, name), getattr(whole, name)
        assert_close(ours, theirs, rtol=1e-4, atol=1 if ours.dtype == torch.uint8 else 1e-5)
