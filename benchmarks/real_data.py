"""Predicted against measured landmarks for every class of four public data sets.

    python benchmarks/real_data.py [NAME …]        # mnist, fashion_mnist, cifar10, flowers

Reads FLORACLE_SHARED (default ../shared); documents.py writes docs/real-data-table.md.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import floracle
from measure import RESULTS, report

ROOT = Path(__file__).parent.parent
SHARED = Path(os.environ.get("FLORACLE_SHARED", ROOT.parent / "shared"))


def cifar10(folder: Path) -> Path:
    """CIFAR-10 unpacked from its lossless sheets."""
    out = folder / "cifar10.npz"
    tool = SHARED / "tools" / "cifar10_to_npz.py"
    subprocess.run([sys.executable, str(tool), "train", str(out)], check=True)
    return out


PLACES = {
    "mnist": lambda folder: SHARED / "data" / "mnist",
    "fashion_mnist": lambda folder: SHARED / "data" / "fashion_mnist",
    "cifar10": cifar10,
    "flowers": lambda folder: SHARED / "data" / "images256" / "train",
}


def main() -> None:
    path = RESULTS / "real_data.json"
    known = json.loads(path.read_text())["measured"] if path.exists() else {}
    for name in sys.argv[1:] or PLACES:
        with tempfile.TemporaryDirectory() as folder:
            started = time.perf_counter()
            oracle = floracle.Oracle(floracle.open_store(PLACES[name](Path(folder))))
            opened = time.perf_counter()
            stages = floracle.stages(oracle)
            known[name] = {
                "seconds to open": round(opened - started, 1),
                "seconds": round(time.perf_counter() - opened, 1),
                "classes": [row(stages, group) for group in stages.groups],
            }
        report("real_data", {"measured": known})


def row(stages: floracle.Stages, group) -> dict:
    """The numbers of one class."""
    marks = {name: getattr(group, name) for name in ("centre", "collapse", "end")}
    return {
        "class": stages.name(group.label),
        "points": group.points,
        "knowable": round(group.max_information, 4),
        "area": [round(group.area.value, 4), round(group.area.error, 4)],
        "predicted": [round(group.predicted_centre, 4), round(group.predicted_collapse, 4)],
        **{
            name: [round(v, 4) if v is not None else None for v in (m.value, m.low, m.high)]
            for name, m in marks.items()
        },
        "rivals": len(group.rivals),
    }


def table(results: dict):
    """Markdown: predicted / measured and their deviation, by class."""
    yield (
        "| data | class | N | centre: predicted / measured | | collapse: predicted / measured | "
        "| end | area − H(w), in errors |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    for name, found in results["measured"].items():
        for group in found["classes"]:
            cells = [name, group["class"], str(group["points"])]
            for mark, predicted in zip(("centre", "collapse"), group["predicted"], strict=True):
                value = group[mark][0]
                cells += [
                    f"{predicted:.4f} / {value:.4f}",
                    f"{100 * (predicted / value - 1):+.1f} %",
                ]
            end = group["end"][0]
            cells.append("not reached" if end is None else f"{end:.3f}")
            area, error = group["area"]
            cells.append(f"{(area - group['knowable']) / error:+.1f}")
            yield "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
