"""The diffusers package: there or not, and what it says when files contradict each other."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from floracle.run.errors import InputError


def library(what: str) -> Any:
    """The diffusers package, if it is there; `what` needs it."""
    try:
        import diffusers
    except ImportError as error:
        raise InputError(
            f"{what} need it installed ({error}): pip install 'floracle[diffusers]'"
        ) from error
    return diffusers


@contextlib.contextmanager
def in_one_line(folder: Path) -> Iterator[None]:
    """Faults of files as a mistake in one line; deprecations of others are left out."""
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
