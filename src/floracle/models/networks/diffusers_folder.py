"""Folders that diffusers wrote: which class they hold, whether they are whole, and loading it."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from floracle.models.checkpoints import read_safetensors
from floracle.run.errors import InputError
from floracle.run.files import read_json

PIPELINE_INDEX, CONFIG = "model_index.json", "config.json"
WEIGHTS = "diffusion_pytorch_model"


def is_diffusers(folder: Path) -> bool:
    """Whether diffusers wrote this folder: a pipeline, or one network of it."""
    return any((folder / name).is_file() for name in (PIPELINE_INDEX, CONFIG))


def read_class(
    folder: Path, part: str, supported: Sequence[str], advice: str
) -> tuple[Path, str, Mapping[str, Any]]:
    """The folder of a network, alone or as `part` of a pipeline, its class and its settings."""
    inner = folder / part if (folder / PIPELINE_INDEX).is_file() else folder
    config = read_json(inner / CONFIG)
    kind = config.get("_class_name") if isinstance(config, Mapping) else None
    if kind not in supported or not isinstance(config, Mapping):
        raise InputError(f"{inner} holds a {kind}; {' and '.join(supported)} {advice}")
    return inner, str(kind), config


def check_weights(folder: Path, stem: str, owner: str) -> torch.dtype:
    """Refuse folders without safetensors, and files that are not whole; the type of the first."""
    files = sorted(folder.glob(f"{stem}*.safetensors"))
    if not files:
        raise InputError(
            f"{folder} has no {stem}.safetensors; save the {owner} again with"
            f" save_pretrained(…, safe_serialization=True)"
        )
    tables = [read_safetensors(file) for file in files]
    return next((tensor.dtype for table in tables for tensor in table.values()), torch.float32)


def load_network(kind: str, folder: Path, dtype: torch.dtype, user: str) -> Any:
    """A network of diffusers with every tensor from its file; diffusers fills gaps at random.

    `user` is what needs diffusers, for the error where it is not installed.
    """
    network_class = getattr(import_diffusers(user), kind)
    with errors_in_one_line(folder):
        network, info = network_class.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            low_cpu_mem_usage=False,  # True needs accelerate
            torch_dtype=dtype,
        )
    for key, fault in (
        ("missing_keys", "lacks"),
        ("unexpected_keys", "has, beside those of its config.json,"),
    ):
        if names := sorted(info[key]):
            raise InputError(f"{folder} {fault} {', '.join(names[:3])}; save or fetch it again")
    return network


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
        except (InputError, torch.OutOfMemoryError):
            raise
        except (ValueError, RuntimeError, OSError, TypeError, KeyError, ImportError) as error:
            reason = " ".join(str(error).split())[:200] or "no reason given"
            raise InputError(
                f"{folder} cannot be loaded by diffusers ({reason}); save or fetch it again"
            ) from error
