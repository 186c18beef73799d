"""The verbs of the command line: where each lives, what it does, and how it is used."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import NamedTuple


class Verb(NamedTuple):
    """A verb of the command line."""

    group: str
    """The heading in `floracle --help`."""
    function: str
    """Where it is, as module:function; the module is imported when the verb is used."""
    summary: str
    examples: str
    parallel: bool = False
    """Whether several processes can work on it."""
    resumable: bool = False
    """Whether the same command goes on from what an interrupted run has finished."""


VERBS = {
    "inspect": Verb(
        "Data",
        "floracle.cli.verbs.inspect:inspect",
        "Describe a data set: what it is, its traps, and which flags to use.",
        """Examples:
  floracle inspect digits
  floracle inspect latents/imagenet256 --json
  floracle inspect packed/imagenet256 --verify
  floracle inspect latents.npy --label-file labels.npy""",
    ),
    "pack": Verb(
        "Data",
        "floracle.cli.verbs.pack:pack",
        "Rewrite a data set so that it opens at once, is read in order and can be checked.",
        """Examples:
  floracle pack latents/imagenet256 packed/imagenet256 --flips --dtype fp16
  floracle pack latents.npy packed/latents --label-file labels.npy --shard-bytes 512M
  floracle pack pictures/ packed/pictures --no-spectra""",
        resumable=True,
    ),
    "encode": Verb(
        "Data",
        "floracle.cli.verbs.encode:encode",
        "Encode pictures as latents, in the layout that LightningDiT trains from.",
        """Examples:
  floracle encode pictures/ latents/ --autoencoder weights/taef2
  floracle encode imagenet/train latents/ --autoencoder vavae.pt --moments sample --flips
  floracle encode pictures/ latents/ --autoencoder sd3/vae --device cuda --batch 64""",
        parallel=True,
        resumable=True,
    ),
    "stages": Verb(
        "Oracle",
        "floracle.cli.verbs.stages:stages",
        "Measure where navigation ends in a data set, and write a report.",
        """Examples:
  floracle stages digits --out demo
  floracle stages pictures/ --classes each --held-out pictures-held-out/
  floracle stages latents.npy --label-file labels.npy --pairs 256 --memory 8G""",
        parallel=True,
        resumable=True,
    ),
    "predict": Verb(
        "Oracle",
        "floracle.cli.verbs.predict:predict",
        "Predict the stages from statistics of a data set, or from numbers alone.",
        """Examples:
  floracle predict digits
  floracle predict --points 1281 --dims 4096
  floracle predict --points 50000 --spectrum eigenvalues.npy --what-if 1e4,1e5,1e6""",
    ),
    "compare": Verb(
        "Oracle",
        "floracle.cli.verbs.compare:compare",
        "Compare the stages of several data sets or spaces on one page.",
        """Examples:
  floracle compare digits gaussian:1797x64
  floracle compare latents-a.npy latents-b.npy --names vavae,sdvae --out vae
  floracle compare runs/stages-plain runs/stages-flipped""",
        resumable=True,
    ),
    "probe": Verb(
        "Models",
        "floracle.cli.verbs.probe:probe",
        "Measure what models predict along their trajectories, and when predictions settle.",
        """Examples:
  floracle probe runs/xl --data latents/imagenet256 --labels 3 --autoencoder vavae.pt
  floracle probe runs/base runs/xl --seeds 0:16 --labels 0,1,2
  floracle probe flux/ --embeddings text.safetensors --autoencoder flux/ --shape 16,64,64""",
        resumable=True,
    ),
    "loss": Verb(
        "Models",
        "floracle.cli.verbs.loss:loss",
        "Measure the distance of models from the oracle by time, and their held-out loss.",
        """Examples:
  floracle loss runs/early runs/late --data latents/ --held-out latents-held-out/
  floracle loss model.pt --convention sit --data latents/imagenet256 --classes 0,3,5
  floracle loss my.py:network --convention predicts=data,null_label=10 --data train/""",
    ),
    "mix": Verb(
        "Models",
        "floracle.cli.verbs.mix:mix",
        "Switch between the oracle and a model during sampling, or resume from held-out data.",
        """Examples:
  floracle mix runs/xl --data latents/ --switch 0,.1,.2,.4,.8,1 --labels 3
  floracle mix runs/xl --data latents/ --landing .1,.3 --seeds 0:400 --labels 3
  floracle mix runs/xl --data latents/ --held-out latents-held-out/ --resume 0,.1,.2,.3,.5,.7""",
        resumable=True,
    ),
    "train": Verb(
        "Train and sample",
        "floracle.cli.verbs.train:train",
        "Train a network on conditional or oracle targets.",
        """Examples:
  floracle train digits --model nano --patch 2 --images 1e5 --batch 128 --rate 1e-3
  floracle train latents/ --model base --target oracle --device cuda --precision bf16
  torchrun --nproc-per-node 8 -m floracle train packed/ --device cuda --out runs/xl""",
        parallel=True,
        resumable=True,
    ),
    "sample": Verb(
        "Train and sample",
        "floracle.cli.verbs.sample:sample",
        "Sample from a model or from the oracle.",
        """Examples:
  floracle sample oracle digits --seeds 0:64 --labels 3
  floracle sample oracle pictures/ --steps 25 --shift .5 --solver heun --out samples
  floracle sample model.pt latents/ --labels 0,1,2 --guidance 2.5 --interval .1,.6""",
        parallel=True,
    ),
    "reproduce": Verb(
        "Paper",
        "floracle.cli.verbs.reproduce:reproduce",
        "Reproduce figures and tables of the paper.",
        """Examples:
  floracle reproduce
  floracle reproduce figure-2a latents-a.npz latents-b.npz
  floracle reproduce figure-3 --quick""",
        resumable=True,
    ),
    "convert-time": Verb(
        "Tools",
        "floracle.cli.verbs.convert_time:convert_time",
        "Convert a time or noise level between the conventions of different projects.",
        """Examples:
  floracle convert-time 0.34:1.02 --from edm
  floracle convert-time 0.1 --shift 0.3 --steps 50""",
    ),
    "grid": Verb(
        "Tools",
        "floracle.cli.verbs.grid:grid",
        "Print the time grid that a project uses.",
        """Examples:
  floracle grid sit --steps 250
  floracle grid sd3 --steps 28 --project-shift 3 --json""",
    ),
    "report": Verb(
        "Tools",
        "floracle.cli.verbs.report:report",
        "Draw the reports of stages and training runs again.",
        """Examples:
  floracle report runs/stages-digits
  floracle report runs/xl                           # also while it trains""",
    ),
}

