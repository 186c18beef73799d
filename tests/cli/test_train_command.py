"""`floracle train` as it is typed, by one process and by several."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest
from safetensors.torch import load_file

from floracle.cli import main
from many import Started

TINY = {"model": "nano", "patch": 4, "batch": 32, "rate": 1e-3, "lines": 10, "images": 320}
TINY |= {"target_until": 0.5, "every": 320, "pairs": 0, "samples": 0}


def asked(**options):
    """The command line of a tiny run on digits, some options said otherwise."""
    words = ["train", "digits"]
    for name, value in {**TINY, **options}.items():
        words += [f"--{name.replace('_', '-')}", str(value)]
    return words


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLORACLE_DEBUG", raising=False)


def lines(out):
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_says_where_it_stands_and_answers_the_second_time(tmp_path, capsys):
    words = asked(out="run", every="1.6e2", target="oracle")
    assert main(words) == 0
    told = capsys.readouterr().out
    assert "160 of 320 images (50%)" in told
    assert "conditional targets from t = 0.500 on" in told
    assert "images/s" in told
    stamp = (tmp_path / "run/network.safetensors").stat().st_mtime_ns
    assert main(words) == 0
    assert (tmp_path / "run/network.safetensors").stat().st_mtime_ns == stamp
    assert "network: run/network.safetensors" in capsys.readouterr().out
    assert [line["images"] for line in lines(tmp_path / "run")] == [160, 320]


@pytest.mark.slow
def test_other_settings_are_refused_with_the_list_of_them(capsys):
    assert main(asked(out="run")) == 0
    capsys.readouterr()
    assert main(asked(out="run", seed=3, ema=0.99)) == 2
    told = capsys.readouterr().err
    assert "ema: 0.9999 there, 0.99 asked" in told
    assert "seed: 0 there, 3 asked" in told
    assert "choose another --out" in told


@pytest.mark.slow
def test_a_run_is_sampled_by_its_folder(capsys):
    assert main(asked(out="runs/mine", images=64)) == 0
    words = ["sample", "runs/mine", "digits", "--seeds", "0:2", "--steps", "2", "--out", "samples"]
    assert main(words) == 0
    assert np.load("samples/samples.npz")["arr_0"].shape == (2, 8, 8, 1)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"images": "1e-3"}, "--images is a whole number, got 1e-3"),
        ({"batch": "10.5"}, "--batch is a whole number, got 10.5"),
        ({"model": "nanno"}, "did you mean 'nano'"),
        ({"patch": 3}, "cannot be split into patches of 3"),
        ({"drop": 1}, "drop is a share"),
        ({"pairs": 1}, "pairs counts from 2"),
        ({"target": "orakle"}, "orakle"),
        ({"recipe": "sitt"}, "sitt"),
        ({"held_out": "gaussian:20x8"}, "held-out points have shape"),
    ],
)
def test_what_is_asked_wrongly_is_one_line(options, words, capsys, tmp_path):
    assert main(asked(out="run", **options)) == 2
    told = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("note")]
    assert len(told) == 1
    assert words in told[0]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_what_is_large_for_a_cpu_is_said_before_it_begins(capsys, monkeypatch):
    monkeypatch.setattr("floracle.training.build_model.SLOW_ON_CPU_PARAMETERS", 1000)
    assert main(asked(out="run", images=64)) == 0
    told = capsys.readouterr()
    assert "parameters and 64 images are a lot for a CPU" in told.err


@pytest.mark.slow
def test_recipes_are_presets(tmp_path):
    assert main(asked(out="run", images=64, recipe="lightningdit")) == 0
    settings = json.loads((tmp_path / "run/run.json").read_text())["settings"]
    assert settings["cosine"] == 1
    assert settings["times"] == "logit-normal"
    assert settings["rate"] == 1e-3


@pytest.mark.slow
def test_help_tells_every_option_without_loading_torch():
    script = (
        "import sys; from floracle.cli import main; code = main(['train', '--help'])\n"
        "sys.exit(code or 'torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    for option in (
        "--target",
        "--target-until",
        "--time-density",
        "--images",
        "--recipe",
        "--accumulate",
        "--held-out",
    ):
        assert option in found.stdout


@pytest.mark.slow
def test_two_processes_give_the_curve_of_one(tmp_path):
    """Fifty steps in float32: the same loss within 1e-6 of itself, and nothing padded."""
    for size in (1, 2):
        words = asked(out=f"by-{size}", images=1587, every=1587, target="oracle", lines=1)
        command = ["-m", "floracle", *words]
        codes, _, errors = Started(size, command, where=tmp_path).ended()
        assert set(codes) == {0}, errors
    one = lines(tmp_path / "by-1")
    assert len(one) == 50
    assert sum(line["by_t"]["counts"][0] for line in one) > 0
    other = lines(tmp_path / "by-2")
    assert [line["images"] for line in other] == [line["images"] for line in one]
    for a, b in zip(one, other, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-6)
        assert b["touched"] == a["touched"]
        assert b["by_t"]["counts"] == a["by_t"]["counts"]
    a, b = (load_file(tmp_path / f"by-{n}" / "network.safetensors") for n in (1, 2))
    assert all((a[name] - b[name]).abs().max() < 1e-3 for name in a)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes_and_says_so(tmp_path):
    command = ["-m", "floracle", *asked(out="run", images=640, every=160)]
    running = Started(1, command, where=tmp_path)
    while not list((tmp_path / "run").glob("checkpoints/*.json")):
        assert running.processes[0].poll() is None
        time.sleep(0.01)
    running.kill(0)
    running.ended()
    codes, _, errors = Started(2, command, where=tmp_path).ended()
    assert set(codes) == {0}
    assert "made by 1 processes so far and goes on with 2" in errors[0]
    assert lines(tmp_path / "run")[-1]["images"] == 640
