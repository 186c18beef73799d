"""Judging data and fields: the two stages, what predicts them, what follows from them."""
