"""Words of conventions: each means one thing, says what a project does, and is put to the test."""

import math
from itertools import pairwise

import pytest
import torch
from torch.testing import assert_close

import floracle
import floracle.models.identity
from floracle.core.fields import Convention, as_field
from floracle.core.paths import COSINE, LINEAR, TRIGONOMETRIC
from floracle.models.check import cheap_check, check_convention
from floracle.models.convention import (
    CONVENTIONS,
    convention_from_settings,
    convention_settings,
    convention_words,
    describe_convention,
    parse_convention,
)
from floracle.models.zoo import load_model
from floracle.run.errors import InputError
from floracle.sampling.grid import time_grid
from floracle.sampling.sample import sample


@pytest.fixture(scope="module")
def oracle(points_source):
    """48 points of a curve in 16 dimensions."""
    angles = 6 * torch.rand(48, generator=torch.Generator().manual_seed(5))
    waves = torch.arange(1, 17) / 5
    return floracle.Oracle(points_source(0.5 + torch.sin(angles[:, None] * waves)))


def model_of(oracle, convention, factor=1.0):
    """A network of the oracle in the words of a convention, times a factor; float64."""

    def network(x, time, labels=None):
        s = convention.to_t(time.double()).clamp(0, 0.9995)
        c = convention.scaled_path.coefficients(s)
        t = c.alpha / (c.alpha + c.sigma)
        state = x.double() / (c.alpha + c.sigma)[:, None]
        u = oracle(state, t).double()
        data, noise = state + (1 - t)[:, None] * u, state - t[:, None] * u
        said = {
            "data": data,
            "noise": noise,
            "score": -noise / c.sigma[:, None],
            "velocity": c.d_alpha[:, None] * data + c.d_sigma[:, None] * noise,
        }[convention.predicts]
        along = 1 if convention.towards_data or convention.predicts != "velocity" else -1
        return factor * convention.sign * along * said

    return network


# --- path ---

COSINES = {  # the formulas in the projects' code
    "repa": lambda s: (torch.cos(s * math.pi / 2), torch.sin(s * math.pi / 2)),
    "flow_matching": lambda s: (torch.sin(s * math.pi / 2), torch.cos(s * math.pi / 2)),
}


@pytest.mark.parametrize("project", COSINES)
def test_cosine_beside_a_project_is_its_own_path(oracle, project):
    """A network of the exact velocity on the project's formula has no oracle loss."""

    def network(x, s):
        s = s.double().clamp(1e-4, 1 - 1e-4).requires_grad_()
        with torch.enable_grad():
            alpha, sigma = COSINES[project](s)
            d_alpha, d_sigma = (
                torch.autograd.grad(values.sum(), s, retain_graph=True)[0]
                for values in (alpha, sigma)
            )
        alpha, sigma = alpha.detach(), sigma.detach()
        t = alpha / (alpha + sigma)
        state = x.double() / (alpha + sigma)[:, None]
        u = oracle(state, t).double()
        data, noise = state + (1 - t)[:, None] * u, state - t[:, None] * u
        return d_alpha[:, None] * data + d_sigma[:, None] * noise

    field = as_field(network, parse_convention(f"{project},path=cosine"))
    times = torch.tensor([0.05, 0.3, 0.6, 0.9])
    curves = floracle.oracle_loss(field, oracle, times=times, pairs=16).mean_curves()
    assert curves["oracle"].mean.max() < 1e-9
    assert check_convention(field, oracle.data).as_declared


def test_cosine_without_a_project_says_which_one_it_takes():
    with pytest.warns(FutureWarning, match="nichol-dhariwal; write path=trigonometric"):
        assert parse_convention("predicts=noise,path=cosine").path == COSINE
    assert parse_convention("path=nichol-dhariwal").path == COSINE


