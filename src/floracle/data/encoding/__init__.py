"""Pictures encoded as latents, in shards that training reads."""
