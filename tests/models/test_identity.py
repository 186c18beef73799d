"""A network is known by what it computes: not by its file, its device or how it was wrapped."""

import functools
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from digests import told
from safetensors.torch import save_file
from torch import nn

import floracle
from checkpoint_files import MODERN, config, network, tensors
from floracle.models import identity
from floracle.models.convention import Convention, parse_convention
from floracle.models.identity import field_fingerprint
from floracle.models.identity_facts import collect_contents, hash_code
from floracle.models.networks import lightningdit as family
from floracle.models.weights import write_network
from floracle.models.zoo import load_model
from floracle.run.errors import InputError


def written(path, convention=None, **made):
    """A network of floracle's in a file."""
    return load_model(write_network(path, network(MODERN), convention=convention, **made))


def at_home(folder, text):
    """A field by a function in a file of the user's."""
    path = folder / "net.py"
    path.write_text("import torch\nfrom torch import nn\n" + text)
    return load_model(f"{path}:network", convention="sit")


# ------------------------------------------------------------------- networks of the family


@pytest.mark.slow
def test_a_network_of_the_family_is_its_weights_wherever_they_are_kept(tmp_path, monkeypatch):
    monkeypatch.setitem(family.SIZES, "base", family.SIZES["nano"])
    own = told(written(tmp_path / "one.safetensors"), MODERN.shape)
    assert told(written(tmp_path / "two.safetensors", images=7), MODERN.shape) == own
    content = {"ema": tensors(MODERN), "config": config(MODERN), "epoch": 3}
    torch.save(content, tmp_path / "0400000.pt")
    assert told(load_model(tmp_path / "0400000.pt"), MODERN.shape) == own
    save_file(dict(reversed(tensors(MODERN).items())), tmp_path / "plain.safetensors")
    assert told(load_model(tmp_path / "plain.safetensors"), MODERN.shape) == own


@pytest.mark.parametrize(
    ("convention", "digest"),
    [
        (None, "b09cc671a79a29f0cbae7d51d220ec3a"),
        ("repa,null_label=10", "367fbf8417181a71035f70f3a10c9eab"),
        ("sit,sign=-1", "3d42cc4f328179f62755d2fa27de1851"),
    ],
)
def test_networks_have_the_digests_that_stand_in_results_of_version_0_1(convention, digest):
    assert told(load_model("digits-pico", convention=convention), (1, 8, 8)) == digest


def test_a_network_that_takes_its_file_is_another(tmp_path):
    path = tmp_path / "net.safetensors"
    before = told(written(path), MODERN.shape)
    other = network(MODERN)
    other.y_embedder.embedding_table.weight[3, 0] += 1e-6  # of one class alone
    write_network(path, other)
    assert told(load_model(path), MODERN.shape) != before


@pytest.mark.slow
def test_how_a_network_is_read_is_part_of_it(tmp_path):
    ways = [
        None,
        Convention(null_label=3),
        Convention(null_label=5, sign=-1),
        Convention(predicts="data", null_label=5),
        parse_convention("noise_time=1,data_time=0,null_label=5"),
        parse_convention("path=nichol-dhariwal,null_label=5"),
        parse_convention("path=trigonometric,null_label=5"),
    ]
    digests = [told(written(tmp_path / "net.safetensors", way), MODERN.shape) for way in ways]
    assert len(set(digests)) == len(ways)
    same = written(tmp_path / "net.safetensors", Convention(null_label=5))
    assert told(same, MODERN.shape) == digests[0]


def test_what_tensors_do_not_tell_of_an_architecture_is_part_of_it(tmp_path):
    plan = replace(MODERN, rope=False)  # whose tensors are the same for any number of heads
    digests = []
    for heads in (4, 2):
        path = tmp_path / f"{heads}.safetensors"
        write_network(path, network(replace(plan, heads=heads)))
        digests.append(told(load_model(path), plan.shape))
    assert digests[0] != digests[1]


def test_precision_is_part_of_a_network(tmp_path):
    path = write_network(tmp_path / "net.safetensors", network(MODERN))
    exact, half = load_model(path), load_model(path, dtype=torch.bfloat16)
    assert told(exact, MODERN.shape) != told(half, MODERN.shape)


def test_a_network_of_the_family_is_not_evaluated(tmp_path, monkeypatch):
    field = written(tmp_path / "net.safetensors")
    monkeypatch.setattr(family.LightningDiT, "forward", None)
    told(field, MODERN.shape)


