import os
import signal
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from floracle.run import files
from floracle.run.errors import InputError
from floracle.run.files import (
    digest,
    read_json,
    writable_folder,
    write_aside,
    write_bytes,
    write_json,
    write_text,
)

KILLED = """
import os, signal, sys
from pathlib import Path
from floracle.run import files

path, moment = Path(sys.argv[1]), sys.argv[2]
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
if moment == "before the sync":
    files._sync = die
if moment == "before the rename":
    Path.replace = die
if moment == "after the rename":
    replace = Path.replace
    Path.replace = lambda self, target: (replace(self, target), die())
with files.write_aside(path) as aside:
    with aside.open("wb") as file:
        file.write(b"new" * 1000)
        if moment == "while writing":
            die()
"""

moments = ["while writing", "before the sync", "before the rename", "after the rename"]


def kill_at(moment, path):
    ended = subprocess.run([sys.executable, "-c", KILLED, str(path), moment], check=False)
    assert ended.returncode == -signal.SIGKILL


@pytest.mark.parametrize("moment", moments)
def test_a_killed_writer_leaves_the_old_file_or_the_new_one(moment, tmp_path):
    path = tmp_path / "result.bin"
    path.write_bytes(b"old")
    kill_at(moment, path)
    assert path.read_bytes() == (b"new" * 1000 if moment == "after the rename" else b"old")


@pytest.mark.parametrize("moment", moments)
def test_a_killed_writer_leaves_no_file_or_the_new_one_and_can_run_again(moment, tmp_path):
    path = tmp_path / "result.bin"
    kill_at(moment, path)
    assert path.exists() == (moment == "after the rename")
    write_bytes(path, b"again")
    assert path.read_bytes() == b"again"


WRITING = """
import sys
from pathlib import Path
from floracle.run.files import write_bytes

for size in range(10**9):
    write_bytes(Path(sys.argv[1]), bytes([size % 256]) * 100_000)
    print(size, flush=True)
"""


def test_killed_at_any_moment_the_file_is_whole(tmp_path):
    path = tmp_path / "result.bin"
    writer = subprocess.Popen([sys.executable, "-c", WRITING, str(path)], stdout=subprocess.PIPE)
    assert writer.stdout is not None
    with writer:
        writer.stdout.readline()
        time.sleep(0.05)
        writer.kill()
    content = path.read_bytes()
    assert len(content) == 100_000
    assert len(set(content)) == 1


def interrupted(path, error):
    with write_aside(path) as aside:
        aside.write_text("half of the n")
        raise error


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_an_exception_leaves_the_old_file_and_nothing_aside(error, tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(error):
        interrupted(path, error)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_aside_is_a_neighbour_hidden_until_whole(tmp_path):
    path = tmp_path / "deep" / "er" / "result.txt"
    with write_aside(path) as aside:
        assert aside.parent == path.parent
        assert aside.name.startswith(".result.txt.")
        assert aside.suffix == ".part"
        assert not path.exists()
        aside.write_text("new")
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_files_have_the_permissions_of_ordinary_ones(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "ours", "x")
        (tmp_path / "theirs").write_text("x")
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("ours", "theirs")]
    assert modes == [0o640, 0o640]


def test_json_round_trips_with_sorted_keys(tmp_path):
    content = {"β": [1, 2.5, None, True], "a": {"z": "é", "b": 0.1}}
    write_json(tmp_path / "x.json", content)
    assert read_json(tmp_path / "x.json") == content
    text = (tmp_path / "x.json").read_text()
    assert text.index('"a"') < text.index('"b"') < text.index('"z"')


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_json_has_no_nan_and_nothing_is_written(value, tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "x.json", {"loss": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content",
    [b"", b'{"half": ', b"\xff\xfe\x00", b"[" * 200_000],
    ids=["empty", "half", "bytes", "deep"],
)
def test_broken_json_is_named(content, tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"x\.json is not readable JSON"):
        read_json(path)


def test_absent_json_is_named(tmp_path):
    with pytest.raises(InputError, match=r"there is no .*x\.json"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize("inside", ["", "further"])
def test_a_file_in_the_way_of_a_folder(inside, tmp_path):
    (tmp_path / "taken").write_text("x")
    with pytest.raises(InputError, match="a file is in the way"):
        writable_folder(tmp_path / "taken" / inside)


def without_privileges(action):
    """The text of the InputError that `action` makes for a user who owns nothing."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        answer = "no error"
        try:
            if os.getuid() == 0:
                os.setgroups([])
                os.setgid(65534)
                os.setuid(65534)
            action()
        except InputError as error:
            answer = str(error)
        except BaseException as error:
            answer = repr(error)
        os.write(writer, answer.encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answers:
        answer = answers.read()
    os.waitpid(child, 0)
    return answer


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_folder_without_permission_is_a_mistake_and_stays_empty():
    with tempfile.TemporaryDirectory() as top:  # outside of pytest's folders, which are private
        Path(top).chmod(0o755)
        locked = Path(top) / "locked"
        locked.mkdir(mode=0o555)
        writing = without_privileges(lambda: write_text(locked / "x", "x"))
        making = without_privileges(lambda: writable_folder(locked / "new"))
        assert writing == f"no permission to write to {locked}; choose another --out"
        assert making == f"cannot make the folder {locked / 'new'}: Permission denied"
        assert list(locked.iterdir()) == []


def test_digests_tell_parts_apart():
    assert digest("ab", "c") != digest("a", "bc") != digest("abc")
    assert digest("é") == digest("é".encode()) == digest(memoryview("é".encode()))
    assert len(digest()) == 32


@pytest.mark.parametrize("number", files.DISK_FULL_CODES)
def test_a_full_disk_is_named_and_leaves_nothing(tmp_path, monkeypatch, number):
    def full(path):
        raise OSError(number, "no room")

    monkeypatch.setattr(files, "_sync", full)
    with pytest.raises(InputError, match=r"no room left to write .*a\.json; make some"):
        files.write_json(tmp_path / "a.json", {})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_known_by_the_words_of_safetensors(tmp_path):
    with (
        pytest.raises(InputError, match="no room left"),
        files.write_aside(tmp_path / "a.safetensors"),
    ):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    with pytest.raises(RuntimeError), files.write_aside(tmp_path / "b"):
        raise RuntimeError("another one")
