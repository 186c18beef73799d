"""A run writes into a folder of its own, and touches nothing that is not its own."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from floracle.run.errors import InputError
from floracle.run.files import write_aside, write_text
from floracle.run.folder_checks import check_output, check_run_folder
from floracle.run.output_folder import OutputFolder, free_folder, open_output
from floracle.run.records import write_record
from floracle.run.results import Results, save

SETTINGS = {"pairs": 4, "data": "abc"}


def looks(folder):
    """Everything below a folder: names, kinds, content, targets of links."""
    seen = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            seen[name] = os.readlink(path)
        elif path.is_file():
            seen[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        else:
            seen[name] = path.stat().st_mode
    return seen


def result(value=1.0):
    return Results("numbers", {}, {"value": value}, {"x": torch.arange(3)})


def failing(folder, error, *parts, settings=SETTINGS, work=lambda output: None, **how):
    """A run that finishes some parts, does what else is asked, and fails."""
    with pytest.raises(type(error)):
        _fail(folder, error, parts, settings, work, how)


def _fail(folder, error, parts, settings, work, how):
    with open_output(folder, "stages", settings, **how) as output:
        for part in parts:
            output.save_part(result(), part)
        work(output)
        raise error


def finish(folder, settings=SETTINGS, verb="stages"):
    with open_output(folder, verb, settings) as output:
        output.save(result())
        write_text(folder / "report.html", "page")
    return folder


FOREIGN = {
    "a file": lambda there: (there / "notes.txt").write_text("mine"),
    "a hidden file": lambda there: (there / ".profile").write_text("mine"),
    "a half download": lambda there: (there / ".film.mkv.part").write_text("mine"),
    "an empty folder": lambda there: (there / "figures").mkdir(),
    "parts of something else": lambda there: (there / "parts").mkdir(),
    "a result of nobody": lambda there: (there / "result.json").write_text("{}"),
    "a run.json of nobody": lambda there: (there / "run.json").write_text('{"verb": "stages"}'),
    "a run.json that is a folder": lambda there: (there / "run.json").mkdir(),
    "a run.json that is a pipe": lambda there: os.mkfifo(there / "run.json"),
    "a link to nothing": lambda there: (there / "samples.npz").symlink_to("nothing"),
    "a control that is a file": lambda there: (there / ".floracle").write_text("mine"),
    "a control that is a link": lambda there: (there / ".floracle").symlink_to(there.parent),
    "a control with other things": lambda there: (there / ".floracle" / "mine").mkdir(
        parents=True
    ),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_folder_that_holds_something_else_is_refused_and_stays_as_it_is(tmp_path, kind):
    there = tmp_path / "there"
    there.mkdir()
    FOREIGN[kind](there)
    before = looks(tmp_path)
    for verb in ("stages", "sample"):
        with pytest.raises(InputError, match="choose a"), open_output(there, verb, SETTINGS):
            raise AssertionError("it was let in")
    assert looks(tmp_path) == before


@pytest.mark.slow
@given(
    names=st.lists(
        st.sampled_from(
            [
                *("run.json", "result.json", "figures/a.png", ".x.abcdefgh.part", "c"),
                *(".floracle/parts/0/result.json", ".floracle/aside/.a.part"),
                "b/.floracle/aside/.r.abcdefgh.part",
            ]
        ),
        unique=True,
        min_size=1,
    )
)
def test_no_mixture_of_names_that_look_like_ours_is_taken_for_ours(names, tmp_path_factory):
    there = tmp_path_factory.mktemp("mixed")
    for name in names:
        (there / name).parent.mkdir(parents=True, exist_ok=True)
        (there / name).write_text(name)
    before = looks(there)
    with pytest.raises(InputError, match="choose a"), open_output(there, "stages", SETTINGS):
        raise AssertionError("it was let in")
    assert looks(there) == before


def test_a_root_a_home_and_a_mount_point_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for place, word in ((Path("/"), "root"), (tmp_path, "home"), (Path("~"), "home")):
        with pytest.raises(InputError, match=f"is (the |a ){word}.*choose a folder inside it"):
            check_output(place)
    with pytest.raises(InputError, match="is a mount point"):
        check_output(Path("/proc"))
    assert check_output(tmp_path / "runs" / "new") == tmp_path / "runs" / "new"
    assert not (tmp_path / "runs").exists()


def test_a_run_that_fails_before_it_has_finished_anything_leaves_nothing(tmp_path):
    deep = tmp_path / "runs" / "a" / "b"
    for error in (InputError("no"), MemoryError(), KeyboardInterrupt()):
        failing(deep, error, "plan")
    assert not list(tmp_path.iterdir())
    finish(deep, {"pairs": 5})  # other settings are welcome then


def test_finished_parts_stay_and_other_settings_are_refused_then(tmp_path):
    there = tmp_path / "there"
    failing(there, RuntimeError(), "0")
    with pytest.raises(InputError, match=r"other settings \(pairs: 4 there, 5 asked\)"):
        finish(there, {**SETTINGS, "pairs": 5})
    with pytest.raises(InputError, match="is the folder of floracle stages"):
        finish(there, SETTINGS, "loss")
    with open_output(there, "stages", SETTINGS) as output:
        assert output.resumed
        assert output.finished_parts == ["0"]
        assert output.load_part("0").values == {"value": 1.0}
        assert output.load_part("1") is None
        output.save(result())
        output.clear_parts()
    assert not (there / ".floracle").exists()
    assert check_run_folder(there, "stages") == SETTINGS


def test_parts_of_another_run_or_in_another_place_are_named(tmp_path):
    def misplace(output):
        os.rename(output.parts / "0", output.parts / "aside")
        os.rename(output.parts / "1", output.parts / "0")
        with pytest.raises(InputError, match="is the part '1' of a run, not '0'"):
            output.load_part("0")
        save(Results("numbers", {"pairs": 9}, {}, {}), output.parts / "2", part="2")
        with pytest.raises(InputError, match="part of another run"):
            output.load_part("2")

    failing(tmp_path / "there", RuntimeError(), "0", "1", work=misplace)


def test_only_what_killed_runs_left_is_removed_and_only_in_our_own_place(tmp_path):
    there = finish(tmp_path / "there")
    nested = finish(there / "nested", verb="loss")
    aside = there / ".floracle" / "aside"
    aside.mkdir(parents=True)
    (aside / ".result.json.abcd1234.part").write_text("of a run that was killed")
    foreign = [
        there / ".film.abcd1234.part",
        aside / "kept.txt",
        nested / ".report.html.abcd1234.part",
        there / "figures" / ".a.png.abcd1234.part",
    ]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    with open_output(there, "stages", SETTINGS):
        pass
    assert [path.exists() for path in foreign] == [True] * 4
    assert os.listdir(aside) == ["kept.txt"]


def test_a_file_that_somebody_is_writing_is_not_swept_away(tmp_path):
    there = finish(tmp_path / "there")
    with open_output(there, "stages", SETTINGS) as output, write_aside(there / "a.txt") as aside:
        assert aside.parent == output.aside
        aside.write_text("half")
        output.close()
        assert aside.exists()
    assert (there / "a.txt").read_text() == "half"


def test_links_and_other_things_in_place_of_our_files_are_not_followed(tmp_path):
    there, elsewhere = finish(tmp_path / "there"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "page").write_text("mine")
    (there / "figures").symlink_to(elsewhere)
    (there / "report.html").unlink()
    (there / "report.html").symlink_to(elsewhere / "page")
    os.mkfifo(there / "pipe.html")
    with open_output(there, "stages", SETTINGS):
        with pytest.raises(InputError, match="figures is a link"):
            write_text(there / "figures" / "a.csv", "ours")
        with pytest.raises(InputError, match=r"report.html is no regular file"):
            write_text(there / "report.html", "ours")
        with pytest.raises(InputError, match=r"pipe.html is no regular file"):
            write_text(there / "pipe.html", "ours")
    assert os.listdir(elsewhere) == ["page"]
    assert (elsewhere / "page").read_text() == "mine"


def test_two_runs_at_once_are_refused_and_a_kill_leaves_no_lock(tmp_path):
    there = tmp_path / "there"
    with open_output(there, "stages", SETTINGS) as output:
        output.save_part(result(), "0")
        for verb in ("stages", "loss"):
            with pytest.raises(InputError, match=r"another run is writing|is the folder of"):
                finish(there, verb=verb)
    script = (
        "import os, sys, time; from pathlib import Path;"
        "from floracle.run.folder_lock import locked\n"
        f"with locked(Path({str(there)!r})): print('held', flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert holder.stdout.readline() == b"held\n"
    with pytest.raises(InputError, match="another run is writing"):
        finish(there)
    holder.kill()
    holder.wait()
    holder.stdout.close()
    finish(there)


def test_a_folder_that_is_removed_during_a_run_is_said(tmp_path):
    there = tmp_path / "there"

    def remove(output):
        shutil.rmtree(there)
        with pytest.raises(InputError, match="there was removed while a run wrote into it"):
            output.save(result())

    failing(there, RuntimeError(), work=remove)
    assert not there.exists()


def test_default_folders_do_not_collide(tmp_path):
    name = tmp_path / "stages-digits"
    others = [SETTINGS, {**SETTINGS, "pairs": 5}, {**SETTINGS, "pairs": 6}]
    taken = [finish(free_folder(name, "stages", settings), settings) for settings in others]
    assert [place.name for place in taken] == [
        "stages-digits",
        "stages-digits-2",
        "stages-digits-3",
    ]
    assert [free_folder(name, "stages", settings) for settings in others] == taken
    (tmp_path / "sample-x").mkdir()
    (tmp_path / "sample-x" / "mine").write_text("mine")
    assert free_folder(tmp_path / "sample-x", "sample", SETTINGS).name == "sample-x-2"


def test_what_may_grow_may_be_larger_and_never_smaller(tmp_path):
    there = finish(tmp_path / "there", {"images": 100, "seed": 0})
    with open_output(there, "stages", {"images": 200, "seed": 0}, growing=["images"]) as output:
        assert output.settings["images"] == 200
    assert check_run_folder(there, "stages") == {"images": 200, "seed": 0}
    for other in ({"images": 100, "seed": 0}, {"images": 300, "seed": 1}):
        with (
            pytest.raises(InputError, match="other settings"),
            open_output(there, "stages", other, growing=["images"]),
        ):
            raise AssertionError("it was let in")


def test_a_change_of_the_data_is_seen_before_anything_is_saved(tmp_path):
    there = tmp_path / "there"

    def check():
        raise InputError("x.npy changed")

    for save_something in (OutputFolder.save, lambda output, made: output.save_part(made, "0")):
        with (
            pytest.raises(InputError, match="changed"),
            open_output(there, "s", {}, check_unchanged=check) as output,
        ):
            save_something(output, result())
    assert not there.exists()


def test_parts_of_data_that_has_changed_since_do_not_stop_the_next_run(tmp_path):
    there, state = tmp_path / "there", ["old"]

    def check():
        if state != ["old"]:
            raise InputError("x.npy changed")

    def change(output):
        state.append("new")
        output.save_part(result(), "1")

    failing(there, InputError("x"), "0", work=change, check_unchanged=check)
    assert not there.exists()


def test_saving_by_hand_replaces_no_result_of_others(tmp_path):
    save(result(1.0), tmp_path)
    save(result(2.0), tmp_path)
    for content in ("{}", "text", '{"kind": "a", "format": 1}'):
        (tmp_path / "result.json").write_text(content)
        with pytest.raises(InputError, match=r"result\.json is not a result"):
            save(result(), tmp_path)
        assert (tmp_path / "result.json").read_text() == content
    write_record(tmp_path / "run.json", "run", {"verb": 5, "settings": {}})
    with pytest.raises(InputError, match="is the folder of floracle 5"):
        check_run_folder(tmp_path, "stages")
