"""Several processes against one: the same posterior, whoever reads the points.

Two orders of float32 sums differ by rounding: about 1e-7 of a velocity on the forward path, up to
3e-6 midway between two points or where the data sits a thousand deviations from the origin, which
the contract of 1e-5 allows. Where products are in float64 nothing of it shows.
"""

from __future__ import annotations

import dataclasses
import sys
from functools import reduce

import numpy as np
import pytest
import torch

from floracle.core.nearest import Neighbours, nearest
from floracle.core.paths import LINEAR
from floracle.core.point_set import PointSet, Prepared
from floracle.core.spectrum import moments
from floracle.oracle import scan as dense
from floracle.oracle.class_points import ClassPoints, gather_class_points
from floracle.oracle.distributed import ProcessShare
from floracle.oracle.float64_refinement import RoundingEffects, refine
from floracle.oracle.oracle import Oracle
from floracle.oracle.queries import prepare_queries
from floracle.oracle.reference import reference
from floracle.oracle.scan import scan
from floracle.run.exchange import merge_over_group
from floracle.run.processes import ProcessGroup
from floracle.sampling.grid import time_grid
from floracle.sampling.sample import sample
from many import Started, in_threads

TIMES = torch.tensor(
    [0, 1e-3, 0.03, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.97, 0.99, 0.999, 0.9999], dtype=torch.float64
)
PROMISED, DELICATE = 1e-6, 5e-6
CPU = torch.device("cpu")


