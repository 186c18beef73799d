"""Targets from a few atoms: how often bounds fail, what is missing, and what chance buys."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binom
from sklearn.datasets import load_digits
from torch.testing import assert_close

from floracle.core.coarse import Coarse, Frame, coarse_of
from floracle.core.paths import LINEAR, PATHS
from floracle.oracle import likely as module
from floracle.oracle.chance import Ledger, bounds, known_pairs, outline_of
from floracle.oracle.likely import likely_targets
from floracle.oracle.oracle import Oracle
from floracle.oracle.reference import reference
from floracle.run.errors import Mistake

TIMES = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.7, 0.95)


def decaying(count, dims, power=1.5, size=2.0):
    """Gaussian points whose k-th variance falls as k^−power; size² is the mean variance."""
    spectrum = torch.arange(1, dims + 1).double() ** -power
    return (torch.randn(count, dims) * (spectrum / spectrum.mean()).sqrt() * size).float()


def ready(data, kept, *, half=False, label=-1):
    """A class and its outline, from its leading directions."""
    members = Oracle(data).members(label)
    return outline_of(members, coarse_of(data, label, kept=kept, half=half))


def about(data, centre, directions):
    """A class's outline along any directions, about any centre."""
    frame = Frame.along(centre.double(), directions.float(), (len(directions),))
    return outline_of(Oracle(data).members(), coarse_of(data, frame=frame))


def logits(outline, known):
    """The true logits against the own atom, float64 [p, n]."""
    points = outline.members.originals(torch.arange(len(outline.members)))
    exactly = "donot_use_mm_for_euclid_dist"
    half = torch.cdist(known.data, points, compute_mode=exactly).square() / 2
    r = known.ratio[:, None]
    pull = known.noise @ points.T - (known.noise * known.data).sum(1, keepdim=True)
    weights = outline.members.log_weights
    return weights - weights[known.own][:, None] + r * pull - r * r * half


def pairs_of(outline, count, t, own=None):
    """Known pairs with fresh noise at one time."""
    members = outline.members
    own = torch.randint(len(members), (count,)) if own is None else own
    noise = torch.randn(count, members.dims)
    return known_pairs(members, LINEAR, own, noise, torch.full((count,), t).double())


def exceeded(outline, known, tail):
    """Which bounds are exceeded, bool [p, n], those of the own atoms left out."""
    upper = outline.upper(bounds(outline, known, tail), slice(None))
    over = logits(outline, known) > upper
    over[torch.arange(len(over)), known.own] = False
    return over


