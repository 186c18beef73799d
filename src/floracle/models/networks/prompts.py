"""Text for SD3 and Flux: embeddings that are given, or computed by the encoders of a pipeline.

Label i is the i-th prompt, and no label is the negative prompt. With prompts in words that is the
empty text, the default of the pipelines.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from floracle.models.checkpoints import read_safetensors
from floracle.run.errors import InputError, suggestion
from floracle.run.files import read_json

from .diffusers_folder import PIPELINE_INDEX, check_weights, errors_in_one_line, import_diffusers

TENSOR_NAMES = ("prompt_embeds", "pooled_prompt_embeds")
FLUX_PIPELINE = "FluxPipeline"
ENCODER = "text_encoder"
REQUIRED_PARTS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
OPTIONAL_PARTS = ("text_encoder_3", "tokenizer_3")
"""T5 of SD3, which its pipeline does without if it is not listed."""


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
        """How many prompts there are, without the negative one."""
        return len(self.tokens) - self.negative

    @property
    def null_label(self) -> int | None:
        """The row of the negative prompt."""
        return self.count if self.negative else None


def read_embeddings(
    embeddings: Mapping[str, Tensor] | str | Path | None, device: torch.device, dtype: torch.dtype
) -> Prompts:
    """Embeddings under the names that pipelines give them, from memory or .safetensors."""
    tokens_name, pooled_name = TENSOR_NAMES
    if embeddings is None:
        raise InputError(
            f"SD3 and Flux need text; pass prompt= if the folder holds a whole pipeline, or"
            f" embeddings=, a .safetensors file or a dict with {tokens_name} [n, length, width]"
            f" and {pooled_name} [n, width], as encode_prompt of their pipeline returns them, and"
            f" negative_… for samples without a label"
        )
    table = embeddings if isinstance(embeddings, Mapping) else read_safetensors(Path(embeddings))
    unknown = [name for name in table if name.removeprefix("negative_") not in TENSOR_NAMES]
    if unknown:
        hint = suggestion(unknown[0], TENSOR_NAMES)
        raise InputError(f"unknown tensor {unknown[0]!r} in the embeddings; {hint}")
    if any(name not in table for name in TENSOR_NAMES):
        raise InputError(
            f"embeddings need {tokens_name} and {pooled_name}, got {', '.join(table)}"
        )
    has_negative = [f"negative_{name}" in table for name in TENSOR_NAMES]
    if any(has_negative) and not all(has_negative):
        raise InputError(
            f"a negative prompt needs both negative_{tokens_name} and negative_{pooled_name}"
        )
    rows = [
        [table[name], *([table[f"negative_{name}"][:1]] if has_negative[0] else [])]
        for name in TENSOR_NAMES
    ]
    tokens, pooled = (torch.cat(row).to(device, dtype) for row in rows)
    if len(tokens) != len(pooled):
        raise InputError(f"{tokens_name} has {len(tokens)} rows, {pooled_name} {len(pooled)}")
    return Prompts(tokens, pooled, has_negative[0])


@torch.no_grad()
def encode_prompts(
    folder: Path,
    pipeline: str,
    prompt: str | Sequence[str],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """Embeddings of prompts and of the empty one, by the pipeline's own text encoders.

    The encoders are freed when this returns.
    """
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise InputError(f"prompt= must be a text or several, got {prompt!r}")
    parts = _check_encoders(folder)
    with errors_in_one_line(folder), _no_progress_bars():
        encoder = _load_encoders(folder, pipeline, parts, dtype)
        for part in parts:
            if part.startswith(ENCODER):
                getattr(encoder, part).to(device)
        # Positive and negative, each as (tokens, pooled).
        if pipeline == FLUX_PIPELINE:  # which encodes one at a time
            positive, negative = (
                encoder.encode_prompt(prompt=side, prompt_2=None, device=device)[:2]
                for side in (texts, [""])
            )
        else:  # SD3: tokens, negative tokens, pooled, negative pooled
            output = encoder.encode_prompt(
                prompt=texts, prompt_2=None, prompt_3=None, device=device
            )
            positive, negative = output[0::2], output[1::2]
    names = (*TENSOR_NAMES, *(f"negative_{name}" for name in TENSOR_NAMES))
    return dict(zip(names, (*positive, *negative), strict=True))


def _load_encoders(folder: Path, pipeline: str, parts: list[str], dtype: torch.dtype) -> Any:
    """The pipeline with its encoders alone; of its transformer there are only the settings."""
    diffusers = import_diffusers("text encoders of diffusers")
    settings = read_json(folder / "transformer" / "config.json")
    with torch.device("meta"):
        outline = getattr(diffusers, settings["_class_name"]).from_config(settings)
    optional = () if pipeline == FLUX_PIPELINE else OPTIONAL_PARTS
    return getattr(diffusers, pipeline).from_pretrained(
        folder,
        transformer=outline,
        vae=None,
        **{part: None for part in optional if part not in parts},
        local_files_only=True,
        use_safetensors=True,
        low_cpu_mem_usage=False,  # True needs accelerate
        torch_dtype=dtype,
    )


def _check_encoders(folder: Path) -> list[str]:
    """The parts of a pipeline that encode text; refused unless all of them are whole."""
    index = read_json(folder / PIPELINE_INDEX) if (folder / PIPELINE_INDEX).is_file() else {}
    parts = [part for part in (*REQUIRED_PARTS, *OPTIONAL_PARTS) if any(index.get(part) or ())]
    missing = [part for part in REQUIRED_PARTS if part not in parts]
    missing += [part for part in parts if not (folder / part).is_dir()]
    if missing:
        raise InputError(
            f"{folder} has no {missing[0]}, so it cannot encode a prompt; name the folder of a"
            f" whole pipeline ({PIPELINE_INDEX}, {', '.join(REQUIRED_PARTS)}), or pass"
            f" embeddings=, a .safetensors file or a dict with {' and '.join(TENSOR_NAMES)}"
        )
    for part in parts:
        if part.startswith(ENCODER):
            check_weights(folder / part, "model", "pipeline")
    return parts


@contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Other packages show no bars while their weights are loaded."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    loggings = (diffusers_logging, transformers_logging)
    for logging in loggings:
        logging.disable_progress_bar()
    try:
        yield
    finally:
        for logging in loggings:
            logging.enable_progress_bar()
