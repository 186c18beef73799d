import re
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from floracle.analysis.advice import advise
from floracle.analysis.curves import Landmark
from floracle.analysis.tool_arguments import arguments, edm_sigmas, recommend_times
from floracle.run.errors import InputError
from floracle.sampling.grid import share_of_steps, time_grid
from floracle.sampling.presets import preset_grid

ends = st.floats(0.02, 0.6)


def stages_ending(end):
    """All of a result that advice reads."""
    return SimpleNamespace(main=SimpleNamespace(end=Landmark(end)))


def by_tool(end, steps=50):
    return {found.tool: found for found in arguments(stages_ending(end), steps=steps)}


def numbers(text, key):
    return float(re.search(rf"{key}[=: ]+([\d.]+)", text)[1])


@pytest.mark.slow
@given(ends)
def test_the_numbers_are_those_of_the_advice(end):
    found = recommend_times(stages_ending(end))
    shift, _, guidance = advise(stages_ending(end))
    assert guidance.value == f"search from [{found.low:.2f}, {found.high:.2f}]"
    assert shift.value.startswith("1 (" if found.shift == 1 else f"{found.shift:.2f} ")
    if found.shift < 1:
        assert share_of_steps(time_grid(5000, shift=found.shift), found.transition) == (
            pytest.approx(0.34, abs=1e-3)
        )


@pytest.mark.slow
@given(ends)
def test_every_interval_is_the_same_interval_of_t(end):
    low, high = end, (1 + end) / 2
    found = by_tool(end)
    assert found["LightningDiT"].values["cfg_interval_start"] == low
    for tool, names in {
        "REPA": ("guidance_low", "guidance_high"),
        "RAE": ("t_min", "t_max"),
    }.items():
        s_low, s_high = (found[tool].values[name] for name in names)
        assert 1 - s_high == pytest.approx(low, abs=1e-15)
        assert 1 - s_low == pytest.approx(high, abs=1e-15)
    values = found["EDM2"].values
    assert 1 / (1 + 2 * values["high"]) == pytest.approx(low, rel=1e-13)
    assert 1 / (1 + 2 * values["low"]) == pytest.approx(high, rel=1e-13)


@given(ends)
def test_texts_hold_the_numbers(end):
    found = by_tool(end)
    low, high = f"{end:.4f}", f"{(1 + end) / 2:.4f}"
    shift = found["LightningDiT"].values["timestep_shift"]
    text = found["LightningDiT"].text
    assert f"cfg_interval_start: {low}" in text
    assert numbers(text, "timestep_shift") == pytest.approx(shift, abs=5e-5)
    assert 1 - numbers(found["REPA"].text, "guidance-high") == pytest.approx(float(low), abs=2e-4)
    assert 1 - numbers(found["RAE"].text, "t_min") == pytest.approx(float(high), abs=2e-4)
    assert f"self.t = {shift:.4f} * self.t / (1 + ({shift:.4f} - 1) * self.t)" in found["SiT"].text
    for tool in ("SD3 (diffusers)", "Flux (diffusers)"):
        assert 1 / numbers(found[tool].text, r"\(shift") == pytest.approx(shift, rel=1e-4)


@given(ends, st.integers(2, 400))
def test_diffusers_guides_the_steps_that_start_inside(end, steps):
    low, high = end, (1 + end) / 2
    found = by_tool(end, steps)
    for tool, name in (("SD3 (diffusers)", "sd3"), ("Flux (diffusers)", "flux")):
        text, values = found[tool].text, found[tool].values
        starts = preset_grid(name, steps, project_shift=values["shift"]).grid[:-1].tolist()
        inside = [low <= t <= high for t in starts]
        if not any(inside):
            assert "none of" in text
            continue
        start, stop = numbers(text, "start"), numbers(text, "stop")
        assert 0 <= start < 1
        assert start < stop <= 1
        first, last = int(start * steps), int(stop * steps)  # as diffusers' guider rounds
        assert [first <= i < last for i in range(steps)] == inside


def test_edm_steps_of_the_published_interval():
    sigmas = edm_sigmas().tolist()
    assert sigmas[0] == pytest.approx(80)
    assert sigmas[-1] == pytest.approx(0.002)
    # EDM2-XXL's interval (0.19, 1.61] is steps 17 to 22 in the authors' code
    assert [i for i, sigma in enumerate(sigmas) if 0.189 < sigma <= 1.61] == list(range(17, 23))


def test_edm2_names_the_steps_inside():
    values = by_tool(0.1)["EDM2"].values
    inside = [
        i
        for i, sigma in enumerate(edm_sigmas().tolist())
        if values["low"] <= sigma <= values["high"]
    ]
    assert (values["first"], values["last"]) == (inside[0], inside[-1])


def test_what_a_tool_cannot_do_is_said():
    found = by_tool(0.1)
    assert "no upper end" in found["LightningDiT"].caveat
    assert "first 3 channels" in found["LightningDiT"].caveat
    assert "no option for a shift" in found["SiT"].caveat
    assert "no shift" in found["REPA"].caveat
    assert "t-min" in found["RAE"].caveat
    assert "shares of the steps" in found["SD3 (diffusers)"].caveat
    assert "embedding" in found["Flux (diffusers)"].caveat


def test_steps_in_navigation_are_counted_on_the_real_grid():
    found = by_tool(0.1)
    assert "17 of 49 steps start before t = 0.20" in found["LightningDiT"].text
    assert "11 of 50 steps start before t = 0.20" in found["REPA"].caveat  # uniform: 0 … 0.2


def test_without_an_end_there_are_no_arguments():
    assert arguments(stages_ending(None)) == ()
    with pytest.raises(InputError, match="2 to 5000"):
        arguments(stages_ending(0.1), steps=1)


def test_a_stages_result_has_arguments(points_source):
    import floracle

    points = points_source(torch.randn(60, 8, generator=torch.Generator().manual_seed(0)))
    stages = floracle.stages(floracle.Oracle(points), pairs=32)
    tools = [found.tool for found in arguments(stages)]
    assert tools == [
        "LightningDiT",
        "SiT",
        "REPA",
        "RAE",
        "SD3 (diffusers)",
        "Flux (diffusers)",
        "EDM2",
    ]