@pytest.mark.parametrize(
    "project", ["sit", "lightningdit", "rae", "flux", "sd3", "torchcfm", "jit"]
)
def test_cosine_beside_a_project_without_such_a_path_is_refused(project):
    with pytest.raises(InputError, match=r"two paths, and .*path=trigonometric .*nichol-"):
        parse_convention(f"{project},path=cosine")


@pytest.mark.parametrize("project", ["sit", "lightningdit", "rae"])
def test_gvp_of_transport_is_trigonometric(project):
    assert parse_convention(f"{project},path=GVP").path == TRIGONOMETRIC
    assert parse_convention(f"{project},path=Linear").path == LINEAR


@pytest.mark.parametrize("path", [LINEAR, TRIGONOMETRIC, COSINE], ids=lambda path: path.name)
def test_a_path_is_declared_with_a_word_of_one_meaning_and_saved_as_ever(path):
    convention = Convention(path=path)
    assert "path=cosine" not in convention_words(convention)
    assert parse_convention(convention_words(convention)) == convention
    assert convention_settings(convention)["path"] == path.name  # as in files of 0.1
    assert convention_from_settings(convention_settings(convention)) == convention


# --- what it predicts, its times, and words that say nothing ---


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("predicts=epsilon", "write predicts=noise"),
        ("predicts=eps", "write predicts=noise"),
        ("predicts=x0", "write predicts=data"),
        ("predicts=x_1", "write predicts=data"),
        ("predicts=sample", "write predicts=data"),
        ("predicts=v_prediction", "wrap the network"),
        ("predicts=v", "wrap the network"),
        ("repa,clock=t", "repa has times of its own"),
        ("sd3,clock=sigma", "sd3 has times of its own"),
        ("null_label=3,null_label=4", "says null_label= twice"),
        ("sit,10", "words like null_label=10"),
        ("noise_time=nan", "must be finite"),
        ("noise_scale=0", "noise_scale must be positive"),
        ("noise_scale=inf", "must be finite"),
        ("min_time_left=1", r"in \[0, 1\)"),
        ("min_time_left=.05", "is for predicts=data on the linear path"),
        ("jit,path=trigonometric", "is for predicts=data on the linear path"),
    ],
)
def test_words_that_may_be_meant_otherwise_are_refused_with_the_word_to_write(words, message):
    with pytest.raises(InputError, match=message):
        parse_convention(words)


@pytest.mark.slow
def test_a_v_prediction_wrapped_as_the_refusal_says_is_right(oracle):
    """v = α ε − σ x of diffusers is −2/π of the velocity of the trigonometric path."""
    velocity = model_of(oracle, Convention(path=TRIGONOMETRIC))

    def v_prediction(x, t, labels=None):
        c = TRIGONOMETRIC.coefficients(t.double().clamp(0, 0.9995))
        share = c.alpha / (c.alpha + c.sigma)
        state = x.double() / (c.alpha + c.sigma)[:, None]
        u = oracle(state, share).double()
        data, noise = state + (1 - share)[:, None] * u, state - share[:, None] * u
        return c.alpha[:, None] * noise - c.sigma[:, None] * data

    x, t = floracle.noise(range(6), (16,)).double(), torch.linspace(0.05, 0.9, 6)
    assert_close(-math.pi / 2 * v_prediction(x, t), velocity(x, t))
    unwrapped = as_field(v_prediction, path=TRIGONOMETRIC, sign=-1)
    assert not check_convention(unwrapped, oracle.data).as_declared


# --- noise scale and clamp: JiT ---


def jit_samples(predict, noise, steps, noise_scale, t_eps):
    """Euler steps of JiT's sampler, v = (x̂ − z) / max(1 − t, t_eps), in float64."""
    z = noise.double() * noise_scale
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64).tolist()
    for t, after in pairwise(times):
        x = predict(z, torch.full((len(z),), t, dtype=torch.float64))
        z = z + (after - t) * (x - z) / max(1 - t, t_eps)
    return z


