"""Checkpoints of runs, opened as fields without the run."""

import json
from dataclasses import replace

import pytest
import torch
from tiny import BLIND, SMALL, Linear, digits, network, trained

import floracle
from edits import resealed
from floracle.run.errors import InputError
from floracle.training import checkpoint


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing stopped."""
    out = tmp_path_factory.mktemp("whole")
    return out, *trained(out)


@pytest.mark.slow
def test_checkpoints_open_as_fields_averaged_or_as_trained(whole):
    out = whole[0]
    x, t = torch.randn(3, 1, 8, 8), torch.rand(3, dtype=torch.float64)
    given = x, t, torch.tensor([4, 7, -1])
    early, last = sorted((out / "checkpoints").glob("*.safetensors"))
    averaged_then = floracle.load_model(last)
    assert torch.equal(averaged_then(*given), floracle.load_model(out)(*given))
    assert "480 images" in averaged_then.assumed
    assert not torch.equal(floracle.load_model(early)(*given), averaged_then(*given))
    kept = checkpoint.read_checkpoint(checkpoint.latest_checkpoint(out)[0])
    raw = network()
    raw.load_state_dict({name: kept[f"network/{name}"] for name in raw.state_dict()})
    labels = torch.tensor([4, 7, raw.null])
    expected = raw.eval()(x, t.float(), labels)
    assert torch.equal(floracle.load_model(last, weights="model")(*given), expected)
    with pytest.raises(InputError, match="no weights 'emma'; did you mean 'ema'"):
        floracle.load_model(last, weights="emma")


def test_checkpoints_that_training_would_refuse_do_not_open_either(whole, tmp_path):
    about = checkpoint.latest_checkpoint(whole[0])[0].record
    path = tmp_path / "000000000480.safetensors"
    content, said = about.with_suffix(".safetensors").read_bytes(), json.loads(about.read_text())
    for change, sealed, flipped, words in (
        ({"format": 1}, {}, 0, "of format 1"),
        ({}, {}, 1, "is damaged"),
        ({"images": 160}, {}, 0, "is damaged"),
        ({}, {"settings": {"network": {"depth": 1}}}, 0, "describes no network"),
    ):
        path.write_bytes(content[:-1] + bytes([content[-1] ^ flipped]))
        path.with_suffix(".json").write_text(json.dumps(said | change))
        if sealed:
            resealed(path.with_suffix(".json"), **sealed)
        with pytest.raises(InputError, match=words):
            floracle.load_model(path)
    path.with_suffix(".json").write_text("{")
    with pytest.raises(InputError, match=r"no supported family|has no|lacks"):
        floracle.load_model(path)  # somebody else's JSON, and no checkpoint of a project


def test_a_checkpoint_of_a_foreign_network_says_how_to_load_it(tmp_path):
    run = floracle.train(
        Linear(), digits(), replace(SMALL, images=160), out=tmp_path, look=BLIND, null=10
    )
    assert list(run)
    (path,) = (tmp_path / "checkpoints").glob("*.safetensors")
    with pytest.raises(InputError, match=r"that floracle did not build.*module:function"):
        floracle.load_model(path)
