"""Computing into a folder and the verb: going on, answering at once, refusing."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from floracle.cli.data_options import DataOptions
from floracle.cli.verbs import reproduce as verb
from floracle.data.store import open_store
from floracle.recipes import table_2
from floracle.recipes.recipe import Recipe, RecipePlan, rows_of
from floracle.recipes.reproduce import RECIPES, recipe_files, recipe_for, redraw, reproduce_item
from floracle.run.errors import InputError
from floracle.run.results import Results, load_results, save


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


# ------------------------------------------------------------------ keeping what is done

COUNTED: list[str] = []


def counting(stop_at: str = "") -> Recipe:
    """A recipe of three parts that writes down which are measured."""

    def measure(name):
        def of(found):
            if name == stop_at:
                raise KeyboardInterrupt
            COUNTED.append(name)
            return Results("part", {}, {"sum": len(found)}, {"x": torch.rand(3)})

        return of

    def plan(settings):
        parts = {name: measure(name) for name in ("a", "b", "c")}
        return RecipePlan(dict(settings), parts, lambda found: joined(settings, found))

    def joined(settings, found):
        table = {"columns": [""], "rows": [[name] for name in found]}
        arrays = {name: part.arrays["x"] for name, part in found.items()}
        return Results("counted", dict(settings), {"table": table}, arrays)

    return Recipe("counted", "", {"seed": 0}, plan, lambda _: [], {}, {"seed": 0}, ())


def test_what_is_finished_is_not_measured_again():
    COUNTED.clear()
    with pytest.raises(KeyboardInterrupt):
        reproduce_item(counting("c"), Path("out"))
    kept = load_results("out/.floracle/parts/a").arrays["x"]
    found = reproduce_item(counting(), Path("out"))
    assert COUNTED == ["a", "b", "c"]
    assert torch.equal(found.arrays["a"], kept)
    assert not Path("out/.floracle").exists()
    reproduce_item(counting("a"), Path("out"))  # answers at once
    assert COUNTED == ["a", "b", "c"]


def test_other_settings_are_a_mistake_that_lists_them():
    with pytest.raises(KeyboardInterrupt):
        reproduce_item(counting("b"), Path("out"))
    with pytest.raises(InputError, match=r"other settings.*seed: 0 there, 1 asked.*another --out"):
        reproduce_item(counting(), Path("out"), {"seed": 1})
    reproduce_item(counting(), Path("out"))
    with pytest.raises(InputError, match="seed: 0 there, 1 asked"):
        reproduce_item(counting(), Path("out"), {"seed": 1})


@pytest.mark.slow
def test_lost_drawings_are_drawn_again_without_computing(monkeypatch):
    recipe = RECIPES["table-2"]
    reproduce_item(recipe, Path("out"))
    lost = recipe_files(recipe, Path("out"))[0]
    whole = lost.read_bytes()
    lost.unlink()
    monkeypatch.setattr(table_2, "share", None)
    reproduce_item(recipe, Path("out"))
    assert lost.read_bytes() == whole


def contents(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(Path(folder).rglob("*"))
        if file.is_file()
    }


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_bytes():
    arguments = "'figure-3', out=__import__('pathlib').Path({!r}), quick=True"
    script = f"from floracle.cli.verbs.reproduce import reproduce; reproduce({arguments})"

    def start(folder):
        return subprocess.Popen(
            [sys.executable, "-c", script.format(folder)],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    assert start("whole").wait(60) == 0
    for stop in ("D=16 N=1000/result.json", "D=256 N=100/arrays.safetensors"):
        process = start("killed")
        until = time.monotonic() + 60
        while not Path("killed/.floracle/parts", stop).exists() and process.poll() is None:
            assert time.monotonic() < until
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert Path("killed/.floracle/parts").exists()
    assert start("killed").wait(60) == 0
    assert contents("killed") == contents("whole")


# ------------------------------------------------------------------ the verb


def test_the_verb_alone_lists_every_item(capsys):
    verb.reproduce()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(RECIPES)


@pytest.mark.slow
def test_the_verb_shows_the_numbers_and_where_they_are(capsys):
    verb.reproduce("table-2")
    told = capsys.readouterr().out
    assert "the numbers are as expected" in told
    assert "not measured here" in told
    for path in [
        *recipe_files(RECIPES["table-2"], Path("runs/table-2")),
        "runs/table-2/result.json",
    ]:
        assert str(path) in told
        assert Path(path).stat().st_size > 0


def test_the_verb_refuses_what_an_item_has_no_use_for():
    with pytest.raises(InputError, match=r"no recipe for 'figure-2'.*did you mean"):
        verb.reproduce("figure-2")
    with pytest.raises(InputError, match="figure-3 takes no data; leave digits out"):
        verb.reproduce("figure-3", "digits")
    with pytest.raises(InputError, match="draws nothing at random"):
        verb.reproduce("table-2", seed=3)
    with pytest.raises(InputError, match="--seed lies in"):
        verb.reproduce("figure-3", seed=-1)
    with pytest.raises(InputError, match="1 to 4 data sets, got 5"):
        verb.reproduce("figure-2a", *["digits"] * 5)
    assert not Path("runs").exists()


@pytest.mark.slow
def test_a_seed_and_data_reach_the_computation(capsys):
    verb.reproduce("figure-2a", "gaussian:40x8", quick=True, seed=5)
    found = load_results("runs/figure-2a-gaussian-40x8-quick")
    assert found.settings["seed"] == 5
    assert found.settings["data"] == [open_store("gaussian:40x8").fingerprint]
    assert "as expected" not in capsys.readouterr().out
    folder = Path("runs/figure-2a-gaussian-40x8-quick")
    with pytest.raises(InputError, match="seed: 5 there, 6 asked"):
        verb.reproduce("figure-2a", "gaussian:40x8", quick=True, seed=6, out=folder)
    verb.reproduce("figure-2a", "gaussian:40x8", quick=True, seed=6)
    assert load_results(f"{folder}-2").settings["seed"] == 6


def test_results_of_other_kinds_are_not_drawn():
    save(Results("stages", {}, {}, {}), Path("other"))
    with pytest.raises(InputError, match="no recipe for 'stages'"):
        redraw("other")
    assert recipe_for("figure-3") is RECIPES["figure-3"]


@pytest.mark.slow
def test_how_data_is_read_reaches_the_computation():
    """Pictures and their mirrors are 2N points, and another folder than the pictures alone."""
    verb.reproduce("figure-2b", "digits", quick=True, out=Path("plain"))
    flips = DataOptions(flips=True)
    verb.reproduce("figure-2b", "digits", data_options=flips, quick=True, out=Path("both"))
    plain, both = (rows_of(load_results(name))[0] for name in ("plain", "both"))
    assert both["N per class"] == pytest.approx(2 * plain["N per class"], abs=0.1)
    assert both["collapse"] > plain["collapse"]
    with pytest.raises(InputError, match="other settings"):
        verb.reproduce("figure-2b", "digits", data_options=flips, quick=True, out=Path("plain"))
    with pytest.raises(InputError, match="figure-3 takes no data; leave --flips out"):
        verb.reproduce("figure-3", data_options=flips)


def test_gaussians_are_no_points_of_figure_2(tmp_path):
    np.save("moments.npy", np.ones((6, 4), np.float32))
    clouds = DataOptions(layout="mean-std", moments="gaussian")
    with pytest.raises(InputError, match="figure-2a is of points"):
        verb.reproduce("figure-2a", "moments.npy", data_options=clouds)
