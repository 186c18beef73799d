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

from floracle.run.ending import Stopped, ended, gone, left_idle, quiet, whose
from floracle.run.errors import Mistake, suggestion
from floracle.run.exchange import Lost, barrier
from floracle.run.processes import ALONE, Group, joined, launched

from .console import Unwritten, as_typed, check_printed, guard_streams

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

VERBS = {
    "inspect": (
        "floracle.cli.inspect:inspect",
        "Say what a data set is, its traps, and which flags to use.",
        """Examples:
  floracle inspect digits
  floracle inspect latents/imagenet256 --json
  floracle inspect packed/imagenet256 --verify
  floracle inspect latents.npy --labels labels.npy""",
    ),
    "pack": (
        "floracle.cli.pack:pack",
        "Rewrite data so that it opens at once, is read in order and can be checked.",
        """Examples:
  floracle pack latents/imagenet256 packed/imagenet256 --flips --dtype fp16
  floracle pack latents.npy packed/latents --labels labels.npy --shard-bytes 512M
  floracle pack pictures/ packed/pictures --no-spectra""",
    ),
    "encode": (
        "floracle.cli.encode:encode",
        "Encode pictures as latents, in the layout that LightningDiT trains from.",
        """Examples:
  floracle encode pictures/ latents/ --autoencoder weights/taef2
  floracle encode imagenet/train latents/ --autoencoder vavae.pt --moments sample --flips
  floracle encode pictures/ latents/ --autoencoder sd3/vae --device cuda --batch 64""",
    ),
    "stages": (
        "floracle.cli.stages:stages",
        "Measure where navigation ends in a data set, and write a report.",
        """Examples:
  floracle stages digits --out demo
  floracle stages pictures/ --classes each --held-out pictures-held-out/
  floracle stages latents.npy --labels labels.npy --pairs 256 --memory 8G""",
    ),
    "predict": (
        "floracle.cli.predict:predict",
        "Predict the stages from the number of points and their spectrum alone.",
        """Examples:
  floracle predict digits
  floracle predict --points 1281 --dims 4096
  floracle predict --points 50000 --spectrum eigenvalues.npy --what-if 1e4,1e5,1e6""",
    ),
    "compare": (
        "floracle.cli.compare:compare",
        "Put the stages of several data sets or spaces on one page.",
        """Examples:
  floracle compare digits gaussian:1797x64
  floracle compare latents-a.npy latents-b.npy --names vavae,sdvae --out vae
  floracle compare runs/stages-plain runs/stages-flipped""",
    ),
    "sample": (
        "floracle.cli.sample:sample",
        "Follow a field from noise to samples.",
        """Examples:
  floracle sample oracle digits --seeds 0:64 --labels 3
  floracle sample oracle pictures/ --grid 25 --shift .5 --solver heun --out samples
  floracle sample model.pt latents/ --labels 0,1,2 --guidance 2.5 --interval .1,.6""",
    ),
    "probe": (
        "floracle.cli.probe:probe",
        "See what fields predict along their trajectories, and when that settles.",
        """Examples:
  floracle probe runs/xl --data latents/imagenet256 --labels 3 --autoencoder vavae.pt
  floracle probe runs/base runs/xl --seeds 0:16 --labels 0,1,2
  floracle probe flux/ --embeddings text.safetensors --autoencoder flux/ --shape 16,64,64""",
    ),
    "loss": (
        "floracle.cli.loss:loss",
        "Measure how far fields are from the oracle, and how they do on unseen data.",
        """Examples:
  floracle loss runs/early runs/late --data latents/ --held-out latents-held-out/
  floracle loss model.pt --convention sit --data latents/imagenet256 --classes 0,3,5
  floracle loss my.py:network --convention predicts=data,null=10 --data train/""",
    ),
    "mix": (
        "floracle.cli.mix:mix",
        "Let a field and the oracle take over from each other, or go on from unseen data.",
        """Examples:
  floracle mix runs/xl --data latents/ --switch 0,.1,.2,.4,.8,1 --labels 3
  floracle mix runs/xl --data latents/ --landing .1,.3 --seeds 0:400 --labels 3
  floracle mix runs/xl --data latents/ --held-out unseen/ --resume 0,.1,.2,.3,.5,.7""",
    ),
    "train": (
        "floracle.cli.train:train",
        "Train a network on conditional or oracle targets.",
        """Examples:
  floracle train digits --model nano --patch 2 --images 1e5 --batch 128 --rate 1e-3
  floracle train latents/ --model base --target oracle --device cuda --precision bf16
  torchrun --nproc-per-node 8 -m floracle train packed/ --device cuda --out runs/xl""",
    ),
    "reproduce": (
        "floracle.cli.reproduce:reproduce",
        "Reproduce figures and tables of the paper.",
        """Examples:
  floracle reproduce
  floracle reproduce figure-2a latents-a.npz latents-b.npz
  floracle reproduce figure-3 --quick""",
    ),
    "convert-time": (
        "floracle.cli.convert_time:convert_time",
        "Say what a moment is called in other projects' clocks.",
        """Examples:
  floracle convert-time 0.34:1.02 --from edm
  floracle convert-time 0.1 --shift 0.3 --steps 50""",
    ),
    "grid": (
        "floracle.cli.grid:grid",
        "Print the time grid that a project really follows.",
        """Examples:
  floracle grid sit --steps 250
  floracle grid sd3 --steps 28 --shift 3 --json""",
    ),
    "report": (
        "floracle.cli.report:report",
        "Draw the reports of stages and training runs again.",
        """Examples:
  floracle report runs/stages-digits
  floracle report runs/xl                           # also while it trains""",
    ),
}
"""Where each verb lives, what it does, and how it is used."""


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
    for order, (name, (place, words, examples)) in enumerate(VERBS.items()):
        app.command(place, name=name, help=words, help_epilogue=examples, sort_key=order)
    return app


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with guard_streams():
        if launched():
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
                gone(group, code)
    except Mistake as error:  # they did not find each other
        return _said(str(error), MISTAKE)
    return code


@contextmanager
def _ended_by_signals(group: Group) -> Iterator[None]:
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


def _outcome(arguments: list[str], group: Group = ALONE) -> int:
    """Run a verb and say what went wrong; returns the exit code."""
    try:
        return _run(arguments, group)
    except Unwritten as error:
        if isinstance(error.__cause__, BrokenPipeError):  # the reader has left, as with `| head`
            return ended(group, BROKEN_PIPE)[1]
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
    except Mistake as error:
        return _said(f"{error}{whose(group)}", MISTAKE, group)
    except Lost as error:
        return _said(str(error), LOST, group)
    except Exception as error:
        if words := _outside(error, arguments):
            return _said(f"{words}{whose(group)}", MISTAKE, group)
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


def _run(arguments: list[str], group: Group) -> int:
    verb = _verb(arguments)
    if not group.alone and verb in VERBS and verb not in TOGETHER:
        raise Mistake(f"{verb} is the work of one process; start it without torchrun")
    with quiet(group):
        if idle := left_idle(group):
            sys.stderr.write(f"note: {idle}\n")
        results = build()(
            arguments, print_error=False, exit_on_error=False, result_action="return_value"
        )
        check_printed(results)
    barrier(group)
    return OK


def _verb(arguments: list[str]) -> str:
    return next(iter(arguments), "")


def _said(words: str, code: int, group: Group = ALONE) -> int:
    """One line on standard error, by one process; the traceback too where it was asked for."""
    speaks, code = ended(group, code)
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
    module, _, function = VERBS[verb][0].partition(":")
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
