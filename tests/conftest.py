"""What every test may ask for: a source of points in memory, the shared files.

What is slow to import is imported by who uses it: the process that hands out tests uses nothing.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

settings.register_profile("house", deadline=None, max_examples=50, derandomize=True)
settings.load_profile("house")


@pytest.fixture(scope="session")
def points_source():
    """`points_source(tensor, labels=None, weights=None)` is a `Source` held in memory."""
    from memory_source import make_source

    return make_source


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of weights and data that tests read; see CONTRIBUTING.md."""
    where = os.environ.get("FLORACLE_SHARED") or Path(__file__).parents[2] / "shared"
    folder = Path(where).expanduser()
    if folder.is_dir():
        return folder
    missing = f"there is no folder {folder}; set FLORACLE_SHARED to the shared files"
    if os.environ.get("CI"):
        pytest.fail(missing)
    pytest.skip(missing)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Tests that need a CUDA device are deselected, and counted as such, where there is none."""
    import torch

    if torch.cuda.is_available():
        return
    gone = [item for item in items if item.get_closest_marker("gpu")]
    if gone:
        config.hook.pytest_deselected(items=gone)
        items[:] = [item for item in items if item not in gone]


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test draws its own numbers, the same ones each time."""
    import torch

    torch.manual_seed(0)
