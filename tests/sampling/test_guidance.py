"""Guidance around a field: linear in its scale, inside its interval and channels only."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

import floracle
from floracle.sampling.guidance import guided


@pytest.fixture
def oracle():
    return floracle.Oracle(floracle.open_store("digits"))


@pytest.fixture
def asked():
    return torch.randn(12, 1, 8, 8), torch.linspace(0, 0.9, 12), torch.arange(12) % 10


def test_scale_one_changes_nothing(oracle, asked):
    assert torch.equal(guided(oracle, 1.0)(*asked), oracle(*asked))


def test_it_is_the_formula(oracle, asked):
    x, t, labels = asked
    found = guided(oracle, 2.5)(x, t, labels)
    plain, label = oracle(x, t), oracle(x, t, labels)
    assert_close(found, plain + 2.5 * (label - plain))


def test_scale_zero_is_the_field_without_labels(oracle, asked):
    x, t, labels = asked
    assert_close(guided(oracle, 0.0)(x, t, labels), oracle(x, t), rtol=1e-4, atol=1e-5)


def test_outside_the_interval_it_is_the_field(oracle, asked):
    x, t, labels = asked
    low, high = float(t[3]), float(t[7])
    found, plain = guided(oracle, 3.0, interval=(low, high))(x, t, labels), oracle(x, t, labels)
    outside = (t < low) | (t > high)
    assert_close(found[outside], plain[outside])
    changed = (found - plain).flatten(1).norm(dim=1) > 1e-3
    assert changed[3]  # the interval is closed
    assert not changed[outside].any()


def test_only_the_first_channels_are_guided():
    def field(x, t, labels=None):
        return x if labels is None else x + (labels >= 0).to(x)[:, None, None, None]

    x, t = torch.randn(4, 5, 2, 2), torch.full((4,), 0.5)
    labels = torch.zeros(4, dtype=torch.int64)
    found = guided(field, 3.0, channels=3)(x, t, labels)
    assert_close(found[:, :3], x[:, :3] + 3)
    assert_close(found[:, 3:], x[:, 3:] + 1)


def test_a_reference_is_asked_with_labels(asked):
    seen = []

    def weak(x, t, labels=None):
        seen.append(labels)
        return torch.zeros_like(x)

    x, t, labels = asked
    found = guided(lambda x, t, labels=None: x, 2.0, reference=weak, interval=(0.2, 0.6))(
        x, t, labels
    )
    inside = (t >= 0.2) & (t <= 0.6)
    assert torch.equal(seen[0], labels[inside])
    assert_close(found[inside], 2 * x[inside])


def test_guided_oracles_can_be_followed_and_lean_towards_their_class(oracle):
    noise = floracle.noise(range(16), (1, 8, 8))
    labels = torch.full((16,), 3)
    x = floracle.sample(
        guided(oracle, 1.5, interval=(0.2, 0.5)), noise, floracle.time_grid(50), labels=labels
    )
    rows = floracle.nearest(oracle.data, x).rows[:, 0]
    assert (oracle.data.labels[rows] == 3).all()


@pytest.mark.parametrize(
    ("scale", "options"),
    [
        (float("nan"), {}),
        (float("inf"), {}),
        (2, {"interval": (0.5, 0.2)}),
        (2, {"interval": (-0.1, 0.2)}),
        (2, {"channels": 0}),
        (2, {"channels": "tree"}),
    ],
)
def test_nonsense_is_refused(oracle, scale, options):
    with pytest.raises(floracle.InputError):
        guided(oracle, scale, **options)
