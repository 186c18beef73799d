"""`train`: a network learns the field of data; whoever iterates owns progress and stopping.

    for progress in floracle.train(network, data, Settings(images=1_000_000), out="runs/mine"):
        print(progress)

The same call again goes on from the last checkpoint: on the same machine with as many processes to
the same weights, bit for bit, as a run that nothing stopped. Processes that torchrun started share
every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from floracle.core.fields import VelocityField
from floracle.core.point_set import NO_LABEL, PointSet
from floracle.models.convention import Convention
from floracle.models.field import model_field
from floracle.models.networks.lightningdit import LightningDiT
from floracle.oracle.oracle import Oracle
from floracle.run.budget import choose_device
from floracle.run.errors import InputError
from floracle.run.exchange import barrier, gather
from floracle.run.output_folder import OutputFolder, open_output
from floracle.run.processes import ProcessGroup, current_group, is_launched

from .batches import Batch, BatchMaker
from .checkpoint import VERB, Checkpoint, Learner, keep, optimizer_for, read, writing
from .config import TrainingSettings
from .data_order import DataOrder
from .determinism import inner_randomness, ready, repeatable
from .ema import averaged
from .evaluation import FOLDER as EVALUATIONS
from .evaluation import EvaluationPlan, draw_samples, keep_look, lacking, looked, words_of
from .gradient_allreduce import GradientSums, broadcast_weights
from .interrupts import deferred
from .metrics_log import MetricsLog, open_log, read_log
from .run_directory import GROWS, RunDirectory, changes, check_extension, machine, settings_of
from .switch import measured_gap, switch_time
from .targets import target_for
from .times import TimeDensity, Uniform, times_for
from .train_metrics import PART as COUNTS
from .train_metrics import TrainingProgress, TrainMetrics
from .train_step import Stepper, forgetful

LOOK = EvaluationPlan()


def train(
    model: nn.Module,
    data: PointSet,
    settings: TrainingSettings,
    *,
    out: str | Path,
    held_out: PointSet | None = None,
    look: EvaluationPlan = LOOK,
    null: int | None = None,
    device: torch.device | str | None = None,
    memory: int | str | None = None,
) -> Iterator[TrainingProgress]:
    """Train a network, called as model(x, t, labels), on data; yields as it goes.

    `null` is the label that dropped labels become; networks of this library know theirs. `memory`
    bounds what the oracle keeps of the data. `held_out` joins the evaluations. `model` is changed
    in place, and its average is written to out/network.safetensors.
    """
    if getattr(data, "stds", None) is not None:
        raise InputError("training draws points; open the data with moments='mean' or 'sample'")
    known = model.null if isinstance(model, LightningDiT) else null
    _check_fits(model, data, held_out)
    _check_null(known, settings, data)
    place, group = choose_device(device), current_group()
    if group.alone and is_launched():
        raise InputError(
            "torchrun started several processes, but they have not joined; put `with"
            " floracle.run.processes.joined():` around the training, or unset WORLD_SIZE"
        )
    asked = settings_of(settings, data, model, held_out, known)
    if group.first:
        check_extension(Path(out), settings)
    ready(settings, place)
    oracle = Oracle(data, memory=memory, device=place)

    def run_in(output: OutputFolder) -> _Run:
        where = RunDirectory(output)
        return _Run(model, data, settings, where, oracle, held_out, look, known, place)

    return _run_in_folder(Path(out), asked, group, [data, held_out], run_in)


def _run_in_folder(
    out: Path,
    asked: dict[str, Any],
    group: ProcessGroup,
    sources: list[PointSet | None],
    run_in: Callable[[OutputFolder], _Run],
) -> Iterator[TrainingProgress]:
    """A run in its folder, which is locked until the run ends or nobody iterates any more."""

    def unchanged() -> None:
        for source in sources:
            check = getattr(source, "check_unchanged", None)
            if check is not None:
                check()

    with open_output(
        out, VERB, asked, group=group, check_unchanged=unchanged, growing=GROWS
    ) as output:
        yield from run_in(output).progress()


@dataclass(frozen=True)
class _Run:
    """A run from its beginning to its end."""

    model: nn.Module
    data: PointSet
    settings: TrainingSettings
    place: RunDirectory
    oracle: Oracle
    held_out: PointSet | None
    look: EvaluationPlan
    null: int | None
    device: torch.device

    @property
    def group(self) -> ProcessGroup:
        """The processes that share it."""
        return self.place.group

    def progress(self) -> Iterator[TrainingProgress]:
        """All of it; where it is done already, its end."""
        found = self.place.done()
        if found is not None:
            total = self.settings.images
            yield TrainingProgress(total, total, float(found.arrays["loss"][-1]), 0.0, 0.0)
            return
        kept, notes = self.place.begin(self.settings.keep)
        notes += changes(kept, self.device)
        learner = self._learner(kept)
        switch = self._switch(kept)
        images = 0 if kept is None else kept.images
        log = None
        if self.group.first:
            damaged = read_log(self.place.out, self.place.asked).damaged
            if damaged:
                notes.append(f"{damaged} line(s) of metrics.jsonl are damaged, and left out")
            log = open_log(self.place.out, self.place.asked, images)
        always = self._notes()
        try:
            if log is not None:
                log.notes(images, notes if images else [*always, *notes])
            yield from self._going_on(learner, kept, switch, log, (*always, *notes))
        finally:
            if log is not None:
                log.close()

    def _notes(self) -> list[str]:
        """What a user may not expect of what was asked."""
        settings, notes = self.settings, []
        if settings.cosine and settings.target != "conditional":
            notes.append(
                f"the cosine loss is not linear in its target, so that with {settings.target}"
                f" targets the network's best answer is another than with conditional ones"
            )
        missing = lacking(self.look, self.data, self.held_out) if self.look.pairs else []
        if missing:
            notes.append(
                f"the held-out data has no points of class {', '.join(map(str, missing))}, which"
                f" evaluations look at; they leave its loss out"
            )
        return notes

    def _going_on(
        self,
        learner: Learner,
        kept: Checkpoint | None,
        switch: float,
        log: MetricsLog | None,
        notes: tuple[str, ...],
    ) -> Iterator[TrainingProgress]:
        settings, start = self.settings, 0 if kept is None else kept.step
        split = settings.split or max(switch, 1e-3)
        times = times_for(settings, split)
        reading = not getattr(self.data, "resident", True)
        ahead = self.device.type == "cuda" or reading
        # the thread that makes batches has an oracle to itself; where there is none one is enough
        oracle = replace(self.oracle) if ahead else self.oracle
        making = self._making(times, switch, oracle)
        labelled = bool((self.data.labels != NO_LABEL).any())
        told = {"split": split, "device": self.device, "labelled": labelled}
        counting = TrainMetrics(self.place.out, settings.images, self.group, **told)
        counting.restore({} if kept is None else read(kept, COUNTS))
        state = _State(learner, self._stepper(learner), counting, log, switch, split)
        batches = making.all(start, ahead=ahead)
        while True:
            with deferred() as signals:
                batch = next(batches, None)
                at = None if batch is None else self._step(state, batch)
                lost = at is None or at.checkpoint is None
                if signals and batch is not None and lost and self.group.alone:
                    images = settings.span(batch.step).stop
                    self._keep(state, images, batch.step + 1, more=counting.tensors())
            if batch is None:
                break
            if at is not None:
                yield replace(at, notes=notes)
                notes = ()
        if self.group.first:
            facts = {"switch": switch, "split": split, "images": settings.images}
            facts["parameters"] = sum(p.numel() for p in learner.named().values())
            self.place.finish(facts)
        barrier(self.group)

    def _step(self, state: _State, batch: Batch) -> TrainingProgress | None:
        """Learn from a batch; what is to be told where a line or a checkpoint is due."""
        settings, counting = self.settings, state.counting
        number = batch.step * self.group.size + self.group.rank
        with (
            repeatable(self.device, settings.repeatable),
            inner_randomness(self.device, settings.seed, number),
        ):
            state.stepper(batch, counting.meter, counting.tally)
        images = settings.span(batch.step).stop
        stop = images // settings.interval > (batch.step * settings.batch) // settings.interval
        stop = stop or images == settings.images
        line = stop or (batch.step + 1) % settings.lines == 0
        if self.device.type == "cpu" or line:
            counting.check(images)
        if not line:
            return None
        at = counting.line(images, state.log)
        if stop:
            at = self._stop(state, at, batch.step + 1)
            counting.start()
        return at

    def _learner(self, kept: Checkpoint | None) -> Learner:
        """The network, its average and its optimizer, as they were kept."""
        network = self.model.to(self.device).train()
        settings = self.settings
        options = {"lr": settings.rate, "betas": settings.betas, "weight_decay": settings.decay}
        if kept is None:
            broadcast_weights(network, self.group)
        learner = Learner(network, averaged(network), optimizer_for(network, **options))
        if kept is not None:
            learner.restore(read(kept), kept.path)
        return learner

    def _switch(self, kept: Checkpoint | None) -> float:
        """Where the conditional target takes over: as asked, as kept, or as measured now."""
        if self.settings.switch is not None:
            return self.settings.switch
        if kept is not None:
            return float(kept.facts["switch"])
        # with unbiased times p · m is 1, and split-aware ones wait for this very number
        split_aware = self.settings.times == "split-aware"
        times: TimeDensity = Uniform() if split_aware else times_for(self.settings)
        oracle = replace(self.oracle)  # with it goes what it keeps of the data
        found = switch_time(
            measured_gap(oracle, seed=self.settings.seed), times, self.settings.share
        )
        told = torch.tensor([found], dtype=torch.float64)
        return float(gather([told], self.group, what="the switch")[0][0])

    def _making(self, times: TimeDensity, switch: float, oracle: Oracle) -> BatchMaker:
        settings = self.settings
        weights = getattr(self.data, "weights", None)
        order = DataOrder.of(len(self.data), settings.seed, weights)
        target = target_for(settings, self.data, oracle, switch)
        return BatchMaker(self.data, order, settings, times, target, self.group, self.device)

    def _stepper(self, learner: Learner) -> Stepper:
        network = forgetful(learner.network) if self.settings.recompute else learner.network
        ask = torch.compile(network) if self.settings.compile else network
        return Stepper(
            learner, self.settings, GradientSums.over(self.group, self.device), self.null, ask
        )

    def _stop(self, state: _State, at: TrainingProgress, step: int) -> TrainingProgress:
        """Look at the network, then write the checkpoint; the first process does both."""
        kept, told = None, None
        if state.log is not None:
            told = self._look(state.learner.average, at.images, state.split, state.log)
            self.place.write_average(state.learner.average, at.images)
            kept = self._keep(state, at.images, step)
        barrier(self.group)
        return replace(at, checkpoint=kept.path if kept else None, evaluation=told)

    def _keep(
        self, state: _State, images: int, step: int, more: Mapping[str, Tensor] | None = None
    ) -> Checkpoint:
        """Write a checkpoint, once it is sure that the data is what it was."""
        self.place.output.check()
        if state.log is not None:
            state.log.settle()
        return keep(
            self.place.out,
            state.learner,
            images=images,
            step=step,
            settings=self.place.asked,
            processes=self.group.size,
            facts={"switch": state.switch, "machine": machine(self.device)},
            most=self.settings.keep,
            more=more,
        )

    def _look(
        self, average: nn.Module, images: int, split: float, log: MetricsLog
    ) -> Mapping[str, Any] | None:
        field, told = self._field(average), None
        if self.look.pairs:
            found = looked(field, self.oracle, look=self.look, split=split, held_out=self.held_out)
            with writing(self.place.out / EVALUATIONS / f"{images:012d}", self.place.out):
                keep_look(found, self.place.out, images)
            told = words_of(found, split)
            log.add(images, evaluation=told)
        if self.look.samples:
            with writing(self.place.out / EVALUATIONS / f"{images:012d}.png", self.place.out):
                draw_samples(field, self.data, self.place.out, look=self.look, images=images)
        return told

    def _field(self, average: nn.Module) -> VelocityField:
        return model_field(
            average,
            Convention(null_label=self.null),
            name="the averaged network",
            assumed=[],
            device=self.device,
            dtype=torch.float32,
        )


@dataclass(frozen=True)
class _State:
    """What a run needs from step to step."""

    learner: Learner
    stepper: Stepper
    counting: TrainMetrics
    log: MetricsLog | None
    switch: float
    split: float


def _check_fits(model: nn.Module, data: PointSet, held_out: PointSet | None) -> None:
    """Refuse a network that was made for other data, and held-out data that is of another kind."""
    if held_out is not None and tuple(held_out.shape) != tuple(data.shape):
        raise InputError(
            f"held-out points have shape {list(held_out.shape)}, those of the data"
            f" {list(data.shape)}"
        )
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise InputError("this network has nothing to train; call requires_grad_() on it")
    _check_untied(model)
    if not isinstance(model, LightningDiT):
        return
    if tuple(data.shape) != model.plan.shape:
        raise InputError(
            f"the network works on {list(model.plan.shape)}, but points of the data are"
            f" {list(data.shape)}"
        )
    most = int(data.labels.max())
    if most >= model.plan.classes:
        raise InputError(
            f"the network knows {model.plan.classes} classes, but the data has the label {most}"
        )


def _check_null(null: int | None, settings: TrainingSettings, data: PointSet) -> None:
    """Refuse a run that has no label for "no label", or one that is a class."""
    if settings.drop and null is None:
        raise InputError("dropped labels need a null label; give null=, or drop=0")
    if null is not None and null != NO_LABEL and (data.labels == null).any():
        raise InputError(
            f"null={null} is a class of the data; dropped labels need one that no row has"
        )


def _check_untied(model: nn.Module) -> None:
    """Refuse weights that several names share: a checkpoint keeps every name by itself."""
    known: dict[tuple[int, torch.Size], str] = {}
    for name, value in model.state_dict().items():
        place = value.data_ptr(), value.shape
        if value.numel() and place[0] and place in known:
            raise InputError(
                f"{known[place]} and {name} of this network are one tensor, which checkpoints do"
                f" not keep; give each a copy of its own, or register only one of them"
            )
        known[place] = name
