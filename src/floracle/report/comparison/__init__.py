"""The report that compares data sets."""
