import json
import re

import pytest

import floracle.cli
from floracle.cli import main


@pytest.fixture(autouse=True)
def verbs(monkeypatch):
    monkeypatch.delenv("FLORACLE_DEBUG", raising=False)
    for verb, place in (("convert-time", "convert_time:convert_time"), ("grid", "grid:grid")):
        told = (f"floracle.cli.verbs.{place}", "", "")
        monkeypatch.setitem(floracle.cli.VERBS, verb, floracle.cli.VERBS.get(verb, told))


def table(capsys, *arguments):
    """The rows of convert-time: the numbers of each clock."""
    assert main(["convert-time", *arguments]) == 0
    out = capsys.readouterr().out
    number = r"(?:-?[\d.]+(?:e[-+]\d+)?|-?inf|none)"
    rows = re.findall(rf"^ +(\w+) +(\[{number}, {number}\]|{number}) +\S+ →", out, re.MULTILINE)
    found = {name: re.findall(number, words) for name, words in rows}
    return {
        name: [word if word == "none" else float(word) for word in words]
        for name, words in found.items()
    }, out


def test_the_published_interval_in_every_clock(capsys):
    found, out = table(capsys, "0.34:1.02", "--from", "edm")
    assert found["t"] == pytest.approx([0.49505, 0.746269], abs=5e-6)
    assert found["sigma"] == pytest.approx([0.253731, 0.50495], abs=5e-6)
    assert found["timestep"] == pytest.approx([253.731, 504.95], abs=5e-3)
    assert found["edm"] == [0.34, 1.02]
    assert found["edm2"] == pytest.approx([0.17, 0.51])
    assert "order flips" in out


def test_an_interval_of_t_keeps_its_order(capsys):
    found, out = table(capsys, "0.1:0.6")
    assert found["t"] == [0.1, 0.6]
    assert found["s"] == [0.4, 0.9]
    assert "order flips" not in out


def test_noise_is_a_moment_too(capsys):
    found, _ = table(capsys, "inf", "--from", "edm")
    assert found["t"] == [0]
    assert found["timestep"] == [1000]
    assert found["logsnr"] == [-float("inf")]
    assert found["dit"] == ["none"]


def test_a_negative_value_is_no_option(capsys):
    found, _ = table(capsys, "-4:2", "--from", "logsnr")
    assert found["logsnr"] == [-4, 2]
    assert found["t"] == pytest.approx([0.119203, 0.731059])


@pytest.mark.parametrize(
    "options", [["--shift", "0.3"], ["--k", "3.3333333333333335"], ["--mu", "1.2039728043259361"]]
)
def test_a_shift_may_be_written_in_three_ways(capsys, options):
    found, _ = table(capsys, "0.5", "--from", "share", *options)
    assert found["t"] == pytest.approx([0.3 * 0.5 / (1 - 0.7 * 0.5)], abs=5e-7)
    assert found["share"] == [0.5]


def test_steps_of_a_shifted_grid(capsys):
    found, _ = table(capsys, "25", "--from", "step", "--steps", "50", "--shift", "0.3")
    assert found["t"] == pytest.approx([0.230769], abs=5e-7)
    assert found["step"] == [25]
    assert found["share"] == [0.5]


MISTAKES = {
    "outside": (["convert-time", "3", "--from", "sigma"], "sigma lies in [0, 1], got 3"),
    "no number": (["convert-time", "soon"], "'soon' is not understood"),
    "nan": (["convert-time", "nan"], "t lies in"),
    "unknown clock": (["convert-time", "1", "--from", "edn"], "did you mean 'edm'?"),
    "backwards": (["convert-time", "2:1", "--from", "edm"], "no interval"),
    "three ends": (["convert-time", "1:2:3"], "3 ends"),
    "share of what": (["convert-time", "1", "--from", "share"], "--shift"),
    "step of what": (["convert-time", "1", "--from", "step"], "--steps"),
    "two shifts": (["convert-time", "1", "--k", "2", "--mu", "1"], "more than one shift given"),
    "no shift": (["convert-time", "1", "--shift", "0"], "positive"),
    "no steps": (["convert-time", "1", "--steps", "0"], "one step"),
    "unknown option": (["convert-time", "1", "--shfit", "2"], "did you mean --shift?"),
    "nothing": (["convert-time"], "VALUE is missing"),
    "unknown grid": (["grid", "sot"], "did you mean 'sit'?"),
    "shift of none": (["grid", "repa", "--project-shift", "2"], "repa has no shift"),
    "mu of sit": (["grid", "sit", "--mu", "1"], "--mu is for flux and sd3"),
    "tokens of sd3": (["grid", "sd3", "--tokens", "9"], "--tokens is for flux"),
    "no tokens": (["grid", "flux", "--tokens", "0"], "at least one token"),
    "mu and shift": (["grid", "flux", "--mu", "1", "--project-shift", "2"], "give one of"),
    "too few": (["grid", "sit", "--steps", "1"], "at least 2"),
}


@pytest.mark.parametrize(("arguments", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line(arguments, words, capsys):
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("floracle: ")
    assert told.err.count("\n") == 1
    assert words in told.err


def test_a_grid_prints_its_real_times_and_evaluations(capsys):
    assert main(["grid", "sit", "--steps", "5"]) == 0
    out = capsys.readouterr().out
    assert "sit told 5 takes 4 steps" in out
    assert "euler 4 · heun 8 · midpoint 8 · rk4 16" in out
    assert re.findall(r"^ +\d +([\d.]+)", out, re.MULTILINE) == [
        "0.000000",
        "0.250000",
        "0.500000",
        "0.750000",
        "1.000000",
    ]


def test_a_grid_as_json(capsys):
    assert main(["grid", "sd3", "--steps", "50", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["steps"] == found["evaluations"]["euler"] == 50
    assert found["readings"][-2] == pytest.approx(0.00893, abs=5e-6)
    assert found["t"][-2] == pytest.approx(1 - 0.00893, abs=5e-6)
    assert found["shift"]["k"] == pytest.approx(3)


def test_tokens_give_the_shift_of_flux(capsys):
    assert main(["grid", "flux", "--steps", "4", "--tokens", "256", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["shift"]["mu"] == pytest.approx(0.5)
