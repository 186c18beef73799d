"""Whether two fields are the same network: what they are made of, and what they answer.

A result belongs to a network, not to the name of a file. What a network computes is identified by

    its contents    names, shapes, types and bytes of all tensors, and the values and the code of
                    the user, as far as they are reachable from the field (reachable.py);
    its answers     to a few fixed questions, bit by bit.

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

from floracle.core.fields import VelocityField
from floracle.core.paths import PATHS
from floracle.core.seeds import noise
from floracle.run.errors import InputError
from floracle.run.files import digest

from .convention import Opposite
from .field import ModelField, Placed
from .identity_facts import Fact, reachable
from .networks.lightningdit import LightningDiT

TIMES = (0.1, 0.5, 0.9)
"""When a field is evaluated, one sample each: early, in the middle and late."""
THREADS = 1
"""Sums are rounded otherwise on another number of threads, so it is always the same."""
EDGE = 16
"""Rows and columns of the samples where a network takes any size: text-to-image is expensive."""
PIECE_BYTES = 2**24
"""Tensors are hashed in pieces of this many bytes, several at a time."""
SWITCHED = "had dropout or batch statistics switched on; it was put into evaluation mode"
UNREPEATABLE = (
    "gives the same question different answers (dropout, random numbers or a counter in its code),"
    " so what is measured of it cannot be reproduced, and no earlier result of it is reused"
)


@dataclass(frozen=True)
class FieldFingerprint:
    """What a field computes, as text that tells it from others; made by `field_fingerprint`."""

    digest: str
    """32 hexadecimal digits; of a field that is not repeatable another one every time."""
    repeatable: bool = True
    """Whether the same question gets the same answer."""
    notes: tuple[str, ...] = ()
    """What its user should know, one sentence each."""


def field_fingerprint(
    field: VelocityField, shape: Sequence[int], *, labels: Tensor | None = None
) -> FieldFingerprint:
    """The identity of a field on samples of this shape: a network, or any function (x, t, labels).

    Modules inside it are put into their evaluation mode, and otherwise it is left as it was. A
    network of the family is not evaluated. Any other field is evaluated at three times, on one
    sample each, and once more to see whether the answers repeat; on one thread, if on the CPU.
    `labels` int64 are those to ask with; without them it is asked with none, or with 0 where it
    needs one. Take the fingerprint before the field is used: counters and caches of a user's
    object are among its contents.
    """
    contents = reachable(field)
    switched = evaluation_mode(contents.modules)
    content = digest_of(contents.facts)
    if known_by_weights(field):
        return FieldFingerprint(content)
    ask_twice = partial(_answered_twice, field, shape, labels)
    first, again = ask_twice(contents.modules)
    if first != again and (late := evaluation_mode(reachable(field).modules)):
        switched += late  # a network that was made only when it was first evaluated
        first, again = ask_twice(contents.modules)
    if first != again:
        unique = digest(content, secrets.token_bytes(16))
        return FieldFingerprint(unique, False, (f"{_name(field)} {UNREPEATABLE}",))
    notes = (f"{_name(field)} {SWITCHED}",) if acts_otherwise(switched) else ()
    return FieldFingerprint(digest(content, first), True, notes)


def evaluation_mode(modules: Iterable[nn.Module]) -> list[nn.Module]:
    """Put modules into their evaluation mode; returns those that were in training mode."""
    # a frozen module of TorchScript has no mode
    training = [module for module in modules if getattr(module, "training", False)]
    for module in training:
        module.eval()
    return training


def acts_otherwise(modules: Iterable[nn.Module]) -> bool:
    """Whether one of these modules looks at its mode when it is evaluated, as dropout does."""
    codes = [getattr(getattr(type(each), "forward", None), "__code__", None) for each in modules]
    return any(code is None or "training" in code.co_names for code in codes)


def known_by_weights(field: VelocityField) -> bool:
    """Whether it is a network of the family, read by a convention that is all in its words."""
    if not isinstance(field, ModelField) or field.translated.path not in PATHS.values():
        return False
    model = field.translated.model
    model = model.model if isinstance(model, Opposite) else model
    return isinstance(model, Placed) and type(model.network) is LightningDiT


def digest_of(facts: Sequence[Fact]) -> str:
    """A hash of what a field is made of; tied tensors are read once."""
    tensors = {id(fact.value): fact.value for fact in facts if isinstance(fact.value, Tensor)}
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:  # which hashing leaves free to run
        hashing = {
            key: [pool.submit(_hashed, piece) for piece in _pieces(tensor)]
            for key, tensor in tensors.items()
        }
        hashes = {key: digest(*(some.result() for some in each)) for key, each in hashing.items()}
    parts: list[str] = []
    for name, value in facts:
        if isinstance(value, Tensor):
            parts += [name, f"{value.dtype} {list(value.shape)}", hashes[id(value)]]
        else:
            parts += [name, value]
    return digest(*parts)


def _pieces(tensor: Tensor) -> Sequence[Tensor]:
    """What a tensor holds, in a row and cut; nothing of one whose memory cannot be read."""
    try:
        dense = tensor.detach() if tensor.layout == torch.strided else tensor.detach().to_dense()
        flat = dense.resolve_conj().resolve_neg().reshape(-1).contiguous()
        return () if flat.is_meta else flat.view(torch.uint8).split(PIECE_BYTES)
    except RuntimeError:  # quantized formats of others, which show in the answers
        return ()


def _hashed(piece: Tensor) -> str:
    return digest(piece.cpu().numpy().data)


def _answered_twice(
    field: VelocityField, shape: Sequence[int], labels: Tensor | None, modules: list[nn.Module]
) -> tuple[str, str]:
    """Two hashes of what a field answers to the same questions; `modules` are those inside it."""
    size = [int(edge) for edge in shape]
    if isinstance(field, ModelField) and field.any_size:
        size = [size[0], *(min(edge, EDGE) for edge in size[1:])]
    try:
        with _undisturbed(modules):
            given, first = _first_answers(field, size, labels)
            return first, _answers(field, size, given)
    except RuntimeError as error:
        if "memory" in str(error).lower():
            raise
        raise InputError(
            f"{_name(field)} fails on samples of {' × '.join(map(str, size))}:"
            f" {' '.join(str(error).split())[:200]}; take data of the shape it was trained on"
        ) from error


def _first_answers(
    field: VelocityField, shape: list[int], labels: Tensor | None
) -> tuple[Tensor | None, str]:
    """The labels that a field can be asked with, and a hash of what it answers."""
    zero = torch.zeros(1, dtype=torch.int64)
    if labels is not None or (isinstance(field, ModelField) and field.needs_labels):
        given = zero if labels is None else labels
        return given, _answers(field, shape, given)
    try:
        return None, _answers(field, shape, None)
    except Exception as without:  # code that misses its labels fails in any way
        try:
            return zero, _answers(field, shape, zero)
        except TypeError:  # it takes no labels at all
            raise without from None


def _answers(field: VelocityField, shape: list[int], labels: Tensor | None) -> str:
    """A hash of the velocities, bit by bit: NaN is an answer like others."""
    answers: list[str] = []
    for seed, time in enumerate(TIMES):
        t = torch.full((1,), time, dtype=torch.float64)
        given = None if labels is None else labels[seed % len(labels)][None]
        velocity = field(noise([seed], shape), t, given)
        answers += [f"{velocity.dtype} {list(velocity.shape)}", *map(_hashed, _pieces(velocity))]
    return digest(*answers)


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
        torch.set_num_threads(THREADS)
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
