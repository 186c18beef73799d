"""Samples on disk and on the terminal: their picture, their nearest training rows, their cost."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from floracle.cli.console import say, warn
from floracle.cli.tables import show_table
from floracle.report.names import visible
from floracle.run.errors import InputError
from floracle.run.exchange import merge_over_group

if TYPE_CHECKING:
    from torch import Tensor

    from floracle.core.nearest import Neighbours
    from floracle.data.store import Store
    from floracle.run.output_folder import OutputFolder
    from floracle.run.processes import ProcessGroup

FILE = "samples.npz"
PICTURE_COLUMNS, MAX_PICTURES = 8, 64
MIN_PICTURE_SIDE = 64
"""Pixels of a side up to which small pictures are enlarged."""
LANDED_DISTANCE = 1e-3
"""A sample this near to a training row, relative to the row's norm, has landed on it."""
MAX_ROWS_SHOWN = 20


def nearest_rows(store: Store, samples: Tensor, group: ProcessGroup) -> Neighbours:
    """The training row nearest to each sample; each process searches its share of the rows."""
    import torch

    from floracle.core.nearest import Neighbours, nearest
    from floracle.oracle.distributed import ProcessShare

    # Each process searches its own rows; the nearest of all are merged.
    if group.alone:
        return nearest(store, samples)
    share = ProcessShare(store, group)
    empty = torch.zeros(len(samples), 0)
    no_rows = Neighbours(empty.double(), empty.long(), 1)
    return merge_over_group(group, nearest(share, samples) if len(share.atoms().rows) else no_rows)


def has_samples(output: OutputFolder) -> bool:
    """Whether the result is there, and samples.npz is as it was written."""
    from floracle.run.files import check_hash
    from floracle.run.results import stored_answer

    results = stored_answer(output.path, output.settings)
    if results is None:
        return False
    try:
        check_hash(output.path / FILE, results.values["file"])
    except InputError as flaw:
        warn(f"{flaw}; the samples are drawn again")
        return False
    return True


def save_samples(
    output: OutputFolder,
    store: Store,
    seeds: list[int],
    labels: list[int] | None,
    samples: Tensor,
    near: Neighbours,
    cost: dict[str, int],
) -> None:
    """Write the samples [b, *shape], their picture, and last the result."""
    import numpy as np
    import torch

    from floracle.run.files import hash_file, write_bytes
    from floracle.run.images import display_for, enlarge, png, tiles
    from floracle.run.results import Results, provenance

    output.check()  # before the first file: the data must be what it was when it was opened
    rows, distances = near.rows[:, 0], near.distances[:, 0]  # [b]
    # ‖row‖, [b]; the clamp is for a row that is zero.
    norms = store.take(rows).double().flatten(1).norm(dim=1).clamp(min=1e-12)
    label = torch.tensor(labels) if labels is not None else torch.full((len(samples),), -1)
    arrays = {"labels": label, "seeds": torch.tensor(seeds), "rows": rows, "distances": distances}
    display = display_for(store.shape, store.picture_range, store.take(rows))
    content = samples
    if store.picture_range is not None and display is not None:
        # Bytes [b, height, width, channels], as programs that compute FID read them.
        content = display.pictures(samples).movedim(1, -1).contiguous()
    columns = {name: values.numpy() for name, values in arrays.items()}
    file = io.BytesIO()
    np.savez(file, arr_0=content.numpy(), **columns)  # pyright: ignore[reportArgumentType]
    folder = output.path
    write_bytes(folder / FILE, file.getvalue())
    if display is not None:
        pictures = enlarge(display.pictures(samples[:MAX_PICTURES]), MIN_PICTURE_SIDE)
        write_bytes(folder / "samples.png", png(tiles(pictures, PICTURE_COLUMNS)))
    arrays["landed"] = distances <= LANDED_DISTANCE * norms
    # The result last, with the digest of the file: without it the samples do not count.
    values = {**cost, "file": hash_file(folder / FILE)}
    output.save(Results("samples", output.settings, values, arrays, provenance(name=store.name)))


def report(output: OutputFolder) -> None:
    """Print the nearest training rows of the samples, and what a sample has cost."""
    from floracle.run.results import load_results

    results = load_results(output.path)
    columns = ("seeds", "labels", "rows", "distances", "landed")
    table = [
        (
            str(seed),
            str(label) if label >= 0 else "–",
            str(row),
            f"{distance:.2e}",
            "yes" if landed else "no",
        )
        for seed, label, row, distance, landed in zip(
            *(results.arrays[name].tolist() for name in columns), strict=True
        )
    ]
    show_table(("seed", "label", "nearest row", "distance", "landed"), table[:MAX_ROWS_SHOWN])
    if len(table) > MAX_ROWS_SHOWN:
        say(f"… and {len(table) - MAX_ROWS_SHOWN} more in {FILE}")
    landed, rows = int(results.arrays["landed"].sum()), results.arrays["rows"]
    different = len(rows.unique())
    say(f"{landed} of {len(rows)} samples landed on a training row; {different} different rows")
    if "evaluations" in results.values:  # not in the first results of 0.1
        say(_cost_words(results.values))
    say(f"samples: {visible(str(output.path / FILE))}")


def _cost_words(values: Mapping[str, Any]) -> str:
    """What a sample has cost, such as "evaluations a sample: 75"."""
    velocities, evaluations = values["velocities"], values["evaluations"]
    extra = evaluations - velocities
    guided = f"; guidance takes {extra} of them" if extra else ""
    return f"evaluations a sample: {evaluations}, for {velocities} velocities{guided}"
