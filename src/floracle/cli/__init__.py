"""The command line: verbs that are loaded when they are asked for.

Importing this module, and `floracle --help`, import no torch. Every mistake of the user is one
line on standard error and exit code 2, and so is what the system refuses to read, write or print;
FLORACLE_DEBUG=1 shows the traceback as well. Under torchrun the processes say it once between
them, and only the first prints.
"""

from __future__ import annotations

import dataclasses  # `fields` would be hidden by a module here of that name
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from inspect import signature
from traceback import walk_tb
from types import FrameType

from cyclopts import App, CycloptsError, Parameter
from cyclopts import Group as HelpGroup

from floracle.run.errors import InputError, suggestion
from floracle.run.exchange import PeerLost, barrier
from floracle.run.joint_exit import (
    Stopped,
    agree_on_exit,
    exit_process,
    idle_cores_note,
    process_label,
    silence_others,
)
from floracle.run.processes import ALONE, ProcessGroup, is_launched, joined

from .console import Unwritten, as_typed, check_printed, guard_streams
from .registry import VERBS

OK, BUG, MISTAKE, LOST, SIGNALLED, BROKEN_PIPE = 0, 1, 2, 3, 128, 141
"""Exit codes; to SIGNALLED is added the number of the signal."""
SIGNALS = {
    "SIGINT": "interrupted",
    "SIGTERM": "told to end (SIGTERM)",
    "SIGHUP": "the terminal has gone (SIGHUP)",
}
"""Signals that end a verb, and how that is said."""
TOGETHER = ("encode", "sample", "stages", "train")
"""Verbs that several processes can work on."""
RESUMED = ("compare", "encode", "mix", "pack", "probe", "reproduce", "stages", "train")
"""Verbs that keep what they have finished, for the same command to go on from."""
SMALLER = ("a smaller --memory", "fewer --pairs", "a smaller --batch", "a larger --accumulate")
"""How verbs that have such an option take less memory."""


PHRASES = {
    "Unknown option: ": "there is no option ",
    ". Did you mean ": "; did you mean ",
    ". Choose from: ": "; choose from ",
    "Invalid value for ": "",
    "Invalid value ": "",
}
"""How the parser's sentences become ours."""


def build() -> App:
    """The command line, with its verbs not yet imported."""
    app = App(
        name="floracle",
        help="The exact velocity field of your training set, and what it says about your model.",
        version=_version,
        help_format="plaintext",
        default_parameter=Parameter(negative=()),
        suppress_keyboard_interrupt=False,
        help_epilogue="floracle VERB --help shows the options of a verb and examples.",
    )
    titles = list(dict.fromkeys(verb.group for verb in VERBS.values()))
    groups = {title: HelpGroup(title, sort_key=place) for place, title in enumerate(titles)}
    options = HelpGroup("Options", sort_key=len(titles))
    for flag in ("--help", "--version"):
        app[flag].group = (options,)
    for order, (name, verb) in enumerate(VERBS.items()):
        known = {"help": verb.words, "help_epilogue": verb.examples, "sort_key": order}
        app.command(verb.place, name=name, group=groups[verb.group], **known)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with guard_streams():
        if is_launched():
            return _together(arguments)
        with _ended_by_signals(ALONE):
            return _outcome(arguments)


def _together(arguments: list[str]) -> int:
    """Run the command line as one of several processes; all of them end alike."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # who has gone is said in our words
    try:
        with joined() as group, _ended_by_signals(group):
            code = _outcome(arguments, group)
            if code != OK:
                exit_process(group, code)
    except InputError as error:  # they did not find each other
        return _said(str(error), MISTAKE)
    return code


@contextmanager
def _ended_by_signals(group: ProcessGroup) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP end a verb in good order; what is ignored stays ignored.

    Alone all three raise KeyboardInterrupt with their number, so that a verb does the same at
    each. In a group SIGTERM can mean that another process has failed; it raises `Stopped`.
    """
    before = {each: signal.getsignal(each) for each in signal.Signals if each.name in SIGNALS}
    usual = (signal.SIG_DFL, signal.default_int_handler)
    before = {each: handler for each, handler in before.items() if handler in usual}
    if threading.current_thread() is not threading.main_thread():
        before = {}  # Python lets only the main thread handle signals

    def end(number: int, frame: FrameType | None) -> None:
        for each in before:  # shells, `timeout` and torchrun send the same one again
            second = each == signal.SIGINT and group.alone  # typed by a person: ends at once
            signal.signal(each, signal.SIG_DFL if second else signal.SIG_IGN)
        by = signal.Signals(number)
        raise KeyboardInterrupt(by) if group.alone or by == signal.SIGINT else Stopped(by)

    try:
        for each in before:
            signal.signal(each, end)
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _outcome(arguments: list[str], group: ProcessGroup = ALONE) -> int:
    """Run a verb and say what went wrong; returns the exit code."""
    try:
        return _run(arguments, group)
    except Unwritten as error:
        if isinstance(error.__cause__, BrokenPipeError):  # the reader has left, as with `| head`
            return agree_on_exit(group, BROKEN_PIPE)[1]
        return _said(str(error), MISTAKE, group)
    except (KeyboardInterrupt, Stopped) as error:
        by = next((each for each in error.args if isinstance(each, signal.Signals)), signal.SIGINT)
        words = SIGNALS[by.name]
        if isinstance(error, Stopped):
            words += f": one of {group.size} processes has ended, or all were to"
        elif _verb(arguments) in RESUMED:
            words += "; the same command again goes on from what is finished"
        return _said(words, SIGNALLED + by, group)
    except CycloptsError as error:
        return _said(_in_our_words(error, arguments), MISTAKE, group)
    except InputError as error:
        return _said(f"{error}{process_label(group)}", MISTAKE, group)
    except PeerLost as error:
        return _said(str(error), LOST, group)
    except Exception as error:
        if words := _outside(error, arguments):
            return _said(f"{words}{process_label(group)}", MISTAKE, group)
        hint = "set FLORACLE_DEBUG=1 to see where, and please report it"
        return _said(f"this is a bug: {type(error).__name__}: {error}; {hint}", BUG, group)


