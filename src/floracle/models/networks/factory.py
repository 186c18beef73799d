"""Networks of users: `module:function` or `file.py:function`, and a convention.

The function is called without arguments and returns what is called as `network(x, time, labels)`,
and as `network(x, time)` for samples without a label where the convention has no null label.
Loading runs that module; nothing else ever does.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, cast

import torch
from torch import Tensor, nn

from floracle.core.point_set import NO_LABEL
from floracle.core.signatures import call_problem, takes_no_labels
from floracle.models.identity_facts import NOT_IDENTITY
from floracle.run.errors import InputError, suggestion

NetworkCallable = Callable[..., Tensor]


@dataclass(frozen=True)
class WithoutNull:
    """A network without a null label: samples without a label are evaluated without the argument.

    They are a call of their own where only some samples of a batch have a label.
    """

    network: NetworkCallable
    name: str = field(metadata=NOT_IDENTITY)

    def __call__(self, x: Tensor, time: Tensor, labels: Tensor | None = None) -> Tensor:
        """The network's output at x [b, *shape]."""
        if labels is None:
            return self._unlabelled(x, time)
        unlabelled = labels == NO_LABEL  # bool [b]
        if bool(unlabelled.all()):
            return self._unlabelled(x, time)
        if not bool(unlabelled.any()):
            return self._labelled(x, time, labels)
        outputs = torch.empty_like(x)
        for rows, output in (
            (unlabelled, self._unlabelled(x[unlabelled], time[unlabelled])),
            (~unlabelled, self._labelled(x[~unlabelled], time[~unlabelled], labels[~unlabelled])),
        ):
            if not isinstance(output, Tensor) or output.shape != x[rows].shape:
                return output  # PlacedNetwork refuses it
            outputs[rows] = output.to(outputs)
        return outputs

    @property
    def needs_labels(self) -> bool:
        """Whether every sample needs a label."""
        return not takes_no_labels(self.network)

    def _labelled(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        check_call(self.network, self.name, labelled=True)
        return self.network(x, time, labels)

    def _unlabelled(self, x: Tensor, time: Tensor) -> Tensor:
        if self.needs_labels:
            raise InputError(
                f"{self.name} takes labels, but some samples have none; declare its null label,"
                f" e.g. null_label=10, or give every sample a label"
            )
        return self.network(x, time)


def check_call(network: Callable[..., Any], name: str, *, labelled: bool | None) -> None:
    """Refuse a network whose arguments are others than x, time and labels."""
    if problem := call_problem(network, labelled=labelled):
        raise InputError(
            f"{name} {problem}; return a function of x, time and labels that calls it"
        )


def is_factory(name: str) -> bool:
    """Whether this names a function in a module or in a Python file."""
    return re.fullmatch(r"(.+\.py|[\w.]+):[A-Za-z_]\w*", name) is not None


def call_factory(name: str) -> NetworkCallable:
    """The network that a function builds; a torch module without gradients."""
    module_name, _, function_name = name.rpartition(":")
    module = _import_module(module_name)
    function: Any = getattr(module, function_name, None)
    if not callable(function):
        functions = [n for n, value in vars(module).items() if callable(value) and n[0] != "_"]
        raise InputError(
            f"{module_name} has no function {function_name!r};"
            f" {suggestion(function_name, functions)}"
        )
    network: Any = function()
    if not callable(network):
        raise InputError(
            f"{name}() returned a {type(network).__name__}; it must return a network that is"
            f" called as network(x, time, labels)"
        )
    check_call(network, name, labelled=None)
    if isinstance(network, nn.Module):
        network.requires_grad_(False)
    return cast(NetworkCallable, network)


def _import_module(name: str) -> ModuleType:
    """The module of this name, or of this file."""
    try:
        return _import_file(Path(name)) if name.endswith(".py") else importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(error.name):
            raise  # a module that the user's module imports
        raise InputError(
            f"there is no module {name}; give the path of its file, e.g. networks/{name}.py:…,"
            f" or put its folder on PYTHONPATH"
        ) from error


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise InputError(f"there is no file {path}")
    name = f"_floracle_{path.stem}"  # so that no installed package is hidden by its file's name
    loader = _CurrentSource(name, str(path))
    spec = importlib.util.spec_from_file_location(name, path, loader=loader)
    if spec is None:
        raise InputError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look there for their annotations
    loader.exec_module(module)
    return module


class _CurrentSource(SourceFileLoader):
    """Compiles a file as it is now, and writes nothing beside it.

    Kept bytecode is told from its source by the second of its change and its size alone: an edit
    that moves neither would run as the network that was there before.
    """

    def get_code(self, fullname: str) -> CodeType:
        return self.source_to_code(self.get_data(self.path), self.path)
