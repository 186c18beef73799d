import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from floracle.cli import main

SMALL = ["stages", "gaussian:60x8", "--pairs", "8", "--times", "12"]


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLORACLE_DEBUG", raising=False)


@pytest.fixture
def classed(tmp_path):
    drawn = np.random.default_rng(0)
    np.savez(tmp_path / "points.npz", x=drawn.normal(size=(60, 8)), labels=np.arange(60) % 3)
    return ["stages", "points.npz", "--pairs", "8", "--times", "12"]


def run(*arguments, **options):
    command = [sys.executable, "-m", "floracle", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


def contents(folder):
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(Path(folder).rglob("*"))
        if file.is_file() and file.name not in {"timing.json", "report.html"}
    }


def test_help_imports_no_torch_and_is_quick():
    script = (
        "import sys, time; start = time.perf_counter(); from floracle.cli import main\n"
        "code = main(['--help']); spent = time.perf_counter() - start\n"
        "assert 'torch' not in sys.modules and 'matplotlib' not in sys.modules\n"
        "sys.exit(code if spent < 3 else f'{spent:.2f} s')"  # .2 s where nothing else runs
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "stages" in found.stdout


@pytest.mark.parametrize("verb", ["stages", "predict", "sample", "report"])
def test_help_of_a_verb_ends_with_examples(verb, capsys):
    assert main([verb, "--help"]) == 0
    assert f"floracle {verb}" in capsys.readouterr().out.split("Examples:")[1]


def test_alone_it_prints_help_and_a_version_when_asked(capsys):
    assert main([]) == 0
    assert "Usage: floracle" in capsys.readouterr().out
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("floracle 0.")


MISTAKES = {
    "no such path": (["stages", "/nowhere/at/all"], "there is no"),
    "unknown verb": (["stage", "digits"], "did you mean 'stages'?"),
    "unknown option": ([*SMALL, "--pears", "3"], "did you mean --pairs?"),
    "no data": (["stages"], "DATA is missing"),
    "no number": ([*SMALL, "--seed", "one"], "--seed"),
    "no choice": ([*SMALL, "--path", "bent"], '"linear"'),
    "too few times": ([*SMALL[:2], "--times", "3"], "12 --times"),
    "one pair": ([*SMALL[:2], "--pairs", "1"], "2 --pairs"),
    "seed below 0": ([*SMALL, "--seed", "-1"], "--seed"),
    "memory": ([*SMALL, "--memory", "lots"], "800M or 4G"),
    "device": ([*SMALL, "--device", "warp"], "'warp'"),
    "classes": ([*SMALL, "--classes", "some"], "each, whole, both"),
    "class without labels": (
        [*SMALL, "--classes", "3"],
        "class 3 does not occur in the data, which has no labels",
    ),
    "held-out shape": ([*SMALL, "--held-out", "gaussian:9x7"], "[7]"),
    "points alone": (["predict", "--points", "9"], "dims or spectrum"),
    "nothing to predict": (["predict"], "give either data"),
    "no spectrum": (["predict", "--points", "9", "--spectrum", "no.npy"], "no.npy"),
    "what if nothing": (
        ["predict", "--points", "9", "--dims", "4", "--what-if", "x"],
        "--what-if",
    ),
    "field": (["sample", "orakel", "gaussian:9x4"], "'orakel'"),
    "grid": (["sample", "oracle", "gaussian:9x4", "--steps", "0"], "one step"),
    "no whole step": (
        ["sample", "oracle", "gaussian:9x4", "--steps", "50.7"],
        "--steps is a whole number, got 50.7",
    ),
    "shift": (["sample", "oracle", "gaussian:9x4", "--shift", "0"], "shift must be positive"),
    "seeds": (["sample", "oracle", "gaussian:9x4", "--seeds", "9:3"], "--seeds"),
    "large seeds": (["sample", "oracle", "gaussian:9x4", "--seeds", "4294967296"], "2**32"),
    "labels": (
        ["sample", "oracle", "gaussian:9x4", "--labels", "1"],
        "class 1 does not occur in the data, which has no labels",
    ),
    "solver": (["sample", "oracle", "gaussian:9x4", "--solver", "euclid"], "euler"),
    "no result": (["report", "/nowhere"], "there is no folder /nowhere"),
    "no result there": (["report", "/usr"], "holds other files beside its result"),
    "no runs": (["report"], "name at least one"),
}


@pytest.mark.slow
@pytest.mark.parametrize(("arguments", "words"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(arguments, words, capsys):
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith("floracle: ")
    assert told.err.count("\n") == 1
    assert words in told.err
    assert list(Path().iterdir()) == []


def test_an_empty_folder_is_a_mistake(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert main(["stages", "empty"]) == 2
    assert "empty" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()


def test_held_out_data_without_the_class_is_a_mistake(classed, capsys):
    points = np.random.default_rng(1).normal(size=(9, 8))
    np.savez("fewer.npz", x=points, labels=np.zeros(9, int))
    assert main([*classed, "--held-out", "fewer.npz"]) == 2
    assert "no point of class 1" in capsys.readouterr().err
    assert not Path("runs").exists()


def test_a_file_in_the_way_of_the_folder_is_a_mistake(capsys):
    Path("file").write_text("mine")
    assert main([*SMALL, "--out", "file/run"]) == 2
    assert "file is a file" in capsys.readouterr().err


@pytest.mark.skipif(os.name != "posix" or os.getuid() != 0, reason="needs to drop privileges")
@pytest.mark.slow
def test_without_permission_to_write_nothing_is_computed():
    script = (  # everything is read before, since others may not read this installation
        "import os, sys, floracle.cli.verbs.stages, floracle.data.store\n"
        "import floracle.analysis.stages.resumable\n"
        "from floracle.cli import main; os.setuid(65534)\n"
        f"sys.exit(main([*{SMALL}, '--out', '/usr/floracle-run']))"
    )
    command = [sys.executable, "-c", script]
    found = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd="/")
    assert found.returncode == 2
    assert found.stderr.startswith("floracle: no permission to write to /usr")
    assert found.stderr.count("\n") == 1


@pytest.mark.slow
def test_the_same_command_answers_at_once_and_another_is_refused(classed, capsys, monkeypatch):
    assert main([*classed, "--out", "run"]) == 0
    assert capsys.readouterr().out.endswith("report: run/report.html\n")
    before = contents("run")
    assert not Path("run/parts").exists()

    def never(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr("floracle.analysis.stages.resumable.measure_and_pool", never)
    assert main([*classed, "--out", "run", "--memory", "1G"]) == 0
    assert main([*classed[:2], "--pairs=9", "--times=12", "--seed=4", "--out=run"]) == 2
    told = capsys.readouterr().err
    assert "pairs: 8 there, 9 asked" in told
    assert "seed: 0 there, 4 asked" in told
    assert contents("run") == before


@pytest.mark.slow
def test_other_data_in_the_same_folder_is_refused(classed, capsys):
    assert main([*SMALL, "--out", "run"]) == 0
    assert main([SMALL[0], "gaussian:60x8:1", *SMALL[2:], "--out", "run"]) == 2
    assert "data: " in capsys.readouterr().err


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_numbers(classed, capsys, monkeypatch):
    from floracle.analysis.stages import resumable as kept

    assert main([*classed, "--out", "whole"]) == 0
    calls, measured = [], kept.measure_and_pool

    def interrupted(oracle, plan, labels, **options):
        calls.extend(labels)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return measured(oracle, plan, labels, **options)

    monkeypatch.setattr(kept, "measure_and_pool", interrupted)
    capsys.readouterr()
    assert main([*classed, "--out", "halves"]) == 130
    assert capsys.readouterr().err == (
        "floracle: interrupted; the same command again goes on from what is finished\n"
    )
    assert main([*classed, "--out", "halves", "--seed", "1"]) == 2
    assert "with other settings" in capsys.readouterr().err
    assert main([*classed, "--out", "halves"]) == 0
    assert calls == [0, 1, 2, 2, -1]
    assert contents("halves") == contents("whole")


@pytest.mark.slow
def test_an_interrupted_comparison_measures_nothing_again(capsys, monkeypatch):
    asked = ["compare", "gaussian:40x4", "gaussian:50x4", "--pairs", "8", "--times", "12"]

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    def never(*_, **__):
        raise AssertionError("measured again")

    monkeypatch.setattr(
        "floracle.report.stages.write.write_stages_report", lambda *_: None
    )  # which takes longest
    with monkeypatch.context() as patch:
        patch.setattr("floracle.report.comparison.page.write_comparison_report", interrupted)
        assert main([*asked, "--out", "both"]) == 130
    assert "the same command again goes on from what is finished" in capsys.readouterr().err
    monkeypatch.setattr("floracle.analysis.stages.resumable.measure_and_pool", never)
    monkeypatch.setattr(
        "floracle.report.comparison.page.write_comparison_report", lambda *_, **__: "page"
    )
    assert main([*asked, "--out", "both"]) == 0


def test_a_bug_is_one_line_unless_its_place_is_asked_for(capsys, monkeypatch):
    def broken(*_, **__):
        raise RuntimeError("surprise")

    monkeypatch.setattr("floracle.analysis.stages.resumable.plan_stages", broken)
    assert main(SMALL) == 1
    told = capsys.readouterr().err
    assert "surprise" in told
    assert told.count("\n") == 1
    monkeypatch.setenv("FLORACLE_DEBUG", "1")
    assert main(SMALL) == 1
    assert "Traceback" in capsys.readouterr().err


def test_memory_that_runs_out_is_said_with_advice(capsys, monkeypatch):
    def large(*_, **__):
        raise MemoryError

    monkeypatch.setattr("floracle.analysis.stages.resumable.plan_stages", large)
    assert main(SMALL) == 2
    assert "--memory" in capsys.readouterr().err


@pytest.mark.slow
def test_a_reader_that_leaves_is_no_error():
    command = f"{sys.executable} -m floracle predict --points 99 --dims 9 | true"
    found = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert found.stderr == ""


@pytest.mark.slow
def test_predictions_are_those_of_the_library(capsys):
    from floracle.analysis.prediction.closed_form import predict

    assert main(["predict", "--points", "1281", "--dims", "4096"]) == 0
    told = capsys.readouterr().out
    assert f"{predict(1281, dims=4096).collapse:.4f}" in told
    np.save("ones.npy", np.ones(4096))
    assert main(["predict", "--points", "1281", "--spectrum", "ones.npy"]) == 0
    assert capsys.readouterr().out == told


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    ["--points 1e4 --dims 1", "--points 100 --dims 2 --what-if 1e12", "--points 1.5 --dims 3"],
)
def test_what_lies_beyond_t_1_is_left_out(words, capsys):
    assert main(["predict", *words.split()]) == 0
    assert "–" in capsys.readouterr().out


def test_samples_of_the_oracle_land_on_training_rows(capsys):
    arguments = [
        "sample",
        "oracle",
        "digits",
        "--seeds",
        "3:9",
        "--labels",
        "3,5",
        "--steps",
        "12",
    ]
    assert main([*arguments, "--out", "six"]) == 0
    assert "6 of 6 samples landed on a training row" in capsys.readouterr().out

    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    with np.load("six/samples.npz") as found:
        levels = np.floor(images[found["rows"]] * 255 / 16 + 0.5)
        assert np.abs(found["arr_0"].reshape(6, 64) - levels).max() <= 1
        assert found["labels"].tolist() == [3, 5] * 3
        assert labels[found["rows"]].tolist() == [3, 5] * 3
        assert found["seeds"].tolist() == list(range(3, 9))
    assert Path("six/samples.png").read_bytes().startswith(b"\x89PNG")
    before = contents("six")
    assert main([*arguments, "--out", "six"]) == 0
    assert contents("six") == before
    assert main([*arguments, "--out", "six", "--shift", ".5"]) == 2


def test_sample_i_depends_on_its_seed_alone(capsys):
    assert main(["sample", "oracle", "gaussian:40x6", "--seeds", "0:5", "--out", "five"]) == 0
    assert main(["sample", "oracle", "gaussian:40x6", "--seeds", "3", "--out", "one"]) == 0
    with np.load("five/samples.npz") as five, np.load("one/samples.npz") as one:
        assert np.allclose(five["arr_0"][3], one["arr_0"][0], atol=1e-6)
        assert five["rows"][3] == one["rows"][0]
