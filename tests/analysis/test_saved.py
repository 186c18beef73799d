"""What was saved comes back as what it was, bit for bit; what was damaged is one clear mistake."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from tempfile import mkdtemp

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from safetensors.torch import load_file

import floracle
from edits import resealed
from floracle.analysis.curves import Curve
from floracle.analysis.loss.results import ClassLoss, LossComparison, OracleLoss
from floracle.analysis.mixing.field_switching import SwitchResult
from floracle.analysis.mixing.forward_backward import ForwardBackwardResult
from floracle.analysis.mixing.landing_test import Diversity, Fit, LandingResult
from floracle.run.files import digest

SIZES = st.integers(1, 4)
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
NAMES = st.text(min_size=1, max_size=12)
KNOWN = st.dictionaries(NAMES, st.none() | st.booleans() | st.integers() | NUMBERS | NAMES)


def floats(*shape):
    """Any float64 at all: infinities, NaN and zeros of both signs among them."""
    made = arrays_of.arrays(np.float64, shape, elements=st.floats(width=64))
    return made.map(torch.from_numpy)


def rows(*shape):
    return arrays_of.arrays(np.int64, shape).map(torch.from_numpy)


@st.composite
def switches(draw):
    b, k, n = draw(SIZES), draw(SIZES), draw(SIZES)
    return SwitchResult(
        *(draw(made) for made in (floats(k), floats(b, k), floats(b, k), floats(b, k))),
        *(draw(made) for made in (rows(b, k), rows(b), floats(n, k, 2))),
        dims=2,
        settings=draw(KNOWN),
        provenance=draw(KNOWN),
    )


@st.composite
def landings(draw):
    b, fits = draw(SIZES), (NUMBERS, st.integers(), NUMBERS)
    diverse = (st.integers(), NUMBERS, st.none() | NUMBERS, NUMBERS, st.none() | NUMBERS, NUMBERS)
    return LandingResult(
        draw(NUMBERS),
        *(draw(made) for made in (rows(b), floats(b))),
        Fit(*(draw(each) for each in fits)),
        Diversity(*(draw(each) for each in diverse)),
        settings=draw(KNOWN),
        provenance=draw(KNOWN),
    )


@st.composite
def resumptions(draw):
    b, k, m, bands = draw(SIZES), draw(SIZES), draw(SIZES), draw(st.lists(NAMES, min_size=1))
    parts = (len(bands), k)
    made = (rows(b), floats(b, *parts), floats(b, *parts), floats(b, parts[0]), floats(b))
    return ForwardBackwardResult(
        draw(floats(k)),
        tuple(bands),
        *(draw(each) for each in made),
        *(draw(floats(b, m, k)) for _ in range(2)),
        draw(floats(2, 1 + k, 1, 2)),
        dims=2,
        settings=draw(KNOWN),
        provenance=draw(KNOWN),
    )


@st.composite
def oracle_losses(draw):
    count = draw(SIZES)
    labels = draw(st.lists(st.integers(-1, 50), min_size=1, max_size=3, unique=True))
    return OracleLoss(
        draw(floats(count)), tuple(draw(losses(each, count)) for each in labels), draw(KNOWN)
    )


@st.composite
def losses(draw, label, count):
    names = draw(st.lists(st.sampled_from(["oracle", "gap", "to a/b", "held_out", "to x"])))
    pairs, closest = draw(SIZES), st.lists(NAMES, min_size=count, max_size=count)
    return ClassLoss(
        label,
        draw(NUMBERS),
        pairs,
        {name: Curve(draw(floats(count)), draw(floats(count))) for name in names},
        tuple(draw(closest)),
        tuple(draw(st.lists(st.booleans(), min_size=count, max_size=count))),
        {name: draw(floats(pairs, count)) for name in names[:2]},
    )


@st.composite
def several(draw):
    by_name = st.dictionaries(NAMES, oracle_losses(), max_size=2)
    path = draw(st.dictionaries(NAMES, oracle_losses(), min_size=1, max_size=2))
    return LossComparison(path, draw(by_name), draw(KNOWN), draw(KNOWN))


EVERY = st.one_of(switches(), landings(), resumptions(), oracle_losses(), several())


def alike(one, other):
    """Whether two values are the same to the last bit, and of the same classes."""
    if isinstance(one, torch.Tensor):
        same = one.dtype == other.dtype and one.shape == other.shape
        return same and one.numpy().tobytes() == other.numpy().tobytes()
    if type(one) is not type(other):
        return False
    if is_dataclass(one):
        return all(alike(getattr(one, f.name), getattr(other, f.name)) for f in fields(one))
    if isinstance(one, dict):
        return list(one) == list(other) and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(alike, one, other))
    return one == other


def ordered(result):
    """JSON keeps settings by name."""
    for name in ("settings", "provenance"):
        object.__setattr__(result, name, dict(sorted(getattr(result, name).items())))
    for one in (
        (*result.path.values(), *result.own.values()) if isinstance(result, LossComparison) else ()
    ):
        ordered(one)
    return result


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("saved")


@pytest.mark.slow
@given(EVERY)
def test_all_come_back_as_what_they_were(folder, found):
    again = floracle.load(floracle.save(found, folder / "once"))
    assert alike(ordered(found), ordered(again))
    twice = floracle.save(again, folder / "twice")
    for name in ("result.json", "arrays.safetensors"):
        assert (twice / name).read_bytes() == (folder / "once" / name).read_bytes()


def paths(values, place=()):
    """The places of all values in JSON, in objects and lists."""
    inner = values.items() if isinstance(values, dict) else enumerate(values)
    for key, value in inner:
        yield (*place, key)
        if isinstance(value, (dict, list)):
            yield from paths(value, (*place, key))


@pytest.mark.slow
@given(EVERY, st.data())
def test_a_value_that_is_gone_or_of_another_kind_is_one_mistake(folder, found, data):
    there = floracle.save(found, folder / "damaged")
    written = json.loads((there / "result.json").read_text())
    known = [place for place in paths(written["values"]) if "settings" not in place]
    known = [place for place in known if "provenance" not in place]
    place, inner = data.draw(st.sampled_from(known)), written["values"]
    for key in place[:-1]:
        inner = inner[key]
    if data.draw(st.booleans()) and isinstance(inner, dict):
        del inner[place[-1]]
    else:
        inner[place[-1]] = data.draw(st.sampled_from(({}, [[]], [1.5, None])))
    resealed(there / "result.json", values=written["values"])
    with pytest.raises(floracle.InputError, match="not whole results") as caught:
        floracle.load(there)
    assert str(there) in str(caught.value)


@pytest.mark.slow
@given(EVERY, st.data())
def test_an_array_that_is_gone_or_of_another_shape_is_one_mistake(folder, found, data):
    from safetensors.torch import save_file

    there = floracle.save(found, folder / "damaged")
    arrays = load_file(there / "arrays.safetensors")
    name = data.draw(st.sampled_from(sorted(arrays)))
    if data.draw(st.booleans()):
        del arrays[name]
    else:
        arrays[name] = torch.cat([arrays[name]] * 2, -1)
    save_file(arrays, there / "arrays.safetensors")
    resealed(there / "result.json", arrays=digest((there / "arrays.safetensors").read_bytes()))
    with pytest.raises(floracle.InputError, match="not whole results"):
        floracle.load(there)


@pytest.mark.slow
@given(EVERY, st.data())
def test_files_that_were_cut_off_are_one_mistake(folder, found, data):
    there = floracle.save(found, Path(mkdtemp(dir=folder)))
    cut = there / data.draw(st.sampled_from(["result.json", "arrays.safetensors"]))
    content = cut.read_bytes()
    cut.write_bytes(content[: data.draw(st.integers(0, len(content) - 3))])
    with pytest.raises(floracle.InputError, match=str(there)):
        floracle.load(there)


def test_results_of_another_kind_are_refused():
    other = floracle.Results("stages", {}, {}, {})
    for reader in (SwitchResult, LandingResult, ForwardBackwardResult, OracleLoss, LossComparison):
        with pytest.raises(floracle.InputError, match="they are of 'stages'"):
            reader.of_results(other)


def test_what_has_no_class_of_its_own_stays_results(folder):
    kept = floracle.save(floracle.Results("notes", {"a": 1}, {"b": 2.5}, {}), folder / "notes")
    again = floracle.load(kept)
    assert isinstance(again, floracle.Results)
    assert (again.kind, again.settings, again.values) == ("notes", {"a": 1}, {"b": 2.5})
