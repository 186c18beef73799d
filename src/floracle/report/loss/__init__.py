"""The report of oracle losses."""
