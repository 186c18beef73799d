"""A coarse view of a class: a few leading coordinates of every point, and bounds on the rest.

With the centred point z_i = x_i − centre, orthonormal directions V and bands of them,

    ⟨y, z_i⟩ = ⟨V y, V z_i⟩ + Σ_b ⟨y_b, z_ib⟩,      |⟨y_b, z_ib⟩| ≤ ‖y_b‖ ‖z_ib‖,

so a query that knows a point's first coordinates and the length of its rest in each band knows
its logit to within a bound. Any orthonormal directions are valid; leading ones give tight bounds.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Coarse:
    """Leading coordinates of the atoms of a class (or of all atoms, in their order)."""

    centre: Tensor
    """What is subtracted first, float64 [D] in float32's values."""
    directions: Tensor
    """Rows orthonormal to rounding, float32 [L, D], leading ones first."""
    edges: tuple[int, ...]
    """Coordinates are held along directions[: edges[0]]; bands lie between consecutive edges, the
    last of which is L; one more band is all that no direction spans."""
    coordinates: Tensor
    """V z of every atom along the first edges[0] directions, float32 or float16 [n, edges[0]]."""
    remainders: Tensor
    """Upper bounds of the length of z in every band, float32 [n, len(edges)]."""
