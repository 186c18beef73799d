"""Posteriors of forward-path pairs at all times, from two rows of inner products."""
