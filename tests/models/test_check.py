"""The self-test: on a real network of somebody else, on closed forms, on what cannot be told."""

import mnist_network
import pytest
import torch

import floracle
from floracle.core.fields import Convention, as_field
from floracle.models.check import cheap_check, check_convention
from floracle.models.convention import parse_convention
from floracle.models.convention_variants import DECLARED as DECLARED_WELL
from floracle.models.convention_variants import RetimedField
from floracle.models.zoo import load_model
from floracle.run.errors import InputError

S, TIMESTEP = Convention(noise_time=1, data_time=0), Convention(noise_time=1000, data_time=0)


@pytest.fixture(scope="module")
def digits(shared):
    """The first test pictures of MNIST in [0, 1], the space of the network."""
    store = floracle.open_store(str(shared / "data" / "mnist"), normalize="raw")
    pictures = store.take(torch.arange(600))
    return (pictures - pictures.min()) / (pictures.max() - pictures.min())


@pytest.fixture(scope="module")
def networks(shared):
    """The MNIST network in the words of several projects."""
    predictor = mnist_network.network().eval().requires_grad_(False)

    def velocity(x, t, labels):
        t = t.clamp(max=0.999)
        return (predictor(x, t, labels) - x) / (1 - t[:, None, None, None])

    def repa(x, s, labels):
        return -velocity(x, 1 - s, labels)

    def sd3(x, timestep, labels):
        return repa(x, timestep / 1000, labels)

    return {"data": predictor, "velocity": velocity, "repa": repa, "sd3": sd3}


DECLARED = [
    ("data", "predicts=data", "as declared"),
    ("data", "predicts=data,noise_time=1,data_time=0", "flipped in time"),
    ("data", "predicts=data,noise_time=0,data_time=1000", "wrong time scale"),
    ("data", "predicts=data,sign=-1", "wrong sign"),
    ("data", "predicts=velocity", "wrong prediction"),
    ("velocity", "sit", "as declared"),
    ("velocity", "repa", "flipped in time"),
    ("velocity", "sign=-1", "wrong sign"),
    ("velocity", "noise_time=0,data_time=1000", "wrong time scale"),
    ("velocity", "sd3", "wrong time scale"),
    ("velocity", "jit", "wrong prediction"),
    ("repa", "repa", "as declared"),
    ("repa", "sit", "flipped in time"),
    ("repa", "sd3", "wrong time scale"),
    ("sd3", "sd3", "as declared"),
    ("sd3", "repa", "wrong time scale"),
    ("sd3", "sit", "wrong time scale"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("network", "words", "answer"), DECLARED)
def test_a_real_network_is_read_rightly_with_data(networks, digits, network, words, answer):
    field = as_field(networks[network], parse_convention(f"{words},null_label=10"))
    verdict = check_convention(field, digits)
    assert verdict.answer == answer
    assert min(verdict.losses.values()) == pytest.approx(0.137, abs=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(("network", "words", "answer"), DECLARED)
def test_a_real_network_is_read_rightly_without_data(networks, network, words, answer):
    field = as_field(networks[network], parse_convention(f"{words},null_label=10"))
    assert check_convention(field, shape=(1, 28, 28), pairs=24).answer == answer


@pytest.mark.slow
def test_the_advice_is_the_declaration_that_passes(networks, digits):
    wrong = as_field(
        networks["repa"], parse_convention("noise_time=0,data_time=1000,null_label=10")
    )
    verdict = check_convention(wrong, digits)
    assert verdict.answer == "wrong time scale"
    assert "Declare noise_time=1,data_time=0." in verdict.text
    right = as_field(networks["repa"], parse_convention("noise_time=1,data_time=0,null_label=10"))
    assert check_convention(right, digits).as_declared


@pytest.fixture(scope="module")
def world(points_source):
    """Points of a curve, and their oracle."""
    generator = torch.Generator().manual_seed(5)
    angles = 6 * torch.rand(200, generator=generator)
    waves = torch.arange(1, 17) / 5
    source = points_source(1 + torch.sin(angles[:, None] * waves))
    return source, floracle.Oracle(source)


OURS = Convention()


def foreign(oracle, clock=OURS, sign=1):
    """The oracle as a network of another clock, whose velocity runs along it."""

    def model(x, time):
        direction = sign if clock.towards_data else -sign
        t = clock.to_t(time.double()).clamp(0, 0.999)
        return direction * oracle(x, t)

    return model


clocks = pytest.mark.parametrize(
    "clock",
    [Convention(), S, TIMESTEP, Convention(noise_time=0, data_time=1000)],
    ids=lambda clock: f"{clock.noise_time}-{clock.data_time}",
)


@pytest.mark.slow
@clocks
@pytest.mark.parametrize("data", [True, False])
def test_the_oracle_passes_in_every_clock(world, clock, data):
    source, oracle = world
    field = as_field(foreign(oracle, clock), clock)
    given = {"data": source} if data else {"shape": source.shape}
    assert check_convention(field, **given).as_declared


@pytest.mark.slow
@clocks
def test_the_oracle_fails_in_the_opposite_clock(world, clock):
    source, oracle = world
    field = as_field(
        foreign(oracle, clock), noise_time=clock.data_time, data_time=clock.noise_time
    )
    assert check_convention(field, source).answer == "flipped in time"
    assert check_convention(field, shape=source.shape).answer == "flipped in time"


@pytest.mark.slow
@clocks
def test_the_oracle_fails_with_its_sign_turned(world, clock):
    source, oracle = world
    field = as_field(foreign(oracle, clock, sign=-1), clock)
    assert check_convention(field, source).answer == "wrong sign"
    assert check_convention(field, shape=source.shape).answer == "wrong sign"


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ((lambda t: t, 1), "as declared"),
        ((lambda t: t, -1), "wrong sign"),
        ((lambda t: 1 - t, -1), "flipped in time"),
        ((lambda t: 1 - t, 1), "flipped in time"),
        ((lambda t: (1000 * t).clamp(max=0.999), 1), "wrong time scale"),
    ],
)
def test_fields_that_are_no_translation_are_judged_too(world, change, answer):
    source, oracle = world
    time, sign = change
    field = RetimedField(lambda x, t, labels: oracle(x, t.clamp(max=0.999)), time, sign)
    assert check_convention(field, source).answer == answer


