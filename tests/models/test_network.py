"""The network itself; that it is the reference's is in tests/parity."""

from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

from floracle.models.networks.layers import (
    position_embedding,
    rotary_tables,
    rotate,
    time_features,
    unpatchify,
)
from floracle.models.networks.lightningdit import (
    SIZES,
    Architecture,
    LightningDiT,
    architecture,
    initialize,
)
from floracle.run.errors import InputError

SMALL = Architecture(depth=2, width=32, heads=2, patch=2, channels=3, side=8, classes=5)


def shaken(plan, seed=0):
    """A network whose every part shows in its output."""
    generator = torch.Generator().manual_seed(seed)
    network = initialize(plan, generator).eval().requires_grad_(False)
    for name, values in network.named_parameters():
        if name != "pos_embed":
            values += 0.1 * torch.randn(values.shape, generator=generator)
    return network


def asked(plan, batch=3):
    x = torch.randn(batch, *plan.shape)
    return x, torch.linspace(0, 1, batch), torch.arange(batch) % plan.rows


def parameters(plan):
    with torch.device("meta"):
        network = LightningDiT(plan)
    return sum(values.numel() for values in network.parameters() if values.requires_grad)


def by_hand(plan):
    """The number of parameters, counted with pencil and paper."""
    w, d, rows = plan.width, plan.depth, plan.classes + 1
    time, label = 256 * w + w + w * w + w, rows * w
    patch = plan.channels * plan.patch**2
    hidden = int(8 / 3 * w)
    block = 2 * w + 4 * w * w + 4 * w + w * 2 * hidden + 2 * hidden + hidden * w + w
    modulation = 6 * w * w + 6 * w
    final = w + 2 * w * w + 2 * w + w * patch + patch
    return (patch * w + w) + time + label + d * (block + modulation) + final


@pytest.mark.parametrize(
    ("size", "depth", "width", "heads"),
    [
        ("small", 12, 384, 6),
        ("base", 12, 768, 12),
        ("large", 24, 1024, 16),
        ("xl", 28, 1152, 16),
    ],
)
def test_the_sizes_of_the_paper(size, depth, width, heads):
    plan = architecture(size, patch=1, channels=32, side=16)
    assert (plan.depth, plan.width, plan.heads) == (depth, width, heads)
    assert parameters(plan) == by_hand(plan)


def test_xl_has_the_675_million_parameters_it_is_known_for():
    assert parameters(architecture("xl", patch=1, channels=32, side=16)) / 1e6 == pytest.approx(
        675, abs=1.5
    )


@pytest.mark.slow
def test_every_size_builds_in_every_patch():
    for size in SIZES:
        for patch in (1, 2, 4):
            plan = architecture(size, patch=patch, side=16, channels=4)
            assert parameters(plan) == by_hand(plan)


def test_a_new_network_predicts_zero():
    network = initialize(SMALL, torch.Generator().manual_seed(0))
    assert torch.equal(network(*asked(SMALL)), torch.zeros(3, 3, 8, 8))


def test_the_same_seed_makes_the_same_network():
    first, again = (initialize(SMALL, torch.Generator().manual_seed(7)) for _ in range(2))
    other = initialize(SMALL, torch.Generator().manual_seed(8)).state_dict()
    for name, values in first.state_dict().items():
        assert torch.equal(values, again.state_dict()[name])
    assert not torch.equal(
        first.state_dict()["blocks.0.attn.qkv.weight"], other["blocks.0.attn.qkv.weight"]
    )


@pytest.mark.parametrize("changed", ["x", "t", "labels"])
def test_the_output_depends_on_each_input(changed):
    network, (x, t, labels) = shaken(SMALL), asked(SMALL)
    other = {"x": (x + 1, t, labels), "t": (x, t / 2 + 0.2, labels), "labels": (x, t, labels + 1)}
    assert (network(x, t, labels) - network(*other[changed])).abs().amax((1, 2, 3)).min() > 1e-3


def test_samples_do_not_see_each_other():
    network, (x, t, labels) = shaken(SMALL), asked(SMALL)
    alone = torch.cat([network(x[i : i + 1], t[i : i + 1], labels[i : i + 1]) for i in range(3)])
    assert_close(network(x, t, labels), alone, rtol=1e-5, atol=1e-5)


def test_the_second_half_of_the_outputs_is_dropped():
    plan = replace(SMALL, sigma=True)
    network, given = shaken(plan), asked(plan)
    before = network(*given)
    rows = network.final_layer.linear.weight.view(plan.patch**2, 2 * plan.channels, -1)
    rows[:, plan.channels :] = 100.0
    assert torch.equal(network(*given), before)
    rows[:, : plan.channels] += 1.0
    assert not torch.equal(network(*given), before)


def test_patches_come_back_where_they_were():
    x = torch.randn(2, 3, 8, 8)
    tokens = x.unfold(2, 2, 2).unfold(3, 2, 2).permute(0, 2, 3, 4, 5, 1).reshape(2, 16, 12)
    assert torch.equal(unpatchify(tokens, 2), x)


def test_rotary_products_depend_on_the_offset_alone():
    turn = torch.stack(rotary_tables(8, 16), dim=-1)
    q, k = torch.randn(16), torch.randn(16)
    product = rotate(q.expand(64, 16), turn) @ rotate(k.expand(64, 16), turn).T
    grid = product.reshape(8, 8, 8, 8)
    assert_close(grid[1, 2, 4, 3], grid[3, 4, 6, 5])
    assert_close(grid[0, 0, 0, 0], q @ k)
    assert (grid[1, 2, 4, 3] - grid[1, 2, 3, 4]).abs() > 1e-3


def test_a_compiled_network_turns_its_heads_alike(monkeypatch):
    turn, heads = torch.stack(rotary_tables(4, 16), dim=-1), torch.randn(2, 3, 16, 16)
    plain = rotate(heads, turn)
    monkeypatch.setattr(torch.compiler, "is_compiling", lambda: True)
    assert_close(rotate(heads, turn), plain)


def test_positions_are_all_different():
    places = position_embedding(8, 32)[0]
    apart = torch.cdist(places, places) + torch.eye(64)
    assert apart.min() > 0.1


def test_times_are_written_apart():
    """Neighbouring times of a clock to 1 differ, and 0 is all cosines."""
    at_zero = torch.cat([torch.ones(128), torch.zeros(128)])
    assert torch.equal(time_features(torch.zeros(1))[0], at_zero)
    near, nearer = (time_features(torch.tensor([t])) for t in (0.501, 0.5))
    assert (near - nearer).norm() > 1e-3


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        ({"heads": 5}, "multiple of 20"),
        ({"patch": 3}, "patches of 3"),
        ({"depth": 0}, "must be positive"),
        ({"width": 36, "heads": 6}, "multiple of 24"),
    ],
)
def test_impossible_architectures_say_what_is_possible(wrong, word):
    with pytest.raises(InputError, match=word):
        replace(SMALL, **wrong)


def test_an_unknown_size_suggests_a_known_one():
    with pytest.raises(InputError, match="did you mean 'small'"):
        architecture("smal")


def test_bfloat16_stays_near():
    network, given = shaken(SMALL), asked(SMALL)
    exact = network(*given)
    near = network.to(torch.bfloat16)(given[0].bfloat16(), *given[1:])
    assert near.dtype == torch.bfloat16
    assert (near.float() - exact).abs().max() < 0.1 * exact.abs().max()
