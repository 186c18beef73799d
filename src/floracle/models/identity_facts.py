"""The contents of a field: all modules, tensors, values and code that it can reach.

Python keeps no list of what a callable reads, so its references are followed: attributes, items,
arguments of partial functions, the objects of bound methods, cells of closures, defaults, and the
globals that the code of a user's function names. Installed packages are followed for modules and
tensors alone: their other attributes are caches, paths and counters, and what they compute shows
in the field's answers. A data set is represented by its fingerprint.
"""

from __future__ import annotations

import dataclasses
import dis
import functools
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path
from types import BuiltinFunctionType, CodeType, EllipsisType, FunctionType, MethodType, ModuleType
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from floracle.core.fields import Convention, TranslatedField
from floracle.core.point_set import PointSet
from floracle.run.files import digest

NOT_IDENTITY = {"identity": False}
"""Metadata of a dataclass field that decides nothing about what is computed, such as a name."""
PLAIN = (
    *(type(None), bool, int, float, complex, str, bytes, EllipsisType),
    *(Enum, np.generic, torch.dtype),
)
INSTALLED = {"site-packages", "dist-packages"}
HOOKS = ("_forward_pre_hooks", "_forward_hooks")
OF_EVERY_MODULE = frozenset(vars(nn.Module()))
"""Attributes that torch gives every module; those that matter are followed by other ways."""

# Digests stand in results, so the names of our own classes in them stay those of version 0.1.
MOVED_SINCE_0_1 = {
    "diffusers": ("SD3", "Flux"),
    "factory": ("WithoutNull",),
    "layers": (
        *("PatchEmbedding", "TimeEmbedding", "LabelEmbedding"),
        *("Attention", "SwiGLU", "MLP"),
    ),
    "lightningdit": ("LightningDiT", "FinalLayer", "Architecture"),
}
NAMES_OF_0_1 = {
    "floracle.core.paths.ProbabilityPath": "floracle.core.paths.Path",
    "floracle.models.networks.lightningdit.TransformerBlock": "floracle.models.lightningdit.Block",
    "floracle.models.identity_facts.Clock": "floracle.core.clock.Clock",
    "floracle.models.identity_facts.Opposite": "floracle.models.convention.Opposite",
    "floracle.models.field.PlacedNetwork": "floracle.models.field.Placed",
    **{
        f"floracle.models.networks.{module}.{name}": f"floracle.models.{module}.{name}"
        for module, names in MOVED_SINCE_0_1.items()
        for name in names
    },
}


@dataclass(frozen=True)
class Clock:
    """The times of a convention, as version 0.1 held them; for digests alone."""

    data: float
    noise: float


@dataclass(frozen=True)
class Opposite:
    """A model of sign −1, as version 0.1 held it; for digests alone."""

    model: object


class Fact(NamedTuple):
    """A tensor or text of a field, and the references that lead to it."""

    name: str
    value: str | Tensor


@dataclass(frozen=True)
class FieldContents:
    """All that a field reaches; made by `collect_contents`."""

    facts: list[Fact]
    """In an order that depends on the field alone."""
    modules: list[nn.Module]


class _Reference(NamedTuple):
    name: str
    value: object
    counted: bool
    """Whether kinds and plain values count; those in objects of installed packages do not."""


def collect_contents(field: object) -> FieldContents:
    """Everything that a field refers to, once, whether it is a module, a closure or an object."""
    facts: list[Fact] = []
    modules: list[nn.Module] = []
    names: dict[int, str] = {}
    alive: list[object] = []  # an id is unique only among objects that exist at the same time
    pending = [_Reference("", field, True)]
    while pending:  # depth first, each object's references in their order
        name, value, counted = pending.pop()
        if isinstance(value, Tensor):
            facts.append(Fact(name, value))
        elif isinstance(value, PLAIN):
            facts += [Fact(name, plain_text(value))] if counted else []
        elif id(value) in names:
            facts += [Fact(name, f"as {names[id(value)]}")] if counted else []
        else:
            names[id(value)] = name
            alive.append(value)
            modules += [value] if isinstance(value, nn.Module) else []
            facts += [Fact(name, _kind(value))] if counted else []
            references = [
                reference._replace(name=f"{name}.{reference.name}")
                for reference in _references(value, counted)
            ]
            pending += reversed(references)
    return FieldContents(facts, modules)


