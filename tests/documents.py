"""What README and docs hold that can be run: code blocks, commands, printed outputs, tables."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from floracle.cli import build

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
MADE = re.compile(r"<!-- (\w+)\.table -->\n(.*?)\n<!-- end -->", re.DOTALL)
"""A table that a benchmark writes from its committed results."""


class Block(NamedTuple):
    """Lines of a page that belong together."""

    page: Path
    line: int
    kind: str
    text: str

    @property
    def name(self) -> str:
        """Where it is."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks() -> Iterator[Block]:
    """Fenced and indented blocks of all pages."""
    for page in PAGES:
        kind, lines, start = None, [], 0
        for number, line in enumerate([*page.read_text().splitlines(), ""], 1):
            if line.startswith("```"):
                if kind is None or kind == "indented":
                    kind, lines, start = line[3:] or "text", [], number
                else:
                    yield Block(page, start, kind, "\n".join(lines))
                    kind = None
            elif kind not in (None, "indented"):
                lines.append(line)
            elif line.startswith("    ") and line.strip():
                if kind is None:
                    kind, lines, start = "indented", [], number
                lines.append(line[4:])
            elif kind == "indented":
                yield Block(page, start, kind, "\n".join(lines))
                kind = None


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every command of floracle that a page has, as words; its placeholders as they stand."""
    for block in blocks():
        if block.kind == "python":
            continue
        joined = re.sub(r"\\\n\s*", " ", block.text)
        for line in joined.splitlines():
            found = re.match(r"(?:\$ )?(?:torchrun .*-m )?floracle ([a-z].*)", line)
            if found is None:
                continue
            words = re.sub(r"\s#( .*)?$|[\[\]…]|;.*", "", found[1]).replace("c|d", "c").split()
            yield f"{block.name}: {line.strip()}", words


def printed() -> Iterator[tuple[str, list[str], list[str]]]:
    """Commands whose output is printed under them, until the next one or the end."""
    for block in blocks():
        for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
            command, *lines = part.splitlines()
            if command.startswith("floracle ") and lines:
                yield f"{block.name}: {command}", command.split()[1:], lines


def tables() -> Iterator[tuple[str, str, str]]:
    """Tables that benchmarks write: where, the benchmark's name, and the lines as they stand."""
    for page in PAGES:
        for found in MADE.finditer(page.read_text()):
            yield f"{page.relative_to(ROOT)}: {found[1]}", found[1], found[2]


def options_of(verb: str) -> set[str]:
    """Every option of a verb, as it is typed."""
    arguments = build()[verb].assemble_argument_collection()
    names = {name for argument in arguments for name in argument.names}
    return {name for name in names if re.match("--(?!no-|empty-)", name)}
