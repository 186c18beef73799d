"""What losses show, in sentences and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from floracle.analysis.curves import MIN_PAIRS_FOR_CONTROL
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

ROUNDING = 1e-4
"""Losses that differ by less, relative to themselves, may differ by rounding."""
NEGLIGIBLE_LOSS = 1e-9
MAX_CLASS_TIMES = 8
"""Times in the table by class."""
CLEAR_FACTOR = 1.5
"""An oracle loss on own trajectories that is larger by less is not worth a sentence."""


def headline(losses: LossComparison) -> str:
    """From when on each field's oracle loss exceeds the irreducible loss, in one line."""
    sentences = [_describe_excess(visible(name), loss) for name, loss in losses.path.items()]
    return f"{'; '.join([sentences[0], *(s[0].lower() + s[1:] for s in sentences[1:])])}."


def _describe_excess(name: str, loss: OracleLoss) -> str:
    """From when on the distance from the oracle is larger than that of a training target."""
    means = loss.mean_curves()
    if (means["oracle"].mean.abs() < NEGLIGIBLE_LOSS).all():
        return f"The oracle loss of {name} is zero at all times: it is the oracle itself"
    beyond = means["oracle"].mean > means["gap"].mean
    subject = f"The oracle loss of {name}"
    if not beyond.any():
        return f"{subject} is below the irreducible loss at all times"
    k = int(beyond.int().argmax())  # the first such time
    if k == 0:
        return f"{subject} exceeds the irreducible loss from the start"
    before, t = (float(loss.times[i]) for i in (k - 1, k))
    return (
        f"{subject} exceeds the irreducible loss from t = {t:.3g} on (it does not at {before:.3g})"
    )


def story(losses: LossComparison) -> list[str]:
    """What can be said of every field, and of their differences."""
    sentences = []
    for name, loss in losses.path.items():
        parts = [_describe_consistency(loss), _describe_memorization(loss)]
        parts += [_describe_drift(loss, losses.own[name])] if name in losses.own else []
        sentences.append(f"{visible(name)}: {' '.join(filter(None, parts))}")
    return [*sentences, *differences(losses)]


def _describe_consistency(loss: OracleLoss) -> str:
    """Whether both estimates of the oracle loss agree."""
    means = loss.mean_curves()
    low, high = confidence_interval(
        means["disagreement"], loss.pairs, simultaneous=len(loss.times)
    )
    # Simultaneous (Bonferroni): of a dozen intervals at 95 % some would miss 0 by chance.
    rounding = ROUNDING * means["oracle"].mean  # [T]
    outside = (low > rounding) | (high < -rounding)
    if outside.any():
        return (
            "Conditional loss − irreducible loss differs from the oracle loss"
            f" {describe_times(loss.times, outside)}: check that the field gets the labels and the"
            " space that it was trained with."
        )
    return "Conditional loss − irreducible loss agrees with the oracle loss, within its error."


def _describe_memorization(loss: OracleLoss) -> str:
    means = loss.mean_curves()
    if "difference" not in means:
        return ""
    low, high = confidence_interval(means["difference"], loss.pairs, simultaneous=len(loss.times))
    if not loss.has_enough_pairs:
        return f"A comparison with held-out data takes at least {MIN_PAIRS_FOR_CONTROL} pairs."
    if (low > 0).any():
        return (
            f"Its loss on held-out data is higher {describe_times(loss.times, low > 0)}: if both"
            " sets have the same distribution, it has memorized training data."
        )
    bound = float((high / means["conditional"].mean).max())
    # Not rounded to 0 %, which would claim more than was measured.
    percent = format_percent(max(bound, 0.001), 1 if bound < 0.01 else 0)
    return (
        "No significant memorization: the loss on held-out data is not significantly higher at any"
        f" time, and at most {percent} higher (95\u00a0%)."
    )


def _describe_drift(path: OracleLoss, trajectories: OracleLoss) -> str:
    """How much larger the oracle loss is on the model's own trajectories than on the path."""
    on_path, on_own = (loss.mean_curves()["oracle"] for loss in (path, trajectories))
    # A loss on the path that is not significant is no measure for another.
    significant = on_path.mean > 2 * on_path.error
    factor = torch.where(significant, on_own.mean / on_path.mean, 0.0)
    k = int(factor.argmax())
    if float(factor[k]) < CLEAR_FACTOR:
        return "On the model's own trajectories the oracle loss is no larger than on the path."
    return (
        "On the model's own trajectories the oracle loss is up to"
        f" {format_count(float(factor[k]))} times that on the path, at t ="
        f" {float(trajectories.times[k]):.3g}."
    )


