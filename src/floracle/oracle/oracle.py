"""`Oracle`: the training set's own velocity field.

What a model would follow if it fitted its training set perfectly: the average of all flow-matching
targets at a noisy point, in closed form (Theorem 2.1). Exact to 1e-5 of its own norm for any t in
[0, 0.9999], on the forward path and off it.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass, field, replace
from itertools import islice

import torch
from torch import Tensor

from floracle.core.coarse_view import coarse_view, kept_coordinates
from floracle.core.paths import LINEAR, ProbabilityPath, check_times
from floracle.core.point_set import NO_LABEL, PointSet, classes
from floracle.run.budget import FREE_MEMORY_SHARE, choose_device, memory_budget
from floracle.run.errors import InputError
from floracle.run.exchange import broadcast_from_first, bytes_of, check_same
from floracle.run.files import digest
from floracle.run.processes import ALONE, ProcessGroup

from .class_points import ClassPoints, gather_class_points
from .distributed import gather_shared_class_points
from .float64_refinement import Refined, refine
from .pairs.forward_pairs import PairCurves, pair_bytes, pair_curves
from .pairs.held_out_pairs import HeldOutPairs, held_out_pair_bytes, held_out_pair_curves
from .posterior import Posterior
from .pruning.bfloat16_bounds import quick
from .pruning.screen import Screen, room_for, screen_of
from .pruning.search import possible, prune
from .scan import Passed, Queries, queries, query_bytes, scan

TOP = 8
"""How many leading atoms a posterior reports."""
LEAST_ROOM = 4
"""One in so many bytes of the memory is worked with, however much the points of a class take."""
SMALL_BYTES = 2**24
"""What takes no more is worked on at once, without a look at the memory."""


@dataclass
class ClassBytes:
    """The bytes that classes at hand take, and their sum.

    The sum is kept: added up anew for every class, it would cost the square of their number.
    """

    by_label: dict[int, int] = field(default_factory=dict)
    total: int = 0

    def put(self, label: int, size: int) -> None:
        """A class takes so many bytes from now on."""
        self.total += size - self.by_label.get(label, 0)
        self.by_label[label] = size

    def drop(self, label: int) -> None:
        """A class was let go of."""
        self.total -= self.by_label.pop(label, 0)


@dataclass(frozen=True)
class Oracle:
    """The oracle velocity of a data set, as a velocity field.

    `path` is the forward process; the field lives on it. `memory` ("4G" or bytes; by default half
    of what is free) bounds what is kept of the data and worked with: classes that fit stay
    resident, others are streamed, and as many queries are answered at a time as fit beside their
    class, or a quarter of the memory where that is more. Labels choose the class each query is
    averaged over; −1 (or None) is the whole set.
    At a `temperature` other than 1 the weights are γ^(1/temperature), normalised: below 1 they
    sharpen towards the nearest sample, above 1 they spread. That is no training set's field.
    With a `group` its processes share the points; each asks the same and gets the same answer.
    A `tolerance` lets atoms be left out where the relative velocity error that this costs is
    proven to be no more; where it cannot be proven, or would not pay, all of them are read.
    """

    data: PointSet
    path: ProbabilityPath = LINEAR
    memory: int | str | None = None
    device: torch.device | str | None = None
    temperature: float = 1.0
    group: ProcessGroup | None = None
    tolerance: float = 0.0
    _kept: OrderedDict[int, ClassPoints] = field(
        default_factory=OrderedDict, init=False, repr=False, compare=False
    )
    _bytes: ClassBytes = field(default_factory=ClassBytes, init=False, repr=False, compare=False)
    _screens: dict[int, Screen] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise InputError(f"temperature must be positive and finite, got {self.temperature:g}")
        if not 0 <= self.tolerance < 1:
            raise InputError(
                f"tolerance is a relative velocity error in [0, 1), got {self.tolerance:g}"
            )

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """u* at samples x [b, *shape], times t [b] in [0, 1), labels int64 [b]; as x's type."""
        velocity = torch.empty_like(x)
        for places, _, asked, resolved in self._resolved(x, t, labels):
            found = asked.velocity(resolved.mean).to(x.dtype).to(x.device)
            velocity[places] = found.reshape(-1, *self.data.shape)
        return velocity

    @torch.no_grad()
    def posterior(
        self, x: Tensor, t: Tensor, labels: Tensor | None = None, *, top: int = TOP
    ) -> Posterior:
        """Who votes at samples x [b, *shape]: means, weights, entropy, log mass (float64)."""
        parts, groups = [], []
        for places, members, asked, resolved in self._resolved(x, t, labels, top):
            parts.append(self._posterior(members, asked, resolved, top))
            groups.append(places)
        return Posterior.joined(parts, groups)

    def log_density(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Log p_t(x) in nats, float64 [b]: the density of noisy samples of the set or class."""
        self.check_untempered("a density")
        sigma = self.path.coefficients(t).sigma.to(x.device)
        normal = self._dims / 2 * (2 * math.pi * sigma**2).log()
        return self.posterior(x, t, labels, top=1).log_mass - normal.cpu()

    @torch.no_grad()
    def pairs(
        self,
        rows: Tensor,
        noise: Tensor,
        times: Tensor,
        *,
        label: int = NO_LABEL,
        mirrored: bool = False,
    ) -> PairCurves:
        """The posterior of known pairs at all times, from two rows of inner products each.

        `rows` int64 [p] are rows of the data, `noise` [p, *shape] their noise, `times` [T] in
        [0, 1); the class averaged over is `label`. Costs two products of p × n × D, whatever T is.
        `mirrored` averages every pair with the one of opposite noise, which costs no product.
        Over the whole set of labelled data the entropy of the class is followed as well.
        """
        check_times(times)
        self.check_untempered("a pair")
        if not self._together.alone:
            asked = {"rows": rows, "noise": noise, "times": times}
            content = {name: _hash(values) for name, values in asked.items()}
            check_same(self._together, {"data": digest(self.data.fingerprint), **content})
        members = self.class_points(label)
        size = self._fitting(label, len(rows), pair_bytes(members, len(times)))
        return pair_curves(members, self.path, rows, noise, times, mirrored=mirrored, size=size)

    @torch.no_grad()
    def held_out_pairs(
        self, points: Tensor, noise: Tensor, times: Tensor, *, label: int = NO_LABEL
    ) -> HeldOutPairs:
        """The posterior of pairs whose data [p, *shape] is outside the set, at all times [T]."""
        check_times(times)
        self.check_untempered("a pair")
        if not self._together.alone:
            return self.alone().held_out_pairs(points, noise, times, label=label)
        members = self.class_points(label)
        size = self._fitting(label, len(points), held_out_pair_bytes(members))
        return held_out_pair_curves(members, self.path, points, noise, times, size=size)

    def class_points(self, label: int = NO_LABEL) -> ClassPoints:
        """The atoms of a class, made ready once and kept while memory allows."""
        if label in self._kept:
            self._kept.move_to_end(label)
            return self._kept[label]
        if label != NO_LABEL and not (self.data.labels == label).any():
            raise InputError(
                f"there is no class {label}; labels are {classes(self.data) or 'all −1'}"
            )
        budget = self._budget()
        group, count = self._together, len(self.data.atoms(label).rows)
        size = -(-count // group.size) * self._dims * 4
        self._make_room(size, budget)
        room, device = budget - self._held(), choose_device(self.device)
        if group.alone:
            found = gather_class_points(self.data, label, room=room, device=device)
        else:
            found = gather_shared_class_points(
                self.data, label, group=group, room=room, device=device
            )
        tempered = replace(found, log_weights=found.log_weights / self.temperature)
        self._kept[label] = tempered
        self._note(label)
        return tempered

    def room(self, label: int = NO_LABEL) -> int:
        """Bytes to work with beside the points of a class, once others are let go of."""
        budget = self._budget()
        return max(1, budget - self._bytes.by_label.get(label, 0), budget // LEAST_ROOM)

    def alone(self) -> Oracle:
        """The same oracle for this process alone, which then reads all points itself."""
        if self._together.alone:
            return self
        return replace(self, group=None, memory=max(1, self._budget()))

    @property
    def _together(self) -> ProcessGroup:
        return self.group or ALONE

    @property
    def _dims(self) -> int:
        return torch.Size(self.data.shape).numel()

    def check_untempered(self, what: str) -> None:
        """Refuse what has no meaning at another temperature."""
        if self.temperature != 1:
            raise InputError(f"{what} is defined at temperature 1, not {self.temperature:g}")

    def _budget(self) -> int:
        """Bytes that may be used: as named, or half of what is free and already held together.

        The processes of one machine divide its memory.
        """
        device = choose_device(self.device)
        budget = memory_budget(self.memory, device) // self._together.local_size
        return budget + (int(FREE_MEMORY_SHARE * self._held()) if self.memory is None else 0)

    def _held(self) -> int:
        return self._bytes.total

    def _note(self, label: int) -> None:
        """Write down how many bytes a class at hand takes."""
        members, screen = self._kept[label], self._screens.get(label)
        points = 0 if members.points is None else members.points.nbytes
        seen = screen.held if screen is not None and screen.members is members else 0
        self._bytes.put(label, points + seen)

    def _fitting(self, label: int, count: int, each: int) -> int:
        """How many of `count` things of `each` bytes are worked on at a time, beside a class.

        Other classes are let go of for them. All processes of a group take as many.
        """
        if count * each <= SMALL_BYTES:
            return count
        size = max(1, min(count, self.room(label) // each))
        size = broadcast_from_first(self._together, [size])[0]
        self._make_room(size * each, self._budget(), beside=1)
        return size

    def _make_room(self, size: int, budget: int, *, beside: int = 0) -> None:
        """Let go of what was asked longest ago until `size` bytes fit; every process of the same.

        What does not fit at all displaces nothing, and the last `beside` classes stay.
        """
        held, dropped = self._held(), 0
        for label in islice(self._kept, len(self._kept) - beside):
            if size > budget or held + size <= budget:
                break
            held -= self._bytes.by_label[label]
            dropped += 1
        dropped = broadcast_from_first(self._together, [dropped])[0]
        for label in list(islice(self._kept, dropped)):
            del self._kept[label]
            self._screens.pop(label, None)
            self._bytes.drop(label)

    def _resolved(self, x: Tensor, t: Tensor, labels: Tensor | None, top: int = TOP):  # noqa: ANN202
        """Queries by class: their places, atoms, themselves, and their resolved sums."""
        _check(self.data, x, t, labels)
        self._check_same(x, t, labels)
        flat = x.flatten(1).to(choose_device(self.device))
        t = check_times(t).to(flat.device)
        if labels is None:
            labels = torch.full((len(x),), NO_LABEL)
        for label in labels.unique().tolist() or [NO_LABEL]:
            every = (labels == label).nonzero()[:, 0]
            members = self.class_points(label)
            bounds = 8 * len(members) if self.tolerance > 0 else 0  # where atoms are left out
            size = self._fitting(label, len(every), query_bytes(members) + bounds)
            for places in every.split(max(1, size)):
                at = flat[places], t[places], self.path
                asked = queries(members, *at, temperature=self.temperature)
                yield from self._resolved_together(members, places, asked, top)

    def _resolved_together(self, members: ClassPoints, places: Tensor, asked: Queries, top: int):  # noqa: ANN202
        """Queries of one class that fit the memory together, like `_resolved`."""
        left = torch.arange(len(places), device=asked.x.device)
        if self._prunes(members, len(places)):
            pruned = prune(self._screen(members), asked, tolerance=self.tolerance, keep=top)
            here, left = pruned.places, pruned.left
            found = Refined(pruned.sums, pruned.mean, pruned.touched, pruned)
            if len(here):
                yield places[here.to(places.device)], members, asked.of(here), found
        if len(left) or not len(places):
            rest = asked.of(left)
            passed = Passed.ready(members, rest)
            sums = scan(members, rest, keep=max(top, 32), passed=passed)
            resolved = refine(members, rest, sums, passed)
            yield places[left.to(places.device)], members, rest, resolved

    def _prunes(self, members: ClassPoints, queries: int) -> bool:
        """Whether atoms may be left out: asked for, by one process, of a class in view."""
        asked = self.tolerance > 0 and self._together.alone and self.temperature == 1
        return asked and possible(members, queries) and self._in_view(members)

    def _in_view(self, members: ClassPoints) -> bool:
        """Whether a class lies in memory, or the source keeps a coarse view that fits there."""
        screen = self._screens.get(members.label)
        if members.points is not None or (screen is not None and screen.members is members):
            return True
        size = room_for(len(members), kept_coordinates(self.data))
        return kept_coordinates(self.data) > 0 and self._held() + size <= self._budget()

    def _screen(self, members: ClassPoints) -> Screen:
        """The coarse view of a class, made at its first query."""
        found = self._screens.get(members.label)
        if found is None or found.members is not members:
            size = len(members) * members.dims * 2
            at_hand = members.points is not None and not members.centre.is_cuda
            fits = at_hand and quick() and self._held() + size <= self._budget()
            found = screen_of(members, coarse_view(self.data, members.label), whole=fits)
            self._screens[members.label] = found
            self._note(members.label)
        return found

    def _check_same(self, x: Tensor, t: Tensor, labels: Tensor | None) -> None:
        """Refuse processes that ask for different things, or of different data."""
        if self._together.alone:
            return
        oracle = f"{self.path.name} {self.temperature}"
        content = {
            "data": digest(self.data.fingerprint),
            "settings of the oracle": digest(oracle),
            "samples x": _hash(x),
            "times t": _hash(t),
            "labels": _hash(torch.full((len(x),), NO_LABEL) if labels is None else labels),
        }
        check_same(self._together, content)

    def _posterior(
        self, members: ClassPoints, asked: Queries, resolved: Refined, top: int
    ) -> Posterior:
        sums = resolved.sums
        leaders, below = sums.top[:, 0], sums.peak - sums.top_logits[:, 0]
        apart = asked.x - asked.alpha[:, None] * members.originals(leaders)
        width = 2 * asked.sigma**2 * self.temperature
        nearest = members.log_weights[leaders] - apart.square().sum(1) / width
        leading = sums.top_logits[:, :top] - sums.peak[:, None]
        proof, nothing = resolved.pruned, torch.zeros(len(leaders), dtype=torch.float64)
        every = torch.full((len(leaders),), len(members))
        return Posterior(
            mean=resolved.mean.reshape(-1, *self.data.shape).cpu(),
            log_mass=(nearest + below + sums.mass.log()).cpu(),
            top_weights=(leading.exp() / sums.mass[:, None]).clamp(max=1).cpu(),
            top_rows=members.rows[sums.top[:, :top]].cpu(),
            entropy=(sums.mass.log() - sums.logits / sums.mass).clamp(min=0).cpu(),
            participation=(sums.squares / sums.mass**2).clamp(max=1).cpu(),
            missing=nothing if proof is None else proof.missing.cpu(),
            error=nothing if proof is None else proof.error.cpu(),
            touched=every if proof is None else proof.touched.cpu(),
        )


def _hash(values: Tensor) -> str:
    return digest(f"{values.dtype} {list(values.shape)}", bytes_of(values).numpy().data)


def _check(data: PointSet, x: Tensor, t: Tensor, labels: Tensor | None) -> None:
    """Refuse queries whose shapes do not fit the data, at the door."""
    if tuple(x.shape[1:]) != tuple(data.shape):
        raise ValueError(
            f"samples have shape {tuple(x.shape[1:])}, but points of the data {tuple(data.shape)}"
        )
    if not x.isfinite().all():
        raise ValueError("samples contain NaN or infinity")
    if t.shape != (len(x),):
        raise ValueError(f"t must be [{len(x)}], one time a sample, got {tuple(t.shape)}")
    if labels is not None and labels.shape != (len(x),):
        raise ValueError(f"labels must be [{len(x)}], one a sample, got {tuple(labels.shape)}")
