"""What a run says beside its numbers, and what it refuses before it begins."""

import json
import math
from dataclasses import replace

import pytest
import torch
from tiny import BLIND, SMALL, digits, network, trained
from torch import nn

import floracle
from edits import resealed
from floracle.run.errors import InputError
from floracle.run.processes import ALONE, LAUNCH_VARIABLES
from floracle.training.batches import BatchMaker
from floracle.training.build_model import warn_of_size
from floracle.training.config import PAPER
from floracle.training.data_order import DataOrder
from floracle.training.evaluation import EvaluationPlan
from floracle.training.loop import RunLoop
from floracle.training.metrics_log import read_log
from floracle.training.switch import measure_gap
from floracle.training.targets import conditional_target
from floracle.training.times import Uniform
from many import Started

SHORT = replace(SMALL, images=128, every=64, lines=2)
OWN = """
import sys
import torch
from torch import nn
import floracle
from floracle.run.processes import joined
from floracle.training.evaluation import EvaluationPlan


class Own(nn.Module):
    def __init__(self, seed):
        super().__init__()
        source = torch.Generator().manual_seed(seed)
        self.matrix = nn.Parameter(0.1 * torch.randn(64, 64, generator=source))
        self.register_buffer("scale", torch.rand((), generator=source))

    def forward(self, x, t, labels):
        return self.scale * (x.flatten(1) @ self.matrix).reshape(x.shape)


rank = int(sys.argv[1])
settings = floracle.TrainingSettings(images=96, batch=32, rate=1e-3, switch=0.5)
with joined():
    network = Own(seed=rank)
    data = floracle.open_store("digits")
    look = EvaluationPlan(pairs=0, samples=0)
    for _ in floracle.train(network, data, settings, out="run", null=10, look=look):
        pass
print(network.matrix.detach().numpy().tobytes().hex(), float(network.scale))
"""


@pytest.mark.slow
def test_processes_begin_with_the_weights_of_the_first(tmp_path):
    """Each makes its network from its own seed; all end with one, and the buffers of the first."""
    each = Started(2, ["-c", OWN], where=tmp_path, each=lambda rank: [str(rank)])
    codes, told, errors = each.ended()
    assert set(codes) == {0}, errors
    assert told[0] == told[1]
    first = torch.Generator().manual_seed(0)
    torch.randn(64, 64, generator=first)
    assert float(told[0].split()[1]) == float(torch.rand((), generator=first))


def first_of(out, settings=SHORT, **more):
    more.setdefault("look", BLIND)
    data = more.pop("data", None)
    run = floracle.train(network(), digits() if data is None else data, settings, out=out, **more)
    found = next(run)
    run.close()
    return found


@pytest.mark.slow
def test_a_cosine_loss_on_averaged_targets_is_noted_once(tmp_path):
    at = first_of(tmp_path, replace(SHORT, cosine=1.0, target="bank"))
    assert "the cosine loss is not linear in its target" in at.notes[0]
    first_of(tmp_path, replace(SHORT, cosine=1.0, target="bank"))
    assert len([line for line in read_log(tmp_path).lines if "note" in line]) == 1
    assert not first_of(tmp_path / "plain", replace(SHORT, cosine=1.0)).notes


def half(labels):
    data = digits()
    rows = torch.isin(data.labels, torch.tensor(labels)).nonzero()[:, 0]
    mirrored = data.take(rows).flip(-1)  # held-out data is no training data
    return floracle.open_store(mirrored, labels=data.labels[rows])


@pytest.mark.slow
def test_classes_that_held_out_data_lacks_are_named(tmp_path):
    look = EvaluationPlan(pairs=2, times=1, classes=4, samples=0)
    with pytest.warns(UserWarning, match="no class 3, 4, 5"):
        at = first_of(tmp_path / "some", held_out=half([0, 1, 2]), look=look)
    assert "no points of class 3, 6, 9" in at.notes[0]
    assert not first_of(tmp_path / "all", held_out=half(list(range(10))), look=look).notes


def test_going_on_elsewhere_is_noted(tmp_path):
    run = floracle.train(network(), digits(), SHORT, out=tmp_path, look=BLIND)
    while next(run).checkpoint is None:
        pass
    run.close()
    about = tmp_path / "checkpoints/000000000064.json"
    facts = json.loads(about.read_text())["facts"]
    assert facts["machine"]["torch"] == torch.__version__
    facts["machine"] |= {"device": "cuda", "threads": 96}
    resealed(about, facts=facts)
    (note,) = first_of(tmp_path).notes
    assert "device: 'cuda' there, 'cpu' asked" in note
    assert "threads: 96 there" in note
    assert "other bits" in note


