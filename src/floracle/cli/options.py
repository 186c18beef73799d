"""Options that several verbs share, and commands in words.

A group of options is a frozen dataclass: cyclopts makes an option of each field, and the verb
takes the group as one argument. So name, default and help of an option stand here once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from inspect import Parameter as Argument
from inspect import signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import CycloptsError, Parameter, Token

from floracle.report.names import quoted
from floracle.run.errors import InputError
from floracle.run.processes import ALONE, process_device

from .console import warn
from .parsing import parse_integers, parse_labels, parse_seeds

if TYPE_CHECKING:
    from torch import Tensor

    from floracle.data.store import Store
    from floracle.oracle.gaussian_data import GaussianOracle
    from floracle.oracle.oracle import Oracle
    from floracle.run.processes import ProcessGroup

NOT_IN_COMMANDS = {"out", "memory", "dry_run", "deep"}
"""Options that leave the numbers of a result as they are."""


def _convert_count(_: type, tokens: Sequence[Token]) -> int:
    """A count as it is typed: 1e3 is one, and 50.7 is none."""
    from decimal import Decimal, InvalidOperation

    typed = tokens[0].value
    try:
        value = Decimal(typed)
    except InvalidOperation:
        value = Decimal("NaN")
    # Decimal, not float: 1e17 + 1 is a whole number that float would round.
    if not value.is_finite() or abs(value) >= 10**18 or value != int(value):
        raise CycloptsError(msg=f"{tokens[0].keyword} is a whole number, got {typed}")
    return int(value)


def _convert_folder(_: type, tokens: Sequence[Token]) -> Path:
    """A folder as it is typed; an empty word is none."""
    typed = tokens[0].value
    if not typed.strip() or "\0" in typed:
        option = tokens[0].keyword or "OUT"
        raise CycloptsError(msg=f"{option} is the name of a folder, got {typed!r}")
    return Path(typed)


Count = Annotated[int, Parameter(converter=_convert_count)]
Out = Annotated[Path | None, Parameter(converter=_convert_folder)]
OutArgument = Annotated[Path, Parameter(converter=_convert_folder)]
PathName = Annotated[
    Literal["linear", "cosine", "trigonometric"],
    Parameter(
        help="Probability path from noise to data; cosine is that of Nichol & Dhariwal, and the"
        " one that REPA calls cosine is trigonometric. Times are those of this path, and networks"
        " of other paths are converted to it."
    ),
]
Memory = Annotated[
    str | None, Parameter(help="Memory budget, e.g. 4G. Default: half of the free memory.")
]
Device = Annotated[str, Parameter(help="Where to compute: cpu or a GPU such as cuda:0.")]
Seed = Annotated[Count, Parameter(help="Seed of all random draws.")]
Pairs = Annotated[Count, Parameter(help="Pairs of data and noise per class.")]
Classes = Annotated[
    str, Parameter(help="Classes to measure: each, whole, both, or labels such as 0,3,5.")
]
ConventionWords = Annotated[
    str | None,
    Parameter(
        help="Convention of the networks: a project (sit, repa, sd3, jit) or key=value"
        " pairs such as predicts=data,null_label=10. Default: as the checkpoint says."
    ),
]
ConventionList = Annotated[
    list[str] | None,
    Parameter(
        help="Convention of the networks: a project (sit, repa, sd3, jit) or key=value"
        " pairs such as predicts=data,null_label=10; once for all networks, or once for each."
        " Default: as the checkpoints say."
    ),
]


@Parameter(name="*")
@dataclass(frozen=True)
class SamplingOptions:
    """How samples are generated: from which noise, for which classes, on which grid."""

    seeds: str | None = None  # not "0:64": probe has another default
    """One sample per seed: 0:64 or 3,5,8. Default: 0:64; for probe 0:16."""
    labels: str | None = None
    """Class label for all samples, or several, used in rotation. Default: unconditional."""
    steps: Count = 50
    """Steps from noise to data."""
    shift: float = 1.0
    """Shift s of the times: below 1 more steps near the noise, above 1 near the data."""
    solver: str = "euler"
    """Solver: euler, midpoint, heun or rk4."""

    def check(self) -> None:
        """Refuse what is malformed, before any data is opened."""
        from floracle.sampling.solvers import find_solver

        # Each raises InputError itself; the values are computed again where they are used.
        self.seed_list()
        find_solver(self.solver)
        self.grid()
        if self.labels is not None:
            parse_integers(self.labels, "--labels", "3 or 0,1,2")

    def seed_list(self, default: str = "0:64") -> list[int]:
        """The seeds as numbers."""
        return parse_seeds(self.seeds or default)

    def grid(self) -> Tensor:
        """Times from 0 to 1, float64 [steps + 1]."""
        from floracle.sampling.grid import time_grid

        return time_grid(self.steps, shift=self.shift)

    def settings(self, default_seeds: str = "0:64") -> dict[str, Any]:
        """What belongs to the settings of a result; `grid` has been their key since 0.1."""
        return {
            "seeds": self.seeds or default_seeds,
            "labels": self.labels,
            "grid": self.steps,
            "shift": self.shift,
            "solver": self.solver,
        }


SAMPLING_DEFAULTS = SamplingOptions()


def saved_grid(settings: Mapping[str, Any]) -> Tensor:
    """The grid of saved settings, float64 [steps + 1]."""
    from floracle.sampling.grid import time_grid

    return time_grid(settings["grid"], shift=settings["shift"])


def sampling_arguments(
    settings: Mapping[str, Any], classes: list[int], names: Sequence[str] = ()
) -> dict[str, Any]:
    """Seeds, labels, grid and solver of saved settings, as the library takes them."""
    import torch

    seeds = parse_seeds(settings["seeds"])
    labels = parse_labels(settings["labels"], len(seeds), classes, names)
    return {
        "seeds": seeds,
        "labels": None if labels is None else torch.tensor(labels),
        "grid": saved_grid(settings),
        "solver": settings["solver"],
    }


@Parameter(name="*")
@dataclass(frozen=True)
class OracleOptions:
    """How the oracle is evaluated."""

    path: PathName = "linear"
    tolerance: Annotated[
        float,
        Parameter(
            help="Upper bound on the relative error of the oracle velocity off the forward path,"
            " e.g. 1e-5: training points are skipped where this bound is proven. 0 is exact."
        ),
    ] = 0.0
    memory: Memory = None
    device: Device = "cpu"

    def check(self, *, queried: bool = True) -> None:
        """Refuse a tolerance that is none, or that nothing is computed with."""
        if not 0 <= self.tolerance < 1:
            raise InputError(f"--tolerance is a relative error in [0, 1), got {self.tolerance:g}")
        if self.tolerance and not queried:
            raise InputError("--tolerance is for the oracle, which is not used here; leave it out")

        note_path(self.path)

    def settings(self) -> dict[str, Any]:
        """What belongs to the settings of a result, defaults left out as in results of 0.1."""
        return path_settings(self.path) | ({"tolerance": self.tolerance} if self.tolerance else {})

    def oracle(self, store: Store, *, device: str) -> Oracle | GaussianOracle:
        """The oracle of a data set."""
        return make_oracle(
            store, self.path, memory=self.memory, device=device, tolerance=self.tolerance
        )

    def points_oracle(self, store: Store, *, device: str) -> Oracle:
        """The oracle of points; the verbs that need their distances take no Gaussians."""
        from floracle.oracle.oracle import Oracle

        if store.stds is not None:
            raise InputError(
                "losses and distances are defined for points, not for Gaussians; open the data"
                " with --moments mean"
            )
        oracle = self.oracle(store, device=device)
        assert isinstance(oracle, Oracle)
        return oracle


ORACLE_DEFAULTS = OracleOptions()


def note_path(path: str) -> None:
    """Say which of two paths of one name is taken."""
    if path == "cosine":
        warn(
            "--path cosine is the schedule of Nichol & Dhariwal; what REPA and flow_matching call"
            " cosine, and SiT GVP, is --path trigonometric"
        )


def path_settings(path: str) -> dict[str, str]:
    """The path among the settings of a result, the linear one left out as in results of 0.1."""
    return {} if path == "linear" else {"path": path}


def make_oracle(
    store: Store,
    path: str,
    *,
    memory: int | str | None,
    device: str,
    tolerance: float = 0.0,
    group: ProcessGroup | None = None,
) -> Oracle | GaussianOracle:
    """The oracle of points, or of Gaussians where the store has deviations.

    The processes of a group share the points, and read all of them whatever the tolerance is.
    """
    from floracle.core.paths import PATHS
    from floracle.oracle.gaussian_data import GaussianOracle
    from floracle.oracle.oracle import Oracle

    group = None if group is None or group.alone else group  # one process needs no exchange
    if store.stds is None:
        bound = {"memory": memory, "device": device, "tolerance": tolerance}
        return Oracle(store, path=PATHS[path], group=group, **bound)
    if group is not None:
        raise InputError("the oracle of Gaussians takes one process; start it without torchrun")
    if tolerance:
        raise InputError("--tolerance is for points; the oracle of Gaussians is always exact")
    return GaussianOracle(store, path=PATHS[path])


def device_for(device: str, group: ProcessGroup | None = None) -> str:
    """The device of this process; refused if there is none of that name."""
    from floracle.run.budget import choose_device

    return str(choose_device(process_device(device, ALONE if group is None else group)))


# --- commands in words ---


def option_name(field: str) -> str:
    """How an option is typed."""
    return f"--{field.rstrip('_').replace('_', '-')}"


def typed_options(group: Any) -> list[str]:
    """The options of a group as they are typed; defaults are left out."""
    return [
        word
        for field in fields(group)
        for word in _typed(field.name, getattr(group, field.name), field.default)
    ]


def _typed(name: str, value: Any, default: Any) -> list[str]:
    if value == default or name in NOT_IN_COMMANDS:
        return []
    if isinstance(value, bool):
        return [option_name(name) if value else f"--no-{option_name(name)[2:]}"]
    values = value if isinstance(value, list) else [value]
    return [word for entry in values for word in (option_name(name), str(entry))]


def command_of(verb: Callable[..., object], arguments: Mapping[str, Any]) -> str:
    """The command that measures the same again; defaults are left out."""
    command = ["floracle", verb.__name__.replace("_", "-")]
    for name, parameter in signature(verb).parameters.items():
        value = arguments[name]
        if parameter.kind == Argument.VAR_POSITIONAL:
            command += value
        elif parameter.kind == Argument.POSITIONAL_ONLY:
            command.append(value)
        elif is_dataclass(value):
            command += typed_options(value)
        else:
            command += _typed(name, value, parameter.default)
    return " ".join(map(quoted, command))


def refuse_unused(
    verb: Callable[..., object], arguments: Mapping[str, Any], names: Sequence[str], needed: str
) -> None:
    """Refuse options that would have no effect, since the option they belong to is missing."""
    # Only options that differ from their default: a default has no effect that could be missed.
    used = []
    for name, parameter in signature(verb).parameters.items():
        value = arguments[name]
        used += typed_options(value) if is_dataclass(value) else []
        if parameter.kind == Argument.KEYWORD_ONLY and not is_dataclass(value):
            used += _typed(name, value, parameter.default)
    for option in map(option_name, names):
        if option in used:
            raise InputError(f"{option} is for {needed}; give that too, or leave {option} out")