def jit_network(points, noise_scale):
    """E[x | z] of points [n, D] for z = t x + (1 − t) s ε, from the formula, float64."""
    points = points.double()

    def predict(z, t, labels=None):
        z, t = z.double(), t.double()
        width = ((1 - t) * noise_scale).clamp(min=1e-6)
        squares = (z[:, None] - t[:, None, None] * points).square().sum(2)
        return torch.softmax(-squares / (2 * width[:, None] ** 2), dim=1) @ points

    return predict


@pytest.mark.parametrize("noise_scale", [1.0, 2.0, 0.5])
@pytest.mark.parametrize("t_eps", [0.0, 0.05, 0.3])
def test_samples_are_those_of_jits_own_sampler(oracle, noise_scale, t_eps):
    predict = jit_network(oracle.data.take(torch.arange(48)), noise_scale)
    noise = floracle.noise(range(10), (16,)).double()
    words = f"jit,noise_scale={noise_scale},min_time_left={t_eps}"
    field = as_field(predict, parse_convention(words))
    # JiT's equal steps are ours shifted by 1 / s.
    grid = time_grid(50, shift=1 / noise_scale)
    expected = jit_samples(predict, noise, 50, noise_scale, t_eps)
    assert_close(sample(field, noise, grid), expected, rtol=0, atol=1e-9)


def test_jit_by_name_has_its_clamp(oracle):
    predict = jit_network(oracle.data.take(torch.arange(48)), 1.0)
    noise = floracle.noise(range(10), (16,)).double()
    got = sample(as_field(predict, parse_convention("jit")), noise, time_grid(50))
    assert_close(got, jit_samples(predict, noise, 50, 1.0, 0.05), rtol=0, atol=1e-9)
    unclamped = sample(as_field(predict, predicts="data"), noise, time_grid(50))
    assert 0.005 < ((got - unclamped).norm() / unclamped.norm()) < 0.05  # the 1.6 % of the clamp


@pytest.mark.slow
@pytest.mark.parametrize("predicts", ["data", "noise", "score", "velocity"])
@pytest.mark.parametrize("noise_time", [0.0, 1000.0])
@pytest.mark.parametrize("path", [LINEAR, TRIGONOMETRIC], ids=lambda path: path.name)
def test_a_noise_scale_is_translated_exactly(oracle, predicts, noise_time, path):
    convention = Convention(
        predicts, noise_time, 0 if noise_time else 1, path=path, noise_scale=2.5, sign=-1
    )
    field = as_field(model_of(oracle, convention), convention)
    times = torch.tensor([0.01, 0.2, 0.5, 0.8, 0.95])
    curves = floracle.oracle_loss(field, oracle, times=times, pairs=16).mean_curves()
    assert curves["oracle"].mean.max() < 1e-7


def test_the_new_words_are_saved_described_and_told_from_others(tmp_path):
    convention = parse_convention("jit,noise_scale=2,null_label=10")
    assert convention == Convention("data", null_label=10, noise_scale=2, min_time_left=0.05)
    assert convention_from_settings(convention_settings(convention)) == convention
    assert "noise_scale" not in convention_settings(Convention())  # as files of 0.1
    assert "noise of deviation 2" in describe_convention(convention)
    assert "at least 0.05" in describe_convention(convention)
    assert parse_convention("jit,predicts=velocity") == Convention()

    (tmp_path / "mine.py").write_text("def network():\n    return lambda x, t: x * t[:, None]\n")
    digests = set()
    for words in ("predicts=data", "jit", "jit,noise_scale=2"):
        field = load_model(f"{tmp_path / 'mine.py'}:network", convention=words)
        digests.add(floracle.models.identity.field_fingerprint(field, (3,)).digest)
    assert len(digests) == 3


# --- the check of what was declared ---

