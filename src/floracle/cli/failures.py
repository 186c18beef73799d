"""What is said of errors that are no bugs: of options, memory, a user's network, or a file."""

from __future__ import annotations

import dataclasses
import errno
import os
import sys
from importlib import import_module
from inspect import signature
from traceback import walk_tb

from cyclopts import CycloptsError

from floracle.run.errors import suggestion

from .registry import VERBS

PHRASES = {  # replaced in this order: the longer of two that begin alike comes first
    "Unknown option: ": "there is no option ",
    ". Did you mean ": "; did you mean ",
    ". Choose from: ": "; choose from ",
    "Invalid value for ": "",
    "Invalid value ": "",
}
"""Phrases of the parser, and ours in their place."""
MEMORY_SAVERS = (
    "a smaller --memory",
    "fewer --pairs",
    "a smaller --batch",
    "a larger --accumulate",
)
"""Options with which a verb takes less memory."""
MAX_MESSAGE = 300
"""Characters that are repeated of an error in somebody else's code."""


def describe_parsing(error: CycloptsError, verb: str) -> str:
    """What is wrong with the command line, with a suggestion."""
    if type(error).__name__ == "UnknownCommandError":
        return f"there is no verb {verb!r}; {suggestion(verb, VERBS)}"
    program = f"floracle {verb}" if verb in VERBS else "floracle"
    if type(error).__name__ == "MissingArgumentError" and error.argument is not None:
        missing = error.argument.name.lstrip("-").upper()
        return f"{missing} is missing; see {program} --help"
    error.verbose = False
    message = " ".join(str(error).split()).rstrip(".")
    for theirs, ours in PHRASES.items():
        message = message.replace(theirs, ours)
    message = message[:1].lower() + message[1:]
    return message if message.endswith("?") else f"{message}; see {program} --help"


def describe_external(error: Exception, verb: str, arguments: list[str]) -> str | None:
    """What went wrong outside of this program, or None: then it is a bug."""
    # Memory first: it may run out inside of a user's network, which is then not to blame.
    if _is_memory(error):
        return f"memory ran out{_memory_remedy(verb)}"
    if line := _line_of_user_code(error, arguments):
        message = error.msg if isinstance(error, SyntaxError) else str(error)
        return f"{line} fails: {type(error).__name__}: {_shorten(message)}"
    return _describe_file(error)


def _is_memory(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    # torch raises RuntimeError on the CPU, and only the text says that memory ran out.
    message = str(error).lower()
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and ("out of memory" in message or "allocate memory" in message)
    )


def _memory_remedy(verb: str) -> str:
    """Which options of the verb make it take less memory."""
    if verb not in VERBS:
        return ""
    module, _, function = VERBS[verb].function.partition(":")
    options = set()
    for name, parameter in signature(getattr(import_module(module), function)).parameters.items():
        group = parameter.default  # a group of options is a dataclass, and these are its fields
        grouped = dataclasses.fields(group) if dataclasses.is_dataclass(group) else ()
        options |= {name, *(field.name for field in grouped)}
    remedies = [remedy for remedy in MEMORY_SAVERS if remedy.partition("--")[2] in options]
    return f"; give {', or '.join(remedies)}" if remedies else ""


def _line_of_user_code(error: Exception, arguments: list[str]) -> str | None:
    """The line that failed in a network of the user, from a file or module in the arguments."""
    modules = {word.partition(":")[0] for word in arguments if ":" in word}
    # file.py:function is imported as _floracle_file, module:function by its own name.
    files = {
        getattr(module, "__file__", None)
        for name, module in list(sys.modules.items())
        if name.startswith("_floracle_") or name in modules
    } - {None}
    if isinstance(error, SyntaxError) and error.filename in files:
        return f"{error.filename}, line {error.lineno},"
    lines = [
        f"{frame.f_code.co_filename}, line {line},"
        for frame, line in walk_tb(error.__traceback__)
        if frame.f_code.co_filename in files
    ]
    return lines[-1] if lines else None  # the deepest line that the user wrote


def _describe_file(error: Exception) -> str | None:
    """A file that the system refuses, or a name or text that is not UTF-8."""
    if isinstance(error, OSError):
        name = error.filename
        file = os.fsdecode(name) if isinstance(name, (str, bytes)) else "a file"
        reason = error.strerror.lower() if error.strerror else _shorten(str(error))
        return f"cannot read or write {file}: {reason}"
    if isinstance(error, (UnicodeEncodeError, UnicodeDecodeError)):
        near = error.object[max(0, error.start - 20) : error.end + 20]
        return f"a name or text is not UTF-8, near {near!r}; rename or convert it"
    if isinstance(error, ValueError) and "embedded null" in str(error):
        return "cannot read or write a file whose name has a NUL character"
    return None


def _shorten(message: str) -> str:
    return " ".join(message.split())[:MAX_MESSAGE]
