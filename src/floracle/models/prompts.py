"""Text for SD3 and Flux: embeddings that are given, or computed by the encoders of a pipeline.

Label i is the i-th prompt, and no label is the negative prompt; of prompts in words that is the
empty text, as the pipelines have it where nobody says otherwise.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from floracle.run.errors import InputError, suggestion
from floracle.run.files import read_json

from .checkpoints import read_safetensors
from .networks.diffusers_library import in_one_line, library

INDEX = "model_index.json"
NAMES = ("prompt_embeds", "pooled_prompt_embeds")
FLUX = "FluxPipeline"
ENCODER = "text_encoder"
NEEDED = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
ALSO = ("text_encoder_3", "tokenizer_3")
"""T5 of SD3, which its pipeline goes without where it is not listed."""


@dataclass(frozen=True)
class Prompts:
    """Text as embeddings; a negative prompt, where there is one, is the last row."""

    tokens: Tensor
    """[n, length, width]"""
    pooled: Tensor
    """[n, width]"""
    negative: bool = False

    @property
    def count(self) -> int:
        """How many prompts there are, the negative one apart."""
        return len(self.tokens) - self.negative

    @property
    def null(self) -> int | None:
        """The row of the negative prompt."""
        return self.count if self.negative else None


def prompts_of(
    given: Mapping[str, Tensor] | str | Path | None, device: torch.device, dtype: torch.dtype
) -> Prompts:
    """Embeddings under the names that pipelines have for them, from memory or .safetensors."""
    if given is None:
        raise InputError(
            f"SD3 and Flux are asked with text: give prompt=, where the folder holds a whole"
            f" pipeline, or embeddings=, a .safetensors file or a dict with {NAMES[0]} [n, length,"
            f" width] and {NAMES[1]} [n, width], as the encode_prompt of their pipeline returns"
            f" them, and negative_… for samples without a label"
        )
    table = given if isinstance(given, Mapping) else read_safetensors(Path(given))
    unknown = [name for name in table if name.removeprefix("negative_") not in NAMES]
    if unknown:
        raise InputError(f"embeddings hold {unknown[0]!r}; {suggestion(unknown[0], NAMES)}")
    if any(name not in table for name in NAMES):
        raise InputError(f"embeddings need {NAMES[0]} and {NAMES[1]}, got {', '.join(table)}")
    negative = [f"negative_{name}" in table for name in NAMES]
    if any(negative) and not all(negative):
        raise InputError(f"a negative prompt is negative_{NAMES[0]} and negative_{NAMES[1]}, both")
    rows = [
        [table[name], *([table[f"negative_{name}"][:1]] if negative[0] else [])] for name in NAMES
    ]
    tokens, pooled = (torch.cat(row).to(device, dtype) for row in rows)
    if len(tokens) != len(pooled):
        raise InputError(f"there are {len(tokens)} prompts but {len(pooled)} pooled ones")
    return Prompts(tokens, pooled, negative[0])


@torch.no_grad()
def encoded(
    folder: Path,
    pipeline: str,
    prompt: str | Sequence[str],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """Embeddings of prompts and of the empty one, by the pipeline's own text encoders.

    The encoders are gone when this returns.
    """
    words = [prompt] if isinstance(prompt, str) else list(prompt)
    if not words or not all(isinstance(word, str) for word in words):
        raise InputError(f"prompt= is a text or several, got {prompt!r}")
    listed = checked_encoders(folder)
    with in_one_line(folder), _silent():
        made = _without_weights(folder, pipeline, listed, dtype)
        for part in listed:
            if part.startswith(ENCODER):
                getattr(made, part).to(device)
        if pipeline == FLUX:  # which encodes one side at a time
            sides = [
                made.encode_prompt(prompt=some, prompt_2=None, device=device)
                for some in (words, [""])
            ]
            tokens, pooled = ([side[place] for side in sides] for place in (0, 1))
        else:
            said = made.encode_prompt(prompt=words, prompt_2=None, prompt_3=None, device=device)
            tokens, pooled = said[:2], said[2:]
    keys = (*NAMES, *(f"negative_{name}" for name in NAMES))
    return dict(zip(keys, (tokens[0], pooled[0], tokens[1], pooled[1]), strict=True))


def _without_weights(folder: Path, pipeline: str, listed: list[str], dtype: torch.dtype) -> Any:
    """The pipeline with its encoders alone; of its transformer it knows the settings."""
    known = library("text encoders of diffusers")
    settings = read_json(folder / "transformer" / "config.json")
    with torch.device("meta"):
        outline = getattr(known, settings["_class_name"]).from_config(settings)
    optional = () if pipeline == FLUX else ALSO
    return getattr(known, pipeline).from_pretrained(
        folder,
        transformer=outline,
        vae=None,
        **{part: None for part in optional if part not in listed},
        local_files_only=True,
        use_safetensors=True,
        low_cpu_mem_usage=False,  # the other way needs accelerate
        torch_dtype=dtype,
    )


def checked_encoders(folder: Path) -> list[str]:
    """The parts of a pipeline that encode text; refused unless all of them are whole."""
    index = read_json(folder / INDEX) if (folder / INDEX).is_file() else {}
    listed = [part for part in (*NEEDED, *ALSO) if any(index.get(part) or ())]
    lost = [part for part in NEEDED if part not in listed]
    lost += [part for part in listed if not (folder / part).is_dir()]
    if lost:
        raise InputError(
            f"{folder} has no {lost[0]}, so it cannot encode a prompt; name the folder of a whole"
            f" pipeline ({INDEX}, {', '.join(NEEDED)}), or give embeddings=, a .safetensors file"
            f" or a dict with {' and '.join(NAMES)}"
        )
    for part in listed:
        if part.startswith(ENCODER):
            _check_whole(folder / part)
    return listed


def _check_whole(folder: Path) -> None:
    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise InputError(
            f"{folder} has no model.safetensors; save the pipeline again with"
            f" save_pretrained(…, safe_serialization=True)"
        )
    for file in files:
        read_safetensors(file)


@contextmanager
def _silent() -> Iterator[None]:
    """No bars of others while their weights are loaded."""
    from diffusers.utils import logging as ours
    from transformers.utils import logging as theirs

    for one in (ours, theirs):
        one.disable_progress_bar()
    try:
        yield
    finally:
        for one in (ours, theirs):
            one.enable_progress_bar()
