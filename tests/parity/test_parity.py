"""Our networks against the outputs of the reference implementations; see make_expected.py."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from parity_cases import CASES, inputs, weights
from safetensors.torch import load_file
from torch.testing import assert_close

from floracle.models.networks.lightningdit import Architecture, LightningDiT
from floracle.models.networks.tensors import build_network

EXPECTED = load_file(Path(__file__).with_name("expected.safetensors"))
every_case = pytest.mark.parametrize(
    ("family", "case"), [(family, case) for family in CASES for case in CASES[family]]
)


def plan_of(family, arguments):
    """The architecture that the reference's arguments ask for."""
    return Architecture(
        depth=arguments["depth"],
        width=arguments["hidden_size"],
        heads=arguments["num_heads"],
        patch=arguments["patch_size"],
        channels=arguments["in_channels"],
        side=arguments["input_size"],
        classes=arguments["num_classes"],
        null=arguments.get("class_dropout_prob") != 0,
        rms=arguments.get("use_rmsnorm", False),
        swiglu=arguments.get("use_swiglu", False),
        rope=arguments.get("use_rope", False),
        qk_norm=arguments.get("use_qknorm", arguments.get("qk_norm", False)),
        shift=not arguments.get("wo_shift", False),
        sigma=arguments.get("learn_sigma", family == "sit"),
    )


def shapes_of(plan):
    with torch.device("meta"):
        return {name: tuple(t.shape) for name, t in LightningDiT(plan).state_dict().items()}


def output(plan, arguments):
    network = build_network(plan, weights(shapes_of(plan)), "these weights")
    return network(*inputs(arguments))


@every_case
def test_our_network_says_what_the_reference_says(family, case):
    arguments = CASES[family][case]
    found = output(plan_of(family, arguments), arguments)
    assert_close(found, EXPECTED[f"{family}.{case}"], rtol=0, atol=1e-5)


def test_no_case_is_left_out():
    assert set(EXPECTED) == {f"{family}.{case}" for family in CASES for case in CASES[family]}


@pytest.mark.parametrize(
    "change",
    [{"rope": False}, {"heads": 4}, {"shift": True}],
    ids=["rope", "heads", "shift"],
)
def test_another_network_does_not_pass(change):
    case = "without_shift" if "shift" in change else "as_published"
    arguments = CASES["lightningdit"][case]
    expected = EXPECTED[f"lightningdit.{case}"]
    found = output(replace(plan_of("lightningdit", arguments), **change), arguments)
    assert (found - expected).abs().max() > 1e-2
