"""The transformers of SD3 and Flux, from folders that diffusers wrote.

Both predict noise − data. SD3 reads the time 1000 σ, Flux σ, with σ = 1 − t; Flux sees latents in
packs of 2 × 2, and gets the scale of its distilled guidance as a number. Their condition is text,
given as embeddings: label i is the i-th prompt, and no label is the negative prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from floracle.run.errors import Mistake, suggestion
from floracle.run.files import read_json

from .checkpoints import read_safetensors
from .convention import CONVENTIONS, Convention

WEIGHTS = "diffusion_pytorch_model"
GUIDANCE = 3.5
"""What the Flux pipeline embeds where nobody says otherwise."""


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


@dataclass(frozen=True)
class SD3:
    """An SD3Transformer2DModel, asked for latents [b, C, H, W] at times [b] of its clock."""

    transformer: Callable[..., Any]
    prompts: Prompts

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Noise − data, as it predicts it."""
        return self.transformer(
            hidden_states=x,
            timestep=t,
            encoder_hidden_states=self.prompts.tokens[labels],
            pooled_projections=self.prompts.pooled[labels],
            return_dict=False,
        )[0]


@dataclass(frozen=True)
class Flux:
    """A FluxTransformer2DModel, asked for latents [b, C, H, W] at times [b] of its clock."""

    transformer: Callable[..., Any]
    prompts: Prompts
    guidance: float | None
    """The scale it embeds; None for those that embed none."""

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Noise − data, as it predicts it."""
        rows, columns = x.shape[2] // 2, x.shape[3] // 2
        scale = None if self.guidance is None else torch.full_like(t, self.guidance)
        said = self.transformer(
            hidden_states=packed(x),
            timestep=t,
            guidance=scale,
            encoder_hidden_states=self.prompts.tokens[labels],
            pooled_projections=self.prompts.pooled[labels],
            txt_ids=x.new_zeros(self.prompts.tokens.shape[1], 3),
            img_ids=places(rows, columns).to(x),
            return_dict=False,
        )[0]
        return unpacked(said, rows, columns)


def packed(x: Tensor) -> Tensor:
    """Latents [b, C, 2h, 2w] as tokens [b, h · w, 4C], channels first within a pack."""
    if x.shape[2] % 2 or x.shape[3] % 2:
        raise Mistake(f"Flux packs latents by 2 × 2; {list(x.shape[1:])} has an odd edge")
    packs = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
    return packs.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpacked(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """The inverse of `packed`."""
    packs = tokens.unflatten(1, (rows, columns)).unflatten(3, (-1, 2, 2))
    return packs.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def places(rows: int, columns: int) -> Tensor:
    """Where each token is: [rows · columns, 3] of zero, row, column."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=2).flatten(0, 1)


@dataclass(frozen=True)
class Loaded:
    """A transformer with its text, how it is read, and what it takes."""

    network: SD3 | Flux
    convention: Convention
    name: str
    shape: tuple[int, int, int]
    dtype: torch.dtype
    assumed: list[str]


def is_diffusers(folder: Path) -> bool:
    """Whether diffusers wrote this folder: a pipeline, or one network of it."""
    return any((folder / name).is_file() for name in ("model_index.json", "config.json"))


def loaded(
    folder: Path,
    embeddings: Mapping[str, Tensor] | str | Path | None,
    *,
    guidance: float,
    device: torch.device,
    dtype: torch.dtype | None,
) -> Loaded:
    """The transformer of a folder, with text."""
    inner = folder / "transformer" if (folder / "model_index.json").is_file() else folder
    config = read_json(inner / "config.json")
    kind = config.get("_class_name") if isinstance(config, Mapping) else None
    if kind not in ("SD3Transformer2DModel", "FluxTransformer2DModel"):
        raise Mistake(
            f"{inner} holds a {kind}; SD3Transformer2DModel and FluxTransformer2DModel are known."
            f" Load another one as module:function"
        )
    check_files(inner)
    network = getattr(_library(), kind).from_pretrained(
        inner, local_files_only=True, use_safetensors=True, torch_dtype=dtype or "auto"
    )
    network = network.to(device).eval().requires_grad_(False)
    prompts = prompts_of(embeddings, device, network.dtype)
    convention = CONVENTIONS["sd3" if kind.startswith("SD3") else "flux"]
    known = {"convention": replace(convention, null=prompts.null), "dtype": network.dtype}
    said = [f"text as given, {prompts.count} prompts, label i the i-th", str(inner)]
    if kind.startswith("SD3"):
        side = int(config["sample_size"])
        shape = (int(config["in_channels"]), side, side)
        return Loaded(SD3(network, prompts), **known, name="SD3", shape=shape, assumed=said)
    scale = guidance if config.get("guidance_embeds") else None
    said.append("no guidance embedded" if scale is None else f"guidance {scale:g} embedded")
    shape = (int(config["in_channels"]) // 4, 128, 128)
    return Loaded(Flux(network, prompts, scale), **known, name="Flux", shape=shape, assumed=said)


def check_files(folder: Path) -> None:
    """Refuse folders without safetensors, and files that are not whole."""
    files = sorted(folder.glob(f"{WEIGHTS}*.safetensors"))
    if not files:
        raise Mistake(
            f"{folder} has no {WEIGHTS}.safetensors; save the network again with"
            f" save_pretrained(…, safe_serialization=True)"
        )
    for file in files:
        read_safetensors(file)


def prompts_of(
    given: Mapping[str, Tensor] | str | Path | None, device: torch.device, dtype: torch.dtype
) -> Prompts:
    """Embeddings under the names that pipelines have for them, from memory or .safetensors."""
    names = ("prompt_embeds", "pooled_prompt_embeds")
    if given is None:
        raise Mistake(
            f"SD3 and Flux are asked with text: give embeddings=, a .safetensors file or a dict"
            f" with {names[0]} [n, length, width] and {names[1]} [n, width], as the encode_prompt"
            f" of their pipeline returns them, and negative_… for samples without a label"
        )
    table = given if isinstance(given, Mapping) else read_safetensors(Path(given))
    unknown = [name for name in table if name.removeprefix("negative_") not in names]
    if unknown:
        raise Mistake(f"embeddings hold {unknown[0]!r}; {suggestion(unknown[0], names)}")
    if any(name not in table for name in names):
        raise Mistake(f"embeddings need {names[0]} and {names[1]}, got {', '.join(table)}")
    negative = [f"negative_{name}" in table for name in names]
    if any(negative) and not all(negative):
        raise Mistake(f"a negative prompt is negative_{names[0]} and negative_{names[1]}, both")
    rows = [
        [table[name], *([table[f"negative_{name}"][:1]] if negative[0] else [])] for name in names
    ]
    tokens, pooled = (torch.cat(row).to(device, dtype) for row in rows)
    if len(tokens) != len(pooled):
        raise Mistake(f"there are {len(tokens)} prompts but {len(pooled)} pooled ones")
    return Prompts(tokens, pooled, negative[0])


def _library() -> Any:
    """The diffusers package, if it is there."""
    try:
        import diffusers
    except ImportError as error:
        raise Mistake(
            f"folders of diffusers need it installed ({error}): pip install 'floracle[diffusers]'"
        ) from error
    return diffusers