def test_an_untrained_network_is_not_judged(world):
    source, _ = world
    weight = torch.randn(16, 16) / 4

    def untrained(x, t):
        return x @ weight * (1 + t[:, None])

    for given in ({"data": source}, {"shape": source.shape}):
        verdict = check_convention(as_field(untrained), **given)
        assert verdict.answer == "cannot say"
        assert not verdict.as_declared


def test_zero_is_not_judged(world):
    source, _ = world
    for given in ({"data": source}, {"shape": source.shape}):
        verdict = check_convention(as_field(lambda x, t: torch.zeros_like(x)), **given)
        assert verdict.answer == "cannot say"


def test_noise_as_data_has_no_direction():
    """Between two unit Gaussians the field is its own reverse: (2t − 1) x / (t² + (1 − t)²)."""

    def gaussian(x, t):
        t = t[:, None].to(x)
        return (2 * t - 1) * x / (t**2 + (1 - t) ** 2)

    verdict = check_convention(as_field(gaussian), torch.randn(500, 64))
    assert verdict.answer == "cannot say"
    assert "predict equally well" in verdict.text


@pytest.mark.slow
def test_data_of_another_kind_is_not_taken_for_a_wrong_sign(networks):
    """A network of digits, asked about noise of deviation 3."""
    field = as_field(networks["data"], parse_convention("predicts=data,null_label=10"))
    verdict = check_convention(field, 3 * torch.randn(200, 1, 28, 28))
    assert verdict.answer in ("as declared", "cannot say")


def test_without_data_a_shape_is_needed():
    with pytest.raises(InputError, match="shape="):
        check_convention(as_field(lambda x, t: x))


def test_the_same_seed_gives_the_same_verdict(world):
    source, oracle = world
    first, again = (check_convention(oracle, source, seed=3) for _ in range(2))
    assert first == again
    assert first.as_declared


def test_what_has_no_velocity_at_an_end_is_told_by_data(world):
    """The velocity of a noise predictor is 0 / 0 at t = 0, where data is not needed otherwise."""
    source, oracle = world

    def predictor(x, t):
        t = t.double().clamp(0.01, 0.99)
        return (x - t[:, None] * oracle(x, t)).to(x)

    field = as_field(predictor, predicts="noise")
    assert check_convention(field, source).as_declared
    assert check_convention(field, shape=source.shape).answer in ("cannot say", "as declared")


@pytest.mark.slow
@pytest.mark.parametrize(("network", "words", "answer"), DECLARED)
def test_a_doubt_is_what_the_whole_check_says(networks, digits, network, words, answer):
    field = as_field(networks[network], parse_convention(f"{words},null_label=10"))
    found = cheap_check(field, digits)
    assert (DECLARED_WELL if found is None else found.answer) == answer
    if found is not None:  # what is to be declared passes
        again = as_field(networks[network], parse_convention(found.convention))
        assert cheap_check(again, digits) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", ["sit,sign=-1", "repa,sign=-1", "data,sign=-1", "jit,noise_time=1,data_time=0"]
)
def test_the_convention_to_declare_counts_what_was_declared(networks, digits, words):
    """A sign of −1 that is wrong is to be taken back, not to be declared again."""
    name, _, rest = words.partition(",")
    made = "data" if name == "jit" else {"sit": "velocity"}.get(name, name)
    start = "predicts=data" if name == "data" else name
    verdict = check_convention(
        as_field(networks[made], parse_convention(f"{start},{rest},null_label=10")), digits
    )
    right = parse_convention(verdict.convention)
    assert right == parse_convention(f"{start},null_label=10")
    assert "sign=-1" not in verdict.text


def test_readings_that_a_network_cannot_answer_are_no_faults(world):
    source, oracle = world
    table = torch.linspace(0, 0.999, 1001)

    def discrete(x, time):
        """A network that knows whole steps 0 to 1000 only, beyond which it fails."""
        return oracle(x, table[time.round().long()])

    field = as_field(discrete, noise_time=0, data_time=1000)

    assert check_convention(field, source).as_declared
    assert cheap_check(field, source) is None
    with pytest.raises(IndexError):  # but its own faults are told
        check_convention(as_field(lambda x, t: table[[5000]] * x), source)


def test_a_network_that_needs_labels_is_asked_with_those_of_the_data(points_source, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def pull(x, t, labels):\n"
        "    return (labels[:, None] - 4.5 - x) / (1 - t[:, None].clamp(max=0.99))\n"
        "def network():\n"
        "    return pull\n"
    )
    field = load_model(f"{tmp_path / 'mine.py'}:network", convention="sit")
    labels = torch.arange(200) % 10
    points = (labels[:, None] - 4.5).expand(-1, 16)
    assert cheap_check(field, points_source(points, labels)) is None
    with pytest.raises(InputError, match="null_label=10"):
        cheap_check(field, points_source(points))
