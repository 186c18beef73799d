"""Samples on disk and on the terminal: their picture, the rows they are nearest to, their cost."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from floracle.core.nearest import Neighbours
    from floracle.data.store import Store
    from floracle.run.output_folder import OutputFolder
    from floracle.run.processes import ProcessGroup

FILE = "samples.npz"
COLUMNS = 8
DRAWN = 64
"""Samples in the picture at most."""
LANDED = 1e-3
"""A sample this near to a training row, relative to the row's norm, has landed on it."""
SHOWN = 20


def nearest_rows(store: Store, found: Tensor, group: ProcessGroup) -> Neighbours:
    """The training row that each sample is nearest to; each process looks in its share."""
    import torch

    from floracle.core.nearest import Neighbours, nearest
    from floracle.oracle.distributed import ProcessShare
    from floracle.run.exchange import merge_over_group

    if group.alone:
        return nearest(store, found)
    mine = ProcessShare(store, group)
    none = torch.zeros(len(found), 0)
    own = Neighbours(none.double(), none.long(), 1)
    return merge_over_group(group, nearest(mine, found) if len(mine.atoms().rows) else own)


def is_whole(output: OutputFolder) -> bool:
    """Whether the samples are there, and the file with them is as it was written."""
    import sys

    from floracle.run.errors import InputError
    from floracle.run.files import check_hash
    from floracle.run.results import stored_answer

    results = stored_answer(output.path, output.settings)
    if results is None:
        return False
    try:
        check_hash(output.path / FILE, results.values["file"])
    except InputError as flaw:
        sys.stderr.write(f"note: {flaw}; the samples are drawn again\n")
        return False
    return True


def write(
    output: OutputFolder,
    store: Store,
    seeds: list[int],
    labels: list[int] | None,
    found: Tensor,
    near: Neighbours,
    cost: dict[str, int],
) -> None:
    """Samples, their picture, and last the result."""
    import numpy as np
    import torch

    from floracle.run.files import hash_file, write_bytes
    from floracle.run.images import display_for, enlarge, png, tiles
    from floracle.run.results import Results, provenance

    output.check()
    rows, distances = near.rows[:, 0], near.distances[:, 0]
    norms = store.take(rows).double().flatten(1).norm(dim=1).clamp(min=1e-12)
    given = torch.tensor(labels) if labels is not None else torch.full((len(found),), -1)
    arrays = {
        "seeds": torch.tensor(seeds),
        "rows": rows,
        "distances": distances,
        "landed": distances <= LANDED * norms,
    }
    display = display_for(store.shape, store.picture_range, store.take(rows))
    content = found
    if store.picture_range is not None and display is not None:
        content = display.pictures(found).movedim(1, -1).contiguous()
    file = io.BytesIO()
    np.savez(
        file,
        arr_0=content.numpy(),
        labels=given.numpy(),
        **{name: values.numpy() for name, values in arrays.items() if name != "landed"},
    )
    folder = output.path
    write_bytes(folder / FILE, file.getvalue())
    if display is not None:
        shown = enlarge(display.pictures(found[:DRAWN]), 64)
        write_bytes(folder / "samples.png", png(tiles(shown, COLUMNS)))
    values, made = {**cost, "file": hash_file(folder / FILE)}, provenance(name=store.name)
    output.save(Results("samples", output.settings, values, {**arrays, "labels": given}, made))


def report(folder: Path) -> None:
    """Where the samples landed, on the terminal."""
    from floracle.cli.console import say, show_table
    from floracle.run.results import load_results

    results = load_results(folder)
    found = results.arrays
    seeds, rows = found["seeds"].tolist(), found["rows"].tolist()
    labels, distances = found["labels"].tolist(), found["distances"].tolist()
    landed = found["landed"].tolist()
    table = [
        (
            str(seed),
            str(label) if label >= 0 else "–",
            str(row),
            f"{distance:.2e}",
            "yes" if on else "no",
        )
        for seed, label, row, distance, on in zip(
            seeds, labels, rows, distances, landed, strict=True
        )
    ]
    show_table(("seed", "label", "nearest row", "distance", "landed"), table[:SHOWN])
    if len(table) > SHOWN:
        say(f"… and {len(table) - SHOWN} more in samples.npz")
    count = len(set(rows))
    say(f"{sum(landed)} of {len(rows)} samples landed on a training row; {count} different rows")
    if "evaluations" in results.values:
        say(_cost(results.values))


def _cost(values: Mapping[str, Any]) -> str:
    """What a sample has taken, such as "evaluations a sample: 75"."""
    asked, paid = values["velocities"], values["evaluations"]
    guided = f"; guidance takes {paid - asked} of them" if paid != asked else ""
    return f"evaluations a sample: {paid}, for {asked} velocities{guided}"
