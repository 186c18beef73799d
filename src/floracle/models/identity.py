"""Whether two fields are the same network: by their contents, and by their answers.

A result belongs to a network, not to the name of a file. What a network computes is identified by

    its contents    names, shapes, types and bytes of all tensors, and the values and the code of
                    the user, as far as they can be reached from the field (identity_facts.py);
    its answers     to a few fixed queries, bit by bit.

Networks of the family (`LightningDiT`) are known by their contents, which are the same on every
device and in every kind of file. Any other field is also evaluated, so that what no reference
leads to counts as well: an installed package, a file that is read on the way. Its answers repeat
on one machine. Another machine, device or version of torch may round the last bits otherwise; an
old result is then refused, although it is of the same network.
"""

from __future__ import annotations

import random
import secrets
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from floracle.core.fields import VelocityField, evaluate
from floracle.core.paths import PATHS
from floracle.core.seeds import noise
from floracle.run.errors import InputError
from floracle.run.files import digest

from .field import ModelField, PlacedNetwork
from .identity_facts import Fact, collect_contents
from .networks.lightningdit import LightningDiT

QUERY_TIMES = (0.1, 0.5, 0.9)  # one sample each: early, in the middle and late
QUERY_THREADS = 1  # another number of threads adds in another order, and rounds otherwise
MAX_QUERY_EDGE = 16  # rows and columns, where a network takes any: text-to-image is expensive
HASHED_PIECE_BYTES = 2**24  # tensors are hashed in pieces of this size, several at a time
SWITCHED = "had dropout or batch statistics switched on; it was put into evaluation mode"
UNREPEATABLE = (
    "gives different answers to the same query (dropout, random numbers or a counter in its code);"
    " results of it cannot be reproduced, and no earlier result of it is reused"
)


@dataclass(frozen=True)
class FieldFingerprint:
    """What a field computes, as text that tells it from others; made by `field_fingerprint`."""

    digest: str
    """32 hexadecimal digits; of a field that is not repeatable another one every time."""
    repeatable: bool = True
    """Whether the same query gets the same answer."""
    notes: tuple[str, ...] = ()
    """What its user should know, one sentence each."""


def field_fingerprint(
    field: VelocityField, shape: Sequence[int], *, labels: Tensor | None = None
) -> FieldFingerprint:
    """The identity of a field on samples of this shape.

    A network of the family is not evaluated. Any other field is evaluated at three times, on one
    sample each, and once more to see whether the answers repeat; on one thread, if on the CPU.
    Modules inside it are put into their evaluation mode; otherwise it is left as it was.

    Parameters
    ----------
    field
        A network, or any function (x, t, labels). Take its fingerprint before it is used: counters
        and caches of a user's object are among its contents.
    shape
        The shape of one sample.
    labels
        The labels int64 of the queries. Without them the field is evaluated with no label, or with
        label 0 where it needs one.

    Raises
    ------
    InputError
        If the field cannot be evaluated on samples of this shape.
    """
    contents = collect_contents(field)
    switched = set_evaluation_mode(contents.modules)
    content_digest = hash_facts(contents.facts)
    if _is_known_by_contents(field):
        return FieldFingerprint(content_digest)
    answer_twice = partial(_answer_twice, field, shape, labels)
    first, second = answer_twice(contents.modules)
    if first != second and (late := set_evaluation_mode(collect_contents(field).modules)):
        switched += late  # a network that was made only when it was first evaluated
        first, second = answer_twice(contents.modules)
    if first != second:
        unique = digest(content_digest, secrets.token_bytes(16))
        return FieldFingerprint(unique, False, (f"{_name(field)} {UNREPEATABLE}",))
    notes = (f"{_name(field)} {SWITCHED}",) if reads_mode(switched) else ()
    return FieldFingerprint(digest(content_digest, first), True, notes)