def plain_text(value: object) -> str:
    """A plain value as text; equal numbers read alike, whatever their type."""
    if isinstance(value, Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, (bool, int)):
        return repr(int(value))
    if isinstance(value, float):
        return repr(int(value)) if value.is_integer() else repr(float(value))
    return repr(value)


def hash_code(code: CodeType) -> str:
    """A hash of what code does; comments, positions and the names of variables do not count."""
    constants = [_constant_text(value) for value in code.co_consts]
    return digest(code.co_code, code.co_exceptiontable, *code.co_names, *constants)


def _constant_text(value: object) -> str:
    if isinstance(value, CodeType):
        return hash_code(value)
    if isinstance(value, (tuple, frozenset)):
        texts = [_constant_text(item) for item in value]
        # the order of a set of strings differs from one process to the next
        return repr(sorted(texts) if isinstance(value, frozenset) else texts)
    return plain_text(value)


def _references(value: object, counted: bool) -> Iterator[_Reference]:
    """What a value refers to."""
    match value:
        case nn.Module():
            yield from _module_references(value)
        case FunctionType():
            yield from _function_references(value)
        case MethodType():
            yield _Reference("self", value.__self__, counted)
            yield _Reference("function", value.__func__, counted)
        case partial():
            yield _Reference("function", value.func, counted)
            yield _Reference("arguments", (value.args, value.keywords), counted)
        case dict():
            items = [(_sort_key(key), item) for key, item in value.items()]
            for key, item in sorted(items, key=lambda pair: pair[0]):
                yield _Reference(key, item, counted)
        case list() | tuple() | deque():
            if all(isinstance(item, PLAIN) for item in value):  # long lists in one step
                yield _Reference("items", "; ".join(map(plain_text, value)), counted)
                return
            for index, item in enumerate(value):
                yield _Reference(str(index), item, counted)
        case set() | frozenset():
            for index, item in enumerate(sorted(value, key=_sort_key)):
                yield _Reference(str(index), item, counted)
        case type():
            yield from _class_references(value)
        case np.ndarray() if value.dtype.kind in "biufc":
            yield _Reference("values", digest(value.tobytes()), True)
            yield _Reference("shape", (value.dtype.str, value.shape), True)
        case ModuleType():
            return
        case _:
            yield from _object_references(value, counted)


def _module_references(module: nn.Module) -> Iterator[_Reference]:
    """Tensors, children and hooks; of a class that is not installed also its other attributes."""
    yield _Reference("class", type(module), True)
    attributes = vars(module) if _origin(type(module).__module__) != "installed" else {}
    hooks = {name: vars(module).get(name) for name in HOOKS}
    named = [
        *module.named_parameters(recurse=False),
        *module.named_buffers(recurse=False),
        *module.named_children(),
        *sorted(item for item in attributes.items() if item[0] not in OF_EVERY_MODULE),
        *((name, list(hook.values())) for name, hook in hooks.items() if hook),
    ]
    yield from (_Reference(name, value, True) for name, value in named)


def _function_references(function: FunctionType) -> Iterator[_Reference]:
    """Closure, defaults and attributes; of a user's function also its code and its globals."""
    origin = _origin(function.__globals__.get("__name__", ""))
    counted = origin != "installed"
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield _Reference(name, cell.cell_contents, counted)
        except ValueError:  # a variable that has no value yet
            continue
    for name in ("__defaults__", "__kwdefaults__", "__dict__"):
        yield _Reference(name, getattr(function, name) or None, counted)
    if origin == "user":
        yield _Reference("code", hash_code(function.__code__), True)
        for name in sorted(_global_names(function.__code__) & function.__globals__.keys()):
            yield _Reference(name, function.__globals__[name], True)


