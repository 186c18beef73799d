"""What one verb or function refuses of a network and a data set, all that take both refuse."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import floracle
from floracle.cli import main
from floracle.core.fields import as_field
from floracle.models.networks.lightningdit import Architecture, LightningDiT, initialize
from floracle.models.weights import write_network
from floracle.models.zoo import load_model
from floracle.run.errors import InputError

PLAN = Architecture(1, 16, 2, patch=4, channels=1, side=8, classes=10)


def network(**parts) -> LightningDiT:
    return initialize(replace(PLAN, **parts), torch.Generator().manual_seed(0))


MISFITS = {
    "another size": ({"side": 16}, "takes 1 × 16 × 16, but these samples are 1 × 8 × 8"),
    "other channels": ({"channels": 3}, "takes 3 × 8 × 8 .* but these samples are 1 × 8 × 8"),
    "fewer classes": ({"classes": 5}, "knows 5 classes, 0 to 4, but the data has the label 9"),
    "a class for none": (None, "null_label=3 of .* is a class of the data"),
}
misfits = pytest.mark.parametrize("name", MISFITS)


@pytest.fixture(scope="module")
def digits():
    return floracle.open_store("digits")


def misfit(folder, name):
    """The words for a network that does not fit the digits, and its convention."""
    parts, message = MISFITS[name]
    if parts is None:
        (folder / "mine.py").write_text("def network():\n    return lambda x, t, labels: -x\n")
        return f"{folder / 'mine.py'}:network", "sit,null_label=3", message
    write_network(folder / "network.safetensors", network(**parts))
    return str(folder / "network.safetensors"), None, message


VERBS = {
    "sample": ["sample", "NET", "digits", "--seeds", "0:2"],
    "sample, guided by it": [
        *("sample", "oracle", "digits", "--seeds", "0:2", "--labels", "1"),
        *("--guidance", "2", "--reference", "NET"),
    ],
    "loss": ["loss", "NET", "--data", "digits", "--pairs", "4"],
    "mix": ["mix", "NET", "--data", "digits", "--switch", "0,.5", "--seeds", "0:2"],
    "probe": ["probe", "NET", "--data", "digits", "--seeds", "0:2"],
}


@misfits
@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_refuses_a_network_that_does_not_fit_the_data(
    verb, name, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    net, convention, message = misfit(tmp_path, name)
    words = [net if word == "NET" else word for word in VERBS[verb]]
    words += [] if convention is None else ["--convention", convention]
    assert main([*words, "--out", "out"]) == 2
    told = capsys.readouterr().err
    assert re.search(message, " ".join(told.split()))
    assert "is a bug" not in told
    assert not list(Path("out").rglob("*.json"))


DOORS = {
    "oracle_loss": lambda field, oracle, other: floracle.oracle_loss(
        field, oracle, times=torch.tensor([0.1, 0.5]), pairs=4
    ),
    "oracle_losses": lambda field, oracle, other: floracle.oracle_losses(
        {"oracle": oracle, "field": field}, oracle, times=torch.tensor([0.1, 0.5]), along="own"
    ),
    "switch_fields": lambda field, oracle, other: floracle.switch_fields(
        field, oracle, switch_times=[0.5], seeds=[0, 1]
    ),
    "landing_test": lambda field, oracle, other: floracle.landing_test(
        field, oracle, switch_time=0.5, seeds=[0, 1]
    ),
    "forward_backward": lambda field, oracle, other: floracle.forward_backward(
        field, other, oracle.data, switch_times=[0.5], rows=[0, 1]
    ),
}


@misfits
@pytest.mark.parametrize("door", DOORS)
def test_every_function_refuses_it_too_also_inside_of_other_fields(
    door, name, tmp_path, digits, points_source
):
    net, convention, message = misfit(tmp_path, name)
    field, oracle = load_model(net, convention=convention), floracle.Oracle(digits)
    other = points_source(torch.randn(4, 1, 8, 8), torch.arange(4))
    guided = floracle.guided(oracle, 2.0, reference=field)
    for shown in (field, guided, floracle.on_path(field, floracle.TRIGONOMETRIC)):
        with pytest.raises(InputError, match=message):
            DOORS[door](shown, oracle, other)


@misfits
def test_train_refuses_it_with_the_same_words(name, tmp_path, digits):
    parts, message = MISFITS[name]
    model = torch.nn.Linear(64, 64) if parts is None else network(**parts)
    settings = floracle.TrainingSettings(images=64, batch=16, every=64)
    null = 3 if parts is None else None
    with pytest.raises(InputError, match=message):
        floracle.train(model, digits, settings, out=tmp_path / "out", null=null, device="cpu")
    assert not (tmp_path / "out").exists()


def test_models_of_the_library_are_checked_for_their_null_label(points_source):
    """The second kind of field that has one: `as_field`."""
    oracle = floracle.Oracle(points_source(torch.randn(8, 4), torch.arange(8) % 4))
    field = as_field(lambda x, t, labels: -x, null_label=3)
    with pytest.raises(InputError, match="null_label=3 of the field is a class of the data"):
        floracle.oracle_loss(field, oracle, times=torch.tensor([0.1, 0.5]), pairs=4)
    fitting = as_field(lambda x, t, labels: -x, null_label=4)
    floracle.oracle_loss(fitting, oracle, times=torch.tensor([0.1, 0.5]), pairs=4)


def test_what_fits_is_taken_by_all(digits, points_source):
    """More classes than the data has, and data without labels, are no misfit."""
    field = load_model("digits-pico")
    unlabelled = points_source(digits.take(torch.arange(20)))
    for data in (digits, unlabelled):
        floracle.models.field.check_fit(field, data)
    few = points_source(digits.take(torch.arange(20)), torch.arange(20) % 3)
    floracle.models.field.check_fit(field, few)
