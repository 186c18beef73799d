"""Networks of one's own: `module:function` or `file.py:function`, and a convention.

The function is called without arguments and returns what is called as `network(x, time, labels)`,
and as `network(x, time)` where nobody gave labels and the convention has no null label. Loading
runs that module; nothing else ever does.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from torch import Tensor, nn

from floracle.run.errors import Mistake, suggestion

Network = Callable[..., Tensor]


def is_factory(where: str) -> bool:
    """Whether this names a function in a module or in a file of Python."""
    return re.fullmatch(r"(.+\.py|[\w.]+):[A-Za-z_]\w*", where) is not None


def made_by(where: str) -> Network:
    """What the function made; a torch module is put into its evaluation mode."""
    place, _, name = where.rpartition(":")
    module = module_at(place)
    if not callable(getattr(module, name, None)):
        known = [n for n, value in vars(module).items() if callable(value) and n[0] != "_"]
        raise Mistake(f"{place} has no function {name!r}; {suggestion(name, known)}")
    made: Any = getattr(module, name)()
    if not callable(made):
        raise Mistake(
            f"{where}() returned a {type(made).__name__}; it has to return a network that is"
            f" called as network(x, time, labels)"
        )
    return cast(
        Network, made.eval().requires_grad_(False) if isinstance(made, nn.Module) else made
    )


def module_at(place: str) -> ModuleType:
    """The module that was named, and no other."""
    try:
        return _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is None or not place.startswith(error.name):
            raise
        raise Mistake(
            f"there is no module {place}; give the path of its file, like networks/{place}.py:…,"
            f" or put its folder on PYTHONPATH"
        ) from error


def _from_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise Mistake(f"there is no file {path}")
    name = f"_floracle_{path.stem}"  # so that no installed package is hidden by its file's name
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise Mistake(f"{path} is not a file of Python")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # where dataclasses look for their annotations
    spec.loader.exec_module(module)
    return module
