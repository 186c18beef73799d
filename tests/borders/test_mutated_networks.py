"""Files of networks that were changed at random: the same numbers, a word about it, or a refusal.

Changed numbers are found by comparing outputs with those of the whole file. A change of what the
file itself says, such as its path of noise, may change them if `assumed` says it.
"""

import copy
import random
import zipfile

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from floracle.models.networks import lightningdit as family_sizes
from floracle.run.errors import InputError
from network_families import (
    DIFFUSERS_FAMILIES,
    FAMILIES,
    SMALL,
    outputs,
    read_config,
    read_tensors,
    write_config,
    write_tensors,
)

pytestmark = pytest.mark.filterwarnings("ignore")
ALL = FAMILIES | DIFFUSERS_FAMILIES
WITH_CONFIG = [name for name in ALL if ALL[name].config]
KINDS = [
    torch.float16,
    torch.float64,
    torch.bfloat16,
    torch.int8,
    torch.int64,
    torch.uint8,
    torch.bool,
    torch.complex64,
    torch.float8_e4m3fn,
]
PICKLES = 200
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 40),
    st.sampled_from([2**31, 2**63, 10**9, -(10**20), 10**400]),
    st.floats(),
    st.text(max_size=5),
    st.lists(st.integers(-1, 9), max_size=3),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    st.just([[]]),
)


@pytest.fixture(autouse=True)
def base_is_small(monkeypatch):
    monkeypatch.setitem(family_sizes.SIZES, "base", SMALL)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """By family: its folder, the path that loads it, its tensors, settings, outputs and words."""
    made = {}

    def of(name):
        if name not in made:
            family, folder = ALL[name], tmp_path_factory.mktemp(name)
            path = family.write(folder)
            config = read_config(family, folder) if family.config else {}
            loaded = family.load(path)
            files = {file: file.read_bytes() for file in folder.iterdir()}
            tensors = read_tensors(family, folder)
            made[name] = folder, path, tensors, config, outputs(loaded), loaded.assumed, files
        return made[name]

    return of


def mutated_tensors(data, tensors):
    """One or two changes of a table of tensors."""
    changed = dict(tensors)
    for _ in range(data.draw(st.integers(1, 2))):
        name = data.draw(st.sampled_from(sorted(changed)))
        tensor = changed[name]
        match data.draw(st.integers(0, 8)):
            case 0:
                del changed[name]
            case 1:
                changed[data.draw(st.text("abz.01_", min_size=1, max_size=6))] = changed.pop(name)
            case 2:
                changed[name] = tensor.to(data.draw(st.sampled_from(KINDS)))
            case 3:
                changed[name] = tensor[: data.draw(st.integers(0, 2))].clone()
            case 4:
                changed[name] = tensor.reshape(-1).clone()
            case 5:
                changed[name] = torch.cat([tensor.float()] * 2)
            case 6:
                changed[name] = tensor[None].clone()
            case 7:
                value = data.draw(st.sampled_from([torch.nan, torch.inf]))
                changed[name] = torch.full(tensor.shape, value)
            case _:
                prefix = name.split(".")[0]  # a whole part of the network is gone
                changed = {key: v for key, v in changed.items() if key.split(".")[0] != prefix}
        if not changed:
            return {name: tensor}
    return changed


def places(config):
    """Every place of nested settings, as the keys that lead to it."""
    for key, value in config.items():
        yield (key,)
        if isinstance(value, dict):
            yield from ((key, *rest) for rest in places(value))


def mutated_config(data, config):
    """One or two changes of settings: another value, none, or a key that nobody knows."""
    changed = copy.deepcopy(config)
    for _ in range(data.draw(st.integers(1, 2))):
        *parents, key = data.draw(st.sampled_from(sorted(places(changed), key=str)))
        section = changed
        for parent in parents:
            section = section[parent]
        match data.draw(st.integers(0, 4)):
            case 0:
                del section[key]
            case 1:
                section[data.draw(st.text("abc", min_size=1, max_size=4))] = data.draw(VALUES)
            case 2 if isinstance(section[key], int):
                section[key] += data.draw(st.integers(-1, 1))
            case _:
                section[key] = data.draw(VALUES)
        if not changed:
            return config
    return changed


