"""`load_model`: whatever people have, as a velocity field.

runs/xl, network.safetensors       a network that floracle wrote
runs/xl/checkpoints/….safetensors  the same at a moment of its training
0400000.pt, model.safetensors      a checkpoint of LightningDiT, SiT or REPA
flux/, flux/transformer/           a folder of diffusers
digits-pico                        a small network of the embedded digits, which comes along
my_code:network, my.py:network     a function that makes a network, with its convention
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from floracle.run.budget import choose_device
from floracle.run.errors import InputError

from .checkpoints import ENDINGS, open_checkpoint
from .convention import CONVENTIONS, Convention, parse_convention
from .field import ModelField, model_field
from .identity import reads_mode, set_evaluation_mode
from .identity_facts import collect_contents
from .networks import diffusers
from .networks.factory import WithoutNull, is_factory, made_by
from .networks.families import recognized, title
from .networks.lightningdit import LightningDiT
from .networks.tensors import filled
from .weights import NAME, SavedNetwork, description, is_kept, read_kept, read_network

LoadOptions = Convention | Mapping[str, Any] | str
EMBEDDED = {"digits-pico": Path(__file__).with_name("digits-pico.safetensors")}
"""Networks that come along; docs/how-to/train.md has the command that made each."""


def load_model(
    where: str | Path,
    *,
    convention: LoadOptions | None = None,
    weights: str | None = None,
    heads: int | None = None,
    embeddings: Mapping[str, Tensor] | str | Path | None = None,
    prompt: str | Sequence[str] | None = None,
    guidance: float = diffusers.GUIDANCE,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> ModelField:
    """A network as a velocity field, its clock, sign, prediction and null label translated.

    `convention` says how it is read: a project's name ("repa"), words ("predicts=data"),
    a mapping or a Convention; checkpoints know theirs, a function of your own does not. Of a
    checkpoint's `weights` the averaged ones ("ema") are taken; `heads` is needed for tensors of an
    unknown size. SD3 and Flux are asked with text: a `prompt` or several, which the encoders of
    their pipeline read, or `embeddings` of them; `guidance` is the scale that Flux embeds.
    What was assumed is in the field's `assumed`; `check_convention` puts it to the test.
    """
    place, asked = (
        choose_device(device),
        None if convention is None else parse_convention(convention),
    )
    path, text = Path(where).expanduser(), {"embeddings": embeddings, "prompt": prompt}
    if path.is_dir() and not (path / NAME).is_file() and diffusers.is_diffusers(path):
        _refuse("a folder of diffusers", weights=weights, heads=heads)
        known = {"guidance": guidance, "device": place, "dtype": dtype}
        return _diffusers(diffusers.loaded(path, embeddings, prompt, **known), asked, place)
    if isinstance(where, str) and is_factory(where) and not path.exists():
        _refuse("a function", weights=weights, heads=heads, **text)
        return _factory(where, asked, place, dtype)
    file = _file(path if path.exists() else EMBEDDED.get(str(where), path))
    if file.suffix == ".safetensors" and description(file) is not None:
        _refuse("a run of floracle", weights=weights, heads=heads, **text)
        written = read_network(file)
        said = [f"as floracle {written.made.get('floracle', '?')} wrote it", str(file)]
        return _own(written, said, asked, place, dtype)
    _refuse("a checkpoint", **text)
    if is_kept(file):
        _refuse("a checkpoint of a run", heads=heads)
        kept = read_kept(file, weights)
        which = "as it was trained" if weights == "model" else "averaged"
        said = [f"{which}, after {kept.made['images']:,} images", str(file)]
        return _own(kept, said, asked, place, dtype)
    found = recognized(open_checkpoint(file, weights), asked, heads)
    network = filled(found.plan, found.tensors, file)
    return _transformer(network, found.convention, found.name, found.assumed, place, dtype)


def _refuse(kind: str, **given: object) -> None:
    """Options that mean nothing for what was named are a mistake, not ignored."""
    for name, value in given.items():
        if value is not None:
            raise InputError(f"{name}= means nothing for {kind}; leave it out")


def _file(path: Path) -> Path:
    """The file that holds the network; folders have to be a run's."""
    if not path.is_dir():
        if not path.exists():
            raise InputError(
                f"there is no {str(path)!r}; name a checkpoint, a run's folder, a folder of"
                f" diffusers, module:function, or {', '.join(EMBEDDED)}"
            )
        return path
    if (path / NAME).is_file():
        return path / NAME
    there = [
        file.name for file in sorted(path.iterdir()) if file.suffix in (".safetensors", *ENDINGS)
    ]
    hint = f"name one of its checkpoints: {', '.join(there[:5])}" if there else "nor a checkpoint"
    raise InputError(f"{path} is neither a run (no {NAME}) nor a folder of diffusers; {hint}")


def _transformer(
    network: LightningDiT,
    convention: Convention,
    name: str,
    assumed: list[str],
    device: torch.device,
    dtype: torch.dtype | None,
) -> ModelField:
    """One of our networks as a field, moved to where it is asked for."""
    plan, network = network.plan, network.to(device, dtype)
    return model_field(
        network,
        convention,
        name=name,
        assumed=assumed,
        device=device,
        dtype=network.x_embedder.proj.weight.dtype,
        shape=plan.shape,
        classes=plan.classes,
    )


def _own(
    found: SavedNetwork,
    said: list[str],
    asked: Convention | None,
    device: torch.device,
    dtype: torch.dtype | None,
) -> ModelField:
    """A network of floracle's as a field; its file says how it is read."""
    convention = _with_null(asked or found.convention, found.network.null)
    name = title("floracle", found.network.plan)
    return _transformer(found.network, convention, name, said, device, dtype)


def _factory(
    where: str, asked: Convention | None, device: torch.device, dtype: torch.dtype | None
) -> ModelField:
    if asked is None:
        raise InputError(
            f"cannot infer what {where} predicts; pass --convention, e.g. predicts=velocity,"
            f"null_label=10, or the name of a project: {', '.join(CONVENTIONS)}"
        )
    made = made_by(where)
    if isinstance(made, torch.nn.Module):
        made = made.to(device, dtype)
    said = ["the convention as declared", where]
    if reads_mode(set_evaluation_mode(collect_contents(made).modules)):
        said.append("dropout and batch statistics switched off")
    network = WithoutNull(made, where) if asked.null_label is None else made
    return model_field(network, asked, name=where, assumed=said, device=device, dtype=dtype)


def _diffusers(
    found: diffusers.Loaded, asked: Convention | None, device: torch.device
) -> ModelField:
    return model_field(
        found.network,
        _with_null(asked or found.convention, found.convention.null_label),
        name=found.name,
        assumed=found.assumed,
        device=device,
        dtype=found.dtype,
        shape=found.shape,
        any_size=True,
        classes=found.network.prompts.count,
    )


def _with_null(convention: Convention, null: int | None) -> Convention:
    """The same with a null label, where it names none itself."""
    return (
        convention if convention.null_label is not None else replace(convention, null_label=null)
    )
