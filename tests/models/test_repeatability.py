"""Networks that answer otherwise each time: put right where that can be, said where it cannot."""

import functools
import random
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from floracle.models.identity import field_fingerprint
from floracle.models.zoo import load_model

SHAPE = (6,)


class Holder:
    """A module inside a plain object."""

    def __init__(self, module):
        self.module = module

    def __call__(self, x, t, labels=None):
        return self.module(x)


def dropping():
    """A module that is still in training mode, as modules are when they are made."""
    return nn.Sequential(nn.Linear(6, 6), nn.Dropout(0.5))


def normalizing():
    return nn.Sequential(nn.Linear(6, 6), nn.BatchNorm1d(6))


def in_closure(module):
    return lambda x, t, labels=None: module(x)


def reading_a_global(x, t, labels=None):
    return IN_TRAINING(x)


IN_TRAINING = nn.Identity()
WRAPPERS = {"object": Holder, "closure": in_closure, "partial": None, "global": None}


def wrapped(how, module, monkeypatch):
    if how == "global":
        monkeypatch.setitem(globals(), "IN_TRAINING", module)
        return reading_a_global
    if how == "partial":
        return functools.partial(lambda net, x, t, labels=None: net(x), module)
    return WRAPPERS[how](module)


@pytest.mark.parametrize("how", WRAPPERS)
@pytest.mark.parametrize("make", [dropping, normalizing])
def test_modules_inside_anything_are_put_into_evaluation(how, make, monkeypatch):
    module = make()
    field = wrapped(how, module, monkeypatch)
    fingerprint = field_fingerprint(field, SHAPE)
    assert fingerprint.repeatable
    assert "it was put into evaluation mode" in fingerprint.notes[0]
    assert not any(part.training for part in module.modules())
    again = field_fingerprint(field, SHAPE)
    assert again.digest == fingerprint.digest
    assert again.notes == ()
    if make is normalizing:
        assert module[1].num_batches_tracked == 0


def loaded(folder, layer):
    """A field by a function of the user's, with a layer inside a closure."""
    path = folder / "net.py"
    made = f"    net = {layer}\n    return lambda x, t: net(x)\n"
    path.write_text(f"from torch import nn\ndef network():\n{made}")
    return load_model(f"{path}:network", convention="sit")


def test_loading_switches_dropout_off_in_wrappers(tmp_path):
    field = loaded(tmp_path, "nn.Dropout(0.5)")
    x = torch.ones(2, 100)
    assert torch.equal(field(x, torch.zeros(2)), x)
    assert "dropout and batch statistics switched off" in field.assumed
    assert "switched off" not in loaded(tmp_path, "nn.Linear(6, 6)").assumed


class Lazy:
    """A network that is made when it is first evaluated."""

    def __init__(self):
        self.net = None

    def __call__(self, x, t, labels=None):
        self.net = self.net or dropping()
        return self.net(x)


def test_a_network_that_is_made_late_is_put_into_evaluation_too():
    fingerprint = field_fingerprint(Lazy(), SHAPE)
    assert fingerprint.repeatable
    assert "evaluation mode" in fingerprint.notes[0]


def functional(x, t, labels=None):
    return F.dropout(x, 0.5, training=True)


class Counting(nn.Module):
    """A network that changes with each call, and counts in a buffer that it replaces."""

    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("total", torch.zeros(()))
        self.eval()

    def forward(self, x, t, labels=None):
        self.calls = self.calls + 1
        self.total += 1
        return x * self.calls


def counting():
    seen = []
    return lambda x, t, labels=None: x * (seen.append(1) or len(seen))


@pytest.mark.parametrize("make", [lambda: functional, Counting, counting])
def test_what_answers_otherwise_each_time_is_said_and_never_the_same(make):
    field = make()
    first, again = (field_fingerprint(field, SHAPE) for _ in range(2))
    assert not first.repeatable
    assert "no earlier result of it is reused" in first.notes[0]
    assert first.digest != again.digest


def hungry(x, t, labels=None):
    return x + torch.rand(()) + random.random() + np.random.rand()


@pytest.fixture
def two_threads():
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def states():
    python, arrays = random.getstate(), str(np.random.get_state(legacy=False)["state"]["pos"])
    tensors = torch.get_rng_state().tolist()
    return python, arrays, tensors, torch.get_num_threads(), torch.is_grad_enabled()


def failing(x, t, labels=None):
    torch.rand(3)
    raise NameError("labels")


@pytest.mark.parametrize("field", [hungry, failing, functional, Holder(dropping())])
@pytest.mark.usefixtures("two_threads")
def test_a_fingerprint_changes_no_global_state(field):
    before = states()
    with suppress(NameError):
        field_fingerprint(field, SHAPE)
    assert states() == before


def test_modules_keep_their_tensors_and_those_in_evaluation_their_mode():
    module = normalizing()
    module[0].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    field_fingerprint(Holder(module), SHAPE)
    assert not module[0].training
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_a_network_that_alters_its_buffers_gets_them_back():
    field = Counting()
    calls = field.calls
    field_fingerprint(field, SHAPE)
    assert field.calls is calls
    assert field.calls == field.total == 0
