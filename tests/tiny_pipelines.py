"""Sizes of SD3 and Flux transformers so small that a test can follow them."""

SD3_SIZES = {
    "sample_size": 8,
    "patch_size": 2,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 1,
    "attention_head_dim": 8,
    "num_attention_heads": 4,
    "joint_attention_dim": 32,
    "caption_projection_dim": 32,
    "pooled_projection_dim": 24,
    "pos_embed_max_size": 8,
}
FLUX_SIZES = {
    "patch_size": 1,
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 32,
    "pooled_projection_dim": 24,
    "axes_dims_rope": (4, 4, 8),
    "guidance_embeds": True,
}
TEXT = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2")
"""The parts of a pipeline of Flux that read text; SD3 has a third of each."""
