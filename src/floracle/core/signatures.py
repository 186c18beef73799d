"""How foreign code takes its arguments: a network is called as network(x, time, labels).

Python checks their number alone. The names say more: a second time in the place of the labels
would be given the labels without a word.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from inspect import Parameter
from typing import Any

from torch import nn

ROLES = {
    "samples": {"x", "x_t", "xt", "z", "z_t", "sample", "samples", "hidden_states", "latents"},
    "a time": {
        *("t", "time", "times", "timestep", "timesteps", "sigma", "sigmas", "noise_labels"),
        *("r", "s", "h", "dt", "t_next", "t_prev", "t2", "step", "step_size", "end_time"),
    },
    "labels": {"y", "label", "labels", "classes", "class_labels", "class_label", "cls"},
}
"""The names that arguments of networks have, by what they are."""
CALLED = ("samples", "a time", "labels")


def takes_no_labels(network: Callable[..., Any]) -> bool:
    """Whether it can be called as network(x, time)."""
    return _binds(network, 2)


def takes_labels(network: Callable[..., Any]) -> bool:
    """Whether it can be called as network(x, time, labels)."""
    return _binds(network, 3)


def takes_too_few(network: Callable[..., Any]) -> bool:
    """Whether it has fewer than two arguments."""
    signature = _signature(network)
    kinds = () if signature is None else [p.kind for p in signature.parameters.values()]
    return signature is not None and len(kinds) < 2 and Parameter.VAR_POSITIONAL not in kinds


def call_problem(network: Callable[..., Any], *, labelled: bool | None = None) -> str:
    """Why it cannot be called as network(x, time, labels), as a sentence; "" where it can.

    `labelled` is whether labels are given; None where only some samples may have them.
    """
    signature = _signature(network)
    if signature is None:
        return ""
    parameters = list(signature.parameters.values())
    shown = f"takes ({', '.join(str(p).partition(':')[0] for p in parameters)})"
    fits = [_binds(network, count) for count in (2, 3)]
    if not (any(fits) if labelled is None else fits[labelled]):
        needed = "(x, time)" if labelled is False else "(x, time, labels)"
        return f"{shown}, but it is called with {needed}"
    names = [p.name for p in parameters if p.kind != p.VAR_KEYWORD and p.kind != p.KEYWORD_ONLY]
    roles = [_role(name) for name in names]
    # Where only (x, time) fits, or labels are not given, the third is left as it is by default.
    used = 2 if labelled is False or (labelled is None and fits[0]) else 3
    for index, role in enumerate(roles[:used]):
        if role is None or role == CALLED[index]:
            continue
        # "h" may be a hidden state and "s" a state: a name counts where it is another's, too.
        if index == 2 or CALLED[index] in roles:
            return f"{shown}, but {names[index]} would be given the {CALLED[index].split()[-1]}"
    if used == 3 and len(roles) > 3 and roles[2] is None and "labels" in roles[3:]:
        return f"{shown}, but {names[2]} would be given the labels"
    return ""


def _role(name: str) -> str | None:
    return next((role for role, names in ROLES.items() if name.lower() in names), None)


def _binds(network: Callable[..., Any], count: int) -> bool:
    signature = _signature(network)
    try:
        return signature is None or bool(signature.bind(*[None] * count))
    except TypeError:
        return False


def _signature(network: Callable[..., Any]) -> inspect.Signature | None:
    """Its signature; functions of C have none."""
    try:
        return inspect.signature(network.forward if isinstance(network, nn.Module) else network)
    except (TypeError, ValueError):
        return None
