"""Following a field: time grids, solvers, samples and trajectories."""
