"""Held-out data beside its training set: classes joined by name, no row in both.

Two sets that were read separately number their classes separately, may be stored in other units,
and may share rows. Each would change every comparison without a sign: labels of another class, a
loss of another scale, a held-out loss that is a training loss. `join_held_out` brings the labels
to the training set's numbers, says what it left out, and refuses what cannot be compared.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from floracle.core.nearest import nearest
from floracle.core.point_set import NO_LABEL, PointSet
from floracle.run.errors import InputError
from floracle.run.files import digest

from .atoms import ClassIndex
from .integrity_check import block_rows, row_digests
from .store import Store
from .units import Units, compare_units

NEAR_SHARE = 0.2
"""A held-out point is a near-duplicate within this share of the usual distance between nearest
training points. Natural pairs of digits, MNIST, Fashion-MNIST and photographs lie beyond .26 of
it, copies with a little noise below .1."""
MAX_NEAR_SHARE = 0.05  # of held-out rows: more of them would change a held-out loss visibly
NEAR_CHECK_OPERATIONS = 1e11  # one to a few seconds on two cores
NEAR_CHECK_ROWS = (32, 1000)  # fewest and most held-out rows that are compared by distance
REFERENCE_ROWS = 64  # training points whose nearest neighbours set the scale
LISTED = 8


def join_held_out(data: PointSet, held_out: PointSet, *, drop_overlap: bool = False) -> PointSet:
    """Held-out data with the labels of a training set, and without rows that both share.

    Classes are joined by name where both sets have names. A store that was joined with this
    training set before comes back as it is, and so does data that is no store: it has neither
    names nor digests.

    Parameters
    ----------
    data, held_out
        The training set and what was not trained on, points of one shape.
    drop_overlap
        Whether held-out rows that are training points, exactly or nearly, are left out; by
        default they are refused.

    Raises
    ------
    InputError
        If shapes or classes do not fit, or the sets overlap.
    """
    if tuple(held_out.shape) != tuple(data.shape):
        raise InputError(
            f"held-out points have shape {list(held_out.shape)}, those of the data"
            f" {list(data.shape)}"
        )
    if not isinstance(data, Store) or not isinstance(held_out, Store):
        return held_out
    if held_out.joined_with == data.fingerprint:
        return held_out
    mismatch = compare_units(Units.of(data), Units.of(held_out))
    if mismatch is not None and mismatch.certain:
        raise InputError(mismatch.sentence)
    unit_remarks = [] if mismatch is None else [mismatch.sentence]
    labels, class_remarks = _join_labels(data, held_out)
    included = labels >= NO_LABEL  # classes that the training set lacks are marked below −1
    shared, overlap_remarks = _find_overlap(data, held_out, drop=drop_overlap)
    included[shared] = False
    if not included.any():
        raise InputError(
            f"nothing is left of the held-out data {held_out.name}: {class_remarks[0]}"
            if class_remarks
            else f"every row of the held-out data {held_out.name} is a training point; give data"
            " that was not trained on"
        )
    labels = torch.where(included, labels, NO_LABEL)
    fingerprint = held_out.fingerprint
    if not included.all() or not torch.equal(labels, held_out.labels):
        fingerprint = digest(fingerprint, labels.numpy().tobytes(), included.numpy().tobytes())
    index = held_out.class_index
    return replace(
        held_out,
        classes=data.classes,
        class_index=ClassIndex(index.first, labels, index.weights, included),
        fingerprint=fingerprint,
        remarks=(*held_out.remarks, *unit_remarks, *class_remarks, *overlap_remarks),
        joined_with=data.fingerprint,
    )


def join_and_warn(data: PointSet, held_out: PointSet) -> PointSet:
    """`join_held_out`; what it left out is a warning."""
    joined = join_held_out(data, held_out)
    if isinstance(joined, Store) and isinstance(held_out, Store):
        for remark in joined.remarks[len(held_out.remarks) :]:
            warnings.warn(remark, stacklevel=3)
    return joined


# --- classes ---


def _join_labels(data: Store, held_out: Store) -> tuple[Tensor, list[str]]:
    """The training set's labels of held-out rows, int64 [N], −2 where it lacks the class."""
    training, other = _occurring(data), _occurring(held_out)
    labels = held_out.labels.clone()
    if not training or not other:
        return labels, []
    remarks = []
    if _has_names(data) == _has_names(held_out):
        numbers = {name: label for label, name in training.items()}
        target = {label: numbers.get(name, -2) for label, name in other.items()}
    else:
        _refuse_numbers_as_names(data, held_out)
        target = {label: label if label in training else -2 for label in other}
        named, plain = (data, held_out) if _has_names(data) else (held_out, data)
        remarks.append(
            f"the classes of {plain.name} have numbers alone, those of {named.name} have names;"
            f" the numbers are taken for ranks: {_list_pairs(named, training.keys() & other)}"
        )
    if all(label == -2 for label in target.values()):
        raise InputError(
            f"no class of the held-out data ({_list(other.values())}) is one of the data"
            f" ({_list(training.values())}); give data of the same classes"
        )
    for label, new in target.items():
        labels[held_out.labels == label] = new
    if unknown := [label for label, new in target.items() if new == -2]:
        count = int((labels == -2).sum())
        remarks.append(
            f"{count:,} rows of {held_out.name} are left out: the training set has no class"
            f" {_list(other[label] for label in unknown)}"
        )
    if absent := [name for label, name in training.items() if label not in target.values()]:
        remarks.append(
            f"{held_out.name} has no class {_list(absent)}, which the training set has; its whole"
            " is compared with the whole training set all the same"
        )
    return labels, remarks


