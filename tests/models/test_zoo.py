"""Checkpoints of others become fields: the right weights, the right network, the right clock."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from torch.testing import assert_close

import floracle
from checkpoint_files import (
    MODERN,
    PLAIN,
    SIGMA,
    config,
    lightningdit,
    network,
    repa,
    sit,
    tensors,
)
from floracle.models.networks import lightningdit as family
from floracle.models.zoo import load_model
from floracle.run.errors import InputError


@pytest.fixture(autouse=True)
def nano_is_base(monkeypatch):
    """Names like "LightningDiT-B/1" stand for a network that a test can hold."""
    monkeypatch.setitem(family.SIZES, "base", family.SIZES["nano"])


def asked(plan, batch=4):
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(batch, *plan.shape, generator=generator)
    t = torch.linspace(0, 1, batch, dtype=torch.float64)
    return x, t, torch.tensor([2, -1, 0, 4])[:batch]


def said_by(plan, x, t, labels, seed=0):
    """The network itself, asked in its own words: 5 is its null label."""
    return network(plan, seed)(x, t.float(), torch.where(labels < 0, 5, labels))


def test_a_lightningdit_checkpoint_is_its_averaged_network(tmp_path):
    field = load_model(lightningdit(tmp_path / "0400000.pt", MODERN))
    x, t, labels = asked(MODERN)
    assert torch.equal(field(x, t, labels), said_by(MODERN, x, t, labels))
    assert field.shape == (4, 8, 8)
    assert field.classes == 5
    assert isinstance(field, floracle.VelocityField)


def test_the_weights_in_training_can_be_had(tmp_path):
    path = lightningdit(tmp_path / "0400000.pt", MODERN)
    x, t, labels = asked(MODERN)
    field = load_model(path, weights="model")
    assert torch.equal(field(x, t, labels), said_by(MODERN, x, t, labels, seed=1))
    assert "model weights" in field.assumed
    assert "ema weights" in load_model(path).assumed


def test_without_labels_the_null_label_is_asked(tmp_path):
    field = load_model(lightningdit(tmp_path / "last.pt", MODERN))
    x, t, _ = asked(MODERN)
    assert torch.equal(field(x, t), said_by(MODERN, x, t, torch.full((4,), -1)))


def test_sit_runs_in_our_clock_and_drops_its_second_half(tmp_path):
    field = load_model(sit(tmp_path / "0400000.pt", SIGMA))
    x, t, labels = asked(SIGMA)
    assert torch.equal(field(x, t, labels), said_by(SIGMA, x, t, labels))
    assert "second half of its 2C outputs dropped" in field.assumed
    assert "data − noise" in field.assumed


@pytest.mark.slow
@pytest.mark.parametrize("legacy", [0, 1])
def test_repa_runs_from_data_to_noise(tmp_path, legacy):
    field = load_model(repa(tmp_path / "last.pt", PLAIN, legacy=legacy, encoder_depth=1))
    x, t, labels = asked(PLAIN)
    assert_close(field(x, t, labels), -said_by(PLAIN, x, 1 - t, labels), rtol=0, atol=1e-6)
    assert "projectors left out" in field.assumed
    assert "noise − data" in field.assumed


def test_a_bare_sit_file_is_known_by_its_outputs(tmp_path):
    torch.save(tensors(SIGMA), tmp_path / "SiT-nano-2.pt")
    field = load_model(tmp_path / "SiT-nano-2.pt")
    x, t, labels = asked(SIGMA)
    assert torch.equal(field(x, t, labels), said_by(SIGMA, x, t, labels))
    assert "DiT's own weights" in field.assumed


def test_a_bare_lightningdit_file_tells_everything(tmp_path):
    plan = replace(MODERN, heads=2, shift=False, classes=10, null=False)
    save_file(tensors(plan), tmp_path / "some.safetensors")
    field = load_model(tmp_path / "some.safetensors")
    x, t, _ = asked(plan)
    labels = torch.tensor([9, 0, 3, 3])
    assert torch.equal(field(x, t, labels), network(plan)(x, t.float(), labels))
    with pytest.raises(InputError, match="no null label"):
        field(x, t)


def test_plain_tensors_alone_do_not_tell_a_direction(tmp_path):
    path = tmp_path / "plain.pt"
    torch.save(tensors(PLAIN), path)
    with pytest.raises(InputError, match="convention='sit' or 'repa'"):
        load_model(path)
    x, t, labels = asked(PLAIN)
    towards_data, towards_noise = (load_model(path, convention=name) for name in ("sit", "repa"))
    assert torch.equal(towards_data(x, t, labels), said_by(PLAIN, x, t, labels))
    assert_close(towards_noise(x, t, labels), -said_by(PLAIN, x, 1 - t, labels), rtol=0, atol=1e-6)


def test_the_gvp_path_is_rescaled(tmp_path):
    """On α = sin, σ = cos, t = ½ is the middle in both clocks, where x / (α + σ) is x / √2."""
    field = load_model(sit(tmp_path / "gvp.pt", SIGMA, path_type="GVP", prediction="noise"))
    x, _, labels = asked(SIGMA)
    t = torch.full((4,), 0.5, dtype=torch.float64)
    noise = said_by(SIGMA, x * 2**0.5, t, labels)
    assert_close(field(x, t, labels), (x - noise) / 0.5, rtol=1e-4, atol=1e-4)


def test_the_vp_path_is_refused(tmp_path):
    with pytest.raises(InputError, match="VP path"):
        load_model(sit(tmp_path / "vp.pt", SIGMA, path_type="VP"))


def test_samples_and_velocities_keep_their_type(tmp_path):
    path = lightningdit(tmp_path / "last.pt", MODERN)
    x, t, labels = asked(MODERN)
    exact, low = load_model(path), load_model(path, dtype=torch.bfloat16)
    assert exact(x.double(), t, labels).dtype == torch.float64
    assert low(x, t, labels).dtype == torch.float32
    error = (low(x, t, labels) - exact(x, t, labels)).abs().max()
    assert 0 < error < 0.1


def test_a_changed_file_does_not_change_a_loaded_network(tmp_path):
    path = lightningdit(tmp_path / "last.pt", MODERN)
    field, given = load_model(path), asked(MODERN)
    before = field(*given)
    path.write_bytes(b"\0" * path.stat().st_size)
    assert torch.equal(field(*given), before)


def test_it_can_be_sampled_and_guided(tmp_path):
    field = load_model(lightningdit(tmp_path / "last.pt", MODERN))
    noise = floracle.noise(range(4), field.shape)
    grid = floracle.time_grid(3)
    plain = floracle.sample(field, noise, grid, labels=2)
    same = floracle.sample(floracle.guided(field, 1.0), noise, grid, labels=2)
    pushed = floracle.sample(floracle.guided(field, 3.0), noise, grid, labels=2)
    assert torch.equal(plain, same)
    assert (pushed - plain).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("shape", "word"),
    [
        ((32, 8, 8), "takes 4 × 8 × 8 .channels first"),
        ((4, 16, 16), "the size it was trained on"),
        ((4, 64), "size"),
    ],
)
def test_wrong_latents_are_refused(tmp_path, shape, word):
    field = load_model(lightningdit(tmp_path / "last.pt", MODERN))
    with pytest.raises(InputError, match=word):
        field(torch.zeros(1, *shape), torch.zeros(1))


def test_a_label_it_does_not_know_is_refused(tmp_path):
    field = load_model(lightningdit(tmp_path / "last.pt", MODERN))
    x, t, _ = asked(MODERN)
    with pytest.raises(InputError, match="labels 0 to 4, and -1 for none, got 5"):
        field(x, t, torch.tensor([0, 1, 5, 2]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "LightningDiT-XL/1"}, "depth is 28 in the settings, 4 in the tensors"),
        ({"model_type": "LightningDiT-B/2"}, "patch is 2 in the settings, 1 in the tensors"),
        ({"in_chans": 32}, "channels is 32 in the settings, 4 in the tensors"),
        ({"use_rope": False}, "rope is False in the settings, True in the tensors"),
        ({"use_swiglu": False}, "swiglu is False in the settings, True in the tensors"),
        ({"wo_shift": True}, "shift is False in the settings, True in the tensors"),
        ({"model_type": "LightningDiT-XXL/1"}, "there is no model 'LightningDiT-XXL/1'"),
    ],
)
def test_a_contradicting_configuration_is_named(tmp_path, change, words):
    path = lightningdit(tmp_path / "last.pt", MODERN, config=config(MODERN, **change))
    with pytest.raises(InputError, match=words):
        load_model(path)


def test_a_missing_block_is_named(tmp_path):
    lost = {k: v for k, v in tensors(MODERN).items() if "blocks.2.mlp" not in k}
    path = lightningdit(tmp_path / "last.pt", MODERN, ema=lost)
    with pytest.raises(InputError, match=r"lacks 4 tensors: blocks\.2\.mlp\.w12\.weight"):
        load_model(path)


@pytest.mark.parametrize("name", ["pos_embed", "final_layer.linear.weight"])
def test_a_missing_essential_is_named(tmp_path, name):
    lost = {k: v for k, v in tensors(MODERN).items() if k != name}
    path = lightningdit(tmp_path / "last.pt", MODERN, ema=lost)
    with pytest.raises(InputError, match=f"lacks {name}"):
        load_model(path)


def test_a_tensor_too_many_is_named(tmp_path):
    more = tensors(MODERN) | {"s_embedder.proj.weight": torch.ones(2)}
    path = lightningdit(tmp_path / "last.pt", MODERN, ema=more)
    with pytest.raises(InputError, match=r"s_embedder\.proj\.weight; load"):
        load_model(path)


def test_other_angles_are_named(tmp_path):
    other = tensors(MODERN)
    other["feat_rope.freqs_cos"] = other["feat_rope.freqs_cos"].flip(0)
    path = lightningdit(tmp_path / "last.pt", MODERN, ema=other)
    with pytest.raises(InputError, match="rotary positions are others"):
        load_model(path)


def test_a_diverged_network_is_named(tmp_path):
    nan = tensors(MODERN)
    nan["blocks.1.attn.proj.bias"][3] = float("nan")
    path = lightningdit(tmp_path / "last.pt", MODERN, ema=nan)
    with pytest.raises(InputError, match=r"blocks\.1\.attn\.proj\.bias holds NaN"):
        load_model(path)


def test_an_unknown_family_is_named(tmp_path):
    save_file({"conv_in.weight": torch.ones(3)}, tmp_path / "unet.safetensors")
    with pytest.raises(
        InputError, match=r"conv_in\.weight, which is no supported family.*module:function"
    ):
        load_model(tmp_path / "unet.safetensors")


def test_an_unknown_size_asks_for_its_heads(tmp_path):
    plan = replace(SIGMA, depth=3)
    torch.save(tensors(plan), tmp_path / "odd.pt")
    with pytest.raises(InputError, match="give heads="):
        load_model(tmp_path / "odd.pt")
    x, t, labels = asked(plan)
    field = load_model(tmp_path / "odd.pt", heads=plan.heads)
    assert torch.equal(field(x, t, labels), said_by(plan, x, t, labels))


@pytest.mark.parametrize(
    ("name", "words"), [("nothing.pt", "there is no"), ("notes.txt", "by its ending")]
)
def test_what_is_no_checkpoint_is_named(tmp_path, name, words):
    (tmp_path / "notes.txt").write_text("later")
    with pytest.raises(InputError, match=words):
        load_model(tmp_path / name)


def test_a_folder_of_checkpoints_lists_them(tmp_path):
    lightningdit(tmp_path / "0100000.pt", MODERN)
    with pytest.raises(InputError, match=r"name one of its checkpoints: 0100000\.pt"):
        load_model(tmp_path)


@pytest.mark.parametrize("option", [{"weights": "ema"}, {"heads": 4}, {"embeddings": {}}])
def test_options_that_mean_nothing_are_named(tmp_path, option):
    (tmp_path / "mine.py").write_text("def network(): return lambda x, t: x")
    with pytest.raises(InputError, match=f"{next(iter(option))}= means nothing for a function"):
        load_model(f"{tmp_path}/mine.py:network", convention="sit", **option)


def test_a_declared_convention_keeps_the_null_label(tmp_path):
    field = load_model(lightningdit(tmp_path / "last.pt", MODERN), convention="repa")
    x, t, labels = asked(MODERN)
    expected = -said_by(MODERN, x, 1 - t, labels)
    assert_close(field(x, t, labels), expected, rtol=0, atol=1e-6)
    assert "the convention as declared" in field.assumed


def test_an_absent_device_is_named(tmp_path):
    with pytest.raises(InputError, match="device"):
        load_model(tmp_path, device="nonsense")
