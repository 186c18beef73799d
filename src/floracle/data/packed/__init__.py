"""Packed stores: points sorted by class in shards, with what opening would look for."""
