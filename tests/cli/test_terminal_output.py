"""What cannot be printed, read or held: one true line, a true exit code, and complete files."""

from __future__ import annotations

import ast
import importlib.util
import io
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType

import pytest

import floracle
from floracle import cli
from floracle.cli import BUG, MISTAKE, OK, VERBS, main
from floracle.cli.console import transliterate
from floracle.cli.registry import Verb
from floracle.cli.tables import show_table
from floracle.run.errors import InputError

FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")

SCRIPT = """
import os, signal, subprocess, sys, time
from types import ModuleType
from floracle import cli
module = sys.modules["fake_verbs"] = ModuleType("fake_verbs")
{verb}
module.fake = fake
usual = cli.VERBS.get("{name}", cli.VERBS["grid"])
cli.VERBS["{name}"] = usual._replace(function="fake_verbs:fake")
sys.exit(cli.main(["{name}"]))
"""


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FLORACLE_DEBUG", raising=False)


@pytest.fixture
def run_verb(monkeypatch):
    """Run a function as if it were a verb; returns the exit code."""

    def run(verb, name="fake"):
        module = ModuleType("fake_verbs")
        monkeypatch.setattr(module, "fake", verb, raising=False)
        monkeypatch.setitem(sys.modules, "fake_verbs", module)
        verb = Verb("Tools", "fake_verbs:fake", "A verb of this test.", "")
        monkeypatch.setitem(VERBS, name, verb)
        return main([name])

    return run


def raising(error):
    def verb() -> None:
        raise error

    return verb


def started(verb, *, name="fake", redirected="", **more):
    """A process of its own whose verb is this source; it imports no torch."""
    Path("script.py").write_text(SCRIPT.format(verb=verb, name=name))
    command = ["sh", "-c", f'exec "$0" script.py {redirected}', sys.executable]
    more.setdefault("preexec_fn", lambda: signal.signal(signal.SIGINT, signal.default_int_handler))
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **more
    )


def in_encoding(encoding, monkeypatch):
    """Let standard output go into bytes, in an encoding."""
    printed = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(printed, encoding=encoding))
    return printed


# --- what cannot be written ---


def talkative() -> Path:
    """Prints more than streams buffer, before and after it writes its result."""
    sys.stderr.write("note: of a verb\n")
    sys.stdout.write("before\n" * 20_000)
    sys.stdout.flush()
    show_table(("a", "b"), [("1", "2")] * 2000)
    Path("result").write_text("complete")
    sys.stdout.write("after\n" * 20_000)
    return Path("result")


@pytest.mark.slow
@needs_full
@pytest.mark.parametrize("full", [["stdout"], ["stderr"], ["stdout", "stderr"]], ids="-".join)
def test_a_full_device_stops_no_verb_and_is_said(full, run_verb, monkeypatch, capsys):
    with FULL.open("w") as out, FULL.open("w") as err:
        for name, stream in (("stdout", out), ("stderr", err)):
            if name in full:
                monkeypatch.setattr(sys, name, stream)
        assert run_verb(talkative) == MISTAKE
        assert Path("result").read_text() == "complete"
        monkeypatch.undo()
    told = capsys.readouterr()
    if full == ["stdout"]:
        assert told.err == (
            "note: of a verb\nfloracle: the output could not be written (no space left on device);"
            " the results are in result\n"
        )
    if full == ["stderr"]:
        assert told.out.startswith("before\n")
        assert told.out.endswith("after\n")


