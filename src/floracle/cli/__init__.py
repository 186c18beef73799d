"""The command line. Verbs are imported when they are used.

Importing this module, and `floracle --help`, import no torch. Every mistake of the user is one
line on standard error and exit code 2, and so is what the system refuses to read, write or print;
FLORACLE_DEBUG=1 shows the traceback as well. Under torchrun the processes say it once between
them, and only the first prints.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from cyclopts import App, CycloptsError, Parameter
from cyclopts import Group as HelpGroup

from floracle.run.errors import InputError
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

from .console import OutputLost, as_typed, check_printed, guard_streams, warn
from .failures import describe_external, describe_parsing
from .registry import VERBS, current_options

# 128 + signal as shells report it; 141 is 128 + SIGPIPE, what `| head` leaves of other programs.
OK, BUG, MISTAKE, LOST, SIGNALLED, BROKEN_PIPE = 0, 1, 2, 3, 128, 141
"""Exit codes; to SIGNALLED is added the number of the signal."""
SIGNALS = {
    "SIGINT": "interrupted",
    "SIGTERM": "told to end (SIGTERM)",
    "SIGHUP": "the terminal has gone (SIGHUP)",
}
"""Signals that end a verb, and the messages about them."""


def build() -> App:
    """The command line, with its verbs not yet imported."""
    app = App(
        name="floracle",
        help="The exact velocity field of your training set, and what it says about your model.",
        version=_version,
        help_format="plaintext",
        default_parameter=Parameter(negative=()),  # no --no-OPTION unless an option asks for it
        suppress_keyboard_interrupt=False,  # `_outcome` reports it, with its exit code
        help_epilogue="floracle VERB --help shows the options of a verb and examples.",
    )
    titles = list(dict.fromkeys(verb.group for verb in VERBS.values()))
    groups = {title: HelpGroup(title, sort_key=order) for order, title in enumerate(titles)}
    options = HelpGroup("Options", sort_key=len(titles))
    for flag in ("--help", "--version"):
        app[flag].group = (options,)
    for order, (name, verb) in enumerate(VERBS.items()):
        texts = {"help": verb.summary, "help_epilogue": verb.examples}
        app.command(verb.function, name=name, group=groups[verb.group], sort_key=order, **texts)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with guard_streams():
        if is_launched():
            return _run_in_group(arguments)
        with _ending_at_signals(ALONE):
            return _outcome(arguments)


def _run_in_group(arguments: list[str]) -> int:
    """Run the command line as one of several processes; all of them end with the same code."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # our own words say who has gone
    try:
        with joined() as group, _ending_at_signals(group):
            code = _outcome(arguments, group)
            if code != OK:
                exit_process(group, code)
    except InputError as error:  # they did not find each other
        return _fail(str(error), MISTAKE)
    return code


@contextmanager
def _ending_at_signals(group: ProcessGroup) -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP end a verb in good order; ignored signals stay ignored.

    Alone all three raise KeyboardInterrupt with their number, so that a verb does the same at
    each. In a group SIGTERM can mean that another process has failed; it raises `Stopped`.
    """
    handlers = {sig: signal.getsignal(sig) for sig in signal.Signals if sig.name in SIGNALS}
    # Under nohup SIGHUP is ignored, and an embedding program may have handlers: these stay.
    usual = (signal.SIG_DFL, signal.default_int_handler)
    handlers = {sig: handler for sig, handler in handlers.items() if handler in usual}
    if threading.current_thread() is not threading.main_thread():
        handlers = {}  # Python lets only the main thread handle signals

    def end(number: int, frame: FrameType | None) -> None:
        for sig in handlers:  # shells, `timeout` and torchrun send the same signal again
            at_once = sig == signal.SIGINT and group.alone  # a second Ctrl-C of a person
            signal.signal(sig, signal.SIG_DFL if at_once else signal.SIG_IGN)
        received = signal.Signals(number)
        interrupted = group.alone or received == signal.SIGINT
        raise KeyboardInterrupt(received) if interrupted else Stopped(received)

    try:
        for sig in handlers:
            signal.signal(sig, end)
        yield
    finally:
        for sig, handler in handlers.items():
            signal.signal(sig, handler)


def _outcome(arguments: list[str], group: ProcessGroup = ALONE) -> int:
    """Run a verb and print what went wrong; returns the exit code."""
    verb = _verb_name(arguments)
    try:
        return _run(arguments, group)
    except OutputLost as error:
        if isinstance(error.__cause__, BrokenPipeError):  # the reader has gone, as with `| head`
            return agree_on_exit(group, BROKEN_PIPE)[1]
        return _fail(str(error), MISTAKE, group)
    except (KeyboardInterrupt, Stopped) as error:
        signals = (cause for cause in error.args if isinstance(cause, signal.Signals))
        received = next(signals, signal.SIGINT)
        message = SIGNALS[received.name]
        if isinstance(error, Stopped):
            message += f": one of {group.size} processes has ended, or all were to"
        elif verb in VERBS and VERBS[verb].resumable:
            message += "; the same command again goes on from what is finished"
        return _fail(message, SIGNALLED + received, group)
    except CycloptsError as error:
        return _fail(describe_parsing(error, verb), MISTAKE, group)
    except InputError as error:
        return _fail(f"{error}{process_label(group)}", MISTAKE, group)
    except PeerLost as error:
        return _fail(str(error), LOST, group)
    except Exception as error:
        if message := describe_external(error, verb, arguments):
            return _fail(f"{message}{process_label(group)}", MISTAKE, group)
        hint = "set FLORACLE_DEBUG=1 to see where, and please report it"
        return _fail(f"this is a bug: {type(error).__name__}: {error}; {hint}", BUG, group)


def _run(arguments: list[str], group: ProcessGroup) -> int:
    # Before anything is imported or opened: every process would write the same files.
    verb = _verb_name(arguments)
    if not group.alone and verb in VERBS and not VERBS[verb].parallel:
        raise InputError(f"{verb} is the work of one process; start it without torchrun")
    with silence_others(group):
        if idle := idle_cores_note(group):
            warn(idle)
        arguments, renamed = current_options(arguments)
        for old, new in renamed.items():
            warn(f"{old} of floracle {verb} is called {new} now; the old name works until 0.3")
        results = build()(
            arguments, print_error=False, exit_on_error=False, result_action="return_value"
        )
        check_printed(results)
    barrier(group)  # no process ends while the first one still writes or prints
    return OK


def _verb_name(arguments: list[str]) -> str:
    return next(iter(arguments), "")


def _fail(message: str, code: int, group: ProcessGroup = ALONE) -> int:
    """Print one line on standard error, in one process; the traceback too if it was asked for."""
    speaks, code = agree_on_exit(group, code)
    if not speaks:
        return code
    if os.environ.get("FLORACLE_DEBUG") == "1":
        sys.excepthook(*sys.exc_info())  # pyright: ignore[reportArgumentType]
    sys.stderr.write(f"floracle: {as_typed(message)}\n")
    return code


def _version() -> str:
    import floracle

    return f"floracle {floracle.__version__}"
