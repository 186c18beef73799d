"""Weights in several files: the index names files of its folder, and each holds what is listed."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from floracle.run.errors import InputError
from network_families import (
    ALL,
    WEIGHTS,
    outputs,
    written,
)

pytestmark = [pytest.mark.filterwarnings("ignore"), pytest.mark.slow]  # imports diffusers


def sharded(path, *, drop=(), listed=None):
    """The folder's tensors in two shards and an index."""
    found = load_file(path / WEIGHTS)
    (path / WEIGHTS).unlink()
    stem, half = "diffusion_pytorch_model", len(found) // 2
    shards = [sorted(found)[:half], sorted(found)[half:]]
    weight_map = {}
    for number, names in enumerate(shards, 1):
        shard = f"{stem}-{number:05}-of-00002.safetensors"
        weight_map |= dict.fromkeys(names, shard)
        kept = {name: found[name] for name in names if name not in drop}
        save_file(kept, path / shard, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": listed or weight_map}
    (path / f"{stem}.safetensors.index.json").write_text(json.dumps(index))
    return path / shard


def test_shards_are_read_as_one_file_and_named_if_one_is_missing(tmp_path):
    path = written("flux", tmp_path)
    expected = outputs(ALL["flux"].load(path))
    shard = sharded(path)
    assert torch.equal(outputs(ALL["flux"].load(path)), expected)
    shard.unlink()
    with pytest.raises(InputError, match=rf"there is no \S+{shard.name}"):
        ALL["flux"].load(path)
    (path / "diffusion_pytorch_model.safetensors.index.json").unlink()
    with pytest.raises(InputError, match=r"has no \S+\.index\.json to list its"):
        ALL["flux"].load(path)


def test_a_shard_that_lacks_what_its_index_lists_is_named(tmp_path):
    """Loaded by its index alone, such a tensor is memory that nobody wrote."""
    path = written("flux", tmp_path)
    sharded(path, drop=["proj_out.weight"])
    with pytest.raises(InputError, match=r"00002\S+ lacks proj_out\.weight, unlike its"):
        ALL["flux"].load(path)


@pytest.mark.parametrize("name", ["../../x.safetensors", "/etc/x.safetensors", "x.bin", 3, ["a"]])
def test_an_index_names_files_of_its_own_folder_alone(name, tmp_path):
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    path = written("flux", folder)
    (tmp_path / "x.safetensors").write_bytes((path / WEIGHTS).read_bytes())
    sharded(path, listed={"proj_out.weight": name})
    with pytest.raises(InputError, match=r"proj_out\.weight is .*, but must be"):
        ALL["flux"].load(path)


def test_a_plain_file_beside_an_index_is_not_chosen_between(tmp_path):
    path = written("flux", tmp_path)
    whole = (path / WEIGHTS).read_bytes()
    sharded(path)
    (path / WEIGHTS).write_bytes(whole)
    with pytest.raises(InputError, match=r"has both .*; remove the one that is out of date"):
        ALL["flux"].load(path)