READS_DATA = ("inspect", "pack", "stages", "predict", "compare", "loss", "train", "reproduce")
SAMPLES = ("sample", "probe", "mix")
RENAMED_OPTIONS = {
    **{(verb, "--labels"): "--label-file" for verb in (*READS_DATA, "encode")},
    **{(verb, "--data-labels"): "--label-file" for verb in SAMPLES},
    **{(verb, "--held-out-labels"): "--held-out-label-file" for verb in ("loss", "mix")},
    **{(verb, "--grid"): "--steps" for verb in SAMPLES},
    ("loss", "--yardsticks"): "--baselines",
    ("train", "--times"): "--time-density",
    ("train", "--switch"): "--target-until",
    ("encode", "--shift"): "--latent-shift",
    ("grid", "--shift"): "--project-shift",
}
"""Options of 0.1 by verb and name, and what they are called now. They work until 0.3."""


def current_options(arguments: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The arguments with today's names of options, and the old names that were among them."""
    if not arguments:
        return [], {}
    verb, *options = arguments
    current, renamed = [verb], {}
    for k, word in enumerate(options):
        if word == "--":  # what follows are no options
            current += options[k:]
            break
        old, equals, value = word.partition("=")  # --old VALUE and --old=VALUE
        new = RENAMED_OPTIONS.get((verb, old))
        if new is not None:
            renamed[old] = new
        current.append(f"{new or old}{equals}{value}")
    return current, renamed


def current_command(command: str) -> str:
    """A saved command, as one types it today."""
    try:
        program, *arguments = shlex.split(command)
    except ValueError:  # escapes that only bash reads
        return command
    current, renamed = current_options(arguments)
    return shlex.join([program, *current]) if renamed else command
