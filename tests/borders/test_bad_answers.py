"""Networks that answer NaN, something else than a prediction, or take other arguments."""

from pathlib import Path

import pytest
import torch

import floracle
from floracle.cli import main
from floracle.core.fields import as_field
from floracle.models.check import cheap_check, check_convention
from floracle.models.zoo import load_model
from floracle.run.errors import InputError
from floracle.sampling.sample import sample


def load(folder, body, convention="sit"):
    """The network of a file of one's own, whose text is the body of `network`."""
    (folder / "mine.py").write_text(f"import torch\ndef network():\n    {body}\n")
    return load_model(f"{folder / 'mine.py'}:network", convention=convention)


# --- NaN and infinity ---

BROKEN = {
    "NaN from t = 0.5 on": "return lambda x, t: x * (t < 0.5).float().view(-1, 1, 1, 1) / "
    "(t < 0.5).float().view(-1, 1, 1, 1)",
    "infinity in one sample": "return lambda x, t: x.sign() / "
    "(x.amax((1, 2, 3)) > -6).float().view(-1, 1, 1, 1)",
    "beyond float32": "return lambda x, t: 3e38 * x.sign()",
}
VERBS = {
    "sample": ["sample", "mine.py:network", "digits", "--steps", "9"],
    "loss": ["loss", "mine.py:network", "--data", "digits", "--classes", "whole", "--pairs", "8"],
    "probe": ["probe", "mine.py:network", "--data", "digits", "--steps", "9"],
    "mix": ["mix", "mine.py:network", "--data", "digits", "--switch", "0,.2", "--steps", "9"],
}


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_leaves_a_result_of_them(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(
        f"import torch\ndef network():\n    {BROKEN['NaN from t = 0.5 on']}\n"
    )
    seeds = [] if verb == "loss" else ["--seeds", "0:4"]
    assert main([*VERBS[verb], *seeds, "--convention", "sit", "--out", "out"]) == 2
    told = capsys.readouterr().err
    assert "is a bug" not in told
    assert "mine.py:network" in told
    assert "NaN or infinity" in told
    left = {path.name for path in Path("out").rglob("*") if path.is_file()}
    assert not left & {"samples.npz", "samples.png", "loss.html", "mix.html"}
    results = [path.parent.name for path in Path("out").rglob("result.json")]
    assert results in ([], ["oracle"])  # the oracle's own part of a probe is whole


def test_the_error_names_network_time_and_sample(tmp_path):
    field = load(tmp_path, BROKEN["NaN from t = 0.5 on"])
    x = floracle.noise(range(3), (1, 2, 2))
    with pytest.raises(
        InputError, match=r"mine.py:network at t = 0\.5 .* sample 0 of 3, 3 in all"
    ):
        sample(field, x, floracle.time_grid(4))
    x[1] = -9
    field = load(tmp_path, BROKEN["infinity in one sample"])
    with pytest.raises(InputError, match=r"at t = 0 .* sample 1 of 3, 1 in all"):
        sample(field, x, floracle.time_grid(4))
    field = load(tmp_path, BROKEN["beyond float32"])
    with pytest.raises(InputError, match=r"a sample of .*mine.py:network at t = 0\.5 is not fin"):
        sample(field, 3e38 * x.sign(), floracle.time_grid(2))


def test_guided_fields_and_those_on_another_path_have_the_name_of_the_network(tmp_path):
    field = load(tmp_path, "return lambda x, t, labels: x * torch.nan", "sit,null_label=4")
    x, labels = floracle.noise(range(3), (2,)), torch.tensor([0, 1, 2])
    for wrapped in (floracle.guided(field, 2.0), floracle.on_path(field, floracle.TRIGONOMETRIC)):
        with pytest.raises(InputError, match=r"the velocity of .*mine.py:network at t = 0 is not"):
            sample(wrapped, x, floracle.time_grid(4), labels=labels)


def test_the_check_says_so_too(tmp_path, points_source):
    field = load(tmp_path, "return lambda x, t: x * torch.nan")
    for check in (check_convention, cheap_check):
        with pytest.raises(
            InputError, match=r"mine.py:network answers NaN or infinity at t = 0\.5"
        ):
            check(field, points_source(torch.randn(9, 3)))


# --- answers that are no prediction ---


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return lambda x, t: (x, t)", "returned a tuple of 2"),
        ("return lambda x, t: {'sample': x}", "returned a dict"),
        ("return lambda x, t: None", "returned a NoneType"),
        ("return lambda x, t: x[:, :1]", r"but returned \[3, 1\]"),
        ("return lambda x, t: x.long()", "floating point numbers, but returned torch.int64"),
        ("return lambda x, t: x + 0j", "floating point numbers, but returned torch.complex64"),
        ("return lambda x, t: x > 0", "floating point numbers, but returned torch.bool"),
    ],
)
@pytest.mark.parametrize("convention", ["sit", "jit", "predicts=noise"])
def test_an_answer_that_is_no_prediction_is_refused(tmp_path, body, words, convention):
    field = load(tmp_path, body, convention)
    with pytest.raises(InputError, match=words):
        sample(field, torch.ones(3, 2), floracle.time_grid(3))


