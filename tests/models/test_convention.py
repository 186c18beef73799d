"""How networks are read: names, words, mappings, and back."""

import pytest
import torch
from torch.testing import assert_close

from floracle.core.clock import Clock
from floracle.core.paths import TRIGONOMETRIC, ProbabilityPath
from floracle.core.seeds import noise
from floracle.models.convention import CONVENTIONS, Convention, convention_of
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
        ("jit", lambda x, t: gaussian(x, t)[0]),
        ("predicts=noise", lambda x, t: gaussian(x, t)[1]),
        ("sign=-1", lambda x, t: -said(x, t)),
        ("sit, sign=-1", lambda x, t: -said(x, t)),
        ("clock=s,sign=-1", lambda x, s: said(x, 1 - s)),
        ("predicts=data,clock=timestep", lambda x, s: gaussian(x, 1 - s / 1000)[0]),
        ("predicts=data,clock=-1:3", lambda x, s: gaussian(x, (s + 1) / 4)[0]),
    ],
)
def test_words_read_a_network_as_it_is_meant(words, network):
    x, t = noise(range(20), (5,)).double(), torch.linspace(0.03, 0.97, 20, dtype=torch.float64)
    field = convention_of(words).field(network)
    assert_close(field(x, t), said(x, t), rtol=1e-5, atol=1e-5)


def test_the_null_label_stands_for_none():
    seen = []

    def network(x, t, labels):
        seen.append(labels.tolist())
        return x

    field = convention_of("predicts=data,null=10").field(network)
    x, t = torch.zeros(3, 2), torch.full((3,), 0.5)
    field(x, t, torch.tensor([4, -1, 0]))
    field(x, t)
    assert seen == [[4, 10, 0], [10, 10, 10]]


@pytest.mark.parametrize("name", CONVENTIONS)
def test_a_convention_is_written_down_and_read_again(name):
    convention = CONVENTIONS[name]
    assert convention_of(convention.settings()) == convention


def test_what_is_said_in_three_ways_is_one_thing():
    asked = Convention("data", Clock(1, 0), TRIGONOMETRIC, -1, 3)
    words = convention_of("predicts=data,clock=1:0,path=trigonometric,sign=-1,null=3")
    plain = {"predicts": "data", "clock": [1, 0], "path": "trigonometric", "sign": -1, "null": 3}
    assert words == convention_of(plain) == convention_of(asked) == asked


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("sti", "did you mean 'sit'"),
        ("predict=data", "did you mean 'predicts'"),
        ("predicts=velocty", "did you mean 'velocity'"),
        ("clock=sigmaa", "did you mean 'sigma'"),
        ("clock=1:1", "a clock must run"),
        ("clock=1", "NOISE:DATA"),
        ("clock=a:b", "not readable"),
        ("sign=2", "1 or -1"),
        ("null=ten", "not readable"),
        ("path=linnear", "did you mean 'linear'"),
    ],
)
def test_misspelt_words_are_one_clear_mistake(asked, words):
    with pytest.raises(InputError, match=words):
        convention_of(asked)


def test_a_path_of_ones_own_cannot_be_written_down():
    own = ProbabilityPath("linear", lambda t: t**2, lambda t: 1 - t)
    with pytest.raises(InputError, match="cannot be written down"):
        Convention(path=own).settings()


def test_the_words_say_the_direction_and_the_null_label():
    assert "data − noise" in Convention().words()
    assert "noise − data" in CONVENTIONS["repa"].words()
    assert "1000 at noise and 0 at data" in CONVENTIONS["sd3"].words()
    assert "null label 7" in Convention(null=7).words()
    assert "the opposite of" in Convention(sign=-1).words()