READINGS = {
    **{name: convention for name, convention in CONVENTIONS.items() if name != "torchcfm"},
    "noise": Convention("noise"),
    "score": Convention("score"),
    "gvp": Convention(path=TRIGONOMETRIC),
    "gvp noise": Convention("noise", 1000, 0, path=TRIGONOMETRIC),
    "nichol-dhariwal noise": Convention("noise", path=COSINE),
    "noise of 2": Convention("data", noise_scale=2.0),
    "negative": Convention(sign=-1),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", READINGS)
def test_the_check_passes_exact_fields_of_every_convention(oracle, name):
    field = as_field(model_of(oracle, READINGS[name]), READINGS[name])
    assert check_convention(field, oracle.data).as_declared
    assert cheap_check(field, oracle.data) is None


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.2, 0.8, 0.9, 2.0])
@pytest.mark.parametrize("name", ["sit", "sd3", "jit", "noise", "score", "gvp", "noise of 2"])
def test_the_check_fails_a_constant_factor_of_the_prediction(oracle, name, factor):
    field = as_field(model_of(oracle, READINGS[name], factor), READINGS[name])
    for verdict in (check_convention(field, oracle.data), cheap_check(field, oracle.data)):
        assert verdict is not None
        assert not verdict.as_declared


@pytest.mark.slow
@pytest.mark.parametrize("factor", [1.2, 0.8, 0.9, 1.5])
def test_it_names_the_factor_of_a_velocity(oracle, factor):
    def scaled(x, t, labels=None):
        return factor * oracle(x, t.clamp(max=0.9995), labels)

    for field in (scaled, as_field(scaled)):
        verdict = check_convention(field, oracle.data)
        assert verdict.answer == "wrong factor"
        words = verdict.advice.partition("by ")[2].partition(",")[0]
        assert float(words) == pytest.approx(1 / factor, rel=0.03)
        assert not check_convention(field, shape=(16,)).as_declared  # without data


def gaussian_network(deviations, noise_scale):
    """E[x | z] of data N(1, deviations²) for z = t x + (1 − t) s ε, from the formula, float64."""

    def predict(z, t, labels=None):
        t, variance = t.double()[:, None], deviations.double() ** 2
        gain = t * variance / (t**2 * variance + ((1 - t) * noise_scale) ** 2)
        return 1 + gain * (z.double() - t)

    return predict


@pytest.mark.slow
@pytest.mark.parametrize("scale", [0.5, 0.8, 1.25, 1.5, 2.0])
def test_the_check_fails_another_noise_scale(scale):
    deviations = torch.linspace(2, 0.1, 64)
    data = 1 + deviations * torch.randn(2000, 64, generator=torch.Generator().manual_seed(2))
    network = gaussian_network(deviations, scale)
    right = as_field(network, parse_convention(f"predicts=data,noise_scale={scale}"))
    assert check_convention(right, data).as_declared
    assert cheap_check(right, data) is None
    for check in (check_convention, cheap_check):
        verdict = check(as_field(network, predicts="data"), data)
        assert verdict is not None
        assert verdict.answer == "wrong noise scale"
        if scale != 1.5:  # which is none of those that are tried
            assert f"noise_scale={scale:g}" in verdict.convention


@pytest.mark.parametrize("truth", [TRIGONOMETRIC, LINEAR], ids=lambda path: path.name)
def test_the_check_fails_another_path(oracle, truth):
    network = model_of(oracle, Convention(path=truth))
    other = LINEAR if truth == TRIGONOMETRIC else TRIGONOMETRIC
    verdict = check_convention(as_field(network, path=other), oracle.data)
    assert not verdict.as_declared
    assert f"path={truth.name}" in verdict.advice


@pytest.mark.slow
def test_the_small_network_of_this_package_passes_and_its_multiples_do_not():
    data, field = floracle.open_store("digits"), floracle.load_model("digits-pico")
    assert cheap_check(field, data) is None
    network = field.translated.model
    for factor in (1.2, 0.8):
        scaled = as_field(
            lambda x, t, labels, factor=factor: factor * network(x, t, labels), field.convention
        )
        verdict = cheap_check(scaled, data)
        assert verdict is not None
        assert verdict.answer == "wrong factor"
