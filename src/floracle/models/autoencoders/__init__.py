"""Autoencoders between pictures and latents."""