@pytest.mark.slow
@pytest.mark.parametrize("tail", [1e-2, 1e-3])
@pytest.mark.parametrize("t", [0.1, 0.5])
def test_bounds_fail_as_often_as_they_say(points_source, tail, t):
    """Around an own point without a rest no angle is unknown: the rate is the tail itself."""
    points = torch.randn(1000, 256)
    points[0] = 0
    directions = torch.linalg.qr(torch.randn(256, 16)).Q.T
    outline = about(points_source(points), torch.zeros(256), directions)
    known = pairs_of(outline, 1000, t, own=torch.zeros(1000, dtype=torch.int64))
    assert exceeded(outline, known, tail).double().mean() == pytest.approx(tail, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("tail", [1e-2, 1e-3])
def test_bounds_are_nearly_reached_at_the_worst_angle(points_source, tail):
    """Rests at the angle tan θ = q / (r ρ_o) from the own one: within a factor of the tail."""
    t, size, dims = 0.2, 8.0, 256
    q = -float(torch.special.ndtri(torch.tensor(tail)))
    angle = torch.tensor(q / (t / (1 - t) * size)).atan()
    across = torch.nn.functional.normalize(torch.randn(1000, dims - 17), dim=1)
    points = torch.zeros(1000, dims)
    points[:, :16], points[:, 17:] = torch.randn(1000, 16), size * angle.sin() * across
    points[:, 16] = size * angle.cos()
    points[0, 16:] = 0
    points[0, 16] = size
    outline = about(points_source(points), torch.zeros(dims), torch.eye(dims)[:16])
    known = pairs_of(outline, 1000, t, own=torch.zeros(1000, dtype=torch.int64))
    rate = exceeded(outline, known, tail).double().mean()
    assert 0.4 * tail < rate < 1.1 * tail


@pytest.mark.parametrize("tail", [1e-2, 1e-3])
@pytest.mark.parametrize("name", ["isotropic", "decaying", "digits"])
def test_bounds_fail_no_more_often_than_they_say(points_source, name, tail):
    """A million events; that each of them is rarer than the tail has to show in their number."""
    points = {
        "isotropic": lambda: torch.randn(1000, 128),
        "decaying": lambda: decaying(1000, 128),
        "digits": lambda: torch.as_tensor(load_digits().data[:1000]) / 8 - 1,
    }[name]().float()
    outline = ready(points_source(points), 16)
    for t in (0.1, 0.3, 0.6):
        over = exceeded(outline, pairs_of(outline, 350, t), tail)
        assert over.sum() <= binom.ppf(1 - 1e-6, over.numel(), tail)


@pytest.mark.parametrize("t", [0.1, 0.5, 0.9, 0.9999])
def test_without_chance_no_bound_fails(points_source, t):
    outline = ready(points_source(decaying(600, 128)), 24)
    known = pairs_of(outline, 200, t)
    other = outline.members.originals(torch.randint(600, (200,))) - known.data
    known.noise[:100] = (11 * other / other.norm(dim=1, keepdim=True))[:100]  # noise at its worst
    assert not exceeded(outline, known, 0.0).any()


class Watched:
    """Remembers which atoms were evaluated, to sum up what truly was missing."""

    def __init__(self, monkeypatch):
        self.kept, evaluated = [], module._evaluated

        def watching(members, known, kept):
            self.kept.append(kept)
            return evaluated(members, known, kept)

        monkeypatch.setattr(module, "_evaluated", watching)

    def missing(self, gamma):
        (kept,) = self.kept
        gamma = gamma.clone()
        gamma[kept.pair, kept.atom] = 0
        return gamma.sum(1)


def check_promises(data, outline, monkeypatch, *, tolerance, failure=1e-6, count=24, times=TIMES):
    """Targets keep what they promise, at every time; returns the mean share touched by time."""
    shares = {}
    points = outline.members.originals(torch.arange(len(outline.members)))
    for t in times:
        watched = Watched(monkeypatch)
        own = torch.randint(len(points), (count,))
        rows, noise = outline.members.rows[own], torch.randn(count, *data.shape)
        at = torch.full((count,), t, dtype=torch.float64)
        found = likely_targets(
            outline, LINEAR, rows, noise, at, tolerance=tolerance, failure=failure
        )
        monkeypatch.undo()
        known = known_pairs(outline.members, LINEAR, own, noise, at)
        gamma = logits(outline, known).softmax(1)
        truth = known.conditional + known.amplification[:, None] * (gamma @ points - known.data)
        error = (found.velocity.flatten(1) - truth).norm(dim=1) / truth.norm(dim=1)
        partly = found.touched < len(points)
        missing = watched.missing(gamma)
        assert (error <= found.error).all(), (t, error.max(), found.error.max())
        assert (found.error <= max(tolerance, 1e-9)).all(), (t, found.error.max())
        assert (missing[partly] <= found.missing[partly] + 1e-300).all(), t
        assert not found.missing[~partly].any()
        assert found.failure <= failure
        shares[t] = float(found.touched.double().mean()) / len(points)
    return shares


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_promises_are_kept_on_a_decaying_spectrum(points_source, monkeypatch, tolerance, half):
    data = points_source(decaying(4000, 512))
    shares = check_promises(data, ready(data, 64, half=half), monkeypatch, tolerance=tolerance)
    assert shares[0.5] == shares[0.95] == 1 / 4000
    assert shares[0.3] < 0.01


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_promises_are_kept_on_digits(points_source, monkeypatch, tolerance):
    images = torch.as_tensor(load_digits().images) / 8 - 1
    data = points_source(images[:, None].float())
    check_promises(data, ready(data, 16), monkeypatch, tolerance=tolerance)


@pytest.fixture(scope="module")
def pictures(shared, points_source):
    """2500 images of CIFAR-10, from a lossless sheet, and their outline."""
    sheet = shared / "data" / "cifar10" / "train-00.webp"
    tiles = np.asarray(Image.open(sheet)).reshape(50, 32, 50, 32, 3)
    images = tiles.transpose(0, 2, 4, 1, 3).reshape(-1, 3, 32, 32)
    data = points_source(torch.from_numpy(images / 127.5 - 1))
    return data, ready(data, 128)


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
def test_promises_are_kept_on_pictures(pictures, monkeypatch, tolerance):
    data, outline = pictures
    times = (0.05, 0.2, 0.3, 0.4, 0.7, 0.95)
    shares = check_promises(data, outline, monkeypatch, tolerance=tolerance, count=5, times=times)
    assert shares[0.4] < 0.01
    assert shares[0.7] == 1 / 2500


LAYOUTS = ("weighted", "merged", "near 1e-2", "near 1e-4", "near 1e-5", "near 1e-6", "far", "flat")


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_promises_are_kept_where_points_are_awkward(points_source, monkeypatch, layout, tolerance):
    points, weights = decaying(500, 96), None
    if layout == "weighted":
        weights = torch.logspace(-6, 0, 500, dtype=torch.float64)
    if layout == "merged":
        points[100:200] = points[:100]
    if layout.startswith("near"):
        points[100:200] = points[:100] + float(layout.split()[1]) * torch.randn(100, 96)
    if layout == "far":
        points += 100
    if layout == "flat":  # nothing is left beyond the directions
        points[:, 12:] = 0
    data, times = points_source(points, weights=weights), (0.05, 0.3, 0.5, 0.95, 0.9999)
    outline = ready(data, 12)
    check_promises(data, outline, monkeypatch, tolerance=tolerance, times=times)


def asked(outline, count=32, t=0.3):
    """Arguments for targets of fresh pairs."""
    rows = outline.members.rows[torch.randint(len(outline.members), (count,))]
    at = torch.full((count,), t, dtype=torch.float64)
    return rows, torch.randn(count, *outline.members.source.shape), at


@pytest.mark.slow
def test_chance_prunes_far_earlier_than_certainty(points_source, monkeypatch):
    """Cauchy–Schwarz at the same coordinates needs a thousand atoms where chance needs tens."""
    monkeypatch.setattr(module, "SHARE", 1.0)
    outline = ready(points_source(decaying(4000, 512)), 64)
    touched = {}
    for t in (0.2, 0.3):
        rows, noise, at = asked(outline, t=t)
        for failure in (1e-6, 0.0):
            found = likely_targets(
                outline, LINEAR, rows, noise, at, tolerance=1e-3, failure=failure
            )
            touched[t, failure] = float(found.touched.double().mean())
    assert 10 < touched[0.2, 1e-6] < 150
    assert touched[0.2, 0.0] > 10 * touched[0.2, 1e-6]
    assert touched[0.3, 1e-6] < 2
    assert touched[0.3, 0.0] > 10 * touched[0.3, 1e-6]


def test_selected_noise_breaks_the_promise(points_source):
    """Noise that points from one atom to another is no surprise to whoever chose it, but to us."""
    points = torch.zeros(300, 256)
    points[:, :8] = 40 * torch.randn(300, 8)
    points[1] = points[0]
    points[1, 20] = 16.0
    data = points_source(points)
    outline = about(data, torch.zeros(256), torch.eye(256)[:8])
    noise = torch.zeros(1, 256)
    noise[0, 20] = 16.0  # as long as noise should be
    rows, at = torch.zeros(1, dtype=torch.int64), torch.tensor([0.5], dtype=torch.float64)
    x = LINEAR.sample(points[rows], noise, at)
    truth = reference(points, x.double(), at).velocity
    for failure, right in ((1e-6, False), (0.0, True)):
        found = likely_targets(outline, LINEAR, rows, noise, at, tolerance=1e-3, failure=failure)
        error = (found.velocity - truth).norm() / truth.norm()
        assert (error <= found.error).item() is right


def test_a_ledger_adds_up_what_was_relied_on(points_source):
    outline = ready(points_source(decaying(1000, 256)), 32)
    ledger, count = Ledger(limit=2.5e-4), 20
    rows, noise, at = asked(outline, count, t=0.7)
    late = [
        likely_targets(
            outline, LINEAR, rows, noise, at, tolerance=1e-3, failure=1e-4, ledger=ledger
        )
        for _ in range(2)
    ]
    pruned = sum(int((1000 - found.touched).sum()) for found in late)
    assert ledger.spent == pytest.approx(1e-4 * pruned / (count * 1000))
    for kwargs in ({"failure": 0.0}, {"failure": 1e-4, "early": True}):
        when = torch.zeros_like(at) if kwargs.pop("early", False) else at
        found = likely_targets(
            outline, LINEAR, rows, noise, when, tolerance=1e-3, ledger=ledger, **kwargs
        )
        assert found.failure == 0
    assert ledger.spent == pytest.approx(1e-4 * pruned / (count * 1000))
    with pytest.raises(Mistake, match=r"limit is 0\.00025"):
        likely_targets(
            outline, LINEAR, rows, noise, at, tolerance=1e-3, failure=1e-4, ledger=ledger
        )
    with pytest.raises(ValueError, match="a probability"):
        ledger.spend(-0.1)


@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
def test_every_path_and_its_own_time_for_every_pair(points_source, path):
    data = points_source(decaying(800, 8 * 16).reshape(800, 8, 16))
    outline = ready(data, 24)
    rows, noise, _ = asked(outline, 60)
    at = torch.linspace(0, 0.99, 60, dtype=torch.float64)
    found = likely_targets(outline, path, rows, noise, at, tolerance=1e-4, failure=1e-6)
    points = data.points.flatten(1).double()
    x = path.sample(points[rows], noise.flatten(1).double(), at)
    truth = reference(points, x, at, path=path)
    error = (found.velocity.flatten(1) - truth.velocity).norm(dim=1)
    assert found.velocity.shape == found.mean.shape == (60, 8, 16)
    assert (error <= found.error * truth.velocity.norm(dim=1)).all()
    assert (found.touched[:2] == 800).all()
    assert (found.touched[-20:] == 1).all()
    assert_close(found.mean[-20:].flatten(1), points[rows[-20:]], rtol=0, atol=1e-6)


def test_pieces_and_streaming_change_nothing(points_source, monkeypatch):
    data = points_source(decaying(900, 128) + 20)
    args = asked(ready(data, 24), 40, t=0.35)
    kwargs = {"tolerance": 1e-6, "failure": 1e-6}
    whole = likely_targets(ready(data, 24), LINEAR, *args, **kwargs)
    streamed = outline_of(Oracle(data, memory=1).members(), coarse_of(data, kept=24))
    monkeypatch.setattr(module, "TOGETHER", 8 * 128 * 7)
    monkeypatch.setattr(module, "CACHED", 1000)
    for outline in (ready(data, 24), streamed):
        found = likely_targets(outline, LINEAR, *args, **kwargs)
        assert 1 < found.touched.double().mean() < 900
        assert_close(found.velocity, whole.velocity, rtol=0, atol=1e-4)
        assert found.failure == pytest.approx(whole.failure)


def test_mistakes_say_what_to_do(points_source):
    data = points_source(decaying(50, 16))
    outline = ready(data, 4)
    rows, noise, at = asked(outline, 3)
    for tolerance, failure, words in (
        (0.0, 1e-6, "ask the oracle itself"),
        (1e-3, 1.0, "failure is the probability"),
    ):
        with pytest.raises(Mistake, match=words):
            likely_targets(outline, LINEAR, rows, noise, at, tolerance=tolerance, failure=failure)
    for wrong, words in (
        ((rows[:2], noise, at), "2 rows, 3 noises and 3 times"),
        ((rows, noise[:, :4], at), "4 dimensions, not 16"),
        ((rows, noise / 0, at), "NaN or infinity"),
        ((rows, noise, at + 0.7), "t = 1"),
        ((rows + 50, noise, at), "is not an atom"),
    ):
        with pytest.raises(ValueError, match=words):
            likely_targets(outline, LINEAR, *wrong, tolerance=1e-3, failure=1e-6)
    other: Coarse = coarse_of(points_source(decaying(40, 16)), kept=4)
    with pytest.raises(ValueError, match="holds 40 atoms, the class 50"):
        outline_of(outline.members, other)
