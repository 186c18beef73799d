"""Networks that predict the noise or the score, of which no velocity follows at t = 0."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch.testing import assert_close

import floracle
from floracle.cli import main
from floracle.core.fields import FIRST_TIME, Convention, as_field
from floracle.core.paths import LINEAR, TRIGONOMETRIC, ProbabilityPath
from floracle.models.check import check_convention
from floracle.sampling.sample import sample

NETWORK = """\
import torch, floracle
oracle = floracle.Oracle(floracle.open_store("digits"))
def expand(t):
    return t[:, None, None, None]
def noise():
    def network(x, t, labels=None):
        u = oracle(x, t.double().clamp(max=0.999), labels)
        return x.double() - expand(t).double() * u.double()
    return network
def score():
    predicted = noise()
    return lambda x, t, labels=None: -predicted(x, t, labels) / (1 - expand(t))
"""


def predictor(oracle, predicts, path=LINEAR):
    """A model that predicts the noise or score of the exact oracle, in float64."""

    def model(x, time):
        c = path.coefficients(time.double())
        t = c.alpha / (c.alpha + c.sigma)
        state = x.double() / (c.alpha + c.sigma)[:, None]
        noise = state - t[:, None] * oracle(state, t.clamp(max=0.9999)).double()
        return noise if predicts == "noise" else -noise / c.sigma[:, None]

    return model


@pytest.fixture(scope="module")
def oracle(points_source):
    points = torch.randn(40, 6, generator=torch.Generator().manual_seed(3)) + 1
    return floracle.Oracle(points_source(points))


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["euler", "heun", "midpoint"])
@pytest.mark.parametrize("path", [LINEAR, TRIGONOMETRIC], ids=lambda path: path.name)
@pytest.mark.parametrize("predicts", ["noise", "score"])
def test_an_exact_predictor_samples_what_the_oracle_samples(oracle, predicts, path, solver):
    field = as_field(predictor(oracle, predicts, path), predicts=predicts, path=path)
    x, grid = floracle.noise(range(12), (6,)).double(), floracle.time_grid(40)
    expected = sample(oracle, x, grid, solver=solver)
    got = sample(field, x, grid, solver=solver)
    # Only the first step differs: its prediction of the data is that of t = .001.
    assert_close(got, expected, rtol=0, atol=1e-3)
    assert torch.equal(
        floracle.nearest(oracle.data, got).rows, floracle.nearest(oracle.data, expected).rows
    )


@pytest.mark.parametrize("predicts", ["noise", "score"])
def test_its_oracle_loss_is_zero_from_the_start(oracle, predicts):
    field = as_field(predictor(oracle, predicts), predicts=predicts)
    times = torch.tensor([0.0, 0.0005, 0.1, 0.5, 0.9], dtype=torch.float64)
    losses = floracle.oracle_loss(field, oracle, times=times, pairs=64)
    mean = losses.mean_curves()["oracle"].mean
    # At t = 0 the bound is FIRST_TIME² Var(data); later the arithmetic is that of float64.
    assert mean[:2].max() < 4 * FIRST_TIME**2
    assert mean[2:].max() < 1e-11
    along = floracle.oracle_loss(field, oracle, times=times, pairs=8, along="own", steps=10)
    assert along.mean_curves()["oracle"].mean.max() < 4 * FIRST_TIME**2


def test_the_velocity_at_noise_leads_to_the_mean_of_the_data(oracle):
    field = as_field(predictor(oracle, "noise"), predicts="noise")
    x = floracle.noise(range(5), (6,)).double()
    mean = oracle.data.take(torch.arange(40)).double().mean(0)
    assert_close(field(x, torch.zeros(5)), mean - x, rtol=0, atol=5e-3)


def test_a_path_on_which_the_velocity_says_nothing_at_noise_starts_late_too(oracle):
    """α = t²: its velocity is α′ data − noise with α′(0) = 0."""
    path = ProbabilityPath("square", lambda t: t**2, lambda t: 1 - t)

    def model(x, time):
        c = path.coefficients(time.double())
        t = c.alpha / (c.alpha + c.sigma)
        state = x.double() / (c.alpha + c.sigma)[:, None]
        u = oracle(state, t.clamp(max=0.9999)).double()
        data, noise = state + (1 - t)[:, None] * u, state - t[:, None] * u
        return c.d_alpha[:, None] * data + c.d_sigma[:, None] * noise

    assert Convention(path=path).first_time == FIRST_TIME
    x, grid = floracle.noise(range(6), (6,)).double(), floracle.time_grid(20)
    assert_close(
        sample(as_field(model, path=path), x, grid), sample(oracle, x, grid), rtol=0, atol=1e-3
    )


def test_where_a_velocity_follows_fields_start_at_noise():
    for convention in (Convention(), Convention("data"), Convention(path=TRIGONOMETRIC)):
        assert convention.first_time == 0


def test_the_check_without_data_looks_at_them_too(oracle):
    field = as_field(predictor(oracle, "noise"), predicts="noise")
    assert check_convention(field, oracle.data).as_declared


@pytest.mark.slow
@pytest.mark.parametrize("name", ["noise", "score"])
def test_every_verb_takes_them_and_says_where_they_start(name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("net.py").write_text(NETWORK)
    net, convention = f"net.py:{name}", ["--convention", f"predicts={name}"]
    small = ["--seeds", "0:4", "--steps", "20"]

    assert main(["sample", net, "digits", *convention, *small, "--out", "mine"]) == 0
    assert "before t = 0.001 samples go towards the data" in capsys.readouterr().err
    assert main(["sample", "oracle", "digits", *small, "--out", "exact"]) == 0
    mine, exact = (np.load(f"{folder}/samples.npz") for folder in ("mine", "exact"))
    assert np.array_equal(mine["rows"], exact["rows"])

    quick = ["--pairs", "8", "--trajectories", "2", "--steps", "5", "--classes", "whole"]
    on_data = [net, "--data", "digits", *convention]
    assert main(["loss", *on_data, *quick, "--out", "loss"]) == 0
    assert floracle.load("loss").path["net"].mean_curves()["oracle"].mean.max() < 1e-5
    assert "before t = 0.001" in Path("loss/loss.html").read_text()
    assert main(["probe", *on_data, *small, "--out", "probe"]) == 0
    assert main(["mix", *on_data, *small, "--switch", "0,.3,1", "--out", "mix"]) == 0
    assert "before t = 0.001" in next(Path("mix").glob("*.html")).read_text()