def differences(losses: LossComparison) -> list[str]:
    """Where the others differ from the first field, a sentence for each and for held-out data."""
    first, *others = losses.path
    base, times = losses.path[first], losses.path[first].times
    sentences, than = [], f"than {visible(first)}"
    first_is_oracle = bool((base.mean_curves()["oracle"].mean.abs() < NEGLIGIBLE_LOSS).all())
    for name in others:
        subject = f"{visible(name)} is"
        if not first_is_oracle:  # nothing is closer to the oracle than the oracle
            verdicts = loss_difference(losses.path[name], base).verdicts()
            verbs = {LESS: "closer to the oracle", MORE: "farther from the oracle"}
            sentences.append(_describe_verdicts(subject, than, verbs, verdicts, times))
        if "held_out" in base.classes[0].by_pair:
            verdicts = loss_difference(losses.path[name], base, "held_out").verdicts()
            verbs, subject = {LESS: "better", MORE: "worse"}, f"On held-out data {subject}"
            sentences.append(_describe_verdicts(subject, than, verbs, verdicts, times))
    if sentences:
        sentences.append(
            "(Differences are taken on the same pairs and noise; their 95\u00a0% intervals hold at"
            " all times together.)"
        )
    return sentences


def _describe_verdicts(
    subject: str, than: str, verbs: Mapping[str, str], verdicts: Sequence[str], times: Tensor
) -> str:
    """At which times [T] a difference has which sign, and where it is not significant."""
    masks = {
        verdict: torch.tensor([value == verdict for value in verdicts])
        for verdict in (LESS, MORE, UNKNOWN)
    }
    parts = [
        f"{verb} {than} {describe_times(times, masks[verdict])}"
        for verdict, verb in verbs.items()
        if masks[verdict].any()
    ]
    if not parts:
        return f"{subject} neither significantly {verbs[LESS]} nor {verbs[MORE]} {than}."
    unknown = ""
    if masks[UNKNOWN].any():
        unknown = f"; {describe_times(times, masks[UNKNOWN])} the difference is not significant"
    return f"{subject} {' and '.join(parts)}{unknown}."


def describe_times(times: Tensor, mask: Tensor) -> str:
    """The times [T] that a mask, bool [T], chooses, in words; neighbours as one span."""
    if mask.all():
        return "at all times"
    spans: list[list[int]] = []
    for k in mask.nonzero().flatten().tolist():
        if spans and spans[-1][1] == k - 1:
            spans[-1][1] = k
        else:
            spans.append([k, k])
    texts = [" to ".join(f"{float(times[k]):.3g}" for k in dict.fromkeys(span)) for span in spans]
    return f"at t = {', '.join(texts)}"


def loss_table(losses: LossComparison, name: str) -> Table:
    """The losses of a field by time, over classes by their share."""
    loss = losses.path[name]
    means = loss.mean_curves()
    columns = {
        "oracle loss": format_means(means["oracle"]),
        "cond. − gap": format_means(means["less_gap"]),
        "gap": format_means(means["gap"]),
    }
    if name in losses.own:
        columns["own trajectories"] = format_means(losses.own[name].mean_curves()["oracle"])
    if "difference" in means:
        columns["held-out"] = [f"{float(value):.3g}" for value in means["held_out"].mean]
        columns["held-out − training"] = format_means(means["difference"])
    if loss.settings.get("yardsticks"):
        columns["closest to"] = closest(loss)
    return Table.of_columns("t", [f"{t:.3g}" for t in loss.times.tolist()], columns)


def closest(loss: OracleLoss) -> list[str]:
    """Which baseline the field is closest to, by time; of several classes the most frequent."""
    texts, count = [], len(loss.classes)
    for k in range(len(loss.times)):
        names = [
            group.closest[k] if group.significant[k] else "not significant"
            for group in loss.classes
        ]
        # Of names that are as frequent the first in the alphabet.
        name = max(sorted(set(names)), key=names.count)
        texts.append(name if count == 1 else f"{name} {names.count(name)}/{count}")
    return texts


def class_table(loss: OracleLoss) -> Table | None:
    """The oracle loss of every class at a few times."""
    if len(loss.classes) < 2:
        return None
    step = -(-len(loss.times) // MAX_CLASS_TIMES)  # ⌈T / MAX_CLASS_TIMES⌉
    chosen = range(0, len(loss.times), step)
    curves = [group.curves["oracle"] for group in loss.classes]
    rows = [
        ReportRow((str(group.label), *(f"{float(curve.mean[k]):.3g}" for k in chosen)))
        for group, curve in zip(loss.classes, curves, strict=True)
    ]
    means = torch.stack([curve.mean for curve in curves])  # [classes, T]
    errors = torch.stack([curve.error for curve in curves])
    # A ratio to a loss that may be 0 says nothing: every class must be significant.
    significant = (means > 2 * errors).all(0)
    ratio = means.amax(0) / means.amin(0)
    cells = [f"{float(ratio[k]):.2g}" if significant[k] else "–" for k in chosen]
    rows.append(ReportRow(("largest / smallest", *cells), main=True))
    return Table(("class", *(f"t = {float(loss.times[k]):.3g}" for k in chosen)), rows)