def _outside(error: Exception, arguments: list[str]) -> str | None:
    """What to say of an error that is no bug: of memory, of a user's network, or of a file."""
    if _is_memory(error):
        verb = _verb(arguments)
        return _memory_words(verb) if verb in VERBS else "memory ran out"
    if place := _in_their_code(error, arguments):
        return f"{place} fails: {type(error).__name__}: {_short(error)}"
    return _file_words(error)


def _run(arguments: list[str], group: ProcessGroup) -> int:
    verb = _verb(arguments)
    if not group.alone and verb in VERBS and verb not in TOGETHER:
        raise InputError(f"{verb} is the work of one process; start it without torchrun")
    with silence_others(group):
        if idle := idle_cores_note(group):
            sys.stderr.write(f"note: {idle}\n")
        results = build()(
            arguments, print_error=False, exit_on_error=False, result_action="return_value"
        )
        check_printed(results)
    barrier(group)
    return OK


def _verb(arguments: list[str]) -> str:
    return next(iter(arguments), "")


def _said(words: str, code: int, group: ProcessGroup = ALONE) -> int:
    """One line on standard error, by one process; the traceback too where it was asked for."""
    speaks, code = agree_on_exit(group, code)
    if not speaks:
        return code
    if os.environ.get("FLORACLE_DEBUG") == "1":
        sys.excepthook(*sys.exc_info())  # pyright: ignore[reportArgumentType]
    sys.stderr.write(f"floracle: {as_typed(words)}\n")
    return code


def _in_our_words(error: CycloptsError, arguments: list[str]) -> str:
    """What is wrong with the command line, short and with a suggestion."""
    verb = _verb(arguments)
    if type(error).__name__ == "UnknownCommandError":
        return f"there is no verb {verb!r}; {suggestion(verb, VERBS)}"
    known = f"floracle {verb}" if verb in VERBS else "floracle"
    if type(error).__name__ == "MissingArgumentError" and error.argument is not None:
        missing = error.argument.name.lstrip("-").upper()
        return f"{missing} is missing; see {known} --help"
    error.verbose = False
    told = " ".join(str(error).split()).rstrip(".")
    for theirs, ours in PHRASES.items():
        told = told.replace(theirs, ours)
    told = told[:1].lower() + told[1:]
    return told if told.endswith("?") else f"{told}; see {known} --help"


def _in_their_code(error: Exception, arguments: list[str]) -> str | None:
    """Where a network of the user's own, from a file or module named here, went wrong."""
    named = {word.partition(":")[0] for word in arguments if ":" in word}
    theirs = {
        getattr(module, "__file__", None)
        for name, module in list(sys.modules.items())
        if name.startswith("_floracle_") or name in named
    } - {None}
    if isinstance(error, SyntaxError) and error.filename in theirs:
        return f"{error.filename}, line {error.lineno},"
    places = [
        f"{frame.f_code.co_filename}, line {line},"
        for frame, line in walk_tb(error.__traceback__)
        if frame.f_code.co_filename in theirs
    ]
    return places[-1] if places else None


def _short(error: Exception) -> str:
    words = error.msg if isinstance(error, SyntaxError) else str(error)
    return " ".join(words.split())[:300]


def _is_memory(error: Exception) -> bool:
    told = str(error).lower()
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and ("out of memory" in told or "allocate memory" in told)
    )


def _memory_words(verb: str) -> str:
    """That memory ran out, and which options of the verb make it take less."""
    module, _, function = VERBS[verb].place.partition(":")
    names = set()
    for name, parameter in signature(getattr(import_module(module), function)).parameters.items():
        group = parameter.default  # options that several verbs have are fields of a dataclass
        grouped = dataclasses.fields(group) if dataclasses.is_dataclass(group) else ()
        names |= {name, *(field.name for field in grouped)}
    ways = [way for way in SMALLER if way.partition("--")[2] in names]
    return "memory ran out" + (f"; give {', or '.join(ways)}" if ways else "")


def _file_words(error: Exception) -> str | None:
    """What to say of a file that the system refuses, and of names and text that are no UTF-8."""
    if isinstance(error, OSError):
        name = error.filename
        place = os.fsdecode(name) if isinstance(name, (str, bytes)) else "a file"
        reason = error.strerror.lower() if error.strerror else _short(error)
        return f"cannot read or write {place}: {reason}"
    if isinstance(error, (UnicodeEncodeError, UnicodeDecodeError)):
        near = error.object[max(0, error.start - 20) : error.end + 20]
        return f"a name or text is not UTF-8, near {near!r}; rename or convert it"
    if isinstance(error, ValueError) and "embedded null" in str(error):
        return "cannot read or write a file whose name has a NUL character"
    return None


def _version() -> str:
    import floracle

    return f"floracle {floracle.__version__}"
