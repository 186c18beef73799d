"""The transformers of SD3 and Flux, from folders that diffusers wrote.

Both predict noise − data. SD3 reads the time 1000 σ, Flux σ, with σ = 1 − t; Flux sees latents in
packs of 2 × 2, and gets the scale of its distilled guidance as a number. Their condition is text:
label i is the i-th prompt, and no label is the negative prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from floracle.models.checkpoints import read_safetensors
from floracle.models.convention import CONVENTIONS, Convention
from floracle.models.prompts import FLUX, Prompts, encoded, prompts_of
from floracle.run.errors import InputError
from floracle.run.files import read_json

from .diffusers_library import in_one_line, library

WEIGHTS = "diffusion_pytorch_model"
PIPELINES = {
    "SD3Transformer2DModel": "StableDiffusion3Pipeline",
    "FluxTransformer2DModel": FLUX,
}
"""The transformers that are known, and the pipelines that encode text for them."""
GUIDANCE = 3.5
"""What the Flux pipeline embeds where nobody says otherwise."""


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
        raise InputError(f"Flux packs latents by 2 × 2; {list(x.shape[1:])} has an odd edge")
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
    prompt: str | Sequence[str] | None,
    *,
    guidance: float,
    device: torch.device,
    dtype: torch.dtype | None,
) -> Loaded:
    """The transformer of a folder, with text."""
    inner = folder / "transformer" if (folder / "model_index.json").is_file() else folder
    config = read_json(inner / "config.json")
    kind = config.get("_class_name") if isinstance(config, Mapping) else None
    if kind not in PIPELINES:
        raise InputError(
            f"{inner} holds a {kind}; {' and '.join(PIPELINES)} are known. Load another one as"
            f" module:function"
        )
    if prompt is not None and embeddings is not None:
        raise InputError("text is given once: as prompt= or as embeddings=")
    stored = check_files(inner)
    kept = dtype or stored
    if prompt is not None:  # first, so that encoders and transformer are not in memory together
        embeddings = encoded(folder, PIPELINES[kind], prompt, device=device, dtype=kept)
    network = whole_network(getattr(library("folders of diffusers"), kind), inner, kept)
    network = network.to(device).eval().requires_grad_(False)
    prompts = prompts_of(embeddings, device, network.dtype)
    convention = CONVENTIONS["sd3" if kind.startswith("SD3") else "flux"]
    known = {"convention": replace(convention, null_label=prompts.null), "dtype": network.dtype}
    origin = "text as given" if prompt is None else "text by its own encoders"
    many = (
        "1 prompt, label 0" if prompts.count == 1 else f"{prompts.count} prompts, label i the i-th"
    )
    said = [f"{origin}, {many}", str(inner)]
    if kind.startswith("SD3"):
        side = int(config["sample_size"])
        shape = (int(config["in_channels"]), side, side)
        return Loaded(SD3(network, prompts), **known, name="SD3", shape=shape, assumed=said)
    scale = guidance if config.get("guidance_embeds") else None
    said.append("no guidance embedded" if scale is None else f"guidance {scale:g} embedded")
    shape = (int(config["in_channels"]) // 4, 128, 128)
    return Loaded(Flux(network, prompts, scale), **known, name="Flux", shape=shape, assumed=said)


def check_files(folder: Path) -> torch.dtype:
    """Refuse folders without safetensors, and files that are not whole; the type of the first."""
    files = sorted(folder.glob(f"{WEIGHTS}*.safetensors"))
    if not files:
        raise InputError(
            f"{folder} has no {WEIGHTS}.safetensors; save the network again with"
            f" save_pretrained(…, safe_serialization=True)"
        )
    tables = [read_safetensors(file) for file in files]
    return next((tensor.dtype for table in tables for tensor in table.values()), torch.float32)


def whole_network(kind: Any, folder: Path, dtype: torch.dtype) -> Any:
    """A network with every tensor from its file; diffusers itself would draw missing ones."""
    with in_one_line(folder):
        network, said = kind.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            low_cpu_mem_usage=False,  # the other way needs accelerate
            torch_dtype=dtype,
        )
    for fault in ("missing_keys", "unexpected_keys"):
        if names := sorted(said[fault]):
            words = "lacks" if fault == "missing_keys" else "has beside those of its config.json"
            raise InputError(f"{folder} {words} {', '.join(names[:3])}; save or fetch it again")
    return network