@needs_full
def test_a_full_device_that_is_noticed_at_the_end_is_said(run_verb, monkeypatch, capsys):
    with FULL.open("w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert run_verb(lambda: sys.stdout.write("short\n")) == MISTAKE
    assert capsys.readouterr().err == (
        "floracle: the output could not be written (no space left on device)\n"
    )


@pytest.mark.slow
def test_a_reader_that_leaves_stops_no_verb_and_nothing_is_said(run_verb, monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        assert run_verb(talkative) == 141
    assert Path("result").read_text() == "complete"
    assert capsys.readouterr().err == "note: of a verb\n"


@needs_full
def test_a_mistake_stays_one_where_it_cannot_be_said(monkeypatch):
    with FULL.open("w") as err:
        monkeypatch.setattr(sys, "stderr", err)
        assert main(["nothing-like-that"]) == MISTAKE


CLOSED = """
def fake():
    print("printed"); sys.stderr.write("noted\\\\n")
    subprocess.run(["sh", "-c", "echo of a child; echo again >&2"], check=True)
    with open("data", "w") as file:
        file.write(str(file.fileno()))
"""


def test_data_never_gets_the_number_of_a_closed_stream():
    process = started(CLOSED.replace("\\\\", "\\"), redirected="<&- >&- 2>&-")
    process.communicate(timeout=60)
    assert process.returncode == OK
    assert int(Path("data").read_text()) > 2


# --- characters that a terminal lacks ---


def test_a_table_is_readable_in_every_encoding(monkeypatch):
    for encoding, arrow in (("ascii", "->"), ("latin-1", "->"), ("utf-8", "→")):
        printed = in_encoding(encoding, monkeypatch)
        assert main(["convert-time", "0.3"]) == OK
        lines = printed.getvalue().decode(encoding).splitlines()
        assert any(f"noise {arrow} data" in line for line in lines)
        assert len({len(line) for line in lines if line.strip()}) == 1  # columns stay columns
    monkeypatch.undo()


SPELLED = {
    "0.3 − 0.1 × τ": "0.3 - 0.1 x tau",
    "−0.1 … 5 — of ‖x‖²": "-0.1 ... 5 - of ||x||^2",
    "t ≤ ½ · Σ": "t <= 1/2 . Sigma",
    "caf\udce9.npy": "caf\\xe9.npy",
    "図.npy": "\\u56f3.npy",
}


@pytest.mark.parametrize(("words", "plain"), SPELLED.items())
def test_characters_are_written_in_ascii_where_there_is_no_more(words, plain):
    assert transliterate(words, "ascii") == plain


def test_an_encoding_keeps_what_it_has():
    assert transliterate("2 × σ²", "utf-8") == "2 × σ²"
    assert transliterate("2 × σ² − 1", "latin-1") == "2 × sigma² - 1"
    assert transliterate("2 × σ²", None) == "2 × σ²"


def words_of(file):
    """The strings of a module, and of the command line its docstrings, which are its help."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        if id(node) not in docs or file.parent.name == "cli"
    }


@pytest.mark.slow
def test_every_character_of_our_own_words_has_one_in_ascii():
    files = Path(floracle.__file__).parent.rglob("*.py")
    letters = {letter for file in files for words in words_of(file) for letter in words}
    assert {"×", "−", "…", "τ"} <= letters
    letters = {letter for letter in letters if letter != "\\" and letter.isprintable()}
    assert {letter for letter in letters if "\\" in transliterate(letter, "ascii")} == set()


def test_a_name_that_is_no_text_is_printed(run_verb, capsys):
    assert run_verb(raising(InputError("there is no caf\udce9"))) == MISTAKE
    assert capsys.readouterr().err == "floracle: there is no caf\\xe9\n"


# --- what cannot be read, and what is no bug of ours ---


REFUSED = {
    "permission": (PermissionError(13, "Permission denied", "x.npy"), "x.npy: permission denied"),
    "disk": (OSError(5, "Input/output error", "x.npy"), "x.npy: input/output error"),
    "network": (OSError(116, "Stale file handle", b"x.npy"), "x.npy: stale file handle"),
    "folder": (IsADirectoryError(21, "Is a directory", "x"), "x: is a directory"),
    "without a name": (OSError(5, "Input/output error"), "a file: input/output error"),
    "in words": (OSError("cannot identify image X"), "a file: cannot identify image X"),
    "another pipe": (BrokenPipeError(32, "Broken pipe"), "a file: broken pipe"),
    "control characters": (OSError(5, "Input/output error", "a\nb\x1b[2J"), "a b?[2J: input"),
}


@pytest.mark.parametrize(("error", "words"), REFUSED.values(), ids=REFUSED)
def test_a_file_that_the_system_refuses_is_one_line(error, words, run_verb, capsys):
    assert run_verb(raising(error)) == MISTAKE
    told = capsys.readouterr().err
    assert told.startswith(f"floracle: cannot read or write {words}")
    assert told.count("\n") == 1


NAMES = {
    "too long": (lambda: Path("a" * 300).read_bytes(), "aaa: file name too long"),
    "folder": (lambda: Path().read_bytes(), "is a directory"),
    "NUL": (lambda: Path("a\0b").read_bytes(), "NUL"),
    "surrogate": (lambda: Path("caf\ud800").read_bytes(), "is not UTF-8, near 'caf\\ud800'"),
    "written": (lambda: "of caf\udce9".encode(), "is not UTF-8, near 'of caf\\udce9'"),
    "content": (lambda: b"caf\xe9".decode(), "is not UTF-8, near b'caf\\xe9'"),
}


@pytest.mark.parametrize(("verb", "words"), NAMES.values(), ids=NAMES)
def test_a_name_that_the_system_refuses_is_one_line(verb, words, run_verb, capsys):
    assert run_verb(verb) == MISTAKE
    told = capsys.readouterr().err
    assert words in told
    assert "bug" not in told
    assert told.count("\n") == 1


def test_other_errors_are_bugs(run_verb, capsys):
    assert run_verb(raising(ValueError("surprise"))) == BUG
    assert "this is a bug: ValueError: surprise" in capsys.readouterr().err


@pytest.mark.parametrize("error", ["OSError(5, 'odd')", "BrokenPipeError()", "UnicodeError()"])
def test_an_error_in_a_network_of_the_users_own_is_theirs(error, run_verb, monkeypatch, capsys):
    Path("net.py").write_text(f"def network():\n    raise {error}\n")
    spec = importlib.util.spec_from_file_location("_floracle_net", "net.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "_floracle_net", module)
    spec.loader.exec_module(module)
    assert run_verb(module.network) == MISTAKE
    assert f"net.py, line 2, fails: {error.partition('(')[0]}" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("error", [MemoryError(), OSError(12, "Cannot allocate memory", "x")])
@pytest.mark.parametrize("verb", VERBS)
def test_advice_on_memory_names_options_that_the_verb_has(verb, error, monkeypatch, capsys):
    monkeypatch.setattr(cli, "_run", lambda *_: raising(error)())
    assert main([verb]) == MISTAKE
    told = capsys.readouterr().err
    assert told.startswith("floracle: memory ran out")
    monkeypatch.undo()
    assert main([verb, "--help"]) == OK
    options = set(capsys.readouterr().out.split())
    named = {word.strip(",\n") for word in told.split() if word.startswith("--")}
    assert named <= options
    assert bool(named) == bool(options & {"--memory", "--pairs", "--batch"})


# --- signals ---

WAITING = """
def fake():
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        {finally_}
"""
ENDS = {
    "SIGINT": (130, "interrupted"),
    "SIGTERM": (143, "told to end (SIGTERM)"),
    "SIGHUP": (129, "the terminal has gone (SIGHUP)"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ENDS)
def test_signals_end_a_verb_in_good_order(name):
    again = f"os.kill(os.getpid(), signal.{name}); " if name != "SIGINT" else ""
    tidy = f"{again}open('tidy', 'w').close()"
    with started(WAITING.format(finally_=tidy), name="stages") as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(getattr(signal, name))
        _, told = process.communicate(timeout=30)
    code, words = ENDS[name]
    goes_on = "the same command again goes on from what is finished"
    assert (process.returncode, told) == (code, f"floracle: {words}; {goes_on}\n")
    assert Path("tidy").exists()


def test_a_second_interrupt_ends_at_once():
    tidying = "print('tidying', flush=True); time.sleep(60)"
    with started(WAITING.format(finally_=tidying)) as process:
        assert process.stdout is not None
        for said in ("ready\n", "tidying\n"):
            assert process.stdout.readline() == said
            process.send_signal(signal.SIGINT)
        _, told = process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
    assert told == ""


def test_a_signal_that_is_ignored_stays_ignored():
    verb = "def fake():\n    os.kill(os.getpid(), signal.SIGHUP); print('all')\n"
    with started(verb, preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)) as process:
        said, told = process.communicate(timeout=30)
    assert (process.returncode, said, told) == (OK, "all\n", "")


def test_signals_are_given_back_and_other_threads_do_without(capsys):
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    codes = []
    thread = threading.Thread(target=lambda: codes.append(main(["--version"])))
    thread.start()
    thread.join()
    assert (main(["--version"]), codes) == (OK, [OK])
    assert [signal.getsignal(number) for number in numbers] == before
