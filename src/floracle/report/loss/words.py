"""What losses say, in sentences and tables; where nothing can be said, that."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from floracle.analysis.curves import ENOUGH
from floracle.analysis.loss.results import (
    LESS,
    MORE,
    UNKNOWN,
    LossComparison,
    OracleLoss,
    confidence_interval,
    loss_difference,
)
from floracle.report.formatting import format_count, format_means, format_percent
from floracle.report.names import visible
from floracle.report.tables import ReportRow, Table

SAME = 1e-4
"""Losses that differ by less, relative to themselves, may differ by rounding."""
NOTHING = 1e-9
"""Losses below this are rounding."""
PARTS = 8
"""Times in the table by class at most."""


def headline(found: LossComparison) -> str:
    """Up to when each field follows the oracle, in one line."""
    told = [f"{visible(name)} {_followed(loss)}" for name, loss in found.path.items()]
    return f"{'; '.join(told)}."


def _followed(loss: OracleLoss) -> str:
    """Up to when the distance from the oracle is less than the gap."""
    whole = loss.mean_curves()
    if (whole["oracle"].mean.abs() < NOTHING).all():
        return "has no oracle loss at any time: it is the oracle itself"
    beyond = whole["oracle"].mean > whole["gap"].mean
    if not beyond.any():
        return "stays closer to the oracle than a training target is, at all times"
    k = int(beyond.int().argmax())
    if k == 0:
        return "is farther from the oracle than a training target is, from the start"
    low, high = (float(loss.times[i]) for i in (k - 1, k))
    return f"leaves the oracle between t = {low:.3g} and {high:.3g}"


def story(found: LossComparison) -> list[str]:
    """What can be said of every field, and of what they differ by."""
    told = []
    for name, loss in found.path.items():
        said = [_agreement(loss), _memory(loss)]
        said += [_drift(loss, found.own[name])] if name in found.own else []
        told.append(f"{visible(name)}: {' '.join(filter(None, said))}")
    return [*told, *differences(found)]


def _agreement(loss: OracleLoss) -> str:
    """Whether both ways to the oracle loss agree."""
    curve = loss.mean_curves()["disagreement"]
    low, high = confidence_interval(curve, loss.pairs, simultaneous=len(loss.times))
    rounding = SAME * loss.mean_curves()["oracle"].mean
    outside = (low > rounding) | (high < -rounding)
    if outside.any():
        return (
            f"Conditional loss less gap is not the oracle loss {at(loss.times, outside)}: is the"
            " field asked with the labels and in the space that it was trained in?"
        )
    return "The conditional loss less the gap gives the same oracle loss, within its error."


def _memory(loss: OracleLoss) -> str:
    whole = loss.mean_curves()
    if "difference" not in whole:
        return ""
    low, high = confidence_interval(whole["difference"], loss.pairs, simultaneous=len(loss.times))
    if not loss.has_enough_pairs:
        return f"Whether unseen data costs it more takes {ENOUGH} pairs to say."
    if (low > 0).any():
        return (
            f"Unseen data costs it more {at(loss.times, low > 0)}: if both sets are alike, it"
            " knows its training data."
        )
    known = float((high / whole["conditional"].mean).max())
    return (
        "No sign that it memorizes: unseen data does not surely cost more at any time, and surely"
        f" less than {_at_most(known)} more at all of them."
    )


def _at_most(share: float) -> str:
    """A bound in percent that is not rounded to nothing."""
    return format_percent(max(share, 0.001), 1 if share < 0.01 else 0)


def _drift(path: OracleLoss, own: OracleLoss) -> str:
    """How much farther from the oracle its own states are than those of the path.

    A loss on the path that its error covers is no measure for another.
    """
    on_path, on_own = path.mean_curves()["oracle"], own.mean_curves()["oracle"].mean
    known = on_path.mean > 2 * on_path.error
    factor = torch.where(known, on_own / on_path.mean, 0.0)
    k = int(factor.argmax())
    if float(factor[k]) < 1.5:
        return "On its own trajectories it is no farther from the oracle than on the path."
    return (
        f"On its own trajectories the oracle loss is up to {format_count(float(factor[k]))} times"
        f" that on the path, at t = {float(own.times[k]):.3g}."
    )


def differences(found: LossComparison) -> list[str]:
    """Where the others differ from the first field, a sentence for each and for unseen data."""
    first, *others = found.path
    told, base = [], visible(first)
    exact = bool((found.path[first].mean_curves()["oracle"].mean.abs() < NOTHING).all())
    for name in others:
        times, shown = found.path[first].times, visible(name)
        if not exact:  # what is not the oracle is farther from it than the oracle is
            verdicts = loss_difference(found.path[name], found.path[first]).verdicts()
            ways = {LESS: "closer to the oracle", MORE: "farther from the oracle"}
            told.append(_compared(f"{shown} is", f"than {base}", ways, verdicts, times))
        if "held_out" in found.path[first].classes[0].by_pair:
            verdicts = loss_difference(found.path[name], found.path[first], "held_out").verdicts()
            ways = {LESS: "better", MORE: "worse"}
            subject = f"On unseen data {shown} is"
            told.append(_compared(subject, f"than {base}", ways, verdicts, times))
    if told:
        told.append(
            "(Differences are of the same pairs and noise; an interval of 95\u00a0% holds at all"
            " times together.)"
        )
    return told


def _compared(
    subject: str, than: str, ways: dict[str, str], verdicts: Sequence[str], times: Tensor
) -> str:
    where = {
        verdict: torch.tensor([each == verdict for each in verdicts])
        for verdict in (LESS, MORE, UNKNOWN)
    }
    said = [f"{ways[way]} {than} {at(times, where[way])}" for way in ways if where[way].any()]
    if not said:
        return f"{subject} neither {ways[LESS]} nor {ways[MORE]} {than}, as far as one can say."
    unsure = f"; {at(times, where[UNKNOWN])} one cannot say" if where[UNKNOWN].any() else ""
    return f"{subject} {' and '.join(said)}{unsure}."


def at(times: Tensor, where: Tensor) -> str:
    """Times [T] at which something is so, bool [T], in words; neighbours as one span."""
    if where.all():
        return "at all times"
    places, spans = where.nonzero().flatten().tolist(), []
    for k in places:
        if spans and spans[-1][1] == k - 1:
            spans[-1][1] = k
        else:
            spans.append([k, k])
    told = [
        f"{float(times[a]):.3g}" if a == b else f"{float(times[a]):.3g} to {float(times[b]):.3g}"
        for a, b in spans
    ]
    return f"at t = {', '.join(told)}"


def loss_table(found: LossComparison, name: str) -> Table:
    """The losses of a field by time, over classes by their share."""
    loss = found.path[name]
    whole, unseen = loss.mean_curves(), "difference" in loss.classes[0].curves
    columns = {
        "oracle loss": format_means(whole["oracle"]),
        "cond. − gap": format_means(whole["less_gap"]),
        "gap": format_means(whole["gap"]),
    }
    if name in found.own:
        columns["own states"] = format_means(found.own[name].mean_curves()["oracle"])
    if unseen:
        columns["unseen"] = [f"{float(v):.3g}" for v in whole["held_out"].mean]
        columns["unseen − training"] = format_means(whole["difference"])
    if loss.settings.get("yardsticks"):
        columns["closest to"] = closest(loss)
    rows = [
        ReportRow((f"{t:.3g}", *(column[k] for column in columns.values())))
        for k, t in enumerate(loss.times.tolist())
    ]
    return Table(("t", *columns), rows)


def closest(loss: OracleLoss) -> list[str]:
    """Which yardstick the field is closest to, by time; in how many of the classes."""
    told, count = [], len(loss.classes)
    for k in range(len(loss.times)):
        names = [
            group.closest[k] if group.significant[k] else "cannot say" for group in loss.classes
        ]
        ranked = sorted(set(names), key=names.count, reverse=True)
        most = ranked[0]
        told.append(most if count == 1 else f"{most} {names.count(most)}/{count}")
    return told


def class_table(loss: OracleLoss) -> Table | None:
    """The oracle loss of every class at a few times."""
    if len(loss.classes) < 2:
        return None
    step = -(-len(loss.times) // PARTS)
    chosen = list(range(0, len(loss.times), step))
    head = ("class", *(f"t = {float(loss.times[k]):.3g}" for k in chosen))
    rows = [
        ReportRow(
            (str(group.label), *(f"{float(group.curves['oracle'].mean[k]):.3g}" for k in chosen))
        )
        for group in loss.classes
    ]
    curves = [group.curves["oracle"] for group in loss.classes]
    spread = torch.stack([curve.mean for curve in curves])
    known = (spread > 2 * torch.stack([curve.error for curve in curves])).all(0)
    ratio = spread.amax(0) / spread.amin(0)
    shown = [f"{float(ratio[k]):.2g}" if known[k] else "–" for k in chosen]
    last = ReportRow(("most / least", *shown), main=True)
    return Table(head, [*rows, last])
