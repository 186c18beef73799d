"""`floracle encode`: encode pictures as latents, in the layout that LightningDiT trains from."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from floracle.cli import options
from floracle.cli.console import say, say_facts
from floracle.cli.verb_run import open_new_store
from floracle.report.names import quoted
from floracle.run.processes import current_group, process_device, process_memory

if TYPE_CHECKING:
    from floracle.data.encoding.manifest import EncodedManifest

USUAL_DEVIATIONS = (0.5, 2.0)
"""Standard deviations of channels that models take as they are."""
SCALE_KEY = "autoencoder scale"
"""The scale of the autoencoder in the settings of a store."""


def encode(
    images: str,
    out: options.OutArgument,
    /,
    *,
    autoencoder: Path,
    scale: float | None = None,
    latent_shift: Annotated[float | None, Parameter(allow_leading_hyphen=True)] = None,
    label_file: Path | None = None,
    flips: Annotated[bool, Parameter(negative="--no-flips")] = False,
    moments: Literal["mean", "sample"] = "mean",
    dtype: Literal["fp32", "fp16", "bf16"] = "fp32",
    seed: options.Seed = 0,
    batch: options.Count = 16,
    shard_images: options.Count = 1000,
    device: options.Device = "cpu",
    memory: options.Memory = None,
) -> Path:
    """Encode pictures as latents, in the layout that LightningDiT trains from.

    The same command again goes on where it was stopped, to the same bytes, or answers at once.
    Under torchrun the processes divide the files among them.

    Parameters
    ----------
    images
        Folders of pictures, arrays of them, idx files or archives.
    out
        A new folder for the latents.
    autoencoder
        A folder of TAEF2, of AutoencoderKL or AutoencoderTiny of diffusers or of a pipeline, or
        a checkpoint of VA-VAE or latent diffusion.
    scale
        Latents are (z - latent shift) * scale. Default: as the files say, 1 for checkpoints, which
        do not say it. Stable Diffusion's is 0.18215.
    latent_shift
        See --scale. Default: as the files say, 0 for checkpoints.
    label_file
        A .npy file with a label for each picture.
    flips
        Store the latent of every mirrored picture too: latents cannot be mirrored themselves.
    moments
        What becomes of the Gaussian that a picture is encoded as: its mean, or one draw, whose
        seed is --seed plus the number of the picture.
    dtype
        Type of the stored latents.
    batch
        Pictures that are encoded together.
    shard_images
        Pictures in one file; a killed run loses one file at most.
    """
    from floracle.data.encoding.encode import encode as encode_pictures
    from floracle.data.encoding.manifest import MANIFEST
    from floracle.models.autoencoders.load import load_autoencoder

    group = current_group()
    network = load_autoencoder(
        autoencoder, scale=scale, shift=latent_shift, device=process_device(device, group)
    )
    with open_new_store(out, "encode", MANIFEST):
        latents = encode_pictures(
            images,
            out,
            network,
            labels=label_file,
            flips=flips,
            moments=moments,
            dtype=dtype,
            seed=seed,
            batch=batch,
            shard_images=shard_images,
            memory=process_memory(memory, group),
            group=group,
        )
    _report(latents, f"{network.name} ({network.assumed})", out, group.size)
    return out


def _report(latents: EncodedManifest, autoencoder: str, out: Path, processes: int) -> None:
    from floracle.report.formatting import format_bytes

    mirrors = ", and as many of their mirrors" if latents.settings["flips"] else ""
    facts = {
        "latents": f"{latents.images:,} of shape {' × '.join(map(str, latents.shape))}{mirrors}",
        "autoencoder": autoencoder,
        "mean by channel": f"{min(latents.mean):.3f} … {max(latents.mean):.3f}",
        "std by channel": f"{min(latents.std):.3f} … {max(latents.std):.3f}",
        "stored": format_bytes(sum(file.size for file in latents.files)),
        "fingerprint": latents.fingerprint,
    }
    say_facts(facts)
    low, high = USUAL_DEVIATIONS
    # Networks expect data of unit variance beside unit noise; a factor of 2 either way is usual.
    if not all(low <= std <= high for std in latents.std):
        # The factor that brings the root mean square over channels to 1.
        rms = (sum(std**2 for std in latents.std) / len(latents.std)) ** 0.5
        say(
            "note: these deviations are far from 1; latents_stats.pt brings them there, but code"
            f" that does not divide by it needs a factor: --scale"
            f" {latents.settings[SCALE_KEY] / rms:.4g}"
        )
    shards = len(latents.files) - 1  # the last file holds the statistics
    if shards < processes:
        say(
            f"note: {processes} processes for {shards} file(s) of latents; a smaller"
            " --shard-images gives all of them work"
        )
    flips = ["--flips"] if latents.settings["flips"] else []
    say(f"then: {' '.join(map(quoted, ['floracle', 'stages', str(out), *flips]))}")