@pytest.mark.parametrize("predicts", ["velocity", "data"])
def test_a_model_of_fewer_channels_is_not_spread_over_all(predicts):
    field = as_field(lambda x, t: x[:, :1], predicts=predicts)
    with pytest.raises(ValueError, match=r"are \[3, 4, 2, 2\] and it returned \[3, 1, 2, 2\]"):
        field(torch.ones(3, 4, 2, 2), torch.full((3,), 0.5))
    with pytest.raises(ValueError, match="returned"):
        as_field(lambda x, t: (x,), predicts=predicts)(torch.ones(3, 2), torch.full((3,), 0.5))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_networks_of_another_type_take_samples_in_it_and_answer_in_theirs(tmp_path, dtype):
    field = load(
        tmp_path,
        "class Net(torch.nn.Module):\n"
        "        def __init__(self):\n"
        "            super().__init__()\n"
        "            self.linear = torch.nn.Linear(2, 2, bias=False)\n"
        "            torch.nn.init.eye_(self.linear.weight)\n"
        f"            self.to(torch.{dtype}).train()\n"
        "        def forward(self, x, t):\n"
        f"            assert x.dtype == torch.{dtype} and not self.training\n"
        "            return self.linear(x)\n"
        "    return Net()",
    )
    x = floracle.noise(range(3), (2,))
    velocity = field(x, torch.full((3,), 0.5))
    assert velocity.dtype == torch.float32
    assert not velocity.requires_grad
    torch.testing.assert_close(velocity, x, rtol=4e-3, atol=1e-3)


def test_half_precision_predictions_are_converted_in_the_type_of_the_samples():
    field = as_field(lambda x, t: x.bfloat16(), predicts="data")
    x, t = floracle.noise(range(3), (2,)), torch.full((3,), 0.9)
    expected = (x.bfloat16().double() - x.double()) / (1 - t.double()[:, None])
    torch.testing.assert_close(field(x, t).double(), expected, rtol=1e-6, atol=1e-6)


def test_gradients_and_training_mode_do_not_reach_samples():
    weight = torch.ones(1, requires_grad=True)
    field = as_field(lambda x, t: weight * x)
    assert not sample(field, torch.ones(2, 2), floracle.time_grid(3)).requires_grad


# --- other arguments ---


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("x, t, r, labels", r"takes \(x, t, r, labels\), but it is called with"),
        ("x, t, r", "but r would be given the labels"),
        ("x, t, dt, y=None", "but dt would be given the labels"),
        ("t, x, y=None", "but t would be given the samples"),
        ("x, y, t", "but y would be given the time"),
        ("x", r"takes \(x\), but it is called with"),
        ("x, t, *, guidance", "but it is called with"),
    ],
)
def test_a_network_of_other_arguments_is_refused_by_their_names(tmp_path, arguments, words):
    for convention in ("sit", "sit,null_label=3"):
        with pytest.raises(InputError, match=words):
            load(tmp_path, f"return lambda {arguments}: x", convention)
    if "," in arguments:
        with pytest.raises(ValueError, match=words):
            as_field(eval(f"lambda {arguments}: x"))


def test_what_is_refused_only_where_labels_are_given(tmp_path):
    body = "return lambda x, t, r=None, y=None: -x"
    field = load(tmp_path, body)
    assert field(torch.ones(2, 2), torch.zeros(2)).unique().tolist() == [-1]
    with pytest.raises(InputError, match="but r would be given the labels"):
        field(torch.ones(2, 2), torch.zeros(2), torch.tensor([0, 1]))
    with pytest.raises(InputError, match="but r would be given the labels"):
        load(tmp_path, body, "sit,null_label=3")
    model = as_field(lambda x, t, cond=None, y=None: -x)
    with pytest.raises(ValueError, match="but cond would be given the labels"):
        model(torch.ones(2, 2), torch.zeros(2), torch.tensor([0, 1]))


