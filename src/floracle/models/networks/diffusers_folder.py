"""Folders that diffusers wrote: which class they hold, whether they are whole, and loading it.

A network is built without memory from its settings, compared with the tensors of its files, and
then filled with them. The code of diffusers computes; it reads no file of weights.
"""

from __future__ import annotations

import contextlib
import inspect
import itertools
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from floracle.models.state_dict import check_tensors, fill_network, mixed_types, weight_type
from floracle.models.typed_config import read_settings, show, text, unread
from floracle.run.errors import InputError
from floracle.run.files import read_json

from .diffusers_settings import NETWORK_CLASSES
from .folder_weights import FolderWeights, read_weights

PIPELINE_INDEX, CONFIG = "model_index.json", "config.json"
WEIGHTS = "diffusion_pytorch_model"
ADVICE = "its config.json and its weights are of two networks; save or fetch both again"


def is_diffusers(folder: Path) -> bool:
    """Whether diffusers wrote this folder: a pipeline, or one network of it."""
    return any((folder / name).is_file() for name in (PIPELINE_INDEX, CONFIG))


def read_class(
    folder: Path, part: str, supported: Sequence[str], advice: str
) -> tuple[Path, str, Mapping[str, Any]]:
    """The folder of a network, alone or as `part` of a pipeline, its class and its settings."""
    inner = folder / part if (folder / PIPELINE_INDEX).is_file() else folder
    config = read_json(inner / CONFIG)
    kind = read_settings(config, {"_class_name": text}, inner / CONFIG).get("_class_name", "")
    if kind not in supported:
        name = show(kind, quotes=False) or "network without a class"
        raise InputError(f"{inner} holds a {name}; {' and '.join(supported)} {advice}")
    return inner, kind, config


@dataclass(frozen=True)
class NetworkOutline:
    """A network of diffusers without its numbers, and the tensors that fit it, on the disk."""

    network: Any
    """On the meta device."""
    settings: Mapping[str, Any]
    """All arguments of its class."""
    weights: FolderWeights
    dtype: torch.dtype
    """That holds every number of its parameters."""
    assumed: list[str]

    def load(self, dtype: torch.dtype, device: torch.device) -> Any:
        """The network with its tensors, in a type, on a device."""
        folder = self.weights.folder
        network = fill_network(
            self.network, self.weights.tensors, folder, advice=ADVICE, dtype=dtype
        )
        for tensor in itertools.chain(network.parameters(), network.buffers()):
            if tensor.is_meta:
                raise InputError(
                    f"{folder}: this version of diffusers computes a part of the network that its"
                    f" files do not hold; load it as module:function"
                )
        return network.to(device)


def outline_network(
    kind: str, folder: Path, config: Mapping[str, Any], user: str
) -> NetworkOutline:
    """The network of a folder, compared with its files in every tensor, before it takes memory.

    `user` is what needs diffusers, for the error where it is not installed.
    """
    described, source = NETWORK_CLASSES[kind], folder / CONFIG
    given = read_settings(config, described.schema, source)
    weights = read_weights(folder, WEIGHTS, "network")
    network_class = getattr(import_diffusers(user), kind)
    arguments = inspect.signature(network_class.__init__).parameters
    settings = {name: p.default for name, p in arguments.items() if name != "self"}
    settings |= {name: value for name, value in given.items() if name in settings}
    if fault := described.misfit(settings):
        raise InputError(f"{source} contradicts itself: {fault}; fetch it again")
    # Building takes time and memory for each block, so their number is compared first.
    if (blocks := described.blocks(settings)) > len(weights.tensors):
        raise InputError(
            f"{source} describes {blocks:,} blocks, and the files beside it hold"
            f" {len(weights.tensors):,} tensors; {ADVICE}"
        )
    with errors_in_one_line(folder), torch.device("meta"):
        network = network_class(**settings)
    check_tensors(network.state_dict(), weights.tensors, folder, advice=ADVICE)
    parameters = {name: weights.tensors[name] for name, _ in network.named_parameters()}
    words = [described.words(settings), *weights.assumed, *mixed_types(parameters)]
    words += unread(config, described.schema)
    return NetworkOutline(network, settings, weights, weight_type(parameters, folder), words)


def import_diffusers(user: str) -> Any:
    """The diffusers package; `user` needs it."""
    try:
        import diffusers
    except ImportError as error:
        raise InputError(
            f"{user} need it installed ({error}): pip install 'floracle[diffusers]'"
        ) from error
    return diffusers


@contextlib.contextmanager
def errors_in_one_line(folder: Path) -> Iterator[None]:
    """Errors of diffusers as an InputError of one line; its deprecation warnings are dropped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        except (InputError, torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # what it raises for damaged files is not documented
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise InputError(
                f"{folder} cannot be loaded by diffusers ({reason}); save or fetch it again"
            ) from error
