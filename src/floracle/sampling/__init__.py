"""Sampling from a field: time grids, solvers, guidance, samples and trajectories."""
