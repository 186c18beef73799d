import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import floracle
from floracle.data.normalize import scale_normalizer
from floracle.data.store import open_store
from floracle.run.errors import InputError

MEAN = torch.randn(9, 3, 4, 4, generator=torch.Generator().manual_seed(1)) * 4
STD = torch.rand(9, 3, 4, 4, generator=torch.Generator().manual_seed(2))
PLAIN = torch.cat([MEAN, STD], 1)


def every(store):
    return store.take(torch.arange(len(store)))


@pytest.mark.parametrize("memory", [None, 64])
@pytest.mark.parametrize("kind", ["tensor", "array", "npy", "npz"])
def test_arrays_that_hold_moments(tmp_path, memory, kind):
    places = {"tensor": PLAIN, "array": PLAIN.numpy()}
    np.save(tmp_path / "a.npy", PLAIN.numpy())
    np.savez(tmp_path / "a.npz", latents=PLAIN.numpy(), labels=np.arange(9))
    where = places.get(kind, tmp_path / f"a.{kind}")
    how = {"layout": "mean-std", "memory": memory}
    assert torch.equal(every(open_store(where, moments="mean", **how)), MEAN)
    draws = every(open_store(where, moments="sample", **how))
    assert torch.equal(draws, MEAN + STD * floracle.noise(range(9), (3, 4, 4)))
    clouds = open_store(where, moments="gaussian", **how)
    assert torch.equal(every(clouds), MEAN)
    assert torch.equal(clouds.take_stds(torch.arange(9)), STD)
    assert clouds.labels.tolist() == (list(range(9)) if kind == "npz" else [-1] * 9)


def test_log_variances():
    logvar = torch.linspace(-50, 40, 9 * 48).reshape(9, 3, 4, 4)
    store = open_store(torch.cat([MEAN, logvar], 1), layout="mean-logvar", moments="gaussian")
    expected = (logvar.double().clamp(-30, 20) / 2).exp()
    torch.testing.assert_close(
        store.take_stds(torch.arange(9)).double(), expected, rtol=1e-6, atol=0
    )


def test_vectors_and_half_precision_may_be_moments():
    flat = torch.cat([torch.randn(5, 3), torch.rand(5, 3)], 1).half()
    store = open_store(flat, layout="mean-std", moments="gaussian")
    assert store.shape == (3,)
    assert torch.equal(every(store), flat[:, :3].float())
    assert torch.equal(store.take_stds(torch.tensor([4, 1])), flat[[4, 1], 3:].float())


def test_a_draw_is_the_rows_own_whatever_is_read_beside_it():
    store = open_store(PLAIN, layout="mean-std", moments="sample", memory=64)
    assert not store.resident
    rows = torch.tensor([7, 2, 2, 0])
    assert torch.equal(store.take(rows), every(store)[rows])
    assert torch.equal(store.points[2:8:3], every(store)[2:8:3])


@pytest.mark.parametrize(
    ("normalize", "mean", "std"),
    [
        (0.5, MEAN * 0.5, STD * 0.5),
        (floracle.Normalizer(torch.tensor(1.0), torch.tensor(4.0)), (MEAN - 1) / 4, STD / 4),
        ("raw", MEAN, STD),
    ],
)
def test_deviations_are_in_the_units_of_points(normalize, mean, std):
    store = open_store(PLAIN, layout="mean-std", moments="gaussian", normalize=normalize)
    assert torch.equal(every(store), mean)
    assert torch.equal(store.take_stds(torch.arange(9)), std)


def test_standard_is_of_the_means_and_scales_the_deviations():
    store = open_store(PLAIN, layout="mean-std", moments="gaussian", normalize="standard")
    scale = MEAN.double().transpose(0, 1).flatten(1).std(1, correction=0)[:, None, None]
    torch.testing.assert_close(store.take_stds(torch.arange(9)), (STD / scale).float())
    torch.testing.assert_close(store.channels.std, torch.ones(3, dtype=torch.float64))


def test_what_is_not_said_is_asked():
    with pytest.raises(InputError, match=r"say moments='mean' .* 'sample' .* 'gaussian'"):
        open_store(PLAIN, layout="mean-std")
    with pytest.raises(InputError, match="holds points, so moments='mean' says nothing"):
        open_store(PLAIN, moments="mean")
    with pytest.raises(InputError, match="did you mean 'mean-std'"):
        open_store(PLAIN, layout="mean_std", moments="mean")
    with pytest.raises(InputError, match="mean, sample, gaussian, not 'draw'"):
        open_store(PLAIN, layout="mean-std", moments="draw")
    with pytest.raises(InputError, match="cannot be mirrored in latent space"):
        open_store(PLAIN, layout="mean-std", moments="mean", flips=True)
    with pytest.raises(InputError, match="no folder or archive in the layout 'mar'"):
        open_store(PLAIN, layout="mar", moments="mean")
    for points in (PLAIN[:, :5], PLAIN.byte(), torch.zeros(4, 3)):
        with pytest.raises(InputError, match=r"moments are floats \[N, 2C"):
            open_store(points, layout="mean-std", moments="mean")


@given(st.floats(1e-3, 1e3), st.floats(-10, 10), st.integers(0, 99))
def test_scale_and_bias_there_and_back_again(scale, bias, seed):
    normalizer = scale_normalizer(scale, bias)
    z = torch.randn(6, 3, 2, generator=torch.Generator().manual_seed(seed)) * 10
    x = normalizer.apply(z)
    assert torch.equal(x, z * torch.tensor(scale) + torch.tensor(bias))
    mean, std = normalizer.per_channel(3)
    torch.testing.assert_close(x, (z - mean[:, None]) / std[:, None], rtol=1e-4, atol=1e-3)
    near = 1e-5 * (1 + (abs(bias) + 1) / scale)
    torch.testing.assert_close(normalizer.invert(x), z, rtol=1e-5, atol=near)


@pytest.mark.parametrize("factor", [0, -1.0, float("nan"), float("inf"), True, 1e-45])
def test_factors_that_scale_nothing(factor):
    with pytest.raises(InputError):
        open_store(MEAN, normalize=factor)
