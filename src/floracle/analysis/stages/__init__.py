"""The two stages of a data set, measured."""
