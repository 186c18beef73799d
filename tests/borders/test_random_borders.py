"""Random pairs of sets and random options: the right numbers, a word, or one of our errors.

FLORACLE_EXAMPLES sets how many inputs each slow test takes (default 300).
"""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from floracle import InputError, open_store
from floracle.cli import main
from floracle.data.held_out import join_held_out

EXAMPLES = int(os.environ.get("FLORACLE_EXAMPLES", "300"))
MANY = settings(max_examples=EXAMPLES, suppress_health_check=list(HealthCheck))
NAMES = ("ant", "bird", "cat", "dog", "eel", "10", "2", "0")
UNITS = {
    "bytes": lambda levels: levels.round().clamp(0, 255).byte(),
    "levels": lambda levels: levels,
    "0 … 1": lambda levels: levels / 255,
    "−1 … 1": lambda levels: levels / 127.5 - 1,
}


def levels_of(names, seed, members=6):
    """Noisy pictures of 4 × 4, a level for every name; the names of their classes."""
    source = torch.Generator().manual_seed(seed)
    centres = [30.0 + 25 * NAMES.index(name) for name in names]
    noise = 12 * torch.randn(len(names) * members, 1, 4, 4, generator=source)
    points = torch.tensor(centres).repeat_interleave(members)[:, None, None, None] + noise
    points[0, 0, 0, :2] = torch.tensor([0.0, 255.0])  # every set shows the range of its unit
    return points.clamp(0, 255)


def classed(names, seed, unit, named, normalizer=None):
    """A store of these classes; without names their labels are numbers."""
    points = UNITS[unit](levels_of(names, seed))
    labels = torch.arange(len(names)).repeat_interleave(len(points) // len(names))
    how = {} if normalizer is None else {"normalize": normalizer}
    store = open_store(points, labels=labels, **how)
    return replace(store, classes=tuple(names)) if named else store


@st.composite
def pairs_of_sets(draw):
    some = st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True).map(sorted)
    return {
        "names": (draw(some), draw(some)),
        "units": (draw(st.sampled_from(list(UNITS))), draw(st.sampled_from(list(UNITS)))),
        "named": (draw(st.booleans()), draw(st.booleans())),
        "seed": draw(st.integers(0, 1000)),
        "shared": draw(st.sampled_from((0, 0, 1, 3))),
        "drop": draw(st.booleans()),
    }


def check_pair(case):
    """Join a pair of sets, and compare every label, row and unit with how the sets were made."""
    (a, b), (unit, other_unit), (named, also_named) = case["names"], case["units"], case["named"]
    training = classed(a, case["seed"], unit, named)
    held_out = classed(b, case["seed"] + 5000, other_unit, also_named, training.normalizer)
    if case["shared"]:
        stored = held_out.stored.clone()
        stored[1 : 1 + case["shared"]] = UNITS[other_unit](
            levels_of(a, case["seed"])[1 : 1 + case["shared"]]
        )
        names, labels = held_out.classes, held_out.labels
        held_out = open_store(stored, labels=labels, normalize=training.normalizer)
        held_out = replace(held_out, classes=names)
    try:
        joined = join_held_out(training, held_out, drop_overlap=case["drop"])
    except InputError:
        return "refused"
    # 1. The unit: what was stored in another one is refused or doubted.
    if {unit, other_unit} not in ({unit}, {"bytes", "levels"}):  # both 0 … 255
        assert len(joined.remarks) > len(held_out.remarks), case
    # 2. Labels: the same name, or a word about numbers; a folder 0 is no name but a number.
    named, also_named = (
        flag and any(name != str(i) for i, name in enumerate(names))
        for flag, names in ((named, a), (also_named, b))
    )
    kept = sorted(set(range(len(joined))) - set(joined.excluded))
    if named and also_named:
        for row in kept:
            assert a[joined.labels[row]] == b[held_out.labels[row]], case
        assert {b[held_out.labels[row]] for row in kept} <= set(a)
    elif named != also_named and torch.equal(joined.labels, held_out.labels):
        assert any("ranks" in remark for remark in joined.remarks), case
    # 3. Rows that are training points are no held-out data.
    points = {row.numpy().tobytes() for row in training.points[:].flatten(1)}
    for row in kept:
        assert joined.take(torch.tensor([row])).flatten().numpy().tobytes() not in points, case
    return "joined"


@given(pairs_of_sets())
@settings(max_examples=40, suppress_health_check=list(HealthCheck))
def test_a_random_pair_of_sets_is_joined_rightly_or_refused(case):
    check_pair(case)


@pytest.mark.slow
@MANY
@given(pairs_of_sets())
def test_many_random_pairs_of_sets_are_joined_rightly_or_refused(case):
    check_pair(case)


WORDS = st.one_of(
    st.sampled_from(
        (
            *("", "0", "1", "-1", "nan", "inf", "1e400", "1e17", "0:4", "4:0", ",", "each"),
            *("whole", "linear", "cosine", "euler", "none.npy", "gaussian:0x1", "a\0b", "../x"),
            *("$x$", "é" * 40, "[]", "null_label=10", "predicts=data", "sit", "sd3", "--", "-"),
        )
    ),
    st.text(max_size=6),
    st.floats().map(str),
)
OPTIONS = {
    "predict": ("--points --dims --spectrum --what-if --path", ()),
    "grid": ("--steps --project-shift --mu --tokens", ("sd3",)),
    "convert-time": ("--from --to --steps --shift --k --mu", (".3",)),
    "inspect": (
        "--normalize --layout --moments --label-file --weights --memory",
        ("none.npy",),
    ),
    "stages": ("--classes --pairs --times --seed --memory --held-out --out", ("none.npy",)),
    "loss": ("--data --classes --pairs --times --steps --baselines --convention", ("oracle",)),
    "mix": ("--data --switch --landing --resume --rows --noises --edges --seeds", ("oracle",)),
    "sample": (
        "--seeds --labels --steps --shift --solver --tolerance --out",
        ("oracle", "none.npy"),
    ),
}


@st.composite
def commands(draw):
    verb = draw(st.sampled_from(list(OPTIONS)))
    options, positional = OPTIONS[verb]
    chosen = draw(st.lists(st.sampled_from(options.split()), max_size=3, unique=True))
    words = [word for option in chosen for word in (option, draw(WORDS))]
    return [verb, *positional, *words]


@pytest.mark.slow
@MANY
@given(commands())
def test_random_options_are_one_line_or_a_result(tmp_path_factory, case):
    """Never another exception; verbs that would compute get data that is refused at once."""
    folder = tmp_path_factory.mktemp("options")
    before = os.getcwd()
    os.chdir(folder)
    try:
        np.save("none.npy", np.zeros(3))  # no points: whatever else fits ends there
        code = main(case)
    finally:
        os.chdir(before)
    assert code in (0, 2), case