@pytest.mark.parametrize(
    "arguments",
    [
        "x, t",
        "x, t, y",
        "x, sigma, class_labels=None",
        "z, t, c",
        "h, t",
        "s, t, y",
        "*given",
        "x, timestep, labels=None, return_dict=True",
    ],
)
def test_usual_arguments_are_taken(tmp_path, arguments):
    load(tmp_path, f"return lambda {arguments}: -1.0")
    as_field(eval(f"lambda {arguments}: -1.0"))


def test_the_check_gives_labels_to_networks_that_need_them(points_source):
    """Also to those that fail inside without them, and never as a second time."""
    labels = torch.arange(200) % 10
    points = points_source((labels[:, None] - 4.5).expand(-1, 16).clone(), labels)

    def needs(x, t, labels):
        return (labels[:, None] - 4.5 - x) / (1 - t[:, None].clamp(max=0.99))

    def fails_inside(x, t, labels=None):
        return needs(x, t, labels)

    for model in (needs, fails_inside):
        field = as_field(model)
        assert check_convention(field, points).as_declared
        assert cheap_check(field, points) is None
        turned = check_convention(as_field(model, sign=-1), points)
        assert turned.answer == "wrong sign"


# --- the doors of the library ---

BAD = {
    "NaN": (torch.full((2, 3), torch.nan), {}, "contain NaN"),
    "infinity": (torch.full((2, 3), torch.inf), {}, "contain NaN or infinity"),
    "whole numbers": (torch.ones(2, 3).long(), {}, "floating point"),
    "a list": ([[1.0]], {}, "a tensor"),
    "labels of truth": (
        torch.ones(2, 3),
        {"labels": torch.tensor([True, False])},
        "whole numbers",
    ),
    "labels of words": (torch.ones(2, 3), {"labels": ["a", "b"]}, "whole numbers"),
    "labels below -1": (torch.ones(2, 3), {"labels": -2}, "-1 is none, got -2"),
    "too many labels": (torch.ones(2, 3), {"labels": [0, 1, 2]}, "one a sample"),
}


@pytest.mark.parametrize("name", BAD)
def test_samples_and_labels_that_are_none_are_refused(name):
    x, options, words = BAD[name]
    with pytest.raises(InputError, match=words):
        sample(as_field(lambda x, t, labels=None: -x), x, floracle.time_grid(3), **options)


def test_labels_may_be_a_list_or_numbers_of_numpy():
    import numpy as np

    field = as_field(lambda x, t, labels: labels[:, None] - 0 * x)
    x, grid = torch.zeros(2, 3), floracle.time_grid(3)
    for labels in ([4, 5], np.array([4, 5]), torch.tensor([4, 5], dtype=torch.uint8)):
        torch.testing.assert_close(
            sample(field, x, grid, labels=labels)[:, 0], torch.tensor([4.0, 5])
        )
    torch.testing.assert_close(sample(field, x, grid, labels=np.int64(4)), x + 4)


@pytest.mark.parametrize("outside", [-0.1, 1.2, torch.nan])
def test_times_outside_are_refused_at_every_door(points_source, outside):
    oracle = floracle.Oracle(points_source(torch.randn(9, 3)))
    field = as_field(lambda x, t, labels=None: -x)
    times = [0.2, outside]
    for call in (
        lambda: field(torch.ones(2, 3), torch.tensor(times)),
        lambda: sample(field, torch.ones(2, 3), torch.tensor(times)),
        lambda: floracle.oracle_loss(field, oracle, times=torch.tensor(times), pairs=4),
        lambda: floracle.switch_fields(field, oracle, switch_times=times, seeds=[0]),
        lambda: floracle.landing_test(field, oracle, switch_time=outside, seeds=[0, 1]),
        lambda: floracle.probe(field, [0], (3,), prediction_times=times),
        lambda: floracle.forward_backward(
            field, points_source(torch.randn(4, 3)), oracle.data, switch_times=times, rows=[0, 1]
        ),
    ):
        with pytest.raises(ValueError, match=r"\[0, 1|before|increase"):
            call()