def _occurring(store: Store) -> dict[int, str]:
    """The names of the classes that have rows, by label."""
    labels = store.labels.unique().tolist()
    return {label: store.classes[label] for label in labels if label >= 0}


def _has_names(store: Store) -> bool:
    """Whether classes are named otherwise than by their own numbers."""
    return any(name != str(label) for label, name in enumerate(store.classes))


def _refuse_numbers_as_names(data: Store, held_out: Store) -> None:
    """Refuse labels that may be the names or the ranks of classes which are named by numbers."""
    named = data if _has_names(data) else held_out
    if all(name.isdecimal() for name in named.classes):
        label = next(i for i, name in enumerate(named.classes) if name != str(i))
        raise InputError(
            f"the classes of {named.name} are named by numbers that are not their ranks: label"
            f" {label} is class {named.classes[label]}. Whether the labels of the other set are"
            " names or ranks is not known; give both sets as class folders"
        )


def _list_pairs(store: Store, labels: set[int]) -> str:
    pairs = [f"{label} is {store.classes[label]}" for label in sorted(labels)]
    return _list(pairs) if pairs else "none occurs in both"


def _list(entries: Iterable[object]) -> str:
    names = [str(entry) for entry in entries]
    return ", ".join(names[:LISTED]) + (f", … ({len(names)})" if len(names) > LISTED else "")


# --- rows in both sets ---


def _find_overlap(data: Store, held_out: Store, *, drop: bool) -> tuple[Tensor, list[str]]:
    """The held-out rows to leave out, int64 [n], and what is to be said of them."""
    exact = _equal_rows(data, held_out)
    if len(exact) == len(held_out):
        raise InputError(
            f"every row of the held-out data {held_out.name} is a training point; give data that"
            " was not trained on"
        )
    if len(exact) and not drop:
        raise InputError(
            f"{len(exact):,} of {len(held_out):,} rows of the held-out data {held_out.name} are"
            f" training points: {_list(exact.tolist())}; give --drop-overlap (drop_overlap=True)"
            " to leave them out"
        )
    near, checked = _near_rows(data, held_out, everything=drop)
    if not len(near) and not len(exact):
        return exact, []
    count = f"{len(near):,} of {checked:,} rows" + (
        "" if checked == len(held_out) else f" compared (of {len(held_out):,})"
    )
    if drop:
        rows = torch.cat([exact, near]).unique()
        return rows, [
            f"{len(rows):,} rows of {held_out.name} are left out, since they are training points,"
            f" exactly ({len(exact):,}) or nearly: {_list(rows.tolist())}"
        ]
    remark = (
        f"{count} of the held-out data {held_out.name} nearly repeat a training point:"
        f" {_list(near.tolist())}"
    )
    if len(near) > MAX_NEAR_SHARE * checked:
        raise InputError(f"{remark}; give --drop-overlap (drop_overlap=True) to leave them out")
    return near[:0], [f"{remark}; --drop-overlap leaves them out"]


def _equal_rows(data: Store, held_out: Store) -> Tensor:
    """The held-out rows that are training points in every bit, int64 [n]."""
    if data.digests is not None and held_out.digests is not None and data.dtype == held_out.dtype:
        # One normalizer serves both: equal stored rows are equal points.
        training, others = data.digests, held_out.digests
        known = set(map(bytes, training))
        return torch.tensor([i for i, row in enumerate(others) if bytes(row) in known]).long()
    digests = [
        row_digests(held_out.take(rows).flatten(1))
        for rows in torch.arange(len(held_out)).split(block_rows(held_out.stored))
    ]
    rows_of: dict[bytes, list[int]] = {}
    for i, row in enumerate(row for block in digests for row in block):
        rows_of.setdefault(bytes(row), []).append(i)
    shared = [
        i
        for block in data.blocks(NO_LABEL, rows=block_rows(data.stored))
        for row in row_digests(block.points.contiguous())
        for i in rows_of.get(bytes(row), ())
    ]
    return torch.tensor(sorted(set(shared))).long()


def _near_rows(data: Store, held_out: Store, *, everything: bool) -> tuple[Tensor, int]:
    """Near-duplicates of training points among held-out rows, int64 [n], and how many were tried.

    The rows that are tried are spread evenly over the set, unless `everything` is asked for.
    """
    atoms = data.atoms().rows
    if len(atoms) < 3:
        return atoms[:0], 0  # two points have no usual distance
    fewest, most = NEAR_CHECK_ROWS
    affordable = int(NEAR_CHECK_OPERATIONS / (2 * len(atoms) * prod(data.shape)))
    count = len(held_out) if everything else min(max(fewest, affordable), most, len(held_out))
    rows = _spread(len(held_out), count)
    some = atoms[_spread(len(atoms), REFERENCE_ROWS)]
    # The nearest other training point; the point itself is the first of two.
    usual = nearest(data, data.take(some), 2).distances[:, 1].median()
    step = max(1, 2**24 // prod(data.shape))
    near = [
        piece[nearest(data, held_out.take(piece), 1).distances[:, 0] < NEAR_SHARE * usual]
        for piece in rows.split(step)
    ]
    return torch.cat(near), len(rows)


def _spread(total: int, count: int) -> Tensor:
    """At most `count` numbers spread evenly over 0 … total − 1, int64."""
    return torch.linspace(0, total - 1, min(count, total), dtype=torch.float64).round().long()
