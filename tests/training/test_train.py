"""Runs: what they learn, what they write, when they stop, and how they go on."""

import json
from dataclasses import replace

import pytest
import torch
from tiny import BLIND, SMALL, Linear, digits, network, same, tensors, trained

import floracle
from floracle.run.errors import InputError
from floracle.training import checkpoint
from floracle.training.build_model import build_model, fitting_patch
from floracle.training.config import LIGHTNINGDIT, PAPER, SIT, TrainingSettings
from floracle.training.ema import copy_for_average, ema_decay, update_average
from floracle.training.evaluation import EvaluationPlan
from floracle.training.metrics_log import read_log
from floracle.training.train_step import cosine_loss


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing stopped."""
    out = tmp_path_factory.mktemp("whole")
    return out, *trained(out)


def test_it_learns_and_says_where_it_stands(whole):
    out, said, _ = whole
    assert [at.images for at in said] == [128, 160, 256, 320, 384, 480]
    assert said[-1].loss < 0.95 * said[0].loss
    assert all(at.total == 480 and at.images_per_second > 0 for at in said)
    assert said[-1].seconds_left == 0
    assert [at.images for at in said if at.checkpoint] == [160, 320, 480]
    lines = [line for line in read_log(out).lines if "loss" in line]
    assert [line["images"] for line in lines] == [at.images for at in said]
    for line in lines:
        counts = line["by_t"]["counts"]
        assert sum(counts) <= 128  # dropped labels stay apart
        assert line["touched"] == 0


def test_a_run_opens_as_a_field_and_as_a_result(whole):
    out, said, weights = whole
    field = floracle.load_model(out)
    assert field.shape == (1, 8, 8)
    data = digits()
    x, t = torch.randn(5, 1, 8, 8), torch.rand(5, dtype=torch.float64)
    assert field(x, t, torch.tensor([0, 1, 2, 3, -1])).isfinite().all()
    found = floracle.load(out)
    assert found.kind == "training"
    assert found.settings["data"] == data.fingerprint
    assert TrainingSettings.of_plain({k: found.settings[k] for k in SMALL.plain()}) == SMALL
    assert found.arrays["images"].tolist() == [at.images for at in said]
    assert found.values["images"] == 480
    assert "pos_embed" in weights


def test_the_same_again_answers_and_another_is_refused_with_its_differences(whole):
    out, said, weights = whole
    again, kept = trained(out)
    assert [at.images for at in again] == [480]
    assert again[0].loss == said[-1].loss
    assert same(weights, kept)
    other = replace(SMALL, seed=1, target="oracle")
    with pytest.raises(InputError, match=r"seed: 0 there, 1 asked.*target: 'conditional' there"):
        trained(out, other)


def test_a_folder_that_holds_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("chapter 1")
    with pytest.raises(
        InputError, match=r"holds what no run of floracle train wrote \(thesis.tex\)"
    ):
        trained(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def stopped_after(out, images, settings=SMALL, **more):
    """A run whose caller loses interest after so many images."""
    more.setdefault("look", BLIND)
    for at in floracle.train(network(), digits(), settings, out=out, **more):
        if at.images >= images:
            return


def plain_lines(out):
    timed = {"seconds", "images_per_second"}
    return [{k: v for k, v in line.items() if k not in timed} for line in read_log(out).lines]


@pytest.mark.slow
@pytest.mark.parametrize("images", [128, 160, 256, 384, 480])
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(whole, tmp_path, images):
    stopped_after(tmp_path, images)
    assert not (tmp_path / "result.json").exists()
    _, weights = trained(tmp_path)
    assert same(weights, whole[2])
    assert plain_lines(tmp_path) == plain_lines(whole[0])
    last = "checkpoints/000000000480.safetensors"
    assert (tmp_path / last).read_bytes() == (whole[0] / last).read_bytes()


VARIED = {
    "oracle": {"target": "oracle"},
    "bank": {"target": "bank", "bank": 8},
    "split-aware": {"times": "split-aware"},
    "logit-normal and cosine": {"times": "logit-normal", "cosine": 1.0},
    "bf16 in pieces": {"precision": "bf16", "accumulate": 3},
    "recomputed": {"recompute": True},
    "measured switch": {"target": "oracle", "switch": None},
    "an odd end": {"images": 333, "every": 70},
}


@pytest.mark.slow
@pytest.mark.parametrize("parts", VARIED.values(), ids=VARIED)
def test_every_kind_of_run_resumes_to_the_same_bits(tmp_path, parts):
    settings = replace(SMALL, **parts)
    stopped_after(tmp_path / "stopped", 200, settings)
    _, weights = trained(tmp_path / "stopped", settings)
    said, expected = trained(tmp_path / "whole", settings)
    assert same(weights, expected)
    assert plain_lines(tmp_path / "stopped") == plain_lines(tmp_path / "whole")
    assert said[-1].images == settings.images


@pytest.mark.slow
def test_settings_that_only_save_memory_change_no_more_than_rounding(whole, tmp_path):
    for name, parts in {"pieces": {"accumulate": 5}, "again": {"recompute": True}}.items():
        _, weights = trained(tmp_path / name, replace(SMALL, **parts))
        for key, values in weights.items():
            assert torch.allclose(values, whole[2][key], atol=2e-4), key


def test_batches_made_ahead_are_the_same(whole, tmp_path):
    data = replace(digits(), resident=False)  # as if it had to be read
    _, weights = trained(tmp_path, data=data)
    assert same(weights, whole[2])


def test_a_truncated_checkpoint_is_named_and_the_one_before_it_taken(whole, tmp_path):
    stopped_after(tmp_path, 320)
    path = tmp_path / "checkpoints/000000000320.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    said, weights = trained(tmp_path)
    assert "000000000320.safetensors is damaged" in said[0].notes[0]
    assert said[0].images == 256
    assert same(weights, whole[2])
    notes = [line for line in read_log(tmp_path).lines if "note" in line]
    assert [note["images"] for note in notes] == [160]


def test_lines_beyond_the_checkpoint_are_cut(whole, tmp_path):
    stopped_after(tmp_path, 256)
    log = tmp_path / "metrics.jsonl"
    assert [line["images"] for line in read_log(tmp_path).lines] == [128, 160, 256]
    log.write_text(log.read_text() + '{"images": 288, "lo')
    trained(tmp_path)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line["images"] for line in lines] == [128, 160, 256, 320, 384, 480]


def test_only_the_latest_checkpoints_are_kept(whole):
    names = sorted(path.name for path in (whole[0] / "checkpoints").iterdir())
    assert names == [
        f"000000000{n}.{ending}" for n in (320, 480) for ending in ("json", "safetensors")
    ]


class Poisoned(Linear):
    """Says NaN after so many calls."""

    def __init__(self, calls):
        super().__init__()
        self.left = calls

    def forward(self, x, t, labels):
        self.left -= 1
        return super().forward(x, t, labels) * (float("nan") if self.left < 0 else 1)


def test_a_loss_that_is_not_finite_stops_with_the_last_good_checkpoint_named(tmp_path):
    with pytest.raises(InputError, match=r"no longer finite after 224 .*000000000160.safetensors"):
        trained(tmp_path, net=Poisoned(6), null=10)
    assert [int(one.stem) for one in checkpoint.record_paths(tmp_path)] == [160]
    kept, _ = checkpoint.latest_checkpoint(tmp_path)
    assert all(values.isfinite().all() for values in checkpoint.read_checkpoint(kept).values())


def test_a_loss_that_explodes_stops_before_it_is_kept(tmp_path):
    wild = replace(SMALL, rate=30.0, clip=None)
    with pytest.raises(InputError, match=r"exploded .* no checkpoint is older"):
        trained(tmp_path, wild, net=Linear(), null=10)
    assert not checkpoint.record_paths(tmp_path)


@pytest.mark.slow
def test_a_full_disk_is_said_and_leaves_the_checkpoint_before(whole, tmp_path, monkeypatch):
    stopped_after(tmp_path, 160)

    def full(tensors, path):
        path.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save_file", full)
        with pytest.raises(InputError, match=r"No space left.*good checkpoint is .*000000000160"):
            trained(tmp_path)
    assert not list(tmp_path.rglob("*.part"))
    assert same(trained(tmp_path)[1], whole[2])


@pytest.mark.slow
def test_oracle_and_conditional_targets_lead_a_linear_model_to_the_same_place(tmp_path):
    """Least squares have one minimum: the same for both targets, nearer by the oracle's."""
    ends = {}
    settings = replace(
        SMALL, images=60_000, batch=500, rate=2e-3, every=60_000, drop=0.0, ema=0.95
    )
    for target in ("conditional", "oracle"):
        net = Linear()
        list(
            floracle.train(
                net,
                digits(),
                replace(settings, target=target, switch=0.95),
                out=tmp_path / target,
                look=BLIND,
            )
        )
        ends[target] = net.matrix[:10].detach()
    apart = (ends["oracle"] - ends["conditional"]).square().mean().sqrt()
    assert apart < 0.15 * ends["oracle"].square().mean().sqrt()


