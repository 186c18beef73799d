"""`load_model`: a network of any supported kind, as a velocity field.

runs/xl, network.safetensors       a network that floracle wrote
runs/xl/checkpoints/….safetensors  the same at a moment of its training
0400000.pt, model.safetensors      a checkpoint of LightningDiT, SiT or REPA
flux/, flux/transformer/           a folder of diffusers
digits-pico                        a small network of the embedded digits, part of this package
my_code:network, my.py:network     a function that builds a network, with its convention
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from floracle.core.fields import Convention
from floracle.run.budget import choose_device
from floracle.run.errors import InputError

from .checkpoints import ENDINGS, open_checkpoint
from .convention import CONVENTIONS, parse_convention
from .field import ModelField, model_field
from .identity import reads_mode, set_evaluation_mode
from .identity_facts import collect_contents
from .networks import diffusers
from .networks.diffusers_folder import is_diffusers
from .networks.factory import WithoutNull, call_factory, check_call, is_factory
from .networks.families import network_title, recognise_checkpoint
from .networks.lightningdit import LightningDiT
from .networks.tensors import build_network
from .state_dict import check_requested_type
from .weights import (
    NETWORK_FILE,
    SavedNetwork,
    is_run_checkpoint,
    read_header,
    read_network,
    read_run_checkpoint,
)

EMBEDDED = {"digits-pico": Path(__file__).with_name("digits-pico.safetensors")}
"""Networks of this package; docs/how-to/train.md has the command that made each."""


def load_model(
    model: str | Path,
    *,
    convention: Convention | Mapping[str, Any] | str | None = None,
    weights: str | None = None,
    heads: int | None = None,
    embeddings: Mapping[str, Tensor] | str | Path | None = None,
    prompt: str | Sequence[str] | None = None,
    guidance: float = diffusers.DEFAULT_GUIDANCE,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> ModelField:
    """A network as a velocity field; its times, sign, prediction and null label are translated.

    What was assumed is in the field's `assumed`; `check_convention` puts it to the test.

    Parameters
    ----------
    model
        A file, a folder, an embedded network or module:function; see `floracle.models.zoo`.
    convention
        How the network is read: a project's name ("repa"), words ("predicts=data,null_label=10"),
        a mapping or a Convention. Checkpoints have their own, a function does not.
    weights
        Which weights of a checkpoint; by default the averaged ones ("ema").
    heads
        Attention heads, for tensors of an unknown size.
    prompt, embeddings
        Text for SD3 and Flux: one or several prompts, encoded by their pipeline, or embeddings.
    guidance
        The guidance scale that Flux embeds.
    device, dtype
        Where and in which type the network is evaluated; by default a GPU if there is one, and
        the type of the file.

    Raises
    ------
    InputError
        If nothing of this name can be loaded, or an option means nothing for it.
    """
    device = choose_device(device)
    check_requested_type(dtype)
    declared = None if convention is None else parse_convention(convention)
    path, text = Path(model).expanduser(), {"embeddings": embeddings, "prompt": prompt}

    if path.is_dir() and not (path / NETWORK_FILE).is_file() and is_diffusers(path):
        _refuse_options("a folder of diffusers", weights=weights, heads=heads)
        loaded = diffusers.load_text_to_image(
            path, embeddings, prompt, guidance=guidance, device=device, dtype=dtype
        )
        return _diffusers_field(loaded, declared, device)

    if isinstance(model, str) and is_factory(model) and not path.exists():
        _refuse_options("a function", weights=weights, heads=heads, **text)
        return _factory_field(model, declared, device, dtype)

    file = _network_file(path if path.exists() else EMBEDDED.get(str(model), path))
    if file.suffix == ".safetensors" and read_header(file) is not None:
        _refuse_options("a run of floracle", weights=weights, heads=heads, **text)
        saved = read_network(file)
        assumed = [f"as floracle {saved.made.get('floracle', '?')} wrote it", str(file)]
        return _saved_field(saved, assumed, declared, device, dtype)

    _refuse_options("a checkpoint", **text)
    if is_run_checkpoint(file):
        _refuse_options("a checkpoint of a run", heads=heads)
        saved = read_run_checkpoint(file, weights)
        which = "as it was trained" if weights == "model" else "averaged"
        assumed = [f"{which}, after {saved.made['images']:,} images", str(file)]
        return _saved_field(saved, assumed, declared, device, dtype)

    recognised = recognise_checkpoint(open_checkpoint(file, weights), declared, heads)
    network = build_network(recognised.plan, recognised.tensors, file)
    return _transformer_field(
        network, recognised.convention, recognised.name, recognised.assumed, device, dtype
    )


def _refuse_options(kind: str, **options: object) -> None:
    """Options that mean nothing for what was named are an error, not ignored."""
    for name, value in options.items():
        if value is not None:
            raise InputError(f"{name}= means nothing for {kind}; leave it out")


def _network_file(path: Path) -> Path:
    """The file that holds the network; a folder must be a run's."""
    if not path.is_dir():
        if not path.exists():
            raise InputError(
                f"there is no {str(path)!r}; name a checkpoint, a run's folder, a folder of"
                f" diffusers, module:function, or {', '.join(EMBEDDED)}"
            )
        return path
    if (path / NETWORK_FILE).is_file():
        return path / NETWORK_FILE
    checkpoints = [
        file.name for file in sorted(path.iterdir()) if file.suffix in (".safetensors", *ENDINGS)
    ]
    hint = "it holds no checkpoint"
    if checkpoints:
        hint = f"name one of its checkpoints: {', '.join(checkpoints[:5])}"
    raise InputError(
        f"{path} is neither a run (no {NETWORK_FILE}) nor a folder of diffusers; {hint}"
    )


