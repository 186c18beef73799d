"""What is kept of a run, and what becomes of it where disks, files or networks are odd."""

import errno
import json
from dataclasses import replace

import pytest
import torch
from tiny import BLIND, SMALL, digits, network, same, tensors, trained
from torch import nn

import floracle
from edits import resealed
from floracle.run.errors import InputError
from floracle.run.records import read_any_record
from floracle.training import checkpoint, loop
from floracle.training import run_directory as place
from floracle.training.ema import copy_for_average, update_average
from floracle.training.evaluation import EvaluationPlan
from floracle.training.metrics_log import read_log

SHORT = replace(SMALL, images=320, batch=32, every=96, lines=2)


class Own(nn.Module):
    """A network of somebody's own: dropout, a buffer that counts, a part that rests now and then.

    `rests` are the numbers of calls, counted from 0, in which its second part is left out.
    """

    def __init__(self, *, drop=0.0, rests=(), seed=0):
        super().__init__()
        source = torch.Generator().manual_seed(seed)
        self.first = nn.Parameter(0.1 * torch.randn(64, 64, generator=source))
        self.second = nn.Parameter(0.1 * torch.randn(64, 64, generator=source))
        self.dropout, self.rests = nn.Dropout(drop), rests
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x, t, labels):
        said = self.dropout(x.flatten(1)) @ self.first
        if int(self.calls) not in self.rests:
            said = said + x.flatten(1) @ self.second
        if self.training:
            self.calls += 1
        return said.reshape(x.shape)


def run_of(out, net, *, until=None, settings=SHORT, **more):
    """Train a network of one's own; its checkpoint's tensors, unless it was stopped on the way."""
    more.setdefault("look", BLIND)
    for at in floracle.train(net, digits(), settings, out=out, null=10, **more):
        if until is not None and at.images >= until:
            return None
    kept, words = checkpoint.latest_checkpoint(out)
    assert not words
    return checkpoint.read_checkpoint(kept)


@pytest.mark.slow
@pytest.mark.parametrize(
    "parts", [{"drop": 0.3}, {"rests": range(7)}, {"rests": range(100)}, {"rests": (1, 5)}]
)
def test_networks_with_dropout_and_resting_parts_resume_to_the_same_bits(tmp_path, parts):
    whole = run_of(tmp_path / "whole", Own(**parts))
    torch.rand(5)  # the global generator is somewhere else by then
    run_of(tmp_path / "stopped", Own(**parts), until=130)
    found = run_of(tmp_path / "stopped", Own(**parts))
    assert same(found, whole)
    if parts.get("rests") == range(100):
        assert "exp_avg/second" not in whole
        assert torch.equal(whole["network/second"], Own().second)
    if parts.get("rests") == (1, 5):
        assert whole["step/first"] == 10
        assert whole["step/second"] == 8


def test_training_leaves_the_global_generator_where_it_was(tmp_path):
    torch.manual_seed(3)
    before = torch.get_rng_state()
    run_of(tmp_path, Own(drop=0.5))
    assert torch.equal(torch.get_rng_state(), before)


def test_dropout_differs_from_step_to_step_and_from_seed_to_seed(tmp_path):
    one = run_of(tmp_path / "1", Own(drop=0.5), settings=replace(SHORT, seed=0))
    again = run_of(tmp_path / "2", Own(drop=0.5), settings=replace(SHORT, seed=0))
    none = run_of(tmp_path / "3", Own(drop=0.0), settings=replace(SHORT, seed=0))
    assert same(one, again)
    assert not torch.equal(one["network/first"], none["network/first"])


def test_buffers_of_the_average_are_those_of_the_network(tmp_path):
    found = run_of(tmp_path, Own())
    assert found["network/calls"] == found["average/calls"] == 10
    net = Own()
    average = copy_for_average(net)
    net.calls += 4
    update_average(average, net, 0.9)
    assert average.calls == 4


def test_tied_weights_are_refused_before_anything_is_written(tmp_path):
    net = Own()
    net.second = net.first
    with pytest.raises(InputError, match="first and second of this network are one tensor"):
        run_of(tmp_path, net)
    assert not list(tmp_path.iterdir())


def kept_names(out):
    return sorted(path.name for path in (out / "checkpoints").iterdir())


def damaged(path):
    path.write_bytes(path.read_bytes()[:-7])


