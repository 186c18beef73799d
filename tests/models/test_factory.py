"""Networks of one's own by `module:function`, and what goes wrong with them."""

import os
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from floracle.models.networks.factory import is_factory
from floracle.models.zoo import load_model
from floracle.run.errors import InputError

HERE = Path(__file__).parent
MNIST = str(HERE / "mnist_network.py") + ":network"


def write(folder, text, name="mine"):
    """A module of the user's, and the path of its file."""
    path = folder / f"{name}.py"
    path.write_text(text)
    return str(path)


@pytest.mark.slow
def test_somebody_elses_mnist_network_says_what_it_said_at_home(shared):
    field = load_model(MNIST, convention="predicts=data,null_label=10")
    kept = load_file(shared / "weights" / "mnist_flow_vit" / "reference.safetensors")
    x = torch.sin(0.01 * torch.arange(4 * 784).double()).float().reshape(4, 1, 28, 28)
    t = kept["t"].double()
    data = x + (1 - t).float()[:, None, None, None] * field(x, t, kept["label"].long())
    assert_close(data, kept["x1_prediction"], rtol=0, atol=1e-5)


def test_a_module_is_loaded_by_its_name(tmp_path, monkeypatch):
    write(tmp_path, "def network():\n    return lambda x, t: 2 * x + t[:, None]\n", "by_name")
    monkeypatch.syspath_prepend(tmp_path)
    field = load_model("by_name:network", convention="sit")
    x, t = torch.ones(2, 3), torch.tensor([0.25, 0.5])
    assert torch.equal(field(x, t), 2 * x + t[:, None])
    assert "by_name:network" in field.assumed
    assert "data − noise" in field.assumed


def test_a_file_is_read_as_it_is_now(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    x, t = torch.ones(1, 3), torch.zeros(1)
    for factor in (2, 3):  # the same size, and the same second of change
        where = write(tmp_path, f"def network():\n    return lambda x, t: {factor} * x\n")
        os.utime(where, (1, 1))
        assert torch.equal(load_model(f"{where}:network", convention="sit")(x, t), factor * x)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]


def test_torch_modules_are_put_into_evaluation(tmp_path):
    where = str(tmp_path / "dropping.py")
    Path(where).write_text(
        "import torch\n"
        "class Net(torch.nn.Dropout):\n"
        "    def forward(self, x, t):\n"
        "        return super().forward(x)\n"
        "def network():\n"
        "    return Net().train()\n"
    )
    field = load_model(f"{where}:network", convention="sit")
    x = torch.ones(2, 100)
    assert torch.equal(field(x, torch.zeros(2)), x)


def test_no_other_module_is_run(tmp_path):
    trace = tmp_path / "trace"
    write(tmp_path, f"open({str(trace)!r}, 'w')\n", "neighbour")
    where = write(tmp_path, "def network():\n    return lambda x, t: x\n", "asked_for")
    load_model(f"{where}:network", convention="sit")
    assert not trace.exists()
    assert "neighbour" not in sys.modules


def test_a_convention_has_to_be_declared(tmp_path):
    trace = tmp_path / "trace"
    where = write(tmp_path, f"open({str(trace)!r}, 'w')\n")
    with pytest.raises(InputError, match=r"cannot infer what .* predicts; pass --convention"):
        load_model(f"{where}:network")
    assert not trace.exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def netwrok(): pass", "did you mean 'netwrok'"),
        ("def network(): return 3", "returned a int"),
        ("network = 3", "has no function 'network'"),
    ],
)
def test_what_is_no_network_is_named(tmp_path, text, words):
    where = write(tmp_path, text, "no_network")
    with pytest.raises(InputError, match=words):
        load_model(f"{where}:network", convention="sit")


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("(x, [])", "a tuple of 2; wrap it"),
        ("x[:, :1]", r"\[2, 1\]; wrap it"),
        ("{'sample': x}", "a dict; wrap it"),
    ],
)
def test_what_returns_something_else_is_named(tmp_path, body, words):
    where = write(tmp_path, f"def network():\n    return lambda x, t: {body}\n", "returns")
    with pytest.raises(InputError, match=words):
        load_model(f"{where}:network", convention="sit")(torch.ones(2, 3), torch.zeros(2))


@pytest.mark.parametrize("where", ["no_such_module_here:network", "no/such/file.py:network"])
def test_an_absent_module_is_named(where):
    with pytest.raises(InputError, match="there is no"):
        load_model(where, convention="sit")


def test_a_module_that_misses_another_shows_its_own_error(tmp_path):
    where = write(tmp_path, "import something_absent\n", "misses")
    with pytest.raises(ModuleNotFoundError, match="something_absent"):
        load_model(f"{where}:network", convention="sit")


def test_names_of_functions_are_told_from_paths():
    assert is_factory("pkg.mod:network")
    assert is_factory("some dir/mod.py:network")
    assert not any(map(is_factory, ["a.pt", "runs/xl", "C:/x.pt", "pkg.mod:", ":f", "a b:f"]))
