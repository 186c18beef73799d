import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from floracle.run.errors import InputError
from floracle.training.data_order import PURPOSES, DataOrder, batch_noise, batch_uniforms, seed_for


@given(st.integers(1, 60), st.integers(0, 2**32 - 1), st.integers(1, 70))
def test_no_row_is_seen_twice_before_all_were_seen_once(count, seed, batch):
    order, epochs = DataOrder.of(count, seed), 3
    starts = range(0, epochs * count, batch)
    spans = [range(start, min(start + batch, epochs * count)) for start in starts]
    rows = torch.cat([order.rows(span) for span in spans])
    for epoch in rows.split(count):
        assert epoch.sort().values.tolist() == list(range(count))


def test_rows_depend_on_the_image_alone():
    order = DataOrder.of(23, 5)
    whole = order.rows(range(100))
    assert torch.equal(whole[37:61], order.rows(range(37, 61)))
    assert not torch.equal(whole[:23], whole[23:46])
    assert not torch.equal(whole[:23], DataOrder.of(23, 6).rows(range(23)))


def test_weighted_rows_come_in_proportion_to_their_weight():
    weights = torch.tensor([1.0, 0.0, 3.0, 6.0])
    order = DataOrder.of(4, 0, weights)
    rows = torch.cat([order.rows(range(k, k + 500)) for k in range(0, 20_000, 500)])
    found = rows.bincount(minlength=4) / len(rows)
    error = (weights / 10 * (1 - weights / 10) / len(rows)).sqrt()
    assert ((found - weights / 10).abs() <= 4.5 * error).all()


def test_data_without_rows_is_a_mistake():
    with pytest.raises(InputError, match="nothing to train on"):
        DataOrder.of(0, 0)


def test_purposes_draw_apart_and_numbers_never_repeat():
    seeds = {seed_for(7, purpose, k) for purpose in PURPOSES for k in range(1000)}
    assert len(seeds) == 1000 * len(PURPOSES)


def test_noise_is_standard_normal_and_new_in_every_step():
    place = torch.device("cpu")
    drawn = torch.stack([batch_noise(0, k, 64, (4, 4), device=place) for k in range(50)])
    assert abs(float(drawn.mean())) < 4.5 / drawn.numel() ** 0.5
    assert abs(float(drawn.square().mean()) - 1) < 4.5 * (2 / drawn.numel()) ** 0.5
    flat = drawn.flatten(1)
    between = torch.corrcoef(flat)[~torch.eye(50, dtype=torch.bool)]
    assert between.abs().max() < 5 / flat.shape[1] ** 0.5
    assert torch.equal(drawn[3], batch_noise(0, 3, 64, (4, 4), device=place))
    assert not torch.equal(batch_uniforms(0, "times", 1, 9), batch_uniforms(0, "drops", 1, 9))
