"""How often the 95 % intervals of what is measured of fields hold the truth.

    python benchmarks/coverage_fields.py

Two hundred independent draws with the embedded network of the digits, each with the defaults of
its verb; the truth is what all draws give together, and 0 for held-out data that is the training
data itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

import floracle
from floracle.analysis.mixing.field_switching import binomial_share
from floracle.analysis.mixing.landing_test import estimate_diversity
from floracle.analysis.trajectories.lag import mean_lag
from measure import report

DRAWS, PAIRS, LABEL = 200, 64, 3
TIMES = torch.tensor([0.1, 0.3, 0.5, 0.7, 0.9], dtype=torch.float64)
FAR = 100_003
"""From one draw's seeds to the next's."""


def main() -> None:
    data, model = floracle.open_store("digits"), floracle.load_model("digits-pico")
    oracle = floracle.Oracle(data)
    found = losses(oracle, model) | lags(oracle, model)
    found |= copies(oracle, model) | landings(oracle, model)
    report("coverage_fields", {"draws": DRAWS, "held": found})


def losses(oracle: floracle.Oracle, model) -> dict[str, float]:
    """Oracle loss at five times, and the excess loss on held-out data that is training data."""
    held, more = [], []
    same = replace(oracle.data, joined_with=oracle.data.fingerprint)  # as if it were other data
    asked = {"times": TIMES, "classes": [LABEL], "pairs": PAIRS, "held_out": same}
    for draw in range(DRAWS):
        loss = floracle.oracle_loss(model, oracle, seed=draw * FAR, **asked).mean_curves()
        held.append(loss["oracle"])
        more.append(loss["difference"])
    mean = torch.stack([curve.mean for curve in held]).mean(0)
    return {
        f"oracle loss, {PAIRS} pairs": share(held, mean),
        "held-out − training, where they are the same": share(more, torch.zeros(len(TIMES))),
    }


def share(curves: list, right: torch.Tensor) -> float:
    off = [(curve.mean - right).abs() <= 1.96 * curve.error for curve in curves]
    return float(torch.stack(off).double().mean())


def lags(oracle: floracle.Oracle, model) -> dict[str, float]:
    """Of 16 seeds."""
    seeds, labels = range(16 * DRAWS), torch.full((16 * DRAWS,), LABEL)
    shape = oracle.data.shape
    own, theirs = (floracle.probe(of, seeds, shape, labels=labels) for of in (model, oracle))
    apart = own.settling_times() - theirs.settling_times()
    right = float(apart.nanmean())
    some = [mean_lag(part) for part in apart.split(16)]
    held = [one.low <= right <= one.high for one in some if one.value is not None]
    return {"lag, 16 seeds": sum(held) / len(held)}


def copies(oracle: floracle.Oracle, model) -> dict[str, float]:
    """The share of copies, of 64 seeds."""
    seeds = range(64 * DRAWS)
    switched = floracle.switch_fields(
        model, oracle, switch_times=[0.8, 0.9], seeds=seeds, labels=LABEL
    )
    shares = (switched.nearest_distance < switched.second_distance / 3).double()
    right, held = shares.mean(0), []
    for part in shares.split(64):
        _, low, high = binomial_share(part)
        held.append((low <= right) & (right <= high))
    return {"share of copies, 64 seeds": float(torch.stack(held).double().mean())}


def landings(oracle: floracle.Oracle, model) -> dict[str, float]:
    """The effective number of landings, of 64 seeds."""
    asked = {"switch_time": 0.2, "labels": LABEL}
    every = floracle.landing_test(model, oracle, seeds=range(64 * DRAWS), **asked)
    right, held = every.diversity.effective, []
    for rows in every.rows.split(64):
        labels = torch.full((64,), LABEL)
        one = estimate_diversity(oracle.data, rows, labels)
        held.append(one.low <= right <= (one.high or float("inf")))
    return {"effective number of landings, 64 seeds": sum(held) / len(held)}


def table(results: dict) -> Iterable[str]:
    """Markdown."""
    yield "| of fields | intervals that hold |"
    yield "|---|---|"
    for name, held in results["held"].items():
        yield f"| {name} | {held:.3f} |"


if __name__ == "__main__":
    main()
