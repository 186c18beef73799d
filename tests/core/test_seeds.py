import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from floracle.core.seeds import generator, noise

seeds = st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=8)


@pytest.mark.slow
@given(seeds, st.data())
def test_rows_depend_on_their_seed_alone(drawn, data):
    shape = data.draw(st.sampled_from([(3,), (4, 8, 8), (17,)]))
    together = noise(drawn, shape)
    for row, seed in zip(together, drawn, strict=True):
        assert torch.equal(row, noise([seed], shape)[0])


def test_the_global_generator_is_neither_read_nor_moved():
    torch.manual_seed(1)
    first, state = noise(range(3), (5,)), torch.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(first, noise(range(3), (5,)))
    torch.manual_seed(1)
    noise(range(3), (5,))
    assert torch.equal(torch.get_rng_state(), state)


def test_noise_is_standard_normal_and_seeds_are_independent():
    drawn = noise(range(2000), (64,)).double()
    count = drawn.numel()
    assert abs(drawn.mean()) < 5 / math.sqrt(count)
    assert abs(drawn.var() - 1) < 5 * math.sqrt(2 / count)
    neighbours = (drawn[1:] * drawn[:-1]).mean()
    assert abs(neighbours) < 5 / math.sqrt(count)


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64])
def test_seeds_that_would_repeat_are_refused(seed):
    with pytest.raises(ValueError, match=r"seeds must lie in \[0, 2\*\*32\)"):
        generator(seed)


def test_no_seeds_no_rows():
    assert noise([], (2, 3)).shape == (0, 2, 3)
