"""Fields that write into what they are given, or that give out memory which they use again."""

import pytest
import torch

import floracle
from floracle.core.fields import Convention, as_field, on_path
from floracle.core.paths import TRIGONOMETRIC
from floracle.models.identity import field_fingerprint
from floracle.models.zoo import load_model
from floracle.sampling.guidance import guided
from floracle.sampling.sample import sample
from floracle.training.batches import Batch
from floracle.training.train_step import Stepper


def honest(x, t, labels=None):
    """A velocity that depends on all it is given."""
    shift = 0.0 if labels is None else labels[:, None].to(x)
    return shift - x * (1 + t[:, None].to(x))


def spoiling(x, t, labels=None):
    """The same; then it overwrites its arguments."""
    velocity = honest(x, t, labels)
    x.fill_(torch.nan)
    t.fill_(7)
    if labels is not None:
        labels.fill_(1)
    return velocity


class Reusing:
    """The same, answered in one buffer for all calls, as a captured graph does."""

    def __init__(self):
        self.buffer = torch.zeros(0)

    def __call__(self, x, t, labels=None):
        velocity = honest(x, t, labels)
        if self.buffer.shape != velocity.shape:
            self.buffer = torch.empty_like(velocity)
        return self.buffer.copy_(velocity)


OTHERS = {
    "overwrites": lambda: spoiling,
    "overwrites, as a model": lambda: as_field(spoiling),
    "overwrites, as a model of the data": lambda: as_field(
        lambda x, t, labels=None: spoiling(x, t, labels), predicts="data"
    ),
    "answers in one buffer": Reusing,
    "answers in one buffer, as a model": lambda: as_field(Reusing()),
}
SAME = {"overwrites, as a model of the data": as_field(honest, predicts="data")}
others = pytest.mark.parametrize("name", OTHERS)


@pytest.fixture
def oracle(points_source):
    points = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
    return floracle.Oracle(points_source(points, torch.arange(40) % 4))


@others
@pytest.mark.parametrize("solver", ["euler", "heun", "rk4"])
def test_samples_are_those_of_an_honest_field(name, solver):
    labels, x = torch.tensor([0, 3, 2, -1]), floracle.noise(range(4), (6,))
    kept, start = labels.clone(), x.clone()
    grid = floracle.time_grid(6)
    got = sample(OTHERS[name](), x, grid, labels=labels, solver=solver)
    assert torch.equal(got, sample(SAME.get(name, honest), x, grid, labels=kept, solver=solver))
    assert torch.equal(labels, kept)
    assert torch.equal(x, start)


@others
def test_guidance_pairs_are_those_of_honest_fields(name):
    labels, x = torch.tensor([0, 3, 2, 1]), floracle.noise(range(4), (6,))
    same = SAME.get(name, honest)
    for reference in (None, OTHERS[name]()):
        field = guided(OTHERS[name](), 2.0, reference=reference)
        expected = guided(same, 2.0, reference=None if reference is None else same)
        got = sample(field, x, floracle.time_grid(5), labels=labels)
        assert torch.equal(got, sample(expected, x, floracle.time_grid(5), labels=labels))
        assert labels.tolist() == [0, 3, 2, 1]


@pytest.mark.slow
@others
def test_measures_are_those_of_an_honest_field(name, oracle, points_source):
    held_out = points_source(torch.randn(8, 6), torch.arange(8) % 4)

    def measure(field):
        times = torch.tensor([0.1, 0.5, 0.9])
        options = {"classes": [0, 2], "pairs": 8}
        losses = floracle.oracle_loss(field, oracle, times=times, **options)
        own = floracle.oracle_loss(field, oracle, times=times, along="own", steps=4, **options)
        switch = floracle.switch_fields(
            field, oracle, switch_times=[0, 0.5], seeds=range(4), labels=torch.tensor([0, 1, 2, 3])
        )
        landed = floracle.landing_test(field, oracle, switch_time=0.5, seeds=range(4), labels=1)
        probed = floracle.probe(field, range(3), (6,), labels=2, grid=floracle.time_grid(6))
        forward = floracle.forward_backward(
            field, held_out, oracle.data, switch_times=[0.3], rows=range(8)
        )
        return (
            *(losses.mean_curves()["oracle"].mean, own.mean_curves()["oracle"].mean),
            *(switch.samples, landed.misses, probed.predictions, forward.samples),
        )

    for got, expected in zip(
        measure(OTHERS[name]()), measure(SAME.get(name, honest)), strict=True
    ):
        assert torch.equal(got, expected)


def test_states_on_another_path_are_not_those_that_a_model_has_overwritten():
    def data(x, t, labels=None):
        return x / (1 + t[:, None])

    def spoils(x, t, labels=None):
        prediction = data(x, t)
        x.zero_()
        return prediction

    x, t = floracle.noise(range(4), (6,)), torch.linspace(0.1, 0.9, 4)
    convention = Convention("data", path=TRIGONOMETRIC)
    got, expected = (as_field(model, convention)(x, t) for model in (spoils, data))
    assert torch.equal(got, expected)
    for dtype in (torch.float32, torch.float64):  # of which the second needs no conversion
        got, expected = (
            on_path(field, TRIGONOMETRIC)(x.to(dtype), t) for field in (spoiling, honest)
        )
        assert torch.equal(got, expected)


@pytest.mark.parametrize("null", ["", ",null_label=4"])
def test_a_loaded_network_gets_copies(tmp_path, null):
    (tmp_path / "mine.py").write_text(
        "def spoils(x, t, labels=None):\n"
        "    velocity = -x if labels is None else labels[:, None] - x\n"
        "    for given in (x, t) + (() if labels is None else (labels,)):\n"
        "        given.fill_(3)\n"
        "    return velocity\n"
        "def network():\n"
        "    return spoils\n"
    )
    field = load_model(f"{tmp_path / 'mine.py'}:network", convention=f"sit{null}")
    x, t, labels = torch.ones(4, 2), torch.full((4,), 0.5), torch.tensor([0, 1, 2, -1])
    velocity = field(x, t, labels)
    assert velocity[:3, 0].tolist() == [-1, 0, 1]
    assert velocity[3, 0] == (3 if null else -1)
    assert labels.tolist() == [0, 1, 2, -1]
    assert t.unique().tolist() == [0.5]
    assert x.unique().tolist() == [1]


def test_it_has_one_fingerprint_and_leaves_the_labels_of_the_queries():
    labels = torch.tensor([2, 3, 4])
    fingerprint = field_fingerprint(spoiling, (6,), labels=labels)
    assert fingerprint.repeatable
    assert labels.tolist() == [2, 3, 4]


def test_a_training_step_keeps_what_its_meter_reads():
    batch = Batch(
        x=torch.ones(4, 6),
        t=torch.full((4,), 0.5),
        labels=torch.tensor([0, 1, 2, -1]),
        target=torch.zeros(4, 6),
        weights=torch.ones(4),
        step=0,
        total=4,
        touched=0,
    )
    settings = floracle.TrainingSettings(images=64, batch=16, every=64, drop=0)
    kept = [values.clone() for values in (batch.x, batch.t, batch.labels)]
    for null_label in (None, 3):
        losses = [
            Stepper(None, settings, None, null_label, network).losses(batch)[1]
            for network in (spoiling, honest)
        ]
        assert torch.equal(*losses)
        assert all(map(torch.equal, kept, (batch.x, batch.t, batch.labels)))
