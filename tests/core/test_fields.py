"""Foreign models of Gaussian data, each in its own words, against the one closed form."""

import pytest
import torch
from torch.testing import assert_close

import floracle
from floracle.core.fields import FIRST_TIME, Convention, VelocityField, as_field, path_time
from floracle.core.paths import COSINE, LINEAR, PATHS, QUANTITIES, TRIGONOMETRIC, ProbabilityPath
from floracle.core.seeds import noise

MEAN, SPREAD = 0.7, 0.4
INSIDE = torch.linspace(0.02, 0.98, 25, dtype=torch.float64)

SD3, REPA, DDPM = (Convention(noise_time=end, data_time=0) for end in (1000, 1, 999))
clocks = pytest.mark.parametrize(
    "clock",
    [Convention(), SD3, REPA, DDPM, Convention(noise_time=-80, data_time=1.5)],
    ids=lambda clock: f"{clock.noise_time}-{clock.data_time}",
)


def means(x, alpha, sigma):
    """E[data | x] and E[noise | x] for data ~ N(MEAN, SPREAD²) and x = α data + σ noise."""
    surprise = (x - alpha * MEAN) / (alpha**2 * SPREAD**2 + sigma**2)
    return MEAN + alpha * SPREAD**2 * surprise, sigma * surprise


def closed_form(x, t):
    data, noise = means(x, t[:, None], 1 - t[:, None])
    return data - noise


def foreign(predicts, clock, path):
    """A perfect model that reads its own clock, and whose velocity runs along it."""

    def model(x, time, labels=None):
        s = ((time.double() - clock.noise_time) / (clock.data_time - clock.noise_time))[:, None]
        c = path.coefficients(s)
        data, noise = means(x.double(), c.alpha, c.sigma)
        direction = 1 if clock.data_time > clock.noise_time else -1
        said = {
            "data": data,
            "noise": noise,
            "score": -noise / c.sigma,
            "velocity": direction * (c.d_alpha * data + c.d_sigma * noise),
        }
        return said[predicts].to(x.dtype)

    return model


def samples(dtype=torch.float64):
    return noise(range(len(INSIDE)), (6,)).to(dtype)


@pytest.mark.parametrize("predicts", QUANTITIES)
@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@clocks
def test_every_convention_gives_the_closed_form(predicts, path, clock):
    field = as_field(foreign(predicts, clock, path), clock, predicts=predicts, path=path)
    assert_close(field(samples(), INSIDE), closed_form(samples(), INSIDE), rtol=1e-7, atol=1e-7)


def test_sd3_by_hand():
    def sd3(x, timestep, labels=None):
        sigma = (timestep / 1000)[:, None]
        data, noise = means(x, 1 - sigma, sigma)
        return noise - data

    field = as_field(sd3, noise_time=1000, data_time=0)
    assert_close(field(samples(), INSIDE), closed_form(samples(), INSIDE))


def test_repa_by_hand():
    def repa(x, time, labels=None):
        data, noise = means(x, 1 - time[:, None], time[:, None])
        return noise - data

    field = as_field(repa, noise_time=1, data_time=0)
    assert_close(field(samples(), INSIDE), closed_form(samples(), INSIDE))


def test_a_noise_predictor_of_a_variance_preserving_path_by_hand():
    def epsilon(x, timestep, labels=None):
        angle = (timestep / 1000)[:, None] * torch.pi / 2
        return means(x, angle.cos(), angle.sin())[1]

    field = as_field(epsilon, predicts="noise", noise_time=1000, data_time=0, path=TRIGONOMETRIC)
    assert_close(field(samples(), INSIDE), closed_form(samples(), INSIDE))


wrong = [
    {"noise_time": 0, "data_time": 1},
    {"noise_time": 1, "data_time": 0},
    {"noise_time": 0, "data_time": 1000},
    {"path": TRIGONOMETRIC},
    {"predicts": "data"},
    {"predicts": "noise"},
    {"predicts": "score"},
]


@pytest.mark.parametrize("claim", wrong)
def test_a_wrong_claim_does_not_pass_for_the_closed_form(claim):
    model = foreign("velocity", SD3, LINEAR)

    def bounded(x, time):  # a reading the model never saw is read as its nearest
        return model(x, time.clamp(0, 1000))

    field = as_field(bounded, SD3, **claim)
    error = (field(samples(), INSIDE) - closed_form(samples(), INSIDE)).abs().max()
    assert error > 0.1


@pytest.mark.parametrize("path", [LINEAR, COSINE, TRIGONOMETRIC], ids=lambda path: path.name)
def test_the_data_is_known_at_noise_too(path):
    field = as_field(foreign("data", SD3, path), SD3, predicts="data", path=path)
    t = torch.zeros(len(INSIDE), dtype=torch.float64)
    assert_close(field(samples(), t), closed_form(samples(), t))


