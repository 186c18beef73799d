"""A network meets data in the unit and the latent space that it was trained in, or not at all."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import floracle
from floracle import InputError, Oracle, load_model, open_store
from floracle.cli import main
from floracle.data.training_points import check_points, describe_points
from floracle.training.build_model import build_model
from floracle.training.evaluation import EvaluationPlan


@pytest.fixture(scope="module")
def digits():
    """Digits as bytes: 0 … 255, points in [−1, 1]."""
    points = open_store("digits").points[:256]
    return open_store(((points + 1) * 127.5).round().byte())


@pytest.fixture(scope="module")
def network(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    settings = floracle.TrainingSettings(images=64, batch=32, model="pico", patch=4)
    model = build_model(settings, digits)
    for _ in floracle.train(
        model, digits, settings, out=folder, look=EvaluationPlan(pairs=0, samples=0)
    ):
        pass
    return load_model(folder)


def other_unit(digits, kind):
    bytes_ = digits.stored
    return {
        "floats of 0 … 1": open_store(bytes_.float() / 255),
        "raw levels": open_store(bytes_, normalize="raw"),
        "a fiftieth": open_store(digits.points * 0.02),
    }[kind]


def test_its_own_data_and_held_out_data_fit(digits, network):
    assert check_points(network, digits) == ""
    assert check_points(network, open_store("digits")) == ""
    assert network.points["count"] == 256


@pytest.mark.parametrize("kind", ["floats of 0 … 1", "raw levels", "a fiftieth"])
def test_another_unit_is_refused(digits, network, kind):
    data = other_unit(digits, kind)
    with pytest.raises(InputError, match="not in the unit of the network's training data"):
        check_points(network, data)
    with pytest.raises(InputError, match="not in the unit"):
        floracle.oracle_loss(network, Oracle(data), times=torch.tensor([0.3, 0.5]), pairs=4)
    with pytest.raises(InputError, match="not in the unit"):
        floracle.switch_fields(network, Oracle(data), switch_times=[0.5], seeds=[0, 1])
    with pytest.raises(InputError, match="not in the unit"):
        floracle.landing_test(network, Oracle(data), switch_time=0.5, seeds=[0, 1])
    with pytest.raises(InputError, match="not in the unit"):
        floracle.forward_backward(network, data, data, switch_times=[0.5], rows=[0, 1])


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["loss", "mix", "probe", "sample"])
def test_verbs_refuse_it_too(digits, network, tmp_path, capsys, verb):
    np.save(tmp_path / "levels.npy", digits.stored.float().numpy())
    run = network.assumed.split("; ")[1]
    words = {
        "loss": ["loss", run, "--data", "{}", "--pairs", "4"],
        "mix": ["mix", run, "--data", "{}", "--switch", ".5"],
        "probe": ["probe", run, "--data", "{}"],
        "sample": ["sample", run, "{}"],
    }[verb]
    words = [word.format(tmp_path / "levels.npy") for word in words]
    assert main([*words, "--out", str(tmp_path / "out")]) == 2
    assert "not in the unit of the network's training data" in capsys.readouterr().err


def test_latents_of_another_autoencoder_are_refused(digits, network):
    """Both are of mean 0 and deviation 1: no statistics tell them apart."""
    latents = replace(digits, autoencoder="one (12)")
    trained = replace(network, points=describe_points(latents))
    assert check_points(trained, latents) == ""
    assert check_points(trained, digits) == ""  # of unknown origin
    with pytest.raises(InputError, match=r"latents of one \(12\), .* those of two \(34\)"):
        check_points(trained, replace(digits, autoencoder="two (34)"))


def test_what_may_be_a_narrow_class_is_said(digits, network):
    tenth = open_store(digits.points * 0.1)
    assert "may not be in the unit" in check_points(network, tenth)
    with pytest.warns(UserWarning, match="may not be in the unit"):
        floracle.landing_test(network, Oracle(tenth), switch_time=0.5, seeds=[0, 1])


def test_the_decoder_of_other_latents_is_refused(digits, monkeypatch):
    from types import SimpleNamespace

    from floracle.cli.fields import load_decoder
    from floracle.models.autoencoders import load

    decoder = SimpleNamespace(name="two", channels=1, identity="two (34)")
    monkeypatch.setattr(load, "load_autoencoder", lambda *_, **__: decoder)
    assert load_decoder("two", [1, 8, 8], "cpu", [digits, None]) is decoder
    assert load_decoder("two", [1, 8, 8], "cpu", [replace(digits, autoencoder="two (34)")])
    with pytest.raises(InputError, match=r"is two \(34\), but the latents .* of one \(12\)"):
        load_decoder("two", [1, 8, 8], "cpu", [replace(digits, autoencoder="one (12)")])