def _class_references(kind: type) -> Iterator[_Reference]:
    """Methods, other attributes and bases of a user's class."""
    if _origin(kind.__module__) != "user":
        return
    for name, value in sorted(vars(kind).items()):
        if isinstance(value, (staticmethod, classmethod)):
            yield _Reference(name, value.__func__, True)
        elif isinstance(value, property):
            yield _Reference(name, value.fget, True)
        elif isinstance(value, FunctionType) or not name.startswith("__"):
            yield _Reference(name, value, True)
    yield _Reference("bases", kind.__bases__, True)


def _object_references(value: object, counted: bool) -> Iterator[_Reference]:
    """Class and attributes; a data set, and a field of one, are represented by its fingerprint."""
    origin = _origin(type(value).__module__)
    if origin == "installed" and not counted:
        return  # a logger, say, would lead through its package to all of the process
    attributes = _attributes(value)
    if origin == "ours":
        for data in (value, attributes.get("data")):
            if isinstance(data, PointSet):
                yield _Reference("data", data.fingerprint, True)
                return
        for field in dataclasses.fields(value) if dataclasses.is_dataclass(value) else ():
            if field.metadata == NOT_IDENTITY:
                del attributes[field.name]
    yield _Reference("class", type(value), origin != "installed")
    for name, attribute in sorted(attributes.items()):
        yield _Reference(name, attribute, origin != "installed")


def _attributes(value: object) -> dict[str, Any]:
    """The attributes of an object, those in slots among them; no property is run."""
    if isinstance(value, TranslatedField):
        return _translated_attributes(value)
    attributes = dict(getattr(value, "__dict__", None) or {})
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if not name.startswith("__"):
                attributes[name] = getattr(value, name, None)
    return attributes


def _translated_attributes(field: TranslatedField) -> dict[str, Any]:
    """The attributes that a translated field had in version 0.1, and what differs since."""
    convention, default = field.convention, Convention()
    added = {name: getattr(convention, name) for name in ("noise_scale", "min_time_left")}
    return {
        **{name: value for name, value in added.items() if value != getattr(default, name)},
        "clock": Clock(convention.data_time, convention.noise_time),
        "model": field.model if convention.sign == 1 else Opposite(field.model),
        "null": convention.null_label,
        "path": convention.path,
        "predicts": convention.predicts,
    }


def _global_names(code: CodeType) -> set[str]:
    """The names of globals that code reads, and the functions inside it."""
    names = {
        step.argval
        for step in dis.get_instructions(code)
        if step.opname in ("LOAD_GLOBAL", "LOAD_NAME")
    }
    inner = [value for value in code.co_consts if isinstance(value, CodeType)]
    return names.union(*map(_global_names, inner))


def _sort_key(value: object) -> str:
    return plain_text(value) if isinstance(value, PLAIN) else type(value).__qualname__


def _kind(value: object) -> str:
    """The name of a class or function; the files of users may be renamed."""
    is_named = isinstance(value, (type, FunctionType, BuiltinFunctionType))
    named: Any = value if is_named else type(value)
    if _origin(named.__module__ or "") == "user":
        return "function" if isinstance(value, FunctionType) else named.__qualname__
    name = f"{named.__module__}.{named.__qualname__}"
    return NAMES_OF_0_1.get(name, name)


@functools.cache
def _origin(module: str) -> Literal["ours", "user", "installed"]:
    """Whose code a module of this name is."""
    package = module.partition(".")[0]
    if package == "floracle":
        return "ours"
    file = getattr(sys.modules.get(module), "__file__", None) or ""
    if package in sys.stdlib_module_names or INSTALLED.intersection(Path(file).parts):
        return "installed"
    return "user"
