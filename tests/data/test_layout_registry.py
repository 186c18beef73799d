"""The registry of layouts is the one list: options, messages and the command line follow it."""

from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest

from floracle.cli.data_options import DataOptions
from floracle.data.layout_registry import LAYOUTS, layout_names
from floracle.data.layouts.content import MOMENTS
from floracle.data.store import open_store
from floracle.run.errors import InputError


def choices(hint: Any) -> set[str]:
    """The words in an annotation like Literal["a", "b"] | None."""
    if isinstance(hint, str):
        return {hint}
    return set().union(*map(choices, get_args(hint)))


def test_the_command_line_offers_every_layout_that_may_be_named():
    assert choices(get_type_hints(DataOptions)["layout"]) == set(layout_names())
    assert choices(get_type_hints(DataOptions)["moments"]) == set(MOMENTS)


def test_every_layout_has_one_row_and_is_documented():
    names = [row.name for row in LAYOUTS]
    assert len(set(names)) == len(names)
    docs = Path(__file__).parents[2] / "docs"
    text = "".join(page.read_text() for page in docs.rglob("*.md")).lower()
    for name in ("lightningdit", "repa", "edm2", "mar", "fast-dit", "idx", "gaussian:"):
        assert name in text


def test_what_is_of_no_known_kind_is_told_all_kinds(tmp_path):
    (tmp_path / "points.csv").write_text("1,2")
    with pytest.raises(InputError, match="no known kind; what is read: ") as caught:
        open_store(tmp_path / "points.csv")
    for row in LAYOUTS:
        assert row.help in str(caught.value)


def test_a_layout_that_is_unknown_or_of_another_kind_is_refused(tmp_path):
    points = np.zeros((3, 4), np.float32)
    with pytest.raises(InputError, match="no layout 'mars'; did you mean 'mar'"):
        open_store(points, layout="mars")
    np.save(tmp_path / "a.npy", points)
    for data in (points, "digits"):
        with pytest.raises(InputError, match="no folder or archive in the layout 'repa'"):
            open_store(data, layout="repa")
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    from PIL import Image

    Image.new("L", (4, 4)).save(pictures / "0.png")
    with pytest.raises(InputError, match="layout='mean-std' is for one array or file of moments"):
        open_store(pictures, layout="mean-std")