@pytest.mark.gpu
def test_a_network_is_the_same_on_every_device(tmp_path):
    path = write_network(tmp_path / "net.safetensors", network(MODERN))
    here, there = load_model(path), load_model(path, device="cuda")
    assert told(here, MODERN.shape) == told(there, MODERN.shape)


# --------------------------------------------------------------- networks of the user's own


class Scaled(nn.Module):
    """A network with a number and a buffer that no checkpoint holds."""

    def __init__(self, scale=1.0, shift=0.0):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(6, 6)
        self.scale = scale
        self.register_buffer("shift", torch.tensor(shift), persistent=False)
        self.eval()

    def forward(self, x, t, labels=None):
        return self.scale * self.layer(x) + self.shift


def closure(scale, low=0.2):
    return lambda x, t, labels=None: torch.where((t > low)[:, None], scale * x, x)


def stretched(x, t, labels=None, *, scale):
    return scale * x


def counted_globally(x, t, labels=None):
    return x * GLOBAL_SCALE


GLOBAL_SCALE = 1.0
BASE = Scaled()
VARIANTS = {
    "a buffer that is not saved": (lambda: Scaled(shift=0.5), Scaled),
    "a number of a module": (lambda: Scaled(scale=2.0), Scaled),
    "a cell of a closure": (lambda: closure(2.0), lambda: closure(3.0)),
    "an interval that no question lies in": (lambda: closure(2.0), lambda: closure(2.0, 0.3)),
    "an argument of a partial function": (
        lambda: functools.partial(stretched, scale=2),
        lambda: functools.partial(stretched, scale=3),
    ),
    "a scale of guidance": (
        lambda: floracle.guided(as_sit(BASE), 2.0, reference=as_sit(Scaled())),
        lambda: floracle.guided(as_sit(BASE), 3.0, reference=as_sit(Scaled())),
    ),
    "an interval of guidance": (
        lambda: floracle.guided(BASE, 2.0, reference=BASE, interval=(0.2, 0.4)),
        lambda: floracle.guided(BASE, 2.0, reference=BASE, interval=(0.2, 0.3)),
    ),
    "the object of a method": (lambda: Scaled().forward, lambda: Scaled(3.0).forward),
    "a tensor in a dictionary": (
        lambda: Looked({0: torch.ones(6), 7: torch.ones(6)}),
        lambda: Looked({0: torch.ones(6), 7: torch.zeros(6)}),
    ),
    "an array": (lambda: Looked({0: 1, 7: np.ones(6)}), lambda: Looked({0: 1, 7: np.zeros(6)})),
}


class Looked:
    """A field with a table that most questions do not touch."""

    __slots__ = ("table",)

    def __init__(self, table):
        self.table = table

    def __call__(self, x, t, labels=None):
        return x * self.table[0]


def as_sit(network):
    return floracle.as_field(network)


@pytest.mark.parametrize("what", VARIANTS)
def test_what_a_network_reads_is_part_of_it(what):
    one, other = VARIANTS[what]
    assert told(one()) == told(one())
    assert told(one()) != told(other())


def test_globals_that_a_function_reads_are_part_of_it(monkeypatch):
    before = told(counted_globally)
    monkeypatch.setitem(globals(), "GLOBAL_SCALE", 1.0 + 1e-12)  # which float32 does not show
    assert told(counted_globally) != before


def test_code_is_part_of_a_network_and_its_file_and_comments_are_not(tmp_path):
    body = "class Net(nn.Module):\n    def forward(self, x, t):\n        return {}\n"
    made = body + "def network():\n    return Net()\n"
    places = [tmp_path / name for name in ("a", "b", "c")]
    for place in places:
        place.mkdir()
    first = told(at_home(places[0], made.format("x.clamp(-1, 1)")))
    again = told(at_home(places[1], "# a comment\n\n" + made.format("x.clamp(-1,  1)")))
    assert first == again
    rare = "x.clamp(-1, 1) if bool((t > 0.01).all()) else -x"  # a moment that is not asked for
    assert told(at_home(places[2], made.format(rare))) != first


def test_the_order_of_a_set_in_code_is_no_part_of_it():
    one, other = frozenset([0, 8]), frozenset([8, 0])
    assert list(one) != list(other)  # as sets of strings are, from one process to the next
    code = counted_globally.__code__
    texts = [hash_code(code.replace(co_consts=(each,))) for each in (one, other)]
    assert texts[0] == texts[1] != hash_code(code.replace(co_consts=(frozenset([0]),)))


