"""Training on a GPU: the same targets, exact resume, batches made ahead on another stream."""

from dataclasses import replace

import pytest
import torch
from tiny import BLIND, SMALL, digits, network, same, trained

import floracle
from floracle.core.paths import LINEAR
from floracle.run.errors import InputError
from floracle.run.processes import ALONE
from floracle.training.batches import BatchMaker
from floracle.training.data_order import DataOrder
from floracle.training.targets import BankTarget, OracleTarget, TargetPairs
from floracle.training.times import Uniform

pytestmark = pytest.mark.gpu
CUDA = torch.device("cuda")
ORACLE = replace(SMALL, target="oracle")


def pairs_on(device, data, count=200):
    rows = DataOrder.of(len(data), 0).rows(range(count))
    t = torch.rand(count, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    points = data.take(rows)
    noise = torch.randn(points.shape, generator=torch.Generator().manual_seed(1))
    x = LINEAR.sample(points, noise, t)
    return TargetPairs(
        rows, data.labels[rows], t, points.to(device), noise.to(device), x.to(device), 3
    )


def test_targets_are_those_of_the_cpu():
    data = digits()
    here, there = pairs_on("cpu", data), pairs_on(CUDA, data)
    for memory in (None, 2**10):  # resident and streamed
        near = OracleTarget(floracle.Oracle(data), 0.8)(here)
        far = OracleTarget(floracle.Oracle(data, device=CUDA, memory=memory), 0.8)(there)
        assert near.touched == far.touched
        assert torch.allclose(near.velocity, far.velocity.cpu(), atol=2e-4)
    near, far = (BankTarget(data, 16, 0.8, 0)(pairs) for pairs in (here, there))
    assert torch.allclose(near.velocity, far.velocity.cpu(), atol=2e-4)


def test_batches_made_ahead_are_those_made_one_by_one():
    data = digits()
    target = OracleTarget(floracle.Oracle(data, device=CUDA), 0.5)
    making = BatchMaker(data, DataOrder.of(len(data), 0), ORACLE, Uniform(), target, ALONE, CUDA)
    plain = list(making.all(0, ahead=False))
    for one, other in zip(plain, making.all(0, ahead=True), strict=True):
        for name in ("x", "t", "labels", "target", "weights"):
            assert torch.equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize(
    "parts", [{}, {"precision": "bf16", "accumulate": 2}], ids=["fp32", "bf16"]
)
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(tmp_path, parts):
    settings = replace(ORACLE, **parts)
    _, expected = trained(tmp_path / "whole", settings, device="cuda")
    run = floracle.train(
        network(), digits(), settings, out=tmp_path / "stopped", look=BLIND, device="cuda"
    )
    for at in run:
        if at.images >= 200:
            break
    run.close()
    _, weights = trained(tmp_path / "stopped", settings, device="cuda")
    assert same(weights, expected)


def test_oracle_products_do_without_tf32(tmp_path):
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with pytest.raises(InputError, match="need all bits of float32"):
            trained(tmp_path, ORACLE, device="cuda")
    finally:
        torch.set_float32_matmul_precision(before)