def set_evaluation_mode(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Put modules into their evaluation mode; returns those that were in training mode."""
    # getattr: a frozen module of TorchScript has no mode
    training = [module for module in modules if getattr(module, "training", False)]
    for module in training:
        module.eval()
    return training


def reads_mode(modules: Iterable[nn.Module]) -> bool:
    """Whether one of these modules looks at its mode when it is evaluated, as dropout does."""
    codes = [
        getattr(getattr(type(module), "forward", None), "__code__", None) for module in modules
    ]
    return any(code is None or "training" in code.co_names for code in codes)


def _is_known_by_contents(field: VelocityField) -> bool:
    """Whether it is a network of the family, and its path one that a name determines."""
    if not isinstance(field, ModelField):
        return False
    model, path = field.translated.model, field.translated.convention.path
    is_ours = isinstance(model, PlacedNetwork) and type(model.network) is LightningDiT
    return is_ours and path in PATHS.values()


def hash_facts(facts: Sequence[Fact]) -> str:
    """A hash of the contents of a field; tied tensors are read once."""
    tensors = {id(fact.value): fact.value for fact in facts if isinstance(fact.value, Tensor)}
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # hashing releases the GIL
        futures = {
            key: [pool.submit(_hash_piece, piece) for piece in _pieces(tensor)]
            for key, tensor in tensors.items()
        }
        hashes = {
            key: digest(*(future.result() for future in pieces)) for key, pieces in futures.items()
        }
    texts: list[str] = []
    for name, value in facts:
        if isinstance(value, Tensor):
            texts += [name, f"{value.dtype} {list(value.shape)}", hashes[id(value)]]
        else:
            texts += [name, value]
    return digest(*texts)


def _pieces(tensor: Tensor) -> Sequence[Tensor]:
    """The bytes of a tensor, flat and cut; none where its memory cannot be read."""
    try:
        dense = tensor.detach() if tensor.layout == torch.strided else tensor.detach().to_dense()
        flat = dense.resolve_conj().resolve_neg().reshape(-1).contiguous()
        return () if flat.is_meta else flat.view(torch.uint8).split(HASHED_PIECE_BYTES)
    except RuntimeError:  # quantized formats of others, which show in the answers
        return ()


def _hash_piece(piece: Tensor) -> str:
    return digest(piece.cpu().numpy().data)


def _answer_twice(
    field: VelocityField, shape: Sequence[int], labels: Tensor | None, modules: list[nn.Module]
) -> tuple[str, str]:
    """Two hashes of a field's answers to the same queries; `modules` are those inside it."""
    size = [int(edge) for edge in shape]
    if isinstance(field, ModelField) and field.any_size:
        size = [size[0], *(min(edge, MAX_QUERY_EDGE) for edge in size[1:])]
    try:
        with _undisturbed(modules):
            labels, first = _first_answers(field, size, labels)
            return first, _hash_answers(field, size, labels)
    except RuntimeError as error:
        if "memory" in str(error).lower():
            raise
        raise InputError(
            f"{_name(field)} fails on samples of {' × '.join(map(str, size))}:"
            f" {' '.join(str(error).split())[:200]}; use data of the shape it was trained on"
        ) from error


def _first_answers(
    field: VelocityField, shape: list[int], labels: Tensor | None
) -> tuple[Tensor | None, str]:
    """Labels that a field can be evaluated with, and a hash of its answers."""
    zero = torch.zeros(1, dtype=torch.int64)
    if labels is None and isinstance(field, ModelField) and field.needs_labels:
        labels = zero
    if labels is not None:
        return labels, _hash_answers(field, shape, labels)
    try:
        return None, _hash_answers(field, shape, None)
    except Exception as without_labels:  # code that misses its labels fails in any way
        try:
            return zero, _hash_answers(field, shape, zero)
        except (TypeError, InputError):  # it takes no labels at all
            raise without_labels from None


def _hash_answers(field: VelocityField, shape: list[int], labels: Tensor | None) -> str:
    """A hash of the velocities, bit by bit: NaN is an answer like others."""
    texts: list[str] = []
    for seed, time in enumerate(QUERY_TIMES):
        t = torch.full((1,), time, dtype=torch.float64)
        label = None if labels is None else labels[seed % len(labels)][None]
        velocity = evaluate(field, noise([seed], shape), t, label)
        shown = f"{velocity.dtype} {list(velocity.shape)}"
        texts += [shown, *map(_hash_piece, _pieces(velocity))]
    return digest(*texts)


@contextmanager
def _undisturbed(modules: Sequence[nn.Module]) -> Iterator[None]:
    """One thread and no gradients; random states and buffers are afterwards what they were."""
    threads, python, arrays = torch.get_num_threads(), random.getstate(), np.random.get_state()  # noqa: NPY002
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    buffers = [
        (module, name, buffer, buffer.clone())
        for module in modules
        for name, buffer in module.named_buffers(recurse=False)
    ]
    with torch.random.fork_rng(list(devices)), torch.no_grad():
        torch.set_num_threads(QUERY_THREADS)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            random.setstate(python)
            np.random.set_state(arrays)  # noqa: NPY002
            for module, name, buffer, content in buffers:
                if getattr(module, name) is not buffer:
                    setattr(module, name, buffer)
                if not torch.equal(buffer, content):
                    buffer.copy_(content)


def _name(field: VelocityField) -> str:
    return field.name if isinstance(field, ModelField) else "this field"
