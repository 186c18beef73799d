"""Edits of files as disks, editors and people make them, and what a reader may answer after one.

`edited(folder, drawn)` makes one random edit and says what it was. A reader of the folder must
then name what is wrong, or give the same answer as before: never another, never a traceback,
never a wait.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from contextlib import contextmanager

from floracle.run.errors import InputError
from floracle.run.records import read_any_record, write_record

VALUES = (
    None,
    True,
    False,
    0,
    -1,
    -5,
    10**9,
    10**30,
    1.5,
    "1e400",
    "",
    "text",
    [],
    [1],
    {},
    {"a": 1},
)
"""JSON values of every type; "1e400" is written as a number, which Python reads as infinite."""
SECONDS = 20


@contextmanager
def within(seconds=SECONDS):
    """Fail where something waits."""

    def ring(number, frame):
        raise TimeoutError("the reader waits")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def files_of(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


def edited(folder, drawn, files=None):
    """Change one file of a folder at random; what was done, in words."""
    path = drawn.choice(files or files_of(folder))
    kinds = [flipped, cut, lengthened, zeroed, swapped, misplaced]
    if path.suffix == ".json":
        kinds += [another_value] * 6
    kind = drawn.choice(kinds)
    return f"{kind.__name__} {path.relative_to(folder)}: {kind(path, drawn, folder)}"


def flipped(path, drawn, _):
    content = bytearray(path.read_bytes())
    place = drawn.randrange(len(content))
    content[place] ^= 1 << drawn.randrange(8)
    path.write_bytes(content)
    return place


def cut(path, drawn, _):
    content = path.read_bytes()
    size = drawn.randrange(len(content))
    path.write_bytes(content[:size])
    return size


def lengthened(path, drawn, _):
    content = path.read_bytes()
    place = drawn.randrange(len(content) + 1)
    more = drawn.randbytes(drawn.randint(1, 40))
    path.write_bytes(content[:place] + more + content[place:])
    return place


def zeroed(path, drawn, _):
    content = bytearray(path.read_bytes())
    place = drawn.randrange(len(content))
    size = drawn.randint(1, 64)
    content[place : place + size] = bytes(len(content[place : place + size]))
    path.write_bytes(content)
    return place


def swapped(path, drawn, folder):
    other = drawn.choice(files_of(folder))
    one, two = path.read_bytes(), other.read_bytes()
    path.write_bytes(two)
    other.write_bytes(one)
    return other.relative_to(folder)


def misplaced(path, drawn, folder):
    """Something that is no file where the file was."""
    kind = drawn.choice(["folder", "pipe", "link", "nothing", "loop"])
    aside = folder.with_name(f"{folder.name}-aside-{path.name}")
    shutil.move(path, aside)
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "link":
        path.symlink_to(aside)
    elif kind == "loop":
        path.symlink_to(path)
    return kind


def another_value(path, drawn, _):
    """One value of a JSON file replaced by one of another type, or removed."""
    said = json.loads(path.read_bytes())
    places = list(_places(said))
    *way, last = drawn.choice(places)
    inner = said
    for step in way:
        inner = inner[step]
    value = drawn.choice(VALUES)
    if drawn.random() < 0.15 and isinstance(inner, dict):
        del inner[last]
    else:
        inner[last] = value
    path.write_text(json.dumps(said, indent=1, sort_keys=True).replace('"1e400"', "1e400"))
    return (*way, last), value


def _places(said, way=()):
    items = said.items() if isinstance(said, dict) else enumerate(said)
    for name, value in items:
        yield (*way, name)
        if isinstance(value, (dict, list)):
            yield from _places(value, (*way, name))


def survived(folder, tmp_path, read, drawn, times, *, files=None, gone=False):
    """Edit copies of a folder many times; how often the reader named it, and how often it did not.

    `read(copy)` gives what can be compared with ==; where files may be `gone`, so may parts of it.
    """
    expected, named, honest = read(folder), 0, 0
    for number in range(times):
        copy = tmp_path / f"edit-{number}"
        shutil.copytree(folder, copy)
        chosen = files(copy) if files else None
        what = edited(copy, drawn, chosen)
        try:
            with within():
                found = read(copy)
        except InputError as mistake:
            told = str(mistake)
            named += 1
            if "\n" in told or len(told) > 1000:
                raise AssertionError(f"{what}: {told}") from mistake
        except Exception as error:
            raise AssertionError(f"{what}: {error!r}") from error
        else:
            assert found == expected or (gone and _is_part(found, expected)), what
            honest += 1
        for place in tmp_path.glob(f"edit-{number}*"):
            shutil.rmtree(place) if place.is_dir() and not place.is_symlink() else place.unlink()
    return named, honest


def resealed(path, **changes):
    """A record with other values, as if floracle had written it so."""
    kind, content = read_any_record(path)
    write_record(path, kind, content | changes)


def _is_part(found, expected):
    """Whether some of what was there before is missing now, and nothing is otherwise."""
    pairs = zip(found, expected, strict=True)
    return all(one is None or one == other for one, other in pairs)