@pytest.mark.parametrize("path", [LINEAR, COSINE, TRIGONOMETRIC], ids=lambda path: path.name)
def test_noise_says_nothing_of_the_data_at_noise_but_a_little_later(path):
    field = as_field(foreign("noise", Convention(), path), predicts="noise", path=path)
    x, t = samples().double(), torch.zeros(len(INSIDE), dtype=torch.float64)
    later = field(x, t + FIRST_TIME)
    assert_close(later, closed_form(x, t + FIRST_TIME), rtol=0, atol=1e-9)
    assert torch.equal(field(x, t), later * (1 - FIRST_TIME))  # to the same data, from t = 0
    assert_close(field(x, t), closed_form(x, t), rtol=0, atol=5 * FIRST_TIME)


@pytest.mark.parametrize("path", [COSINE, TRIGONOMETRIC], ids=lambda path: path.name)
def test_foreign_times_have_the_signal_share_asked_for(path):
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    s = path_time(path, t)
    alpha, sigma = path.alpha(s), path.sigma(s)
    assert_close(alpha / (alpha + sigma), t, rtol=0, atol=1e-8)
    assert (s[0].item(), s[-1].item()) == (0, 1)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
@pytest.mark.parametrize("t", [-0.1, 1.1, float("nan")])
def test_times_outside_are_refused(path, t):
    with pytest.raises(ValueError, match=r"t must lie in \[0, 1\]"):
        path_time(path, torch.tensor([0.5, t]))


def test_a_path_is_not_linear_by_its_name_alone():
    bent = ProbabilityPath("linear", TRIGONOMETRIC.alpha, TRIGONOMETRIC.sigma)
    field = as_field(foreign("velocity", Convention(), bent), path=bent)
    assert_close(field(samples(), INSIDE), closed_form(samples(), INSIDE))


def test_velocities_on_our_clock_and_path_pass_unchanged():
    model = foreign("velocity", Convention(), LINEAR)
    x = samples(torch.float32)
    assert torch.equal(as_field(model)(x, INSIDE), model(x, INSIDE.float()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_the_velocity_has_the_type_of_x_and_times_are_not_rounded_to_it(dtype):
    seen = []

    def model(x, time):
        seen.append(time)
        return x

    x = samples(dtype)
    assert as_field(model, SD3)(x, INSIDE).dtype == dtype
    assert_close(seen[0].double(), 1000 * (1 - INSIDE), rtol=1e-6, atol=0)


def test_labels():
    seen = []

    def model(x, time, *labels):
        seen.append([given.tolist() for given in labels])
        return x

    x, t, labels = torch.randn(3, 2), torch.full((3,), 0.5), torch.tensor([4, -1, 7])
    as_field(model)(x, t)
    as_field(model)(x, t, labels)
    as_field(model, null_label=1000)(x, t, labels)
    as_field(model, null_label=1000)(x, t)
    assert seen == [[], [[4, -1, 7]], [[4, 1000, 7]], [[1000, 1000, 1000]]]
    assert labels.tolist() == [4, -1, 7]


def test_a_translated_field_is_a_velocity_field():
    assert isinstance(as_field(foreign("data", Convention(), LINEAR)), VelocityField)


@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
def test_the_linear_oracle_on_a_path_is_the_oracle_of_that_path(path):
    """And a network of that path comes back as what it was."""
    digits = floracle.open_store("digits")
    linear, own = floracle.Oracle(digits), floracle.Oracle(digits, path=path)
    t = torch.linspace(0, 0.97, 40, dtype=torch.float64)
    points = digits.take(torch.arange(40)).double()
    x = path.sample(points, floracle.noise(range(40), digits.shape).double(), t)
    labels = digits.labels[:40].clone()
    labels[::2] = -1
    right = own(x, t, labels).flatten(1)
    for field in (linear, floracle.as_field(own, path=path)):
        found = floracle.on_path(field, path)(x, t, labels).flatten(1)
        assert ((found - right).norm(dim=1) <= 1e-5 * right.norm(dim=1)).all()


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["euler", "heun"])
def test_samples_on_a_path_land_where_that_of_the_linear_one_does(solver):
    """With steps enough, from the same noise, on the same training point."""
    digits, noise = floracle.open_store("digits"), floracle.noise(range(6), (1, 8, 8))
    grid = floracle.time_grid(300)
    ends = {}
    for path in PATHS.values():
        oracle = floracle.Oracle(digits, path=path)
        ends[path.name] = floracle.sample(oracle, noise, grid, solver=solver, path=path)
        near = floracle.nearest(digits, ends[path.name])
        assert near.distances.max() < 1e-3
    rows = {name: floracle.nearest(digits, x).rows[:, 0].tolist() for name, x in ends.items()}
    assert rows["trigonometric"] == rows["linear"]
    assert sum(a == b for a, b in zip(rows["cosine"], rows["linear"], strict=True)) >= 5


def test_probes_on_a_path_begin_at_the_mean_and_end_at_the_sample():
    digits, path = floracle.open_store("digits"), floracle.COSINE
    oracle = floracle.Oracle(digits, path=path)
    probe = floracle.probe(oracle, range(3), digits.shape, path=path, prediction_times=(0, 1))
    mean = digits.take(torch.arange(len(digits))).mean(0)
    assert (probe.predictions[:, 0] - mean).abs().max() < 1e-4
    assert floracle.nearest(digits, probe.predictions[:, -1]).distances.max() < 1e-3
    assert probe.settings["path"] == "cosine"
    assert 0.3 < probe.settling().value < 1