def test_evaluations_tell_the_oracle_loss_with_errors_and_held_out_loss(tmp_path):
    data = digits()
    rows = torch.arange(len(data))
    points, labels = data.take(rows), data.labels
    train = floracle.open_store(points[::2].contiguous(), labels=labels[::2])
    other = floracle.open_store(points[1::2].contiguous(), labels=labels[1::2])
    look = EvaluationPlan(pairs=8, times=2, classes=2, samples=4, steps=3)
    settings = replace(SMALL, images=160)
    said, _ = trained(tmp_path, settings, data=train, held_out=other, look=look)
    told = said[-1].evaluation
    assert len(told["t"]) == 4
    assert set(told) == {"t", "oracle", "conditional", "gap", "held_out", "difference"}
    assert all(error > 0 for error in told["oracle"]["error"])
    assert told["oracle"]["navigation"] < told["conditional"]["navigation"]
    kept = floracle.load(tmp_path / "evaluations/000000000160")
    assert floracle.run.results.provenance()["floracle"] == kept.provenance["floracle"]
    shown = (tmp_path / "evaluations/000000000160.png").read_bytes()
    assert shown.startswith(b"\x89PNG")
    line = [line for line in read_log(tmp_path).lines if "evaluation" in line][-1]["evaluation"]
    assert line["oracle"] == told["oracle"]


