"""The exact velocity field of a set of points (Theorem 2.1 of the paper)."""
