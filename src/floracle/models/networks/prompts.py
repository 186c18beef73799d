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
from floracle.models.state_dict import check_finite, check_plain, list_names, weight_type
from floracle.models.typed_config import optional, read_settings, several, show, text
from floracle.run.errors import InputError, suggestion
from floracle.run.files import read_json

from .diffusers_folder import (
    ADVICE,
    CONFIG,
    PIPELINE_INDEX,
    errors_in_one_line,
    import_diffusers,
)
from .diffusers_settings import TEXT_ENCODERS
from .folder_weights import read_weights

TENSOR_NAMES = ("prompt_embeds", "pooled_prompt_embeds")
FLUX_PIPELINE = "FluxPipeline"
ENCODER = "text_encoder"
REQUIRED_PARTS = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
OPTIONAL_PARTS = ("text_encoder_3", "tokenizer_3")
"""T5 of SD3, which its pipeline does without if it is not listed."""

TIED = ("shared.weight", "encoder.embed_tokens.weight")
"""Two names of T5 for one table of tokens."""
LOADING_FAULTS = {
    "missing_keys": "lacks",
    "unexpected_keys": "has, beside the tensors of its config.json,",
    "mismatched_keys": "has tensors of other shapes than its config.json:",
    "error_msgs": "cannot be read by transformers:",
}
"""What transformers reports of loading, and the words for it."""


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
    embeddings: Mapping[str, Tensor] | str | Path | None,
    device: torch.device,
    dtype: torch.dtype,
    *,
    widths: tuple[int, int],
) -> Prompts:
    """Embeddings under the names that pipelines give them, from memory or .safetensors.

    `widths` are those of tokens and of pooled text that the transformer takes.
    """
    tokens_name, pooled_name = TENSOR_NAMES
    if embeddings is None:
        raise InputError(
            f"SD3 and Flux need text; pass prompt= if the folder holds a whole pipeline, or"
            f" embeddings=, a .safetensors file or a dict with {tokens_name} [n, length, width]"
            f" and {pooled_name} [n, width], as encode_prompt of their pipeline returns them, and"
            f" negative_… for samples without a label"
        )
    if not isinstance(embeddings, (Mapping, str, Path)):
        raise InputError(
            f"embeddings= must be a dict of tensors or a .safetensors file, got {show(embeddings)}"
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
    source = "the embeddings" if isinstance(embeddings, Mapping) else embeddings
    for name, tensor in table.items():
        _check_embedding(name, tensor, widths, source)
    rows = [
        [table[name], *([table[f"negative_{name}"][:1]] if has_negative[0] else [])]
        for name in TENSOR_NAMES
    ]
    lengths = {tensor.shape[1] for tensor in rows[0]}
    if len(lengths) > 1:
        raise InputError(
            f"negative_{tokens_name} and {tokens_name} are of {' and '.join(map(str, lengths))}"
            f" tokens; encode both with one max_sequence_length"
        )
    tokens, pooled = (torch.cat(row).to(device, dtype) for row in rows)
    if len(tokens) != len(pooled):
        raise InputError(f"{tokens_name} has {len(tokens)} rows, {pooled_name} {len(pooled)}")
    return Prompts(tokens, pooled, has_negative[0])


def _check_embedding(name: str, tensor: object, widths: tuple[int, int], source: object) -> None:
    """Refuse what is no embedding of the transformer's width, and numbers that are not finite."""
    is_pooled = name.removeprefix("negative_") == TENSOR_NAMES[1]
    rank, width = (2, widths[1]) if is_pooled else (3, widths[0])
    if not isinstance(tensor, Tensor):
        raise InputError(f"{source}: {name} is a {type(tensor).__name__}, not a tensor")
    check_plain({name: tensor}, source)
    weight_type({name: tensor}, source)
    if tensor.ndim != rank or tensor.shape[-1] != width:
        shape = f"[n, length, {width}]" if rank == 3 else f"[n, {width}]"
        raise InputError(
            f"{source}: {name} is {list(tensor.shape)}, and this transformer takes {shape}; encode"
            f" the text with the pipeline of this transformer"
        )
    check_finite(name, tensor, source)


@torch.no_grad()
def encode_prompts(
    folder: Path,
    pipeline: str,
    prompt: str | Sequence[str],
    *,
    outline: Any,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """Embeddings of prompts and of the empty one, by the pipeline's own text encoders.

    Of the transformer, the `outline` without numbers is enough. The encoders are freed when this
    returns.
    """
    texts = [prompt] if isinstance(prompt, str) else list(prompt)
    if not texts or not all(isinstance(text, str) for text in texts):
        raise InputError(f"prompt= must be a text or several, got {prompt!r}")
    parts = _check_encoders(folder)
    with errors_in_one_line(folder), _no_progress_bars():
        encoder = _load_encoders(folder, pipeline, parts, outline, dtype)
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


def _load_encoders(
    folder: Path, pipeline: str, parts: Mapping[str, str], outline: Any, dtype: torch.dtype
) -> Any:
    """The pipeline with its encoders, which are checked, and its tokenizers."""
    diffusers = import_diffusers("text encoders of diffusers")
    optional_parts = () if pipeline == FLUX_PIPELINE else OPTIONAL_PARTS
    return getattr(diffusers, pipeline).from_pretrained(
        folder,
        transformer=outline,
        vae=None,
        **{part: None for part in optional_parts if part not in parts},
        **{
            part: _load_encoder(folder / part, kind, dtype)
            for part, kind in parts.items()
            if part.startswith(ENCODER)
        },
        local_files_only=True,
        low_cpu_mem_usage=False,  # True needs accelerate
        torch_dtype=dtype,
    )


def _load_encoder(folder: Path, kind: str, dtype: torch.dtype) -> Any:
    """A text encoder of transformers, all of whose tensors come from its files."""
    import transformers

    if kind not in TEXT_ENCODERS:
        raise InputError(
            f"{folder} holds a {kind}; {' and '.join(TEXT_ENCODERS)} are supported. Pass"
            f" embeddings= of another"
        )
    schema, depth = TEXT_ENCODERS[kind]
    config = read_json(folder / CONFIG)
    blocks = read_settings(config, schema, folder / CONFIG).get(depth, 0)
    weights = read_weights(folder, "model", "pipeline")
    for name, tensor in weights.tensors.items():
        check_finite(name, tensor, folder)
    tied = [weights.tensors[name] for name in TIED if name in weights.tensors]
    if len(tied) == 2 and not torch.equal(*tied):
        raise InputError(
            f"{folder}: {' and '.join(TIED)} are one tensor of this network, and are not equal in"
            f" its file; save or fetch it again"
        )
    encoder_class = getattr(transformers, kind)
    settings = encoder_class.config_class.from_dict(dict(config))
    numbers = sum(tensor.numel() for tensor in weights.tensors.values())
    needed = 0
    if blocks <= len(weights.tensors):
        with torch.device("meta"):
            needed = sum(p.numel() for p in encoder_class(settings).parameters())
    if blocks > len(weights.tensors) or needed > numbers:
        raise InputError(
            f"{folder / CONFIG} describes a larger network than the files beside it hold"
            f" ({len(weights.tensors):,} tensors of {numbers:,} numbers); {ADVICE}"
        )
    encoder, info = encoder_class.from_pretrained(
        None,
        config=settings,
        state_dict=dict(weights.tensors),
        dtype=dtype,
        output_loading_info=True,
    )
    for key, fault in LOADING_FAULTS.items():
        if names := sorted(map(str, info.get(key) or ())):
            raise InputError(f"{folder} {fault} {list_names(names)}; {ADVICE}")
    return encoder.eval()


def _check_encoders(folder: Path) -> dict[str, str]:
    """The parts of a pipeline that encode text, and their classes; all of them must be there."""
    index = folder / PIPELINE_INDEX
    names: tuple[str, ...] = (*REQUIRED_PARTS, *OPTIONAL_PARTS)
    pair = optional(several(optional(text)))  # library and class
    schema = {name: pair for name in names}
    listed = read_settings(read_json(index), schema, index) if index.is_file() else {}
    parts = {part: listed[part][-1] for part in names if any(listed.get(part) or ())}
    missing = [part for part in REQUIRED_PARTS if part not in parts]
    missing += [part for part in parts if not (folder / part).is_dir()]
    if missing:
        raise InputError(
            f"{folder} has no {missing[0]}, so it cannot encode a prompt; name the folder of a"
            f" whole pipeline ({PIPELINE_INDEX}, {', '.join(REQUIRED_PARTS)}), or pass"
            f" embeddings=, a .safetensors file or a dict with {' and '.join(TENSOR_NAMES)}"
        )
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
