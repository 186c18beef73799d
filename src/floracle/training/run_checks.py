"""What a training run refuses before it writes anything, and what it notes at its start."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from floracle.core.point_set import PointSet
from floracle.models.data_fit import check_classes, check_shape
from floracle.models.networks.lightningdit import LightningDiT
from floracle.run.errors import InputError
from floracle.run.folder_checks import check_run_folder

from .checkpoint import VERB
from .config import TrainingSettings
from .evaluation import EvaluationPlan, missing_classes


def check_inputs(
    model: nn.Module,
    data: PointSet,
    settings: TrainingSettings,
    *,
    null_label: int | None,
) -> None:
    """Refuse a model, data and settings that do not fit each other."""
    if getattr(data, "stds", None) is not None:
        raise InputError("training draws points; open the data with moments='mean' or 'sample'")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("this network has nothing to train; call requires_grad_() on it")
    _check_untied(model)
    if isinstance(model, LightningDiT):
        check_shape("the network", model.plan.shape, tuple(data.shape))
    if settings.drop and null_label is None:
        raise InputError("label dropout needs a null label; give null=, or drop=0")
    classes = model.plan.classes if isinstance(model, LightningDiT) else None
    check_classes("the network", data, count=classes, null_label=null_label)


def _check_untied(model: nn.Module) -> None:
    """Refuse weights that several names share: a checkpoint keeps every name by itself."""
    names: dict[tuple[int, torch.Size], str] = {}
    for name, value in model.state_dict().items():
        memory = value.data_ptr(), value.shape
        if value.numel() and memory[0] and memory in names:
            raise InputError(
                f"{names[memory]} and {name} of this network are one tensor, which checkpoints do"
                f" not keep; give each a copy of its own, or register only one of them"
            )
        names[memory] = name


def check_extension(out: Path, settings: TrainingSettings) -> None:
    """Refuse to make a run longer whose last batch was cut short: later batches would differ."""
    recorded = check_run_folder(out, VERB)
    images = None if recorded is None else recorded.get("images")
    if not isinstance(images, int) or images >= settings.images or images % settings.batch == 0:
        return
    raise InputError(
        f"{out} holds a run of {images:,} images, whose last batch is not whole, so that it cannot"
        f" be made longer; choose another --out"
    )


def run_notes(
    settings: TrainingSettings, data: PointSet, held_out: PointSet | None, plan: EvaluationPlan
) -> list[str]:
    """What a user may not expect of these settings, in sentences."""
    notes = []
    if settings.cosine and settings.target != "conditional":
        notes.append(
            f"the cosine loss is not linear in its target, so that with {settings.target}"
            f" targets the network's best answer is another than with conditional ones"
        )
    missing = missing_classes(plan, data, held_out) if plan.pairs else []
    if missing:
        notes.append(
            f"the held-out data has no points of class {', '.join(map(str, missing))}, which"
            f" evaluations look at; they leave its loss out"
        )
    return notes
