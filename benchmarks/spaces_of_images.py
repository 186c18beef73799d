"""Photographs and their latents: how well they come back, and a thumbnail to compare with.

    floracle encode images256/val latents --autoencoder taef2 --shard-images 50
    python benchmarks/spaces_of_images.py latents thumbnails.npz
    floracle compare images256/val latents thumbnails.npz --names pixels,latents,thumbnails

Latents are read and decoded as everything here does it, through the statistics of their store.
Thumbnails are means of 8 × 8 pixels, so that they have one colour where latents have 32 channels.
Reads FLORACLE_SHARED (default ../shared) and keeps the PSNR in results/spaces_of_images.json.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import avg_pool2d

import floracle
from floracle.data.store import Store
from floracle.run.images import quantise
from measure import report

SHARED = Path(os.environ.get("FLORACLE_SHARED", Path(__file__).parents[2] / "shared"))
PHOTOGRAPHS, TAEF2 = SHARED / "data" / "images256" / "val", SHARED / "weights" / "taef2"
EVERY, TOGETHER, SIDE = 5, 4, 8


def psnr(photographs: Store, latents: Store) -> dict:
    """Of bytes [0, 255], over every fifth photograph."""
    network, rows = floracle.load_autoencoder(TAEF2), torch.arange(0, len(photographs), EVERY)
    start, found = time.perf_counter(), []
    for some in rows.split(TOGETHER):
        stored = latents.normalizer.invert(latents.take(some))
        pictures = quantise(network.decode(stored).float().cpu())
        apart = pictures.double() - photographs.stored[some].double()
        found.append(10 * (255**2 / apart.square().flatten(1).mean(1)).log10())
    values = torch.cat(found)
    return {
        "photographs": len(values),
        "mean": round(float(values.mean()), 2),
        "error of the mean": round(float(values.std() / len(values) ** 0.5), 2),
        "least": round(float(values.min()), 1),
        "most": round(float(values.max()), 1),
        "seconds a photograph": round((time.perf_counter() - start) / len(values), 2),
    }


def thumbnails(photographs: Store, out: Path) -> None:
    """Means of squares of pixels as bytes [N, h, w, 3], with the labels."""
    parts = torch.arange(len(photographs)).split(50)
    small = [quantise(avg_pool2d(photographs.take(rows), SIDE)) for rows in parts]
    images = torch.cat(small).permute(0, 2, 3, 1).numpy()
    np.savez(out, images=images, labels=photographs.labels.numpy())


def main() -> None:
    """Measure the first folder named and write the file named after it."""
    photographs, latents = floracle.open_store(PHOTOGRAPHS), floracle.open_store(sys.argv[1])
    assert torch.equal(photographs.labels, latents.labels)
    thumbnails(photographs, Path(sys.argv[2]))
    report("spaces_of_images", {"psnr": psnr(photographs, latents)})


if __name__ == "__main__":
    main()
