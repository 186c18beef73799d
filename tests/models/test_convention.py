"""How networks are read: names, words, mappings, and back."""

import pytest
import torch
from torch.testing import assert_close

from floracle.core.fields import as_field
from floracle.core.paths import TRIGONOMETRIC, ProbabilityPath
from floracle.core.seeds import noise
from floracle.models.convention import (
    CONVENTIONS,
    Convention,
    convention_from_settings,
    convention_settings,
    convention_words,
    describe_convention,
    parse_convention,
)
from floracle.run.errors import InputError

MEAN, SPREAD = 0.7, 0.4


def gaussian(x, t):
    """E[data | x_t] and E[noise | x_t] for data ~ N(MEAN, SPREAD²)."""
    t = t[:, None].to(x)
    surprise = (x - t * MEAN) / (t**2 * SPREAD**2 + (1 - t) ** 2)
    return MEAN + t * SPREAD**2 * surprise, (1 - t) * surprise


def said(x, t):
    data, drawn = gaussian(x, t)
    return data - drawn


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "network"),
    [
        ("sit", said),
        ("repa", lambda x, s: -said(x, 1 - s)),
        ("rae", lambda x, s: -said(x, 1 - s)),
        ("flux", lambda x, s: -said(x, 1 - s)),
        ("sd3", lambda x, s: -said(x, 1 - s / 1000)),
        ("jit,min_time_left=0", lambda x, t: gaussian(x, t)[0]),
        ("predicts=noise", lambda x, t: gaussian(x, t)[1]),
        ("sign=-1", lambda x, t: -said(x, t)),
        ("sit, sign=-1", lambda x, t: -said(x, t)),
        ("noise_time=1,data_time=0,sign=-1", lambda x, s: said(x, 1 - s)),
        ("predicts=data,noise_time=1000,data_time=0", lambda x, s: gaussian(x, 1 - s / 1000)[0]),
        ("predicts=data,noise_time=-1,data_time=3", lambda x, s: gaussian(x, (s + 1) / 4)[0]),
    ],
)
def test_words_read_a_network_as_it_is_meant(words, network):
    x, t = noise(range(20), (5,)).double(), torch.linspace(0.03, 0.97, 20, dtype=torch.float64)
    field = as_field(network, parse_convention(words))
    assert_close(field(x, t), said(x, t), rtol=1e-5, atol=1e-5)


def test_the_null_label_stands_for_none():
    seen = []

    def network(x, t, labels):
        seen.append(labels.tolist())
        return x

    field = as_field(network, parse_convention("predicts=data,null_label=10"))
    x, t = torch.zeros(3, 2), torch.full((3,), 0.5)
    field(x, t, torch.tensor([4, -1, 0]))
    field(x, t)
    assert seen == [[4, 10, 0], [10, 10, 10]]


@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_convention_is_written_down_and_read_again(name):
    convention = CONVENTIONS[name]
    assert convention_from_settings(convention_settings(convention)) == convention
    assert parse_convention(convention_words(convention)) == convention


def test_what_is_said_in_three_ways_is_one_thing():
    asked = Convention("data", 1, 0, 3, TRIGONOMETRIC, -1)
    words = parse_convention(
        "predicts=data,noise_time=1,data_time=0,path=trigonometric,sign=-1,null_label=3"
    )
    plain = {
        **{"predicts": "data", "noise_time": 1, "data_time": 0, "path": "trigonometric"},
        **{"sign": -1, "null_label": 3},
    }
    assert words == parse_convention(plain) == parse_convention(asked) == asked


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("sti", "did you mean 'sit'"),
        ("predict=data", "did you mean 'predicts'"),
        ("predicts=velocty", "did you mean 'velocity'"),
        ("clock=sigmaa", "did you mean 'sigma'"),
        ("noise_time=one", "could not convert"),
        ("noise_time=1,data_time=1", "must be finite and differ"),
        ("clock=1", "write noise_time=… and data_time=…"),
        ("clock=a:b", "cannot read"),
        ("sign=2", "1 or -1"),
        ("null_label=ten", "cannot read"),
        ("path=linnear", "did you mean 'linear'"),
    ],
)
def test_misspelt_words_are_one_clear_mistake(asked, words):
    with pytest.raises(InputError, match=words):
        parse_convention(asked)


def test_a_path_of_ones_own_cannot_be_written_down():
    own = ProbabilityPath("linear", lambda t: t**2, lambda t: 1 - t)
    with pytest.raises(InputError, match="cannot save the path"):
        convention_settings(Convention(path=own))


def test_the_words_say_the_direction_and_the_null_label():
    assert "data − noise" in describe_convention(Convention())
    assert "noise − data" in describe_convention(CONVENTIONS["repa"])
    assert "1000 at noise and 0 at data" in describe_convention(CONVENTIONS["sd3"])
    assert "null label 7" in describe_convention(Convention(null_label=7))
    assert "the negative of" in describe_convention(Convention(sign=-1))


@pytest.mark.parametrize(
    ("words", "now"),
    [
        ("clock=timestep", "noise_time=1000,data_time=0"),
        ("predicts=data,clock=1:0", "predicts=data,noise_time=1,data_time=0"),
        ("sit,null=10", "sit,null_label=10"),
    ],
)
def test_the_words_of_version_0_1_work_with_a_note(words, now):
    with pytest.warns(FutureWarning, match="the old word ends with 0.3"):
        assert parse_convention(words) == parse_convention(now)
