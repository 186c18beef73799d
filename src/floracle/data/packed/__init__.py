"""Packed stores as they are read: points sorted by class in shards, with what opening needs."""
