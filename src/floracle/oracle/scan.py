"""The scan: two matrix products for each block of training points.

For queries x with centred form y = x − α m, the logit of point i is, up to a constant of x,

    l_i = log w_i + g ⟨y, x_i − m⟩ − ½ g α ‖x_i − m‖²,        g = α/σ².      (short of −‖y‖²/2σ²)

The inner products are taken in float32 (never TF32), or in float64 where points have few
dimensions; the rest of the logit is float64. Points whose weight cannot change the mean even in
its last bit are left out of the second product: past the end of navigation, nearly all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from floracle.run.exchange import gather_parts

from .class_points import ClassPoints, PointBlock, PositionRange
from .posterior import NEGLIGIBLE_LOGIT, PosteriorSums, exp_or_zero
from .queries import Queries

TOP_K = 32
"""Leaders that are kept for each query."""
BLOCKS_PER_MERGE = 8
COPIES_WHILE_SCANNED, COPIES_WHILE_CHECKED = 5, 12
"""Float64 copies of a query while blocks are summed (itself, centred, sums being merged), and
while its mean is checked."""
MAX_ROWS_PER_SUM = 4096
"""Points in one float32 sum at most: with more of them rounding would add up."""
GPU_RESIDENT_BLOCK_BYTES = 2**30  # large: a GPU loses more to kernel launches than to its cache
GPU_STREAMED_BLOCK_BYTES = 2**27  # small: copies over the bus overlap with the last block's scan
GPU_LOGITS = 2**26  # logits of a block on a GPU at most
BLOCK_BYTES_FEW_QUERIES, BLOCK_BYTES = 16 * 2**20, 24 * 2**20
"""Bytes of a block on a CPU: small enough to stay in cache between its two products for few
queries, larger for many."""
FEW_QUERIES = 8
"""Below this batch size a scan waits for memory rather than for arithmetic."""
BLOCK_LOGITS = 2**22  # logits of a block at most
MIN_BLOCK_ROWS, MIN_ROWS_BYTES = 32, 2**27
"""Points of a block at least, unless they take more than these bytes."""


@dataclass
class BlockMaxima:
    """The blocks that a scan has read, and the largest logit of each query in each of them."""

    ranges: list[PositionRange] = field(default_factory=list)
    max_logits: Tensor | None = None
    """float64 [blocks at most, b]; one tensor, as many small ones would fragment the heap."""

    def ranges_above(self, floors: Tensor, indices: Tensor) -> list[PositionRange]:
        """Where the logit of some point exceeds the floor [p] of the query of the index [p]."""
        assert self.max_logits is not None, "a scan fills this in"
        high = (self.max_logits[: len(self.ranges), indices] >= floors).any(1).tolist()
        return [block for block, above in zip(self.ranges, high, strict=True) if above]


def scan(
    members: ClassPoints,
    queries: Queries,
    *,
    dtype: torch.dtype | None = None,
    top_k: int = TOP_K,
    maxima: BlockMaxima | None = None,
    within: Sequence[PositionRange] | None = None,
) -> PosteriorSums:
    """The posterior sums of queries over a class, in one pass with inner products in `dtype`.

    By default products are in float32, or in float64 for points of few dimensions. `top_k` leaders
    of each query are kept. The largest logits of every block are written to `maxima`; `within`
    names the positions that are read, by default all. Where several processes share the class, all
    of them take part, and get the sums over all of it.
    """
    dtype = dtype or members.precision
    kernel = BlockKernel.of(members, queries, dtype, top_k)
    total: list[PosteriorSums] = []
    parts: list[PosteriorSums] = []
    max_logit: Tensor | None = None  # so far, [b]
    rows = block_rows(members, len(queries.x), dtype)
    if maxima is not None:
        maxima.max_logits = queries.gain.new_empty(-(-len(members.rows) // rows), len(queries.x))
    for block in members.blocks(rows, wide=dtype == torch.float64, within=within):
        parts.append(kernel.block_sums(block, max_logit))
        block_max = parts[-1].max_logit
        if maxima is not None and maxima.max_logits is not None:
            maxima.max_logits[len(maxima.ranges)] = block_max
            maxima.ranges.append(PositionRange(block.start, block.start + len(block.points)))
        max_logit = block_max if max_logit is None else torch.maximum(max_logit, block_max)
        if len(parts) == BLOCKS_PER_MERGE:
            total, parts = [PosteriorSums.merged(total + parts, top_k)], []
    return _merge_shares(members, total + parts, top_k, batch=len(queries.x))


def _merge_shares(
    members: ClassPoints, parts: Sequence[PosteriorSums], top_k: int, *, batch: int
) -> PosteriorSums:
    """The sums over a whole class from those over the blocks that this process has read."""
    if not members.undivided and not parts:  # a share may be empty
        zeros = members.centre.new_zeros(batch)
        none = members.centre.new_zeros(batch, 0)
        wide = zeros[:, None].expand(batch, members.dims)
        sums = zeros, wide, zeros, zeros, zeros
        parts = [PosteriorSums(zeros - torch.inf, *sums, none, none.long())]
    share = PosteriorSums.merged(parts, top_k)
    if members.undivided:
        return share
    return PosteriorSums.merged(gather_parts(members.group, share, what=f"{batch} queries"), top_k)


def block_rows(members: ClassPoints, batch: int, dtype: torch.dtype) -> int:
    """Rows of a block: few for a small batch, so that they stay in cache, more for a large one."""
    row_bytes = members.dims * dtype.itemsize
    if members.centre.is_cuda:
        resident = members.points is not None
        size = GPU_RESIDENT_BLOCK_BYTES if resident else GPU_STREAMED_BLOCK_BYTES
        return max(32, min(size // row_bytes, GPU_LOGITS // max(batch, 1)))
    size = BLOCK_BYTES_FEW_QUERIES if batch < FEW_QUERIES else BLOCK_BYTES
    rows = min(size // row_bytes, BLOCK_LOGITS // max(batch, 1), MAX_ROWS_PER_SUM)
    return max(1, min(MIN_BLOCK_ROWS, MIN_ROWS_BYTES // row_bytes), rows)


def query_bytes(members: ClassPoints) -> int:
    """Bytes that one query takes while a class is scanned for it."""
    rows = block_rows(members, 1, members.precision)
    unmerged = min(BLOCKS_PER_MERGE, -(-len(members.rows) // rows)) + 1
    return 8 * members.dims * max(unmerged + COPIES_WHILE_SCANNED, COPIES_WHILE_CHECKED)


@dataclass(frozen=True)
class BlockKernel:
    """What every block of a scan needs of its queries."""

    members: ClassPoints
    centred: Tensor
    """y in the type of the products, [b, D]."""
    gain: Tensor
    """g = α/σ², [b, 1]."""
    half: Tensor
    """½ g α, [b, 1]."""
    shift: Tensor
    """g ⟨y, m − offset⟩ [b, 1]: products with working points less those with centred ones."""
    dtype: torch.dtype
    top_k: int

    @classmethod
    def of(
        cls, members: ClassPoints, queries: Queries, dtype: torch.dtype, top_k: int
    ) -> BlockKernel:
        """The kernel of queries over a class."""
        gain = queries.gain[:, None]
        shift = gain * (queries.centred @ (members.centre - members.offset))[:, None]
        half = gain * queries.coefficients.alpha[:, None] / 2
        return cls(members, queries.centred.to(dtype), gain, half, shift, dtype, top_k)

    def block_sums(self, block: PointBlock, max_logit_so_far: Tensor | None) -> PosteriorSums:
        """The sums over one block, relative to its own largest logit [b]."""
        points = block.points.to(self.dtype)  # [n, D]
        logits = self.logits(points, block.start)  # l [b, n], float64
        top = logits.topk(min(self.top_k, logits.shape[1]), dim=1)
        max_logit = top.values[:, 0]
        # Narrowed to the products' type only now: l itself reaches 1e6, where float32 loses units.
        relative = logits.sub_(max_logit[:, None]).to(self.dtype)  # at most 0
        contributes = self._contributes(relative, max_logit, max_logit_so_far)
        weights = exp_or_zero(relative)  # e^{l − max} [b, n]
        norms = self.members.norms[block.start : block.start + len(points)]
        return PosteriorSums(
            max_logit,
            weights.sum(1, dtype=torch.float64),
            self._weighted_sum(points, weights, contributes),
            torch.linalg.vecdot(weights, relative).double(),
            torch.linalg.vecdot(weights, weights).double(),
            (weights @ norms.to(self.dtype)).double(),
            top.values,
            top.indices + block.start,
        )

    def logits(self, points: Tensor, start: int) -> Tensor:
        """Logits l [b, n], float64, without −‖y‖²/2σ²; working points from position `start`."""
        positions = slice(start, start + len(points))
        logits = (self.centred @ points.T).double().mul_(self.gain).sub_(self.shift)
        logits.addcmul_(self.half, self.members.norms[None, positions], value=-1)
        return logits.add_(self.members.log_weights[positions])

    def _contributes(
        self, relative: Tensor, max_logit: Tensor, max_logit_so_far: Tensor | None
    ) -> Tensor:
        """Whether a point has weight for any query, by the largest logits so far; bool [n]."""
        floor = torch.full_like(max_logit, NEGLIGIBLE_LOGIT)
        if max_logit_so_far is not None:
            floor += (max_logit_so_far - max_logit).clamp(min=0)
        return (relative > floor[:, None]).any(0)

    def _weighted_sum(self, points: Tensor, weights: Tensor, contributes: Tensor) -> Tensor:
        """Σ e^{l − max} x_i over the points that contribute, float64 [b, D]."""
        if int(contributes.sum()) <= len(points) // 2:  # else copying costs more than it saves
            chosen = contributes.nonzero()[:, 0]
            weights, points = weights[:, chosen], points[chosen]
        if len(points) <= MAX_ROWS_PER_SUM:
            return (weights @ points).double()
        # Sums of 4096 points each, then the sum of these in float64.
        full = len(points) // MAX_ROWS_PER_SUM * MAX_ROWS_PER_SUM
        parts = weights[:, :full].unflatten(1, (-1, MAX_ROWS_PER_SUM)).transpose(0, 1)
        total = torch.bmm(parts, points[:full].unflatten(0, (-1, MAX_ROWS_PER_SUM)))
        return total.double().sum(0).add_(weights[:, full:] @ points[full:])
