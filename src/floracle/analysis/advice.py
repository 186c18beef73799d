"""First advice from the stages: where to start a search, and why.

The paper's ImageNet models navigate up to about twice the oracle's own end (t ≈ .2 against .1), do
best with about a third of their steps there (Table 2: shift .5, 34 %), and with guidance from the
end of navigation to the middle of refinement (Table 3: [.1, .6]). That is carried over to other
data by its own landmarks. It rests on one data set; a search on the user's own model decides.
"""

from __future__ import annotations

from typing import NamedTuple

from .stages.result import Stages

MODEL_LAG = 2.0
"""The end of a model's navigation over the oracle's, in the paper's models."""
NAVIGATION_STEP_SHARE = 0.34
"""Share of steps in navigation at the paper's best shift."""


class Advice(NamedTuple):
    """One recommendation: what, how much, why."""

    name: str
    value: str
    reason: str


class RecommendedTimes(NamedTuple):
    """The numbers of the advice."""

    shift: float
    """s of t' = s t / (1 + (s − 1) t), at most 1."""
    transition: float
    """The t at which a model's navigation is expected to end."""
    low: float
    """Guidance from this t, the oracle's end, …"""
    high: float
    """… to this, the middle of refinement."""


def recommend_times(stages: Stages) -> RecommendedTimes | None:
    """What `advise` recommends, as numbers; None where navigation does not end, or begin."""
    end = stages.main.end.value
    if not end:
        return None
    middle = (1 + end) / 2
    transition = min(MODEL_LAG * end, middle)
    # the shift that puts NAVIGATION_STEP_SHARE of the steps before the transition
    share = NAVIGATION_STEP_SHARE
    shift = transition * (1 - share) / (share * (1 - transition))
    return RecommendedTimes(min(1.0, shift), transition, end, middle)


def advise(stages: Stages) -> tuple[Advice, ...]:
    """Shift, steps in navigation and a guidance interval to start a search from."""
    times = recommend_times(stages)
    if times is None and stages.main.end.value is None:
        return (
            Advice(
                "none yet",
                "merge near-duplicates first",
                "navigation does not end: some samples never win against their near-duplicates",
            ),
        )
    if times is None:
        return (
            Advice(
                "none needed",
                "uniform steps",
                "navigation has ended at t = 0: one training point has all the weight from the"
                " start, so that no steps are needed to choose it",
            ),
        )
    transition, end = format_time(times.transition), format_time(times.low)
    if times.shift >= 1:
        value = "1 (uniform steps)"
        reason = (
            f"the oracle's navigation ends at t = {end}, so a model's lasts to about {transition}"
            " and uniform steps already give it more than a third"
        )
    else:
        value = (
            f"{format_time(times.shift)} (SD3 and Flux notation: {format_time(1 / times.shift)})"
        )
        reason = (
            f"puts {NAVIGATION_STEP_SHARE:.0%} of the steps before t = {transition}, where a"
            f" model's navigation is expected to end (the oracle's ends at {end}); best share in"
            " the paper's Table 2"
        )
    return (
        Advice("timestep shift", value, reason),
        Advice(
            "steps in navigation",
            f"{max(NAVIGATION_STEP_SHARE, times.transition):.0%}",
            f"the share of steps that start before t = {transition} with that shift",
        ),
        Advice(
            "guidance interval",
            f"search from [{end}, {format_time(times.high)}]",
            "from the end of navigation to the middle of refinement: guidance in navigation"
            " disturbs layouts, late guidance does little (the paper's Table 3 is best at"
            " [.1, .6], end .1)",
        ),
    )


def format_time(value: float) -> str:
    """Two decimals, or two digits of what these would round to 0 or to 1."""
    if 0 < value < 0.01:
        return f"{value:.2g}"
    return f"1 − {1 - value:.2g}" if 0 < 1 - value < 0.005 else f"{value:.2f}"
