"""The transformers of SD3 and Flux, from folders that diffusers wrote.

Both predict noise − data. The time of SD3 is 1000 σ, that of Flux σ, with σ = 1 − t. Flux takes
latents in patches of 2 × 2, and its distilled guidance scale as a number. Both are conditioned on
text: label i is the i-th prompt, and no label is the negative prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from floracle.models.convention import CONVENTIONS, Convention
from floracle.models.typed_config import check_argument, number, read_settings
from floracle.run.errors import InputError
from floracle.run.files import read_json

from .diffusers_folder import PIPELINE_INDEX, outline_network, read_class
from .diffusers_settings import FLUX_TRANSFORMER, SCHEDULER, SD3_TRANSFORMER
from .prompts import FLUX_PIPELINE, Prompts, encode_prompts, read_embeddings

PIPELINES = {
    SD3_TRANSFORMER: "StableDiffusion3Pipeline",
    FLUX_TRANSFORMER: FLUX_PIPELINE,
}
"""The transformers that are supported, and the pipelines that encode text for them."""
DEFAULT_GUIDANCE = 3.5  # as the Flux pipeline
TRAINED_TIMES = 1000  # of schedulers, unless their settings say another number


@dataclass(frozen=True)
class SD3:
    """An SD3Transformer2DModel with its prompts, at latents [b, C, H, W] and timesteps [b]."""

    transformer: Callable[..., Any]
    prompts: Prompts

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Noise − data [b, C, H, W], as it predicts it."""
        return self.transformer(
            hidden_states=x,
            timestep=t,
            encoder_hidden_states=self.prompts.tokens[labels],
            pooled_projections=self.prompts.pooled[labels],
            return_dict=False,
        )[0]


@dataclass(frozen=True)
class Flux:
    """A FluxTransformer2DModel with its prompts, at latents [b, C, H, W] and σ [b]."""

    transformer: Callable[..., Any]
    prompts: Prompts
    guidance: float | None
    """The guidance scale it embeds; None for those that embed none."""

    def __call__(self, x: Tensor, t: Tensor, labels: Tensor) -> Tensor:
        """Noise − data [b, C, H, W], as it predicts it."""
        rows, columns = x.shape[2] // 2, x.shape[3] // 2
        scale = None if self.guidance is None else torch.full_like(t, self.guidance)
        tokens = self.transformer(
            hidden_states=pack_latents(x),
            timestep=t,
            guidance=scale,
            encoder_hidden_states=self.prompts.tokens[labels],
            pooled_projections=self.prompts.pooled[labels],
            txt_ids=x.new_zeros(self.prompts.tokens.shape[1], 3),
            img_ids=token_positions(rows, columns).to(x),
            return_dict=False,
        )[0]
        return unpack_latents(tokens, rows, columns)


def pack_latents(x: Tensor) -> Tensor:
    """Latents [b, C, 2h, 2w] as tokens [b, h · w, 4C], channels first within a patch."""
    if x.shape[2] % 2 or x.shape[3] % 2:
        raise InputError(f"Flux packs latents by 2 × 2; {list(x.shape[1:])} has an odd edge")
    patches = x.unflatten(3, (-1, 2)).unflatten(2, (-1, 2))  # [b, C, h, 2, w, 2]
    return patches.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def unpack_latents(tokens: Tensor, rows: int, columns: int) -> Tensor:
    """The inverse of `pack_latents`."""
    patches = tokens.unflatten(1, (rows, columns)).unflatten(3, (-1, 2, 2))  # [b, h, w, C, 2, 2]
    return patches.permute(0, 3, 1, 4, 2, 5).flatten(4).flatten(2, 3)


