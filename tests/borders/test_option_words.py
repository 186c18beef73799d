"""One word, one meaning: a shift is s everywhere, a project's own number says that it is one."""

import math

import pytest
import torch

from floracle import InputError, preset_grid, time_grid
from floracle.cli import main


@pytest.mark.parametrize("mu", [0.0, 0.5, 1.16, 2.0])
@pytest.mark.parametrize("steps", [1, 4, 28])
def test_mu_is_diffusers_dynamic_shifting(mu, steps):
    """In float64: the unshifted grid from 1 to 1/1000, shifted once."""
    sigma = torch.linspace(1, 0.001, steps, dtype=torch.float64)
    shifted = math.exp(mu) / (math.exp(mu) + (1 / sigma - 1))
    expected = torch.cat([shifted, torch.zeros(1, dtype=torch.float64)])
    torch.testing.assert_close(
        preset_grid("sd3", steps, mu=mu).clock_times, expected, rtol=0, atol=1e-14
    )


@pytest.mark.slow
@pytest.mark.parametrize("steps", [5, 28])
def test_mu_is_what_diffusers_samples_with(steps):
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True)
    scheduler.set_timesteps(steps, mu=1.16)
    ours = preset_grid("sd3", steps, mu=1.16).clock_times
    torch.testing.assert_close(ours, scheduler.sigmas.double(), rtol=0, atol=1e-6)


def test_the_same_k_without_mu_shifts_its_end_twice():
    k = math.exp(1.16)
    static, dynamic = preset_grid("sd3", 28, project_shift=k), preset_grid("sd3", 28, mu=1.16)
    assert static.clock_times[-2].item() == pytest.approx(0.01008, abs=1e-5)
    assert dynamic.clock_times[-2].item() == pytest.approx(0.00318, abs=1e-5)
    assert "twice" in static.note
    assert "twice" not in dynamic.note


def test_flux_takes_mu_as_log_k():
    k = math.exp(0.8)
    by_mu, by_k = preset_grid("flux", 20, mu=0.8), preset_grid("flux", 20, project_shift=k)
    assert torch.equal(by_mu.grid, by_k.grid)


def test_a_shift_is_s_and_a_projects_own_number_says_so(capsys):
    """21 of 28 steps lie before t = .5 with k = 3, which is s = 1/3; 7 with s = 3."""
    assert int((time_grid(28, shift=3.0) < 0.5).sum()) in (7, 8)
    with pytest.warns(DeprecationWarning, match="project_shift"):
        old = preset_grid("sd3", 28, shift=3.0)
    assert torch.equal(old.grid, preset_grid("sd3", 28, project_shift=3.0).grid)
    assert main(["grid", "sd3", "--steps", "28", "--shift", "3"]) == 0
    assert "--shift of floracle grid is called --project-shift now" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["sit", "repa", "rae", "lightningdit"])
def test_mu_is_refused_where_a_project_has_none(name):
    with pytest.raises(InputError, match="mu is for flux and sd3"):
        preset_grid(name, 10, mu=1.0)


@pytest.mark.parametrize("mu", [700.5, float("nan"), float("-inf")])
def test_a_mu_that_is_none_is_one_line(mu, capsys):
    assert main(["grid", "sd3", "--mu", str(mu)]) == 2
    assert "mu" in capsys.readouterr().err


def test_two_notations_at_once_are_refused():
    with pytest.raises(InputError, match="one of"):
        preset_grid("flux", 10, mu=1.0, project_shift=2.0)