def _transformer_field(
    network: LightningDiT,
    convention: Convention,
    name: str,
    assumed: list[str],
    device: torch.device,
    dtype: torch.dtype | None,
    points: Mapping[str, Any] | None = None,
) -> ModelField:
    """A network of the family as a field, on its device."""
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
        points=points,
    )


def _saved_field(
    saved: SavedNetwork,
    assumed: list[str],
    declared: Convention | None,
    device: torch.device,
    dtype: torch.dtype | None,
) -> ModelField:
    """A network of floracle's as a field; its file has its convention."""
    convention = _with_null_label(declared or saved.convention, saved.network.null)
    name = network_title("floracle", saved.network.plan)
    points = saved.made.get("points")
    return _transformer_field(saved.network, convention, name, assumed, device, dtype, points)


def _factory_field(
    name: str, convention: Convention | None, device: torch.device, dtype: torch.dtype | None
) -> ModelField:
    if convention is None:
        raise InputError(
            f"cannot infer what {name} predicts; pass --convention, e.g. predicts=velocity,"
            f"null_label=10, or the name of a project: {', '.join(CONVENTIONS)}"
        )
    network = call_factory(name)
    if convention.null_label is not None:
        check_call(network, name, labelled=True)
    if isinstance(network, torch.nn.Module):
        network = network.to(device, dtype)
        dtype = _own_type(network) if dtype is None else dtype
    assumed = ["the convention as declared", name]
    if reads_mode(set_evaluation_mode(collect_contents(network).modules)):
        assumed.append("dropout and batch statistics switched off")
    if convention.null_label is None:
        network = WithoutNull(network, name)
    return model_field(network, convention, name=name, assumed=assumed, device=device, dtype=dtype)


def _own_type(network: torch.nn.Module) -> torch.dtype | None:
    """The type of all parameters where it is not float32, the type of samples."""
    types = {p.dtype for p in network.parameters() if p.is_floating_point()}
    own = types.pop() if len(types) == 1 else torch.float32
    return None if own == torch.float32 else own


def _diffusers_field(
    loaded: diffusers.TextToImage, declared: Convention | None, device: torch.device
) -> ModelField:
    return model_field(
        loaded.network,
        _with_null_label(declared or loaded.convention, loaded.convention.null_label),
        name=loaded.name,
        assumed=loaded.assumed,
        device=device,
        dtype=loaded.dtype,
        shape=loaded.shape,
        any_size=True,
        classes=loaded.network.prompts.count,
    )


def _with_null_label(convention: Convention, null_label: int | None) -> Convention:
    """The convention with this null label, where it has none itself."""
    if convention.null_label is not None:
        return convention
    return replace(convention, null_label=null_label)
