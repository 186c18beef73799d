"""Tables that are wider than the terminal: in parts, each with the names."""

from __future__ import annotations

from itertools import pairwise

from rich.cells import cell_len

from floracle.cli.tables import COLUMN_MARGIN, split_columns

HEAD = ["", "settles", "its layout", "lag", "of layout", "moves after 0.9", "evaluations"]
ROWS = [
    HEAD,
    ["oracle", "0.503 ± 0.015", "0.477 ± 0.016", "–", "–", "0.0 %", "51"],
    ["a rather long name of a network", "0.6", "0.5", "+0.086 ± 0.008", "+0.071", "2 %", "102"],
]


def width(columns):
    return COLUMN_MARGIN + sum(
        max(cell_len(row[k]) for row in ROWS) + COLUMN_MARGIN for k in columns
    )


def test_every_column_is_in_one_part_and_the_names_in_all():
    for wide in (20, 60, 80, 100, 200):
        found = split_columns(ROWS, wide)
        assert all(part[0] == 0 and len(part) > 1 for part in found)
        assert [k for part in found for k in part[1:]] == list(range(1, len(HEAD)))
        assert all(width(part) <= wide or len(part) == 2 for part in found)
        for part, following in pairwise(found):
            assert width([*part, following[1]]) > wide  # there was no room for more
    assert len(split_columns(ROWS, 200)) == 1
    assert len(split_columns(ROWS, 80)) > 1
