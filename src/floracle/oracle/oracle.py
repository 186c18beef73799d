"""`Oracle`: the training set's own velocity field.

What a model would follow if it fitted its training set perfectly: the average of all flow-matching
targets at a noisy point, in closed form (Theorem 2.1). Exact to 1e-5 of its own norm for any t in
[0, 0.9999], on the forward path and off it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from floracle.core.coarse_view import coarse_view, kept_coordinates
from floracle.core.paths import LINEAR, ProbabilityPath, check_times
from floracle.core.point_set import NO_LABEL, PointSet
from floracle.run.budget import FREE_MEMORY_SHARE, choose_device, memory_budget
from floracle.run.errors import InputError
from floracle.run.exchange import broadcast_from_first, bytes_of, check_same
from floracle.run.files import digest
from floracle.run.processes import ALONE, ProcessGroup

from .class_cache import CachedClass, ClassCache
from .class_points import ClassPoints, gather_class_points
from .float64_refinement import Refined, refine
from .pairs.forward_pairs import PairCurves, pair_bytes, pair_curves
from .pairs.held_out_pairs import HeldOutPairs, held_out_pair_bytes, held_out_pair_curves
from .posterior import Posterior
from .pruning.bfloat16_bounds import has_bfloat16_units
from .pruning.screen import Screen, make_screen, screen_bytes
from .pruning.search import prune, pruning_may_pay
from .queries import Queries, check_label, check_queries, prepare_queries
from .scan import TOP_K, BlockMaxima, query_bytes, scan

REPORTED_LEADERS = 8
"""Training points of largest weight that a posterior reports by default."""
WORKING_SHARE = 4
"""At least one byte in so many of the budget is worked with, whatever the points of a class
take."""
SMALL_BYTES = 2**24
"""What takes no more is computed at once, without a look at the memory."""


class _Answer(NamedTuple):
    """Queries of one class, and their posterior."""

    indices: Tensor
    """Which queries these are, int64 [p]."""
    members: ClassPoints
    queries: Queries
    refined: Refined


@dataclass(frozen=True)
class Oracle:
    """The oracle velocity of a data set, as a velocity field.

    Parameters
    ----------
    data
        The training points, [N, *shape], with labels and weights. Labels of queries choose the
        class that each is averaged over; −1 (or None) is the whole set.
    path
        The forward process x_t = α(t) data + σ(t) noise; the field lives on it.
    memory
        A budget ("4G" or bytes; by default half of the free memory) for points and work together.
        Classes that fit stay resident, others are streamed. As many queries are answered at a time
        as fit beside their class, or into a quarter of the budget where that is more.
    device
        Where to compute, "cpu" by default.
    temperature
        At T ≠ 1 the posterior weights are γ^(1/T), normalised: below 1 they sharpen towards the
        nearest training point, above 1 they spread. No training set has this field, so that
        densities, pairs and mixtures are refused.
    group
        Processes that share the points of every class. Each asks the same, and gets the same
        answer to the last bit.
    tolerance
        A relative velocity error in [0, 1) that may be spent on leaving points out. With one,
        every query is answered in one of two ways. Either points are left out, and a certificate
        bounds the error ‖u − u*‖ / ‖u*‖ that this costs, rounding included, by `Posterior.error` ≤
        tolerance, and the posterior weight of all points left out by `Posterior.missing`; both
        bounds are proven for each query, not estimated. Or all points are read, where no such
        bound can be shown or where it would not pay; then both are 0, and the velocity keeps to
        1e-5 as it does without a tolerance.

    Raises
    ------
    InputError
        If the temperature is not positive and finite, or the tolerance is outside [0, 1).
    """

    data: PointSet
    path: ProbabilityPath = LINEAR
    memory: int | str | None = None
    device: torch.device | str | None = None
    temperature: float = 1.0
    group: ProcessGroup | None = None
    tolerance: float = 0.0
    _cache: ClassCache = field(default_factory=ClassCache, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not 0 < self.temperature < float("inf"):
            raise InputError(f"temperature must be positive and finite, got {self.temperature:g}")
        if not 0 <= self.tolerance < 1:
            raise InputError(
                f"tolerance is a relative velocity error in [0, 1), got {self.tolerance:g}"
            )

    def __getstate__(self) -> dict[str, Any]:
        """Without the points that it holds, which a copy reads anew."""
        return {**self.__dict__, "_cache": ClassCache()}

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """u* at x [b, *shape], times t [b] in [0, 1), labels int64 [b]; of the type of x.

        A ValueError is raised for shapes that do not fit, x that is not finite and times outside
        [0, 1), an InputError for a label that does not occur.
        """
        check_queries(self.data, x, t, labels)
        velocity = torch.empty_like(x)
        for answer in self._answers(x, t, labels, REPORTED_LEADERS):
            queries, mean = answer.queries, answer.refined.mean
            values = queries.coefficients.velocity(queries.x, mean).to(x.dtype).to(x.device)
            velocity[answer.indices] = values.reshape(-1, *x.shape[1:])
        return velocity

    @torch.no_grad()
    def posterior(
        self, x: Tensor, t: Tensor, labels: Tensor | None = None, *, top: int = REPORTED_LEADERS
    ) -> Posterior:
        """Posterior weights of the training points given x [b, *shape]; t, labels as in a call.

        The largest `top` of them with their rows, their mean x̂, entropy and log mass; float64.
        """
        check_queries(self.data, x, t, labels)
        answers = list(self._answers(x, t, labels, top))
        parts = [self._posterior(answer, top) for answer in answers]
        return Posterior.joined(parts, [answer.indices for answer in answers])

    def log_density(self, x: Tensor, t: Tensor, labels: Tensor | None = None) -> Tensor:
        """Log p_t(x) in nats, float64 [b]: the density of noisy points of the set or class."""
        self.check_untempered("a density")
        sigma = self.path.coefficients(t).sigma.to(x.device)
        normal = torch.Size(self.data.shape).numel() / 2 * (2 * math.pi * sigma**2).log()
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
        """The posterior of forward-path pairs at all times, from two rows of inner products each.

        Parameters
        ----------
        rows, noise
            The pairs: rows of the data, int64 [p], and their noise, [p, *shape].
        times
            [T] in [0, 1), in any order. The cost is two products of p × n × D, whatever T is.
        label
            The class averaged over. Over the whole set of labelled data, the entropy of the class
            is measured as well.
        mirrored
            Average every pair with the one of opposite noise, which costs no product.
        """
        check_times(times)
        self.check_untempered("a pair")
        self._check_same({"rows": rows, "noise": noise, "times": times})
        members = self.class_points(label)
        size = self._batch_size(label, len(rows), pair_bytes(members, len(times)))
        return pair_curves(members, self.path, rows, noise, times, mirrored=mirrored, size=size)

    @torch.no_grad()
    def held_out_pairs(
        self, points: Tensor, noise: Tensor, times: Tensor, *, label: int = NO_LABEL
    ) -> HeldOutPairs:
        """The posterior at all times [T] of pairs whose data [p, *shape] is held out."""
        check_times(times)
        self.check_untempered("a pair")
        if not self._group.alone:
            return self.alone().held_out_pairs(points, noise, times, label=label)
        members = self.class_points(label)
        size = self._batch_size(label, len(points), held_out_pair_bytes(members))
        return held_out_pair_curves(members, self.path, points, noise, times, size=size)

    def class_points(self, label: int = NO_LABEL) -> ClassPoints:
        """The points of a class, read once and held while memory allows."""
        cached = self._cache.get(label)
        if cached is not None:
            return cached.points
        check_label(self.data, label)
        budget = self._budget()
        share = -(-len(self.data.atoms(label).rows) // self._group.size)
        self._make_room(share * torch.Size(self.data.shape).numel() * 4, budget)
        points = gather_class_points(
            self.data,
            label,
            room=budget - self._cache.bytes,
            device=choose_device(self.device),
            group=self._group,
        )
        points = replace(points, log_weights=points.log_weights / self.temperature)
        self._cache.put(label, CachedClass(points, None))
        return points

    def room(self, label: int = NO_LABEL) -> int:
        """Bytes to work with beside the points of a class, once others are let go of."""
        budget = self._budget()
        return max(1, budget - self._cache.bytes_of(label), budget // WORKING_SHARE)

    def alone(self) -> Oracle:
        """The same oracle for this process alone, which then reads all points itself."""
        if self._group.alone:
            return self
        return replace(self, group=None, memory=max(1, self._budget()))

    def check_untempered(self, quantity: str) -> None:
        """Refuse what has no meaning at another temperature."""
        if self.temperature != 1:
            raise InputError(f"{quantity} is defined at temperature 1, not {self.temperature:g}")

    @property
    def _group(self) -> ProcessGroup:
        return self.group or ALONE

    def _answers(self, x: Tensor, t: Tensor, labels: Tensor | None, top: int) -> Iterator[_Answer]:
        """The posteriors of checked queries, class by class, as many together as fit in memory."""
        if labels is None:
            labels = torch.full((len(x),), NO_LABEL)
        self._check_same({"samples x": x, "times t": t, "labels": labels})
        flat = x.flatten(1).to(choose_device(self.device))
        t = check_times(t).to(flat.device)
        for label in labels.unique().tolist() or [NO_LABEL]:
            members = self.class_points(label)
            bounds = 8 * len(members) if self.tolerance > 0 else 0  # one of every point, bytes
            of_class = (labels == label).nonzero()[:, 0]
            size = self._batch_size(label, len(of_class), query_bytes(members) + bounds)
            for indices in of_class.split(max(1, size)):
                queries = prepare_queries(
                    members, flat[indices], t[indices], self.path, temperature=self.temperature
                )
                yield from self._answer(members, indices, queries, top)

    def _answer(
        self, members: ClassPoints, indices: Tensor, queries: Queries, top: int
    ) -> Iterator[_Answer]:
        """The posteriors of queries of one class: pruned where that pays, and scanned."""
        if self._may_prune(members, len(indices)):
            screen, tolerance = self._screen(members), self.tolerance
            pruned, unanswered = prune(screen, queries, tolerance=tolerance, top_k=top)
            if len(pruned.indices):
                refined = Refined(pruned.sums, pruned.mean, pruned.touched, pruned)
                answered = indices[pruned.indices.to(indices.device)]
                yield _Answer(answered, members, queries.of(pruned.indices), refined)
            if not len(unanswered):
                return
            indices, queries = indices[unanswered.to(indices.device)], queries.of(unanswered)
        maxima = BlockMaxima()
        sums = scan(members, queries, top_k=max(top, TOP_K), maxima=maxima)
        yield _Answer(indices, members, queries, refine(members, queries, sums, maxima))

    def _posterior(self, answer: _Answer, top: int) -> Posterior:
        members, queries, refined = answer.members, answer.queries, answer.refined
        sums, pruned = refined.sums, refined.pruned
        leaders, below = sums.top[:, 0], sums.max_logit - sums.top_logits[:, 0]
        # Logits lack −‖y‖²/2σ², which cancels far from the data; the leader's is taken directly.
        distance = queries.x - queries.alpha[:, None] * members.originals(leaders)
        width = 2 * queries.coefficients.sigma**2 * self.temperature
        leader_logit = members.log_weights[leaders] - distance.square().sum(1) / width
        zeros, every = sums.mass.new_zeros(len(leaders)), torch.full(leaders.shape, len(members))
        return Posterior(
            mean=refined.mean.reshape(-1, *self.data.shape).cpu(),
            log_mass=(leader_logit + below + sums.mass.log()).cpu(),
            top_weights=sums.top_weights(top).clamp(max=1).cpu(),
            top_rows=members.rows[sums.top[:, :top]].cpu(),
            entropy=sums.entropy.cpu(),
            participation=sums.participation.clamp(max=1).cpu(),
            missing=(zeros if pruned is None else pruned.missing).cpu(),
            error=(zeros if pruned is None else pruned.error).cpu(),
            touched=(every if pruned is None else pruned.touched).cpu(),
        )

    # Leaving points out -------------------------------------------------------------------------

    def _may_prune(self, members: ClassPoints, queries: int) -> bool:
        """Whether points may be left out: with a tolerance, by one process, of a class in view.

        A class is in view where its points are in memory, or where the data keeps a coarse view of
        it that fits there.
        """
        if self.tolerance == 0 or not self._group.alone or self.temperature != 1:
            return False
        if not queries or not pruning_may_pay(members, queries):
            return False
        if members.points is not None or self._cached(members).screen is not None:
            return True
        stored = kept_coordinates(self.data)
        size = self._cache.bytes + screen_bytes(len(members), stored)
        return stored > 0 and size <= self._budget()

    def _cached(self, members: ClassPoints) -> CachedClass:
        return self._cache.classes[members.label]

    def _screen(self, members: ClassPoints) -> Screen:
        """The coarse view of a class, made at its first query."""
        screen = self._cached(members).screen
        if screen is None:
            on_cpu = members.points is not None and not members.centre.is_cuda
            size = self._cache.bytes + len(members) * members.dims * 2
            bfloat16 = on_cpu and has_bfloat16_units() and size <= self._budget()
            screen = make_screen(members, coarse_view(self.data, members.label), bfloat16=bfloat16)
            self._cache.put(members.label, CachedClass(members, screen))
        return screen

    # Memory and processes -----------------------------------------------------------------------

    def _budget(self) -> int:
        """Bytes for points and work: as given, or half of what is free or held by classes.

        The processes of one machine divide its memory.
        """
        budget = memory_budget(self.memory, choose_device(self.device)) // self._group.local_size
        return budget + (int(FREE_MEMORY_SHARE * self._cache.bytes) if self.memory is None else 0)

    def _batch_size(self, label: int, count: int, each: int) -> int:
        """How many of `count` queries or pairs of `each` bytes are computed at a time.

        Other classes are let go of for them. All processes of a group compute as many.
        """
        if count * each <= SMALL_BYTES:
            return count
        size = max(1, min(count, self.room(label) // each))
        size = broadcast_from_first(self._group, [size])[0]
        self._make_room(size * each, self._budget(), keep=1)
        return size

    def _make_room(self, size: int, budget: int, *, keep: int = 0) -> None:
        """Let go of the classes used longest ago until `size` bytes fit; the last `keep` stay.

        All processes of a group let go of the same ones.
        """
        surplus = self._cache.surplus(size, budget, keep=keep)
        self._cache.drop(broadcast_from_first(self._group, [surplus])[0])

    def _check_same(self, tensors: dict[str, Tensor]) -> None:
        """Refuse processes whose data, oracles or queries differ."""
        if self.group is None or self.group.alone:
            return
        content = {"data": digest(self.data.fingerprint)}
        content["settings of the oracle"] = digest(f"{self.path.name} {self.temperature}")
        for name, values in tensors.items():
            shape = f"{values.dtype} {list(values.shape)}"
            content[name] = digest(shape, bytes_of(values).numpy().data)
        check_same(self.group, content)