def test_weights_that_were_overwritten_make_a_function_another_network(tmp_path):
    weights = tmp_path / "w.safetensors"
    text = (
        "from safetensors.torch import load_file\n"
        "def network():\n"
        f"    w = load_file({str(weights)!r})['w']\n"
        "    return lambda x, t: x @ w\n"
    )
    digests = []
    for seed in (0, 1, 0):
        torch.manual_seed(seed)
        save_file({"w": torch.randn(6, 6)}, weights)
        digests.append(told(at_home(tmp_path, text)))
    assert digests[0] == digests[2] != digests[1]


def test_what_no_reference_leads_to_shows_in_the_answers(tmp_path):
    file = tmp_path / "scale"

    def field(x, t, labels=None):
        return x * float(Path(file).read_text())

    file.write_text("1")
    before = told(field)
    file.write_text("2")
    assert told(field) != before


@pytest.mark.slow  # two processes import torch
@pytest.mark.usefixtures("shared")
def test_a_network_is_the_same_in_the_next_process():
    home = Path(__file__).parent
    made = (
        f"load_model({str(home / 'mnist_network.py')!r} + ':network', convention='null_label=10')"
    )
    code = (
        "from floracle.models.zoo import load_model\n"
        "from floracle.models.identity import field_fingerprint\n"
        f"print(field_fingerprint({made}, (1, 28, 28)).digest)"
    )
    said = [
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONHASHSEED": seed, "OMP_NUM_THREADS": seed},
        ).stdout
        for seed in ("1", "2")
    ]
    assert said[0] == said[1]
    assert len(said[0].strip()) == 32


def test_tied_tensors_are_read_once_and_are_like_equal_ones(monkeypatch):
    tied, apart = Scaled(), Scaled()
    tied.other, apart.other = nn.Linear(6, 6), nn.Linear(6, 6)
    apart.other.load_state_dict(apart.layer.state_dict())
    tied.other.weight, tied.other.bias = tied.layer.weight, tied.layer.bias
    assert told(tied) == told(apart)
    pieces, hashed = [], identity._hash_piece
    monkeypatch.setattr(identity, "_hash_piece", lambda piece: pieces.append(1) or hashed(piece))
    identity.hash_facts(collect_contents(tied).facts)
    assert len(pieces) == 3  # weight, bias and the buffer


ODD = {
    "every second number": torch.arange(12.0)[::2],
    "bits": torch.tensor([True, False]),
    "complex": torch.tensor([1 + 2j]).conj(),
    "sparse": torch.eye(3).to_sparse(),
    "half": torch.ones(3, dtype=torch.bfloat16),
    "number": torch.tensor(3.0),
    "more than a piece": torch.zeros(5_000_000),
}


@pytest.mark.parametrize("kind", ODD)
def test_tensors_of_every_kind_count_by_their_bytes(kind):
    assert told(Looked({0: 1, 1: ODD[kind]})) == told(Looked({0: 1, 1: ODD[kind].clone()}))
    other = ODD[kind].to_dense().clone()
    other.view(-1)[-1] = 0 if other.view(-1)[-1] else 1
    changed = other.to_sparse() if kind == "sparse" else other
    assert told(Looked({0: 1, 1: ODD[kind]})) != told(Looked({0: 1, 1: changed}))


def test_what_is_not_finite_is_an_answer():
    assert told(lambda x, t, labels=None: x / 0) == told(lambda x, t, labels=None: x / 0)


def test_a_frozen_module_of_torchscript_is_a_network():
    frozen = torch.jit.freeze(torch.jit.script(nn.Sequential(nn.Linear(6, 6)).eval()))

    def field(x, t, labels=None):
        return frozen(x)

    assert told(field) == told(field)


def test_tensors_without_readable_memory_are_no_obstacle():
    told(Looked({0: 1, 1: torch.empty(3, device="meta"), 2: torch.empty(0, 3)}))


# ------------------------------------------------------------------ labels and wrong shapes


def needy(x, t, labels):
    return x * (1 + labels[:, None].float())


def test_networks_are_asked_as_they_can_be(tmp_path):
    assert told(needy) != told(floracle.as_field(lambda x, t: x))
    assert told(needy) != told(needy, labels=torch.tensor([2, 3]))
    plan = replace(MODERN, null=False)
    write_network(tmp_path / "net.safetensors", network(plan))
    guided = floracle.guided(load_model(tmp_path / "net.safetensors"), 1.0)
    told(guided, MODERN.shape)


def test_a_shape_that_does_not_fit_is_named(tmp_path):
    text = "def network():\n    net = nn.Linear(6, 6)\n    return lambda x, t: net(x)\n"
    with pytest.raises(InputError, match=r"fails on samples of 5: .* use data of the shape"):
        field_fingerprint(at_home(tmp_path, text), (5,))
