"""`floracle encode`: pictures as latents, in the layout that LightningDiT trains from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from floracle.cli.counts import Whole
from floracle.cli.output import OutArgument, store_in

if TYPE_CHECKING:
    from floracle.data.encoding.manifest import EncodedManifest

Moments = Literal["mean", "sample"]
Stored = Literal["fp32", "fp16", "bf16"]
NEAR_ONE = (0.5, 2.0)
SCALE = "autoencoder scale"
"""How the settings of a store call the scale of its autoencoder."""


def encode(
    images: str,
    out: OutArgument,
    /,
    *,
    autoencoder: Path,
    scale: float | None = None,
    shift: Annotated[float | None, Parameter(allow_leading_hyphen=True)] = None,
    labels: Path | None = None,
    flips: Annotated[bool, Parameter(negative="--no-flips")] = False,
    moments: Moments = "mean",
    dtype: Stored = "fp32",
    seed: Whole = 0,
    batch: Whole = 16,
    shard_images: Whole = 1000,
    device: str = "cpu",
    memory: str | None = None,
) -> Path:
    """Encode pictures as latents, in the layout that LightningDiT trains from.

    The same command again goes on where it ended, to the same bytes, or answers at once. Under
    torchrun the processes divide the files among them.

    Parameters
    ----------
    images
        Folders of pictures, arrays of them, idx, archives: whatever opens as pictures.
    out
        A new folder for the latents.
    autoencoder
        The folder of TAEF2, of AutoencoderKL or AutoencoderTiny of diffusers or of a pipeline, or
        a checkpoint of VA-VAE or of latent diffusion's kind.
    scale
        Latents are (z - shift) * scale; by default as its files say, 1 for checkpoints, which say
        none. Stable Diffusion's is 0.18215.
    shift
        See scale.
    labels
        A .npy file with a label for each picture.
    flips
        Store the latent of every mirrored picture too: latents cannot be mirrored themselves.
    moments
        What becomes of the Gaussian that a picture is encoded as: its mean, or one draw.
    dtype
        What is stored.
    seed
        The draw of picture i comes from seed + i.
    batch
        Pictures that are encoded together.
    shard_images
        Pictures in one file, which is what a killed run can lose.
    device
        Where the autoencoder runs, like cuda:0.
    memory
        How much the pictures may use, like 4G; half of what is free by default.
    """
    from floracle.data.encoding.encode import encode as encoded
    from floracle.data.encoding.manifest import MANIFEST
    from floracle.models.autoencoders.load import load_autoencoder
    from floracle.run.processes import current_group, process_device, process_memory

    group = current_group()
    where = process_device(device, group)
    network = load_autoencoder(autoencoder, scale=scale, shift=shift, device=where)
    with store_in(out, "encode", MANIFEST):
        found = encoded(
            images,
            out,
            network,
            labels=labels,
            flips=flips,
            moments=moments,
            dtype=dtype,
            seed=seed,
            batch=batch,
            shard_images=shard_images,
            memory=process_memory(memory, group),
            group=group,
        )
    _show(found, f"{network.name} ({network.assumed})", out, group.size)
    return out


def _show(found: EncodedManifest, autoencoder: str, out: Path, processes: int) -> None:
    from floracle.cli.console import as_typed, say
    from floracle.report.formatting import format_bytes
    from floracle.report.names import quoted

    again = ", and as many of their mirrors" if found.settings["flips"] else ""
    facts = {
        "latents": f"{found.images:,} of shape {' × '.join(map(str, found.shape))}{again}",
        "autoencoder": autoencoder,
        "mean by channel": f"{min(found.mean):.3f} … {max(found.mean):.3f}",
        "std by channel": f"{min(found.std):.3f} … {max(found.std):.3f}",
        "stored": format_bytes(sum(file.size for file in found.files)),
        "fingerprint": found.fingerprint,
    }
    for label, fact in facts.items():
        say(f"{label:<18}{as_typed(fact)}")
    flips = ["--flips"] if found.settings["flips"] else []
    if not all(NEAR_ONE[0] <= std <= NEAR_ONE[1] for std in found.std):
        size = (sum(std**2 for std in found.std) / len(found.std)) ** 0.5
        say(
            f"note: these deviations are far from 1; latents_stats.pt brings them there, but who"
            f" does not divide by it needs a factor: --scale {found.settings[SCALE] / size:.4g}"
        )
    shards = len(found.files) - 1
    if shards < processes:
        say(
            f"note: {processes} processes for {shards} file(s) of latents; a smaller"
            " --shard-images gives all of them work"
        )
    say(f"then: {' '.join(map(quoted, ['floracle', 'stages', str(out), *flips]))}")
