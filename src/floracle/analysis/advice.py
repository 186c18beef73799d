"""First advice from the stages: where to start a search, and why.

The paper's ImageNet models navigate up to about twice the oracle's own end (t ≈ .2 against .1), do
best with about a third of their steps there (Table 2: shift .5, 34 %), and with guidance from the
end of navigation to the middle of refinement (Table 3: [.1, .6]). That is carried over to other
data by its own landmarks. It rests on one data set; a search on the user's own model decides.
"""

from __future__ import annotations

from typing import NamedTuple

from .groups import Stages

LAG = 2.0
"""A model's transition over the oracle's end, in the paper's models."""
SHARE = 0.34
"""Share of steps in navigation at the paper's best shift."""


class Advice(NamedTuple):
    """One recommendation: what, how much, why."""

    name: str
    value: str
    reason: str


def advise(stages: Stages) -> tuple[Advice, ...]:
    """Shift, steps in navigation and a guidance interval to start a search from."""
    group = stages.main
    end = group.end.value
    if end is None:
        return (
            Advice(
                "none yet",
                "merge near-duplicates first",
                "navigation does not end: some samples never win against their near-duplicates",
            ),
        )
    transition = min(LAG * end, (1 + end) / 2)
    return _shift(end, transition), _share(transition), _guidance(end)


def shift_for(transition: float, share: float = SHARE) -> float:
    """The shift s of t' = s t / (1 + (s − 1) t) that puts a share of the steps before a time."""
    return transition * (1 - share) / (share * (1 - transition))


def _shift(end: float, transition: float) -> Advice:
    shift = shift_for(transition)
    if shift >= 1:
        return Advice(
            "timestep shift",
            "1 (uniform steps)",
            f"the oracle's navigation ends at t = {end:.2f}, so a model's lasts to about "
            f"{transition:.2f} and uniform steps already give it more than a third",
        )
    return Advice(
        "timestep shift",
        f"{shift:.2f} (SD3 and Flux notation: {1 / shift:.2f})",
        f"puts {SHARE:.0%} of the steps before t = {transition:.2f}, where a model's navigation "
        f"is expected to end (the oracle's ends at {end:.2f}); best share in the paper's Table 2",
    )


def _share(transition: float) -> Advice:
    share = max(SHARE, transition)
    return Advice(
        "steps in navigation",
        f"{share:.0%}",
        f"the share of steps that start before t = {transition:.2f} with that shift",
    )


def _guidance(end: float) -> Advice:
    low, high = end, (1 + end) / 2
    return Advice(
        "guidance interval",
        f"search from [{low:.2f}, {high:.2f}]",
        "from the end of navigation to the middle of refinement: guidance in navigation disturbs "
        "layouts, late guidance does little (the paper's Table 3 is best at [.1, .6], end .1)",
    )