def token_positions(rows: int, columns: int) -> Tensor:
    """The position of each token: [rows · columns, 3] of zero, row, column."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    return torch.stack([torch.zeros_like(row), row, column], dim=2).flatten(0, 1)


@dataclass(frozen=True)
class TextToImage:
    """A transformer with its text, its convention, and the samples it takes."""

    network: SD3 | Flux
    convention: Convention
    name: str
    shape: tuple[int, int, int]
    dtype: torch.dtype
    assumed: list[str]


def load_text_to_image(
    folder: Path,
    embeddings: Mapping[str, Tensor] | str | Path | None,
    prompt: str | Sequence[str] | None,
    *,
    guidance: float,
    device: torch.device,
    dtype: torch.dtype | None,
) -> TextToImage:
    """The transformer of a folder or pipeline, with text."""
    advice = "are supported. Load another network as module:function"
    inner, kind, config = read_class(folder, "transformer", list(PIPELINES), advice)
    if prompt is not None and embeddings is not None:
        raise InputError("text is given twice; pass prompt= or embeddings=")
    check_argument("guidance", guidance, number)
    outline = outline_network(kind, inner, config, "folders of diffusers")
    settings = outline.settings
    channels, outputs = settings["in_channels"], settings["out_channels"]
    if outputs not in (None, channels):
        raise InputError(
            f"{inner} predicts {outputs} channels from {channels}, so it takes more than latents"
            f" (a mask or another picture); load it as module:function"
        )
    noise_time, scheduler = _scheduler_time(inner)
    dtype = outline.dtype if dtype is None else dtype
    if prompt is not None:  # first, so that encoders and transformer are not in memory together
        pipeline = PIPELINES[kind]
        embeddings = encode_prompts(
            folder, pipeline, prompt, outline=outline.network, device=device, dtype=dtype
        )
    widths = settings["joint_attention_dim"], settings["pooled_projection_dim"]
    prompts = read_embeddings(embeddings, device, dtype, widths=widths)
    network = outline.load(dtype, device)

    origin = "text as given" if prompt is None else "text by its own encoders"
    labels = "1 prompt, label 0"
    if prompts.count != 1:
        labels = f"{prompts.count} prompts, label i the i-th"
    assumed = [f"{origin}, {labels}", *outline.assumed, *scheduler, str(inner)]
    if kind == SD3_TRANSFORMER:
        side = settings["sample_size"]
        name, shape, wrapped = "SD3", (channels, side, side), SD3(network, prompts)
    else:
        scale = guidance if settings["guidance_embeds"] else None
        assumed.append("no guidance embedded" if scale is None else f"guidance {scale:g} embedded")
        # 4 channels of a token are one latent channel; 128 × 128 latents are 1024 × 1024 pixels.
        name, shape, wrapped = "Flux", (channels // 4, 128, 128), Flux(network, prompts, scale)
    convention = replace(CONVENTIONS[name.lower()], null_label=prompts.null_label)
    if noise_time != TRAINED_TIMES:
        convention = replace(
            convention, noise_time=convention.noise_time * noise_time / TRAINED_TIMES
        )
    return TextToImage(wrapped, convention, name, shape, network.dtype, assumed)


def _scheduler_time(folder: Path) -> tuple[int, list[str]]:
    """The time of pure noise by the scheduler of the pipeline around a transformer, and a note.

    A scheduler that is none of a flow says that the transformer predicts something else.
    """
    file = folder.parent / "scheduler" / "scheduler_config.json"
    if not ((folder.parent / PIPELINE_INDEX).is_file() and file.is_file()):
        return TRAINED_TIMES, []
    settings = read_settings(read_json(file), SCHEDULER, file)
    kind = settings.get("_class_name", "scheduler without a class")
    # Solvers such as UniPC serve flows and others, and say which.
    is_flow = kind.startswith("FlowMatch") or settings.get("prediction_type") == "flow_prediction"
    if not is_flow or settings.get("invert_sigmas"):
        what = f"a {kind}" if not is_flow else "one with invert_sigmas"
        raise InputError(
            f"the scheduler in {file.parent} is {what}, so its transformer does not predict"
            f" noise − data at σ = 1 − t; load it as module:function with its convention"
        )
    times = settings.get("num_train_timesteps", TRAINED_TIMES)
    return times, [] if times == TRAINED_TIMES else [f"{times} times by its scheduler"]
