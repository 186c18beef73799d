"""Write the tables of docs/ that benchmarks measure, from their committed results.

    python benchmarks/documents.py [--measure [NAME …]]

With --measure the benchmarks themselves are run first (hours; or those that are named), and what
moved beyond its error is named. Outputs, commands and code of the pages are checked by
tests/test_documents.py.
"""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from measure import RESULTS

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))
from documents import MADE, PAGES  # noqa: E402

MOVED = 0.1
"""The share by which a number of a table may move without being named."""


def main() -> None:
    measuring = sys.argv[1:2] == ["--measure"]
    named, sys.argv = sys.argv[2:], sys.argv[:1]
    for page in PAGES:
        text = page.read_text()
        for found in MADE.finditer(text):
            name, before = found[1], found[2]
            if measuring and (not named or name in named):
                subprocess.run([sys.executable, Path(__file__).parent / f"{name}.py"], check=True)
            after = "\n".join(table(name))
            for line in moved(before, after):
                print(f"{page.relative_to(ROOT)}, {name}: {line}")
            text = text.replace(found[0], f"<!-- {name}.table -->\n{after}\n<!-- end -->")
        page.write_text(text)


def table(name: str) -> Iterator[str]:
    """The table of a benchmark's committed results."""
    results = json.loads((RESULTS / f"{name}.json").read_text())
    return importlib.import_module(name).table(results.get("sets", results))


def moved(before: str, after: str) -> Iterator[str]:
    """Rows that are new or gone, and cells whose number moved."""
    old, new = ({row[0]: row for row in rows(text)} for text in (before, after))
    for name in old.keys() ^ new.keys():
        yield f"row {name!r} is {'new' if name in new else 'gone'}"
    for name in old.keys() & new.keys():
        for was, is_now in zip(old[name], new[name], strict=False):
            first, then = number(was), number(is_now)
            if first is None or then is None:
                if was != is_now:
                    yield f"row {name!r}: {was} is now {is_now}"
            elif abs(first - then) > MOVED * max(abs(first), abs(then)):
                yield f"row {name!r}: {was} is now {is_now}"


def rows(text: str) -> list[list[str]]:
    """The cells of a table, row by row; the first two of a row name it."""
    split = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    return [[" ".join(cells[:2]), *cells[1:]] for cells in split]


def number(cell: str) -> float | None:
    """What a cell says, if it is one number."""
    try:
        return float(cell.removesuffix("%").replace("−", "-").replace(",", ""))
    except ValueError:
        return None


if __name__ == "__main__":
    main()
