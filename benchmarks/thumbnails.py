"""Class folders of pictures, made smaller.

Writes PNG files in class folders of the same names:

    python benchmarks/thumbnails.py images256/train thumbnails64/train --side 64
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

ENDINGS = {".png", ".webp", ".jpg", ".jpeg"}


def main() -> None:
    """Shrink every picture."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("source", nargs="?", type=Path)
    asked.add_argument("out", nargs="?", type=Path)
    asked.add_argument("--side", type=int, default=64)
    options = asked.parse_args()
    if options.out is None:
        print("thumbnails: give a folder of pictures and one to write to")
        return
    for path in sorted(options.source.rglob("*")):
        if path.suffix.lower() not in ENDINGS:
            continue
        made = (options.out / path.relative_to(options.source)).with_suffix(".png")
        made.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(path) as picture:
            size = options.side, options.side
            picture.convert("RGB").resize(size, Image.Resampling.LANCZOS).save(made)


if __name__ == "__main__":
    main()