def test_the_average_follows_as_its_decay_says():
    net = network()
    average = copy_for_average(net)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.requires_grad:
                parameter += 1
    for _ in range(3):
        update_average(average, net, 0.9)
    for ours, theirs in zip(average.parameters(), net.parameters(), strict=True):
        share = 1 - 0.9**3 if theirs.requires_grad else 1
        begun = theirs - 1 if theirs.requires_grad else theirs
        assert torch.allclose(ours, begun + share * (theirs - begun), atol=1e-6)
    assert ema_decay(PAPER, 1) == pytest.approx(2 / 11)
    assert ema_decay(PAPER, 10**6) == 0.9999
    assert ema_decay(SIT, 1) == 0.9999


def test_presets_are_the_projects_own():
    assert (PAPER.batch, PAPER.rate, PAPER.clip, PAPER.ema, PAPER.drop) == (
        512,
        1e-4,
        1,
        0.9999,
        0.1,
    )
    assert LIGHTNINGDIT.steps == 80_000
    assert (LIGHTNINGDIT.rate, LIGHTNINGDIT.betas, LIGHTNINGDIT.cosine) == (2e-4, (0.9, 0.95), 1)
    assert LIGHTNINGDIT.times == "logit-normal"
    assert SIT.steps == 7_000_000
    assert SIT.clip is None


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ({"target": "orakle"}, "did you mean 'oracle'"),
        ({"batch": 0}, "batch counts from 1"),
        ({"ema": 1.0}, "share in"),
        ({"switch": 1.0}, "time in"),
        ({"rate": float("nan")}, "rate is positive"),
        ({"clip": -1.0}, "clip is a positive norm"),
        ({"seed": -1}, "seed lies in"),
        ({"every": 0}, "every counts from 1"),
    ],
)
def test_settings_that_mean_nothing_are_mistakes(parts, words):
    with pytest.raises(InputError, match=words):
        TrainingSettings(**parts)


def test_networks_and_data_that_do_not_fit_are_mistakes(tmp_path):
    data = digits()
    with pytest.raises(InputError, match="takes 1 × 16 × 16, but these samples are 1 × 8 × 8"):
        floracle.train(network(side=16), data, SMALL, out=tmp_path)
    with pytest.raises(InputError, match="knows 3 classes"):
        floracle.train(network(3), data, SMALL, out=tmp_path)
    with pytest.raises(InputError, match="null label"):
        floracle.train(Linear(), data, SMALL, out=tmp_path)
    with pytest.raises(InputError, match="nothing to train"):
        floracle.train(network().requires_grad_(False), data, SMALL, out=tmp_path)
    with pytest.raises(InputError, match="no squares"):
        build_model(SMALL, floracle.open_store("gaussian:20x8"))
    assert not list(tmp_path.iterdir())


def test_networks_are_made_for_their_data():
    made = build_model(replace(SMALL, patch=None), digits())
    assert (made.plan.patch, made.plan.classes, made.null) == (1, 10, 10)
    assert [fitting_patch(side) for side in (8, 16, 32, 64, 256, 28)] == [1, 1, 2, 4, 16, 2]
    again = build_model(replace(SMALL, patch=None), digits())
    assert all(
        torch.equal(a, b) for a, b in zip(made.parameters(), again.parameters(), strict=True)
    )


def test_the_cosine_loss_is_that_of_channels():
    a, b = torch.randn(3, 4, 5, 5), torch.randn(3, 4, 5, 5)
    expected = 1 - (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))
    assert torch.allclose(cosine_loss(a, b), expected.mean((1, 2)), atol=1e-6)
    assert torch.allclose(cosine_loss(a, 3 * a), torch.zeros(3), atol=1e-6)


def test_weights_of_tensors_are_those_of_the_file(whole):
    kept, _ = checkpoint.latest_checkpoint(whole[0])
    found = checkpoint.read_checkpoint(kept)
    for name, values in tensors(whole[0]).items():
        assert torch.equal(found[f"average/{name}"], values)
    assert kept.step == 15
