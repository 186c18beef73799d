"""The settings of the networks of diffusers that are supported, and how each is read.

Every argument of their classes is here, so that a wrong type or size is an error at the door. A
setting of a later version may change numbers, and is named.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from floracle.models.typed_config import (
    Schema,
    anything,
    boolean,
    count,
    number,
    one_of,
    optional,
    positive,
    several,
    text,
)

KL, TINY = "AutoencoderKL", "AutoencoderTiny"
SD3_TRANSFORMER, FLUX_TRANSFORMER = "SD3Transformer2DModel", "FluxTransformer2DModel"

Settings = Mapping[str, Any]


@dataclass(frozen=True)
class NetworkClass:
    """How a class of diffusers is described in its config.json."""

    schema: Schema
    blocks: Callable[[Settings], int]
    """How many blocks it builds; each has a tensor of its own, which bounds them."""
    words: Callable[[Settings], str]
    """The settings that change numbers and leave no trace in its tensors, for people."""
    misfit: Callable[[Settings], str | None]
    """Which settings contradict each other so that it could be built and not be run, or None."""


NOT_QUANTIZED: Schema = {"quantization_config": one_of(None)}
COMMON_TRANSFORMER: Schema = {
    "in_channels": count(),
    "out_channels": optional(count()),
    "num_layers": count(0),
    "attention_head_dim": count(),
    "num_attention_heads": count(),
    "joint_attention_dim": count(),
    "pooled_projection_dim": count(),
    **NOT_QUANTIZED,
}


def _heads(settings: Settings) -> str:
    return f"{settings['num_attention_heads']} heads of {settings['attention_head_dim']}"


def _sd3_misfit(settings: Settings) -> str | None:
    patches, rest = divmod(settings["sample_size"], settings["patch_size"])
    if rest or not 0 < patches <= settings["pos_embed_max_size"]:
        return "patch_size and pos_embed_max_size do not cover its sample_size"
    width = settings["num_attention_heads"] * settings["attention_head_dim"]
    if settings["caption_projection_dim"] != width:
        return f"its caption_projection_dim is not the width of its blocks, {width}"
    return None


def _flux_misfit(settings: Settings) -> str | None:
    axes = settings["axes_dims_rope"]  # of index, row and column of a token
    if len(axes) != 3 or any(n % 2 for n in axes) or sum(axes) != settings["attention_head_dim"]:
        return "its axes_dims_rope are not three even numbers that add up to attention_head_dim"
    return (
        "its in_channels are not those of 2 × 2 latents" if settings["in_channels"] % 4 else None
    )


def _kl_misfit(settings: Settings) -> str | None:
    levels = {
        len(settings[name])
        for name in ("block_out_channels", "down_block_types", "up_block_types")
    }
    if len(levels) > 1 or 0 in levels:
        return "its block types and block_out_channels are not of one length"
    statistics = [settings["latents_mean"], settings["latents_std"]]
    given = [values for values in statistics if values is not None]
    if len(given) == 1:
        return "of latents_mean and latents_std it has one alone"
    if given and settings["shift_factor"]:
        return "it has latents_mean and a shift_factor, and nobody says which comes first"
    if any(len(values) != settings["latent_channels"] for values in given):
        return "its latents_mean and latents_std are not of its latent_channels"
    return None


def _tiny_misfit(settings: Settings) -> str | None:
    names = ("encoder_block_out_channels", "decoder_block_out_channels")
    levels = {len(settings[name]) for name in names}
    if len(levels) > 1 or 0 in levels:
        return "its encoder and its decoder are not of as many levels"
    return None


def _tiny_words(settings: Settings) -> str:
    return f"{settings['act_fn']} and {settings['upsample_fn']}"


NETWORK_CLASSES: Mapping[str, NetworkClass] = {
    SD3_TRANSFORMER: NetworkClass(
        {
            **COMMON_TRANSFORMER,
            "sample_size": count(),
            "patch_size": count(),
            "caption_projection_dim": count(),
            "pos_embed_max_size": count(),
            "dual_attention_layers": several(count(0)),
            "qk_norm": one_of(None, "rms_norm"),  # others of diffusers have no tensors
        },
        lambda settings: settings["num_layers"],
        _heads,
        _sd3_misfit,
    ),
    FLUX_TRANSFORMER: NetworkClass(
        {
            **COMMON_TRANSFORMER,
            "patch_size": one_of(1),  # latents are packed before
            "num_single_layers": count(0),
            "guidance_embeds": boolean,
            "axes_dims_rope": several(count()),
        },
        lambda settings: settings["num_layers"] + settings["num_single_layers"],
        lambda settings: (
            f"{_heads(settings)}, rotary axes {', '.join(map(str, settings['axes_dims_rope']))}"
        ),
        _flux_misfit,
    ),
    KL: NetworkClass(
        {
            **dict.fromkeys(("in_channels", "out_channels"), one_of(3)),
            "down_block_types": several(one_of("DownEncoderBlock2D", "AttnDownEncoderBlock2D")),
            "up_block_types": several(one_of("UpDecoderBlock2D", "AttnUpDecoderBlock2D")),
            "block_out_channels": several(count()),
            "layers_per_block": count(),
            "act_fn": text,
            "latent_channels": count(),
            "norm_num_groups": count(),
            "sample_size": anything,
            "scaling_factor": positive,
            "shift_factor": optional(number),
            "latents_mean": optional(several(number)),
            "latents_std": optional(several(positive)),
            **dict.fromkeys(("force_upcast", "use_quant_conv", "use_post_quant_conv"), boolean),
            "mid_block_add_attention": boolean,
            **NOT_QUANTIZED,
        },
        lambda settings: settings["layers_per_block"] * len(settings["block_out_channels"]),
        lambda settings: f"{settings['act_fn']}, norms of {settings['norm_num_groups']} groups",
        _kl_misfit,
    ),
    TINY: NetworkClass(
        {
            **dict.fromkeys(("in_channels", "out_channels"), one_of(3)),
            **dict.fromkeys(
                ("encoder_block_out_channels", "decoder_block_out_channels"), several(count())
            ),
            **dict.fromkeys(("num_encoder_blocks", "num_decoder_blocks"), several(count())),
            "act_fn": text,
            "upsample_fn": one_of("nearest", "nearest-exact", "bilinear", "bicubic"),
            "latent_channels": count(),
            "upsampling_scaling_factor": one_of(2),
            "force_upcast": boolean,
            "scaling_factor": positive,
            "shift_factor": optional(number),
            # Of latents as pictures, and a copy of the decoder's widths.
            **dict.fromkeys(("latent_magnitude", "latent_shift", "block_out_channels"), anything),
            **NOT_QUANTIZED,
        },
        lambda settings: sum((*settings["num_encoder_blocks"], *settings["num_decoder_blocks"])),
        _tiny_words,
        _tiny_misfit,
    ),
}
SCHEDULER: Schema = {
    "_class_name": text,
    "num_train_timesteps": count(),
    "invert_sigmas": boolean,
    "prediction_type": text,
}
"""The settings of a scheduler that say what its transformer predicts; the others are of grids."""
CLIP: Schema = {
    **dict.fromkeys(("hidden_size", "intermediate_size", "num_hidden_layers"), count()),
    **dict.fromkeys(("num_attention_heads", "vocab_size", "max_position_embeddings"), count()),
    "projection_dim": count(),
    "hidden_act": text,
    **NOT_QUANTIZED,
}
T5: Schema = {
    **dict.fromkeys(("d_model", "d_kv", "d_ff", "num_layers", "num_heads", "vocab_size"), count()),
    "relative_attention_num_buckets": count(),
    "relative_attention_max_distance": count(),
    **NOT_QUANTIZED,
}
TEXT_ENCODERS: Mapping[str, tuple[Schema, str]] = {
    "CLIPTextModel": (CLIP, "num_hidden_layers"),
    "CLIPTextModelWithProjection": (CLIP, "num_hidden_layers"),
    "T5EncoderModel": (T5, "num_layers"),
}
"""The text encoders of SD3 and Flux in transformers: their sizes, and which is their depth."""