def check_loads_or_refuses(family, path, expected, assumed):
    """A refusal in one line, the same numbers, or other words about them."""
    try:
        loaded = family.load(path)
        found = outputs(loaded)
    except InputError as error:
        (_,) = str(error).splitlines()
        return
    assert found.isfinite().all()
    if found.shape != expected.shape or not torch.equal(found, expected):
        assert loaded.assumed != assumed


def run(whole, data, names, mutate_settings):
    name = data.draw(st.sampled_from(names))
    folder, path, tensors, config, expected, assumed, files = whole(name)
    family = ALL[name]
    try:
        if mutate_settings:
            write_config(family, folder, mutated_config(data, config))
        else:
            write_tensors(family, folder, mutated_tensors(data, tensors))
        check_loads_or_refuses(family, path, expected, assumed)
    finally:
        for file, content in files.items():
            file.write_bytes(content)


CODES = [
    b"cargparse\nNamespace\n",
    b"ccollections\nOrderedDict\n",
    b"ctorch\nint8\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"K\x01\x85R",
    b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\0",
    b"G\x7f\xf8\0\0\0\0\0\0",
    *(bytes([code]) for code in b"}])N0t(usbR2Qe\x81\x88q\xffh\0."),
]
"""Instructions of pickles: classes, calls, numbers, and changes of what is there."""


def changed_program(rng, program):
    """One to four changes of a pickle."""
    changed = bytearray(program)
    for _ in range(rng.choice([1, 1, 2, 4])):
        place, other = rng.randrange(len(changed)), rng.randrange(len(changed))
        match rng.randrange(4):
            case 0:
                changed[place] ^= 1 << rng.randrange(8)
            case 1:
                changed[place:place] = rng.choice(CODES)
            case 2:
                del changed[place : place + rng.choice([1, 2, 5, 20])]
            case _:
                changed[place:place] = changed[other : other + rng.choice([3, 10, 40])]
    return bytes(changed)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lightningdit", "sit", "ldm"])
def test_changed_pickles_end_in_a_result_or_a_refusal(whole, name):
    """Their archives are whole again, so that nothing but the pickle is to blame."""
    folder, path, *_, files = whole(name)
    file, rng, refused = folder / ALL[name].weights, random.Random(0), 0
    with zipfile.ZipFile(file) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}
    (program,) = (member for member in members if member.endswith("data.pkl"))
    for _ in range(PICKLES):
        with zipfile.ZipFile(file, "w") as archive:
            changed = changed_program(rng, members[program])
            for member, content in (members | {program: changed}).items():
                archive.writestr(member, content)
        try:
            outputs(ALL[name].load(path))
        except InputError as error:
            (_,) = str(error).splitlines()
            refused += 1
    assert PICKLES / 2 < refused < PICKLES
    file.write_bytes(files[file])


QUICK = settings(
    max_examples=30,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
LONG = settings(QUICK, max_examples=1000)


@QUICK
@given(data=st.data())
def test_changed_tensors_give_the_same_numbers_or_a_refusal(whole, data):
    run(whole, data, [name for name in FAMILIES if name != "taef2"], False)


@QUICK
@given(data=st.data())
def test_changed_settings_give_the_same_numbers_a_word_or_a_refusal(whole, data):
    run(whole, data, [name for name in FAMILIES if FAMILIES[name].config], True)


@pytest.mark.slow
@LONG
@given(data=st.data())
def test_many_changed_tensors_give_the_same_numbers_or_a_refusal(whole, data):
    run(whole, data, list(ALL), False)


@pytest.mark.slow
@LONG
@given(data=st.data())
def test_many_changed_settings_give_the_same_numbers_a_word_or_a_refusal(whole, data):
    run(whole, data, WITH_CONFIG, True)