def test_two_damaged_checkpoints_leave_the_third_whatever_is_kept(tmp_path):
    """As a kill just before the older ones were cleared leaves them: three there, one to keep."""
    settings = replace(SHORT, keep=3)
    whole = run_of(tmp_path / "whole", Own(), settings=settings)
    out = tmp_path / "run"
    run_of(out, Own(), settings=settings, until=288)
    for about in (out / "run.json", *(out / "checkpoints").glob("*.json")):
        resealed(about, settings=read_any_record(about)[1]["settings"] | {"keep": 1})
    for images in (192, 288):
        damaged(out / f"checkpoints/{images:012d}.safetensors")
    at = next(iter(floracle.train(Own(), digits(), replace(SHORT, keep=1), out=out, null=10)))
    assert at.images == 128
    assert [note.split(" is damaged")[0][-24:] for note in at.notes[:2]] == [
        "000000000288.safetensors",
        "000000000192.safetensors",
    ]
    assert (out / "checkpoints/000000000096.json").exists()
    assert same(run_of(out, Own(), settings=replace(SHORT, keep=1)), whole)


def test_a_json_that_cannot_be_read_is_named_and_its_tensors_stay(tmp_path):
    whole = run_of(tmp_path / "whole", Own())
    out = tmp_path / "run"
    run_of(out, Own(), until=192)
    damaged(out / "checkpoints/000000000192.json")
    (out / "checkpoints/000000000256.safetensors").write_bytes(b"of no JSON")
    said = floracle.train(Own(), digits(), SHORT, out=out, look=BLIND, null=10)
    at = next(said)
    (note,) = at.notes
    assert "000000000192.json is not readable JSON" in note
    assert "the checkpoint before it is taken" in note
    assert "000000000192.safetensors" in kept_names(out)
    assert "000000000256.safetensors" not in kept_names(out)
    said.close()
    assert same(run_of(out, Own()), whole)


def test_where_nothing_is_whole_it_says_that_it_starts_again(tmp_path):
    whole = run_of(tmp_path / "whole", Own())
    out = tmp_path / "run"
    run_of(out, Own(), until=96)
    damaged(out / "checkpoints/000000000096.safetensors")
    at = next(iter(floracle.train(Own(), digits(), SHORT, out=out, look=BLIND, null=10)))
    assert at.images == 64
    assert "starts again from 0" in at.notes[0]
    assert same(run_of(out, Own()), whole)


def test_a_checkpoint_of_another_format_names_the_version_that_made_it(tmp_path):
    run_of(tmp_path, Own(), until=96)
    about = tmp_path / "checkpoints/000000000096.json"
    said = json.loads(about.read_text())
    about.write_text(json.dumps(said | {"format": 9, "floracle": "7.1"}))
    before = kept_names(tmp_path)
    with pytest.raises(
        InputError, match=r"format 9, and this version .* reads 2; .* floracle 7\.1"
    ):
        run_of(tmp_path, Own())
    assert kept_names(tmp_path) == before


def refusing(*given, **named):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("module", "name", "file"),
    [
        (loop, "save_evaluation", "evaluations/000000000192"),
        (loop, "draw_samples", "evaluations/000000000192.png"),
        (place, "write_network", "network.safetensors"),
        (checkpoint, "write_record", "checkpoints/000000000192.safetensors"),
    ],
)
def test_whatever_a_disk_refuses_is_one_mistake(tmp_path, monkeypatch, module, name, file):
    look = EvaluationPlan(pairs=2, times=1, classes=1, samples=1, steps=1)
    run = floracle.train(network(), digits(), SHORT, out=tmp_path, look=look)
    while next(run).checkpoint is None:
        pass
    with monkeypatch.context() as patch:
        patch.setattr(module, name, refusing)
        words = rf"{file} could not be written .*No space left.*checkpoint is .*000000000096"
        with pytest.raises(InputError, match=words):
            list(run)
    assert not list(tmp_path.rglob("*.part"))
    assert [line["images"] for line in read_log(tmp_path).lines][-1] >= 96
    trained(tmp_path, SHORT)
    assert tensors(tmp_path)


def test_metrics_that_cannot_be_written_are_named_too(tmp_path):
    run = floracle.train(network(), digits(), SHORT, out=tmp_path, look=BLIND)
    while next(run).checkpoint is None:
        pass
    (tmp_path / "metrics.jsonl").rename(tmp_path / "elsewhere")
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(InputError, match=r"metrics.jsonl could not be .*checkpoint is .*00096"):
        list(run)


def test_a_look_at_one_pair_is_refused_at_the_door():
    with pytest.raises(InputError, match="pairs counts from 2"):
        EvaluationPlan(pairs=1)
    with pytest.raises(InputError, match="samples counts from 0"):
        EvaluationPlan(samples=-1)
