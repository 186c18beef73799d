"""Networks of one's own: `module:function` or `file.py:function`, and a convention.

The function is called without arguments and returns what is called as `network(x, time, labels)`,
and as `network(x, time)` for samples without a label where the convention has no null label.
Loading runs that module; nothing else ever does.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn

from floracle.core.point_set import NO_LABEL
from floracle.models.identity_facts import NOT_IDENTITY
from floracle.run.errors import InputError, suggestion

NetworkCallable = Callable[..., Tensor]


@dataclass(frozen=True)
class WithoutNull:
    """A network that has no null label: samples without one are put to it without labels."""

    network: NetworkCallable
    name: str = field(metadata=NOT_IDENTITY)

    def __call__(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        """The network's output, in two calls where only some samples have a label."""
        without = None if labels is None else labels == NO_LABEL
        if labels is None or without is None or bool(without.all()):
            return self._unlabelled(x, time)
        if not bool(without.any()):
            return self.network(x, time, labels)
        said = torch.empty_like(x)
        for rows in (without, ~without):
            given = (x[rows], time[rows])
            part = (
                self._unlabelled(*given) if rows is without else self.network(*given, labels[rows])
            )
            if not isinstance(part, Tensor) or part.shape != given[0].shape:
                return part  # which is refused where it is looked at
            said[rows] = part.to(said)
        return said

    def _unlabelled(self, x: Tensor, time: Tensor) -> Tensor:
        if not takes_two(self.network):
            raise InputError(
                f"{self.name} is called with labels, but some samples have none; declare its"
                f" label for them, like null_label=10, or give every sample a label"
            )
        return self.network(x, time)


def takes_two(network: NetworkCallable) -> bool:
    """Whether it can be called as network(x, time)."""
    called = network.forward if isinstance(network, nn.Module) else network
    try:
        inspect.signature(called).bind(None, None)
    except TypeError:
        return False
    except ValueError:  # what is not written in Python tells no signature
        return True
    return True


def is_factory(where: str) -> bool:
    """Whether this names a function in a module or in a file of Python."""
    return re.fullmatch(r"(.+\.py|[\w.]+):[A-Za-z_]\w*", where) is not None


def made_by(where: str) -> NetworkCallable:
    """What the function made; a torch module without gradients."""
    place, _, name = where.rpartition(":")
    module = module_at(place)
    if not callable(getattr(module, name, None)):
        known = [n for n, value in vars(module).items() if callable(value) and n[0] != "_"]
        raise InputError(f"{place} has no function {name!r}; {suggestion(name, known)}")
    made: Any = getattr(module, name)()
    if not callable(made):
        raise InputError(
            f"{where}() returned a {type(made).__name__}; it has to return a network that is"
            f" called as network(x, time, labels)"
        )
    return cast(
        NetworkCallable, made.requires_grad_(False) if isinstance(made, nn.Module) else made
    )


def module_at(place: str) -> ModuleType:
    """The module that was named, and no other."""
    try:
        return _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not place.startswith(error.name):
            raise
        raise InputError(
            f"there is no module {place}; give the path of its file, like networks/{place}.py:…,"
            f" or put its folder on PYTHONPATH"
        ) from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    name = f"_floracle_{path.stem}"  # so that no installed package is hidden by its file's name
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a file of Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module