def cloud(count, dims, *, layout="plain", offset=0.0, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    spectrum = (1 + torch.arange(dims)).double() ** -0.7
    points = torch.randn(count, dims, generator=drawn) * (spectrum / spectrum.mean()).sqrt() / 2
    if layout == "near":
        half = count // 2
        points[-half:] = points[:half] + 1e-3 * torch.randn(half, dims, generator=drawn) / 2
    if layout == "ball":
        few = count - 3
        points[:few] = points[0] + 1e-4 * torch.randn(few, dims, generator=drawn)
    return (points + offset).float()


def placed(points, kind, *, seed=0):
    drawn = torch.Generator().manual_seed(seed)
    rows = torch.randint(len(points), (2, len(TIMES)), generator=drawn)
    data = points[rows].double()
    noise = torch.randn(len(TIMES), points.shape[1], generator=drawn, dtype=torch.float64)
    t = TIMES[:, None]
    return {
        "path": t * data[0] + (1 - t) * noise,
        "two": t * data.mean(0),
        "far": t * data[0] + 10 * noise,
    }[kind]


def apart(found, expected, data, label, x, t=TIMES):
    """Distances of velocities [b], relative to their norm, and to what is allowed besides.

    That is how far u* moves when x moves by its own float64 rounding, as in test_exactness.
    """
    atoms, c = data.atoms(label), LINEAR.coefficients(t)
    points = data.take(atoms.rows).double()
    truth = reference(points, x, t, weights=atoms.weights)
    about = points - points.mean(0)
    spread = truth.posterior @ about.square().sum(1)
    spread = (spread - (truth.mean - points.mean(0)).square().sum(1)).clamp(min=0)
    lengths = x.double().norm(dim=1) + points.norm(dim=1).max()
    rounding = (c.alpha / c.sigma**3) * 2.0**-52 * lengths * spread
    return ((found - expected).norm(dim=1) - rounding).clamp(min=0) / expected.norm(dim=1)


def same(parts):
    """The answers of all processes, which are one answer bit for bit."""
    for part in parts[1:]:
        for one, other in zip(part, parts[0], strict=True):
            assert torch.equal(one, other)
    return parts[0]


# what a process sees of a class ----------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_shares_make_up_the_whole(points_source, size):
    points = cloud(11, 4)[torch.tensor([0, 1, 2, 0, 3, 4, 5, 6, 6, 7, 8])]
    data = points_source(points, torch.arange(11) % 2, torch.rand(11) + 0.1)
    shares = [ProcessShare(data, ProcessGroup(rank, size)) for rank in range(size)]
    assert all(isinstance(one, PointSet) for one in shares)
    for label in (-1, 0, 1):
        whole, parts = data.atoms(label), [one.atoms(label) for one in shares]
        assert torch.equal(torch.cat([part.rows for part in parts]), whole.rows)
        assert torch.equal(torch.cat([part.weights for part in parts]), whole.weights)
        blocks = [block for one in shares for block in one.blocks(label, rows=2)]
        assert max(len(block.rows) for block in blocks) <= 2
        assert torch.equal(torch.cat([block.rows for block in blocks]), whole.rows)
        assert torch.equal(torch.cat([b.points for b in blocks]), points[whole.rows])
        folded = [moments(one, label) for one in shares]
        merged = reduce(type(folded[0]).merge, folded, type(folded[0]).empty(4))
        torch.testing.assert_close(merged.mean, moments(data, label).mean, rtol=1e-12, atol=1e-12)
    one = shares[-1]
    assert (len(one), one.shape, one.fingerprint) == (11, (4,), data.fingerprint)
    assert torch.equal(one.labels, data.labels)
    assert torch.equal(one.take(torch.tensor([9, 0])), points[[9, 0]])


@pytest.mark.parametrize("room", [0, 2**30])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_members_divide_points_and_share_the_rest(points_source, room, offset, monkeypatch):
    points = cloud(50, 70, offset=offset)
    data = points_source(points, weights=torch.rand(50) + 0.1)

    def work(group):
        return gather_class_points(data, -1, group=group, room=room, device=CPU)

    members = in_threads(3, work, monkeypatch)
    whole = Oracle(data).class_points()
    for one in members:
        assert len(one) == 50
        assert torch.equal(one.rows, whole.rows)
        assert torch.equal(one.log_weights, whole.log_weights)
        assert torch.equal(one.norms, members[0].norms)
        assert torch.equal(one.centre, members[0].centre)
        torch.testing.assert_close(one.norms, whole.norms, rtol=1e-6, atol=0)
        assert one.largest == pytest.approx(whole.largest, rel=1e-6)
        assert one.exact == whole.exact == (offset == 0)
        assert (one.points is None) == (room == 0)
        some = torch.tensor([[49, 0], [17, 30]])
        assert torch.equal(one.originals(some), points[some].double())
    slabs = [slab for one in members for slab in one.blocks(7)]
    assert [slab.start for slab in slabs] == [0, 7, 14, 17, 24, 31, 34, 41, 48]
    working = torch.cat([slab.points for slab in slabs])
    torch.testing.assert_close(working, points - members[0].offset.float(), rtol=0, atol=0)


def test_what_a_source_knows_beforehand_is_not_measured_again(points_source, monkeypatch):
    points, calls = cloud(20, 5), []
    data = points_source(points)
    centre = points.double().mean(0).float().double()
    norms = (points.double() - centre).square().sum(1)
    known = Prepared(centre, norms, float(norms.mean()), float(points.norm(dim=1).max()), None)
    monkeypatch.setattr(type(data), "prepared", lambda *_: known, raising=False)
    monkeypatch.setattr(type(data), "take", lambda self, rows: calls.append(rows) or points[rows])
    found = gather_class_points(data, -1, group=ProcessGroup(1, 4), room=2**30, device=CPU)
    assert found.norms is norms
    assert [rows.tolist() for rows in calls] == [[5, 6, 7, 8, 9]]


# one answer ------------------------------------------------------------------------------------

CASES = {
    "plain": ({}, PROMISED),
    "near-duplicates": ({"layout": "near"}, PROMISED),
    "crowded": ({"layout": "ball"}, PROMISED),
    "far from the origin": ({"offset": 1000.0, "layout": "near"}, DELICATE),
    "few dimensions": ({"dims": 8}, 1e-12),
}


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(("case", "limit"), CASES.values(), ids=CASES)
@pytest.mark.parametrize("streamed", [False, True])
def test_velocities_are_those_of_one_process(
    points_source, case, limit, size, streamed, monkeypatch
):
    points = cloud(120, **{"dims": 96, **case})
    points[50] = points[3]
    labels = torch.arange(120) % 5
    labels[[7, 8]] = 9  # a class smaller than the group
    labels[9] = 11
    data = points_source(points, labels, torch.rand(120) + 0.1)
    memory = 1 if streamed else None
    for label in (-1, 2, 9, 11):
        asked = torch.full((len(TIMES),), label)
        for kind in ("path", "two", "far"):
            x = placed(points[data.atoms(label).rows], kind)
            alone = Oracle(data, memory=memory)

            def work(group, x=x, asked=asked):
                return (Oracle(data, memory=memory, group=group)(x, TIMES, asked),)

            (found,) = same(in_threads(size, work, monkeypatch))
            off = apart(found, alone(x, TIMES, asked), data, label, x).max()
            assert off <= (limit if kind != "two" or limit < PROMISED else DELICATE)


@pytest.mark.parametrize("layout", ["plain", "near", "ball"])
def test_posteriors_are_those_of_one_process(points_source, layout, monkeypatch):
    points = cloud(90, 96, layout=layout)
    data = points_source(points, torch.arange(90) % 2, torch.rand(90) + 0.1)
    labels = torch.tensor([-1, 0, 1])[torch.arange(len(TIMES)) % 3]
    x = placed(points, "path")
    names = [field.name for field in dataclasses.fields(Oracle(data).posterior(x, TIMES, labels))]

    def work(group):
        found = Oracle(data, group=group).posterior(x, TIMES, labels)
        return [getattr(found, name) for name in names]

    found = dict(zip(names, same(in_threads(3, work, monkeypatch)), strict=True))
    alone = Oracle(data).posterior(x, TIMES, labels)
    for name in names:
        expected = getattr(alone, name)
        if name != "top_rows":
            torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=2e-6)
    torch.testing.assert_close(found["log_mass"], alone.log_mass, rtol=1e-9, atol=1e-6)
    assert torch.equal(found["top_rows"][:, 0], alone.top_rows[:, 0])
    truth = reference(points, x[:1], TIMES[:1], weights=data.atoms().weights)
    torch.testing.assert_close(found["mean"][0], truth.mean[0], rtol=1e-5, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_what_is_scanned_again_is_scanned_by_all(points_source, offset, monkeypatch):
    """A crowd larger than the leaders that are kept: float64, and then about a leader."""
    data = points_source(cloud(120, 96, layout="ball", offset=offset))
    x, naturally = placed(data.points, "two"), 32
    whole, asked_about = Oracle(data).class_points(), []

    def centred_on(members, position, plain=ClassPoints.centred_on):
        asked_about.append(members.group.rank)
        near = plain(members, position)
        torch.testing.assert_close(near.norms, plain(whole, position).norms, rtol=1e-12, atol=0)
        return near

    def work(group):
        members = Oracle(data, group=group).class_points()
        asked = prepare_queries(members, x, TIMES, LINEAR)
        found = refine(members, asked, scan(members, asked))
        return asked.velocity(found.mean), found.rescored

    truth = reference(data.points, x, TIMES).velocity
    monkeypatch.setattr(ClassPoints, "centred_on", centred_on)
    for most in (naturally, len(whole)):
        velocity, rescored = same(in_threads(3, work, monkeypatch))
        assert rescored.max() >= most
        assert apart(velocity, truth, data, -1, x).max() <= 1e-5
        monkeypatch.setattr(RoundingEffects, "velocity_error", lambda self, *_: self.trace + 1)
    assert sorted(asked_about) == sorted([0, 1, 2] * (len(asked_about) // 3))
    assert len(asked_about) >= 3


def test_block_size_changes_nothing_either(points_source, monkeypatch):
    data = points_source(cloud(90, 96))
    x = placed(data.points, "path")
    expected = Oracle(data)(x, TIMES)
    monkeypatch.setattr(dense, "block_rows", lambda *_: 7)

    def work(group):
        return (Oracle(data, group=group)(x, TIMES),)

    (found,) = same(in_threads(2, work, monkeypatch))
    assert apart(found, expected, data, -1, x).max() <= PROMISED


@pytest.mark.slow
def test_trajectories_stay_together(points_source, monkeypatch):
    data = points_source(cloud(60, 80, layout="near"), torch.arange(60) % 3)
    noise, labels = torch.randn(5, 80), torch.tensor([0, 1, 2, 0, -1])

    def follow(group=None):
        return sample(Oracle(data, group=group), noise, time_grid(12), labels=labels)

    (found,) = same(in_threads(3, lambda group: (follow(group),), monkeypatch))
    torch.testing.assert_close(found, follow(), rtol=0, atol=PROMISED)


def test_classes_are_let_go_of_together(points_source, monkeypatch):
    """Shares differ by one row; what is kept and what is read again must not."""
    count, dims = 10, 64
    data = points_source(cloud(3 * count, dims), torch.arange(3 * count) % 3)
    x, t = torch.randn(1, dims), torch.tensor([0.3])

    def work(group):
        room = 2 * 4 * dims * (4 + (group.rank == 0))  # two shares of one process, not of another
        oracle = Oracle(data, memory=group.size * room, group=group)
        for label in (0, 1, 2, 0, 2, 1, 0):
            oracle(x, t, torch.tensor([label]))
        return (torch.tensor(list(oracle._cache.classes)),)

    assert len(same(in_threads(3, work, monkeypatch))[0]) >= 2


def test_pairs_and_held_out_pairs_are_whole_on_every_process(points_source, monkeypatch):
    data = points_source(cloud(30, 16))
    rows, noise = torch.tensor([3, 20]), torch.randn(2, 16)

    def work(oracle):
        pairs = oracle.pairs(rows, noise, TIMES, mirrored=True)
        held_out = oracle.held_out_pairs(noise, noise.flip(0), TIMES)
        return pairs.variance, pairs.entropy, held_out.gap

    found = same(in_threads(3, lambda group: work(Oracle(data, group=group)), monkeypatch))
    for one, other in zip(found, work(Oracle(data)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-9)


def test_neighbours_merge_over_shares(points_source, monkeypatch):
    points = cloud(40, 12)
    points[33] = points[2]
    data, asked = points_source(points), torch.randn(6, 12)

    def work(group):
        return dataclasses.astuple(
            merge_over_group(group, nearest(ProcessShare(data, group), asked, 3))
        )[:2]

    distances, rows = same(in_threads(3, work, monkeypatch))
    expected = nearest(data, asked, 3)
    assert isinstance(expected, Neighbours)
    assert torch.equal(rows, expected.rows)
    assert torch.equal(distances, expected.distances)


# real processes --------------------------------------------------------------------------------

REAL = """
import sys
import numpy as np, torch
import floracle
from floracle.run.processes import joined
given = np.load("given.npz")
x, t, labels = (torch.from_numpy(given[name]) for name in ("x", "t", "labels"))
data = floracle.open_store(given["points"], labels=given["classes"], weights=given["weights"])
with joined() as group:
    oracle = floracle.Oracle(data, group=group)
    velocity, posterior = oracle(x, t, labels), oracle.posterior(x, t, labels)
    np.savez(sys.argv[1], velocity=velocity, entropy=posterior.entropy, rows=posterior.top_rows)
"""


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 4])
def test_real_processes_find_what_one_finds(size, tmp_path):
    points = cloud(150, 96, layout="near").numpy()
    points[100] = points[1]
    classes = np.arange(150) % 4
    classes[5] = 7
    weights = np.random.default_rng(0).random(150) + 0.1
    labels = np.array([-1, 0, 1, 7])[np.arange(26) % 4]
    x = torch.cat([placed(torch.from_numpy(points), kind) for kind in ("path", "two")]).numpy()
    given = {"points": points, "classes": classes, "weights": weights, "labels": labels}
    np.savez(tmp_path / "given.npz", x=x, t=TIMES.repeat(2).numpy(), **given)
    script = tmp_path / "script.py"
    script.write_text(REAL)
    started = Started(size, [str(script)], where=tmp_path, each=lambda rank: [f"{rank}.npz"])
    codes, _, errs = started.ended()
    assert codes == [0] * size, errs
    found = [np.load(tmp_path / f"{rank}.npz") for rank in range(size)]
    assert all((one[name] == found[0][name]).all() for one in found for name in one.files)

    import floracle

    data = floracle.open_store(points, labels=classes, weights=weights)
    asked = torch.from_numpy(x), TIMES.repeat(2), torch.from_numpy(labels)
    alone = floracle.Oracle(data)
    velocity, expected = torch.from_numpy(found[0]["velocity"]), alone(*asked)
    for label in (-1, 0, 1, 7):
        these = asked[2] == label
        off = apart(velocity[these], expected[these], data, label, *(a[these] for a in asked[:2]))
        assert off.max() <= DELICATE
    posterior = alone.posterior(*asked)
    assert np.abs(found[0]["entropy"] - posterior.entropy.numpy()).max() <= 2e-6
    assert (found[0]["rows"][:, 0] == posterior.top_rows[:, 0].numpy()).all()
    assert sys.modules["torch.distributed"].is_initialized() is False