def test_the_null_label_is_part_of_what_is_asked(tmp_path):
    class Blind(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(()))

        def forward(self, x, t, labels):
            return self.scale * x

    trained_by = {"out": tmp_path / "run", "look": BLIND}
    list(floracle.train(Blind(), digits(), SHORT, null=10, **trained_by))
    with pytest.raises(InputError, match="null: 10 there, 11 asked"):
        list(floracle.train(Blind(), digits(), SHORT, null=11, **trained_by))
    with pytest.raises(InputError, match="null_label=3 of the network is a class of the data"):
        floracle.train(Blind(), digits(), SHORT, null=3, out=tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_processes_that_have_not_joined_are_refused(tmp_path, monkeypatch):
    for name, value in zip(LAUNCH_VARIABLES, ("1", "2", "127.0.0.1", "29500"), strict=True):
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=r"have not joined; put `with .*joined\(\):`"):
        floracle.train(network(), digits(), SHORT, out=tmp_path)


def test_losses_by_time_of_unlabelled_data_are_logged(tmp_path):
    data = floracle.open_store(digits().take(torch.arange(500)))
    trained(tmp_path, SHORT, data=data, net=network(0))
    lines = [line for line in read_log(tmp_path).lines if "loss" in line]
    assert [sum(line["by_t"]["counts"]) for line in lines] == [64, 64]
    assert all(line["by_t"]["navigation"][0] is not None for line in lines)


@pytest.mark.parametrize("ahead", [False, True])
def test_no_batch_is_begun_beyond_the_last_that_is_asked_for(ahead):
    begun, data = [], digits()

    def target(pairs):
        begun.append(pairs.step)
        return conditional_target(pairs)

    order = DataOrder.of(len(data), 0)
    making = BatchMaker(data, order, SHORT, Uniform(), target, ALONE, torch.device("cpu"))
    assert [batch.step for batch in making.all(1, ahead=ahead, stop=3)] == [1, 2]
    assert begun == [1, 2]


def test_one_loss_in_a_bin_tells_no_error():
    meter = floracle.StageMeter(0.5, bins=2)
    meter.add(torch.tensor([0.1, 0.1, 0.4, 0.6, 0.6, 0.6]), torch.arange(6.0))
    found = meter.curves()
    assert found.navigation.value == pytest.approx((0.5 + 2) / 2)
    assert math.isnan(found.navigation.error)
    assert found.refinement.value == 4
    assert found.refinement.error > 0  # nothing fell into the other bin, which is left out
    assert found.plain()["navigation"][1] is None


@pytest.mark.slow
def test_the_switch_weighs_classes_by_their_mass():
    """A class of 40 spread points and one of 400 near ones: the gap is the common average."""
    source = torch.Generator().manual_seed(1)
    spread, near = (torch.randn(count, 8, generator=source) for count in (40, 400))
    points = torch.cat([2 * spread, near])
    both = floracle.open_store(points, labels=[0] * 40 + [1] * 400)
    gaps = [
        measure_gap(floracle.Oracle(floracle.open_store(part)), seed=0, pairs=256).gap
        for part in (points[:40], points[40:])
    ]
    found = measure_gap(floracle.Oracle(both), seed=0, pairs=256).gap
    expected = (40 * gaps[0] + 400 * gaps[1]) / 440
    known = expected > 0.1 * expected.max()
    assert ((gaps[0] - gaps[1]).abs() > 0.6 * expected)[known].any()
    apart = (found - expected).abs()[known]
    assert (apart < 0.15 * expected[known]).all()


def test_nothing_of_the_data_stays_with_a_run_for_the_switch(tmp_path, monkeypatch):
    oracles = []
    choose = RunLoop._choose_switch

    def recording(run, checkpoint):
        oracles.append(run.inputs.oracle)
        return choose(run, checkpoint)

    monkeypatch.setattr(RunLoop, "_choose_switch", recording)
    trained(tmp_path, replace(SHORT, switch=None))
    assert not oracles[0]._cache.classes


def test_large_networks_on_a_cpu_are_warned_of():
    with torch.device("meta"):
        many = nn.Linear(10_000, 6_000)
    words = warn_of_size(many, PAPER.images, torch.device("cpu"))
    assert words is not None
    assert "60,006,000 parameters and 128,000,000 images are a lot for a CPU" in words
    assert warn_of_size(many, 1, torch.device("cuda")) is None
    assert warn_of_size(network(), PAPER.images, torch.device("cpu")) is None
