"""`train`: a network learns the field of data; whoever iterates owns progress and stopping.

    for progress in floracle.train(network, data, settings, out="runs/mine"):
        print(progress)

The same call again continues from the last checkpoint: on the same machine with as many processes
it reaches the same weights, bit for bit, as a run that nothing stopped. Processes started by
torchrun share every batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from floracle.core.point_set import NO_LABEL, PointSet
from floracle.data.held_out import join_and_warn
from floracle.models.convention import Convention
from floracle.models.field import model_field
from floracle.models.networks.lightningdit import LightningDiT
from floracle.oracle.oracle import Oracle
from floracle.run.budget import choose_device
from floracle.run.errors import InputError
from floracle.run.exchange import barrier, gather
from floracle.run.output_folder import open_output
from floracle.run.processes import ProcessGroup, current_group, is_launched

from .batches import Batch, BatchMaker
from .checkpoint import (
    VERB,
    Checkpoint,
    Learner,
    explain_write_errors,
    optimizer_for,
    read_checkpoint,
    write_checkpoint,
)
from .config import TrainingSettings
from .data_order import DataOrder
from .determinism import inner_randomness, prepare_device, repeatable
from .ema import copy_for_average
from .evaluation import FOLDER as EVALUATIONS
from .evaluation import (
    EvaluationPlan,
    draw_samples,
    evaluate,
    save_evaluation,
    summarise_evaluation,
)
from .gradient_allreduce import GradientSums, broadcast_weights
from .interrupts import deferred
from .metrics_log import MetricsLog, open_log, read_log
from .run_checks import check_extension, check_inputs, run_notes
from .run_directory import GROWS, RunDirectory, machine, machine_changes, settings_of
from .switch import measure_gap, switch_time
from .targets import target_for
from .times import TimeDensity, Uniform, times_for
from .train_metrics import PREFIX as METRICS
from .train_metrics import TrainingProgress, TrainMetrics
from .train_step import Stepper, recompute_blocks

DEFAULT_EVALUATION = EvaluationPlan()
MIN_SPLIT = 1e-3  # so that both stages have bins, where the switch is at 0


def train(
    model: nn.Module,
    data: PointSet,
    settings: TrainingSettings,
    *,
    out: str | Path,
    held_out: PointSet | None = None,
    look: EvaluationPlan = DEFAULT_EVALUATION,
    null: int | None = None,
    device: torch.device | str | None = None,
    memory: int | str | None = None,
) -> Iterator[TrainingProgress]:
    """Train a network, called as model(x, t, labels), on data; yields as it goes.

    - `model`: changed in place; the average of its weights goes to out/network.safetensors.
    - `out`: the folder of the run; the same call continues a run that is there.
    - `held_out`: data that is not trained on, for the evaluations.
    - `look`: what an evaluation measures at every checkpoint.
    - `null`: the label that dropped labels become; networks of this library have their own.
    - `memory`: how much of the data the oracle may keep, like "4G".

    Raises InputError, before anything is written, if model, data and settings do not fit.
    """
    # 1. Checks
    null_label = model.null if isinstance(model, LightningDiT) else null
    held_out = None if held_out is None else join_and_warn(data, held_out)
    check_inputs(model, data, settings, null_label=null_label)
    device, group = choose_device(device), current_group()
    if group.alone and is_launched():
        raise InputError(
            "torchrun started several processes, but they have not joined; put `with"
            " floracle.run.processes.joined():` around the training, or unset WORLD_SIZE"
        )
    if group.first:
        check_extension(Path(out), settings)
    prepare_device(settings, device)

    # 2. What the run is of; the folder is opened, and locked, by the first `next`
    inputs = RunInputs(
        model=model,
        data=data,
        settings=settings,
        oracle=Oracle(data, memory=memory, device=device),
        held_out=held_out,
        plan=look,
        null_label=null_label,
        device=device,
    )
    identity = settings_of(settings, data, model, held_out, null_label)
    return _run_in_folder(inputs, Path(out), identity, group)


@dataclass(frozen=True)
class RunInputs:
    """What a run is given, checked."""

    model: nn.Module
    data: PointSet
    settings: TrainingSettings
    oracle: Oracle  # of the data; for evaluations
    held_out: PointSet | None
    plan: EvaluationPlan
    null_label: int | None
    device: torch.device

    def check_unchanged(self) -> None:
        """Refuse data whose files have changed since they were opened."""
        for source in (self.data, self.held_out):
            check = getattr(source, "check_unchanged", None)
            if check is not None:
                check()


def _run_in_folder(
    inputs: RunInputs, out: Path, identity: dict[str, Any], group: ProcessGroup
) -> Iterator[TrainingProgress]:
    """A run in its folder, which is locked until the run ends or nobody iterates any more."""
    checks = {"check_unchanged": inputs.check_unchanged, "growing": GROWS}
    with open_output(out, VERB, identity, group=group, **checks) as output:
        yield from RunLoop(inputs, RunDirectory(output)).progress()


@dataclass(frozen=True)
class LoopState:
    """What changes or is written to from step to step."""

    learner: Learner
    stepper: Stepper
    metrics: TrainMetrics
    log: MetricsLog | None
    """None for all processes but the first."""
    switch: float
    split: float
    """The time that divides the stages in metrics and evaluations."""


@dataclass(frozen=True)
class RunLoop:
    """A run from its beginning to its end."""

    inputs: RunInputs
    directory: RunDirectory

    @property
    def settings(self) -> TrainingSettings:
        """The settings of the run."""
        return self.inputs.settings

    @property
    def group(self) -> ProcessGroup:
        """The processes that share it."""
        return self.directory.group

    def progress(self) -> Iterator[TrainingProgress]:
        """Restore, build, and train to the end; of a finished run its last loss."""
        finished = self.directory.done()
        if finished is not None:
            total, loss = self.settings.images, float(finished.arrays["loss"][-1])
            yield TrainingProgress(total, total, loss, 0.0, 0.0)
            return

        # 1. Restore the newest good checkpoint, if there is one
        checkpoint, notes = self.directory.begin(self.settings.keep)
        notes += machine_changes(checkpoint, self.inputs.device)
        learner = self._restore_learner(checkpoint)
        switch = self._choose_switch(checkpoint)
        images = 0 if checkpoint is None else checkpoint.images

        # 2. Open the log at that many images, and write down what a user may not expect
        log = None
        if self.group.first:
            damaged = read_log(self.directory.out, self.directory.identity).damaged
            if damaged:
                notes.append(f"{damaged} line(s) of metrics.jsonl are damaged, and left out")
            log = open_log(self.directory.out, self.directory.identity, images)
        inputs = self.inputs
        always = run_notes(self.settings, inputs.data, inputs.held_out, inputs.plan)
        try:
            if log is not None:
                log.notes(images, notes if images else [*always, *notes])
            # 3. Build what a step needs, and train
            state = self._build_state(learner, checkpoint, switch, log)
            batches = self._batches(checkpoint, state)
            yield from self._train(state, batches, (*always, *notes))
        finally:
            if log is not None:
                log.close()

    def _restore_learner(self, checkpoint: Checkpoint | None) -> Learner:
        """The network, its average and its optimizer, new or as the checkpoint has them."""
        network, settings = self.inputs.model.to(self.inputs.device).train(), self.settings
        options = {"lr": settings.rate, "betas": settings.betas, "weight_decay": settings.decay}
        if checkpoint is None:
            broadcast_weights(network, self.group)  # each process made its own
        learner = Learner(network, copy_for_average(network), optimizer_for(network, **options))
        if checkpoint is not None:
            learner.restore(read_checkpoint(checkpoint), checkpoint.path)
        return learner

    def _choose_switch(self, checkpoint: Checkpoint | None) -> float:
        """Where the conditional target takes over: as set, as in the checkpoint, or measured."""
        if self.settings.switch is not None:
            return self.settings.switch
        if checkpoint is not None:
            return float(checkpoint.facts["switch"])
        # Split-aware times need this very number; p · m is 1 for them, as for uniform ones.
        split_aware = self.settings.times == "split-aware"
        times: TimeDensity = Uniform() if split_aware else times_for(self.settings)
        # A copy of the oracle: what it keeps of the data goes with it.
        gap = measure_gap(replace(self.inputs.oracle), seed=self.settings.seed)
        switch = switch_time(gap, times, self.settings.share)
        measured = torch.tensor([switch], dtype=torch.float64)
        return float(gather([measured], self.group, what="the switch")[0][0])

    def _build_state(
        self,
        learner: Learner,
        checkpoint: Checkpoint | None,
        switch: float,
        log: MetricsLog | None,
    ) -> LoopState:
        settings, inputs = self.settings, self.inputs
        network = recompute_blocks(learner.network) if settings.recompute else learner.network
        stepper = Stepper(
            learner,
            settings,
            GradientSums.over(self.group, inputs.device),
            inputs.null_label,
            torch.compile(network) if settings.compile else network,
        )
        split = settings.split or max(switch, MIN_SPLIT)
        metrics = TrainMetrics(
            self.directory.out,
            settings.images,
            self.group,
            split=split,
            device=inputs.device,
            labelled=bool((inputs.data.labels != NO_LABEL).any()),
        )
        metrics.restore({} if checkpoint is None else read_checkpoint(checkpoint, METRICS))
        return LoopState(learner, stepper, metrics, log, switch, split)

    def _batches(self, checkpoint: Checkpoint | None, state: LoopState) -> Iterator[Batch]:
        """The batches from the checkpoint on."""
        settings, data = self.settings, self.inputs.data
        ahead = self.inputs.device.type == "cuda" or not getattr(data, "resident", True)
        # A thread that makes batches has an oracle to itself; without one, one is enough.
        oracle = replace(self.inputs.oracle) if ahead else self.inputs.oracle
        maker = BatchMaker(
            data,
            DataOrder.of(len(data), settings.seed, getattr(data, "weights", None)),
            settings,
            times_for(settings, state.split),
            target_for(settings, data, oracle, state.switch),
            self.group,
            self.inputs.device,
        )
        return maker.all(0 if checkpoint is None else checkpoint.step, ahead=ahead)

    def _train(
        self, state: LoopState, batches: Iterator[Batch], notes: tuple[str, ...]
    ) -> Iterator[TrainingProgress]:
        while True:
            # A signal waits until the step is done and a checkpoint holds it.
            with deferred() as signals:
                batch = next(batches, None)
                progress = None if batch is None else self._step(state, batch)
                unsaved = progress is None or progress.checkpoint is None
                if signals and batch is not None and unsaved and self.group.alone:
                    images = self.settings.span(batch.step).stop
                    counts = state.metrics.tensors()
                    self._write_checkpoint(state, images, batch.step + 1, counts)
            if batch is None:
                break
            if progress is not None:
                yield replace(progress, notes=notes)
                notes = ()
        if self.group.first:
            parameters = sum(p.numel() for p in state.learner.named().values())
            facts = {"switch": state.switch, "split": state.split}
            facts |= {"images": self.settings.images, "parameters": parameters}
            self.directory.finish(facts)
        barrier(self.group)

    def _step(self, state: LoopState, batch: Batch) -> TrainingProgress | None:
        """Learn from a batch; the progress where a line of the log or a checkpoint is due."""
        settings, metrics, device = self.settings, state.metrics, self.inputs.device
        number = batch.step * self.group.size + self.group.rank
        with (
            repeatable(device, settings.repeatable),
            inner_randomness(device, settings.seed, number),
        ):
            state.stepper(batch, metrics.meter, metrics.tally)
        images = settings.span(batch.step).stop
        # a checkpoint is due where a multiple of the interval lies in the batch, and at the end
        due = images // settings.interval > (batch.step * settings.batch) // settings.interval
        due = due or images == settings.images
        line = due or (batch.step + 1) % settings.lines == 0
        if device.type == "cpu" or line:  # a GPU would have to be waited for
            metrics.check(images)
        if not line:
            return None
        progress = metrics.line(images, state.log)
        if due:
            progress = self._evaluate_and_save(state, progress, batch.step + 1)
            metrics.start()  # the speed is that of training alone
        return progress

    def _evaluate_and_save(
        self, state: LoopState, progress: TrainingProgress, step: int
    ) -> TrainingProgress:
        """Evaluate the network, then write the checkpoint; the first process does both."""
        checkpoint = evaluation = None
        if state.log is not None:
            evaluation = self._evaluate(state, progress.images, state.log)
            self.directory.write_average(state.learner.average, progress.images, self.inputs.data)
            checkpoint = self._write_checkpoint(state, progress.images, step)
        barrier(self.group)
        path = checkpoint.path if checkpoint else None
        return replace(progress, checkpoint=path, evaluation=evaluation)

    def _write_checkpoint(
        self,
        state: LoopState,
        images: int,
        step: int,
        counts: Mapping[str, Tensor] | None = None,
    ) -> Checkpoint:
        """Write a checkpoint, once the data is found unchanged and the log is on the disk."""
        self.directory.output.check()
        if state.log is not None:
            state.log.settle()
        return write_checkpoint(
            self.directory.out,
            state.learner,
            images=images,
            step=step,
            settings=self.directory.identity,
            processes=self.group.size,
            facts={"switch": state.switch, "machine": machine(self.inputs.device)},
            most=self.settings.keep,
            more=counts,
        )

    def _evaluate(
        self, state: LoopState, images: int, log: MetricsLog
    ) -> Mapping[str, Any] | None:
        """Losses and samples of the averaged network, as far as the plan asks for them."""
        inputs, out, summary = self.inputs, self.directory.out, None
        field = model_field(
            state.learner.average,
            Convention(null_label=inputs.null_label),
            name="the averaged network",
            assumed=[],
            device=inputs.device,
            dtype=torch.float32,
        )
        folder = out / EVALUATIONS / f"{images:012d}"
        if inputs.plan.pairs:
            losses = evaluate(
                field, inputs.oracle, inputs.plan, split=state.split, held_out=inputs.held_out
            )
            with explain_write_errors(folder, out):
                save_evaluation(losses, out, images)
            summary = summarise_evaluation(losses, state.split)
            log.add(images, evaluation=summary)
        if inputs.plan.samples:
            with explain_write_errors(folder.with_name(f"{folder.name}.png"), out):
                draw_samples(field, inputs.data, out, plan=inputs.plan, images=images)
        return summary
