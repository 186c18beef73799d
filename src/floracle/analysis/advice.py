"""First advice from the stages: where to start a search, and why.

The paper's ImageNet models navigate up to about twice the oracle's own end (t ≈ .2 against .1), do
best with about a third of their steps there (Table 2: shift .5, 34 %), and with guidance from the
end of navigation to the middle of refinement (Table 3: [.1, .6]). That is carried over to other
data by its own landmarks. It rests on one data set; a search on the user's own model decides.
"""

from __future__ import annotations

from typing import NamedTuple

from .stages.result import Stages

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
    end = stages.main.end.value
    if end is None:
        return (
            Advice(
                "none yet",
                "merge near-duplicates first",
                "navigation does not end: some samples never win against their near-duplicates",
            ),
        )
    if end == 0:
        return (
            Advice(
                "none needed",
                "uniform steps",
                "navigation has ended at t = 0: one training point has all the weight from the"
                " start, so that no steps are needed to choose it",
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
            f"the oracle's navigation ends at t = {short(end)}, so a model's lasts to about "
            f"{short(transition)} and uniform steps already give it more than a third",
        )
    return Advice(
        "timestep shift",
        f"{short(shift)} (SD3 and Flux notation: {short(1 / shift)})",
        f"puts {SHARE:.0%} of the steps before t = {short(transition)}, where a model's "
        f"navigation is expected to end (the oracle's ends at {short(end)}); best share in the "
        "paper's Table 2",
    )


def _share(transition: float) -> Advice:
    share = max(SHARE, transition)
    return Advice(
        "steps in navigation",
        f"{share:.0%}",
        f"the share of steps that start before t = {short(transition)} with that shift",
    )


def _guidance(end: float) -> Advice:
    low, high = end, (1 + end) / 2
    return Advice(
        "guidance interval",
        f"search from [{short(low)}, {short(high)}]",
        "from the end of navigation to the middle of refinement: guidance in navigation disturbs "
        "layouts, late guidance does little (the paper's Table 3 is best at [.1, .6], end .1)",
    )


def short(value: float) -> str:
    """Two decimals, or two digits of what these would round to 0 or to 1."""
    if 0 < value < 0.01:
        return f"{value:.2g}"
    return f"1 − {1 - value:.2g}" if 0 < 1 - value < 0.005 else f"{value:.2f}"
