"""Options of 0.1 whose names had two meanings: they still work, and one line says the new name."""

from __future__ import annotations

import json

import pytest

from documents import options_of
from floracle.cli import main
from floracle.cli.registry import RENAMED_OPTIONS, VERBS, current_command, current_options


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "old"), RENAMED_OPTIONS)
def test_old_names_become_new_ones(verb, old):
    new = RENAMED_OPTIONS[verb, old]
    assert new in options_of(verb)
    assert old not in options_of(verb)
    assert current_options([verb, old, "a"]) == ([verb, new, "a"], {old: new})
    assert current_options([verb, f"{old}=a"]) == ([verb, f"{new}=a"], {old: new})
    assert current_options([verb, "--", old]) == ([verb, "--", old], {})


def test_names_with_one_meaning_are_left_alone():
    for words in (
        [],
        ["sample"],
        ["sample", "--labels", "3", "--shift", ".5"],
        ["mix", "--switch"],
    ):
        assert current_options(words) == (words, {})


def test_an_old_command_gives_the_same_answer_and_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ["sample", "oracle", "gaussian:9x4", "--seeds", "0:2"]
    assert main([*words, "--grid", "3"]) == 0
    told = capsys.readouterr().err.splitlines()
    renamed = "note: --grid of floracle sample is called --steps now; the old name works until 0.3"
    assert [line for line in told if "--grid" in line] == [renamed]
    settings = json.loads((tmp_path / "runs/sample-gaussian-9x4/run.json").read_text())["settings"]
    assert settings["grid"] == 3  # the key of 0.1, whose results are recognised
    assert main([*words, "--steps", "3"]) == 0
    assert "runs/sample-gaussian-9x4 holds this run: complete" in capsys.readouterr().err


def test_saved_commands_are_printed_as_one_types_them_today():
    old = "floracle mix oracle --data digits --data-labels 'a b.npy' --labels 3 --grid 4"
    new = "floracle mix oracle --data digits --label-file 'a b.npy' --labels 3 --steps 4"
    assert current_command(old) == new
    assert current_command(new) == new
    assert current_command("floracle mix $'it'") == "floracle mix $'it'"


def test_verbs_of_the_table_exist():
    assert {verb for verb, _ in RENAMED_OPTIONS} <= VERBS.keys()
