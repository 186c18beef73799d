"""A result answers for what was measured: no old answer for another network, no lost file."""

import pytest
import torch

from floracle.cli import main
from floracle.models.networks.lightningdit import Architecture, initialize
from floracle.models.weights import write_network
from floracle.run.results import load_results

PLAN = Architecture(1, 8, 1, patch=4, channels=1, side=8, classes=10)
FEW = ["--seeds", "0:2", "--steps", "4"]
VERBS = {
    "sample": ["{}", "digits", *FEW],
    "loss": ["{}", "--data", "digits", "--pairs", "2", "--trajectories", "0", "--times", ".3,.5"],
    "probe": ["{}", "--data", "digits", *FEW],
    "mix": ["{}", "--data", "digits", "--switch", ".5", *FEW],
}
FUNCTION = """
import torch
from torch import nn

class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.full((1,), {weight}))

    def forward(self, x, t, labels):
        return self.weight * x * {scale}

def network():
    return Scaled()
"""


def run(verb, field, out):
    words = [word.format(field) for word in VERBS[verb]]
    more = ["--convention", "predicts=velocity,null_label=10"] if ":" in field else []
    return main([verb, *words, *more, "--out", str(out)])


def written(path, seed):
    """A network whose every weight is drawn; untrained ones say zero, whatever their seed."""
    source = torch.Generator().manual_seed(seed)
    network = initialize(PLAN, source)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=source)
    write_network(path, network)


def numbers(out):
    """The result of a verb, or its parts, as far as they can be compared."""
    places = sorted(path.parent for path in out.glob("**/result.json"))
    found = [load_results(place) for place in places]
    return [
        (one.values, {name: values.tolist() for name, values in one.arrays.items()})
        for one in found
    ]


@pytest.mark.slow
@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_answers_for_a_network_that_was_overwritten(tmp_path, verb, capsys):
    path, out = tmp_path / "net.safetensors", tmp_path / "out"
    written(path, 0)
    assert run(verb, str(path), out) == 0
    before = numbers(out)
    written(path, 1)
    capsys.readouterr()
    assert run(verb, str(path), out) == 2
    assert "other settings (networks: " in capsys.readouterr().err.splitlines()[-1]
    assert run(verb, str(path), tmp_path / "other") == 0
    assert numbers(tmp_path / "other") != before
    written(path, 0)
    assert run(verb, str(path), out) == 0
    assert "complete" in capsys.readouterr().err
    assert numbers(out) == before


def test_nor_for_a_function_whose_weights_or_code_changed(tmp_path, capsys):
    path, out = tmp_path / "net.py", tmp_path / "out"
    for changed in ({"weight": 0.5, "scale": 1.0}, {"weight": 0.25, "scale": 2.0}):
        path.write_text(FUNCTION.format(weight=0.25, scale=1.0))
        assert run("sample", f"{path}:network", out) == 0
        path.write_text(FUNCTION.format(**changed))
        assert run("sample", f"{path}:network", out) == 2
        assert "other settings (networks: " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_samples_that_were_removed_or_changed_are_drawn_again(tmp_path, capsys):
    out = tmp_path / "out"
    command = ["sample", "oracle", "digits", *FEW, "--out", str(out)]
    assert main(command) == 0
    content = (out / "samples.npz").read_bytes()
    for change in (
        lambda path: path.unlink(),
        lambda path: path.write_bytes(content[:-3]),
        lambda path: path.write_bytes(content[:-3] + b"abc"),
    ):
        change(out / "samples.npz")
        capsys.readouterr()
        assert main(command) == 0
        assert "the samples are drawn again" in capsys.readouterr().err
        assert (out / "samples.npz").read_bytes() == content


def test_default_folders_of_different_questions_do_not_collide(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    asked = (["0:2"], ["0:2", "--labels", "3"], ["0:2"])
    for words in asked:
        assert main(["sample", "oracle", "digits", "--steps", "2", "--seeds", *words]) == 0
    assert [path.name for path in sorted((tmp_path / "runs").iterdir())] == [
        "sample-digits",
        "sample-digits-2",
    ]
    assert "complete" in capsys.readouterr().err


def test_data_sets_in_folders_called_train_get_folders_of_their_own(tmp_path, monkeypatch):
    from floracle.cli.parsing import default_folder

    monkeypatch.chdir(tmp_path)
    assert default_folder("stages", "flowers/train").name == "stages-flowers-train"
    assert default_folder("stages", "birds/train/").name == "stages-birds-train"
    assert default_folder("stages", "birds/latents.npy").name == "stages-birds-latents"
    assert default_folder("stages", "digits").name == "stages-digits"
    assert default_folder("stages", "gaussian:20x4").name == "stages-gaussian-20x4"
