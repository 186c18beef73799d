"""One network in one file: what was written is read, bit for bit, or refused."""

import json
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from checkpoint_files import MODERN, PLAIN, SIGMA, network
from floracle.models.convention import Convention
from floracle.models.weights import NETWORK_FILE, read_network, write_network
from floracle.models.zoo import load_model
from floracle.run.errors import InputError
from floracle.run.files import digest

PLANS = [MODERN, PLAIN, SIGMA, replace(MODERN, qk_norm=True, shift=False, null=False)]


@pytest.mark.parametrize("plan", PLANS, ids=["modern", "plain", "sigma", "other"])
def test_what_was_written_is_read_bit_for_bit(tmp_path, plan):
    made = network(plan)
    found = read_network(write_network(tmp_path / NETWORK_FILE, made, images=512))
    assert found.network.plan == plan
    assert found.convention == Convention(null_label=made.null)
    assert found.made["images"] == 512
    for name, values in made.state_dict().items():
        assert torch.equal(found.network.state_dict()[name], values)


def test_a_run_is_loaded_by_its_folder_or_file(tmp_path):
    made = network(MODERN)
    write_network(tmp_path / "run" / NETWORK_FILE, made)
    x, t, labels = torch.randn(2, 4, 8, 8), torch.tensor([0.2, 0.7]), torch.tensor([3, -1])
    expected = made(x, t, torch.tensor([3, 5]))
    for where in (tmp_path / "run", tmp_path / "run" / NETWORK_FILE, str(tmp_path / "run")):
        assert torch.equal(load_model(where)(x, t, labels), expected)


def test_its_convention_travels_with_it(tmp_path):
    made, convention = network(MODERN), Convention("data", 1, 0, null_label=5)
    write_network(tmp_path / NETWORK_FILE, made, convention=convention)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([0.25, 0.5], dtype=torch.float64)
    data = made(x, 1 - t.float(), torch.tensor([5, 5]))
    velocity = load_model(tmp_path)(x, t)
    torch.testing.assert_close(velocity, (data - x) / (1 - t.float())[:, None, None, None])


def test_other_programs_can_read_the_tensors(tmp_path):
    made = network(MODERN)
    path = write_network(tmp_path / NETWORK_FILE, made)
    found = load_file(path)
    assert set(found) == set(made.state_dict())
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["floracle"])["plan"]["width"] == 128


def test_a_write_that_fails_leaves_the_old_network(tmp_path, monkeypatch):
    path = write_network(tmp_path / NETWORK_FILE, network(MODERN))
    before = path.read_bytes()

    def broken(tensors, where, metadata):
        where.write_bytes(b"half")
        raise OSError("no space left")

    monkeypatch.setattr("floracle.models.weights.save_file", broken)
    with pytest.raises(OSError, match="no space"):
        write_network(path, network(MODERN, seed=1))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [NETWORK_FILE]


def rewritten(path, change):
    """The same file with another description."""
    with safe_open(path, "pt") as file:
        said = json.loads(file.metadata()["floracle"])
    change(said)
    said.pop("digest", None)
    said["digest"] = digest(json.dumps(said, sort_keys=True))  # as if written so
    save_file(load_file(path), path, metadata={"floracle": json.dumps(said)})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda said: said.update(format=99), "format 99"),
        (lambda said: said.pop("plan"), "plan in the header of .* is None, not a table"),
        (lambda said: said["plan"].update(width=64), "width is 64 in the settings, 128 in the"),
        (lambda said: said["plan"].update(colour="red"), "describes no network: it has a key"),
        (lambda said: said["convention"].update(predicts="fun"), "cannot read predicts=fun"),
    ],
)
def test_a_damaged_description_is_named(tmp_path, change, words):
    path = write_network(tmp_path / NETWORK_FILE, network(MODERN))
    rewritten(path, change)
    with pytest.raises(InputError, match=words):
        load_model(path)


@pytest.mark.parametrize("share", [0.001, 0.5, 0.9999])
def test_a_truncated_network_is_named(tmp_path, share):
    path = write_network(tmp_path / NETWORK_FILE, network(MODERN))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    for where in (path, tmp_path):
        with pytest.raises(InputError, match="incomplete"):
            load_model(where)


def test_a_foreign_file_is_not_read_as_ours(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="not a network that floracle wrote"):
        read_network(tmp_path / "a.safetensors")


def test_equal_networks_are_equal_files(tmp_path):
    made = network(MODERN)
    files = [write_network(tmp_path / f"{i}.safetensors", made, images=5) for i in range(6)]
    assert len({file.read_bytes() for file in files}) == 1
    with safe_open(files[0], "pt") as file:
        assert file.metadata()["format"] == "pt"  # without which transformers reads no file


def test_a_network_that_was_changed_afterwards_is_refused(tmp_path):
    file = write_network(tmp_path / "a.safetensors", network(MODERN))
    content = file.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    changed = [
        content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        for place in (start, start + 100, len(content) - 1)
    ]
    for said, other in ((rb"heads\": 4", rb"heads\": 2"), (rb"null\": 5", rb"null\": 6")):
        assert content.count(said) == 1, said
        changed.append(content.replace(said, other))
    for other in changed:
        file.write_bytes(other)
        with pytest.raises(InputError, match="is damaged: it is not as it was written"):
            read_network(file)
