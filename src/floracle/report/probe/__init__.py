"""The report of models along their own trajectories."""
