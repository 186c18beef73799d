"""The report of switching, landing and going on from held-out data."""
