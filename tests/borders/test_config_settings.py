"""Settings beside weights: each is followed, refused, or named in what was assumed."""

import json
import warnings

import pytest
import torch
from torch.testing import assert_close

from floracle.models.autoencoders.autoencoder import Autoencoder, LatentMoments
from floracle.models.autoencoders.load import load_autoencoder
from floracle.models.networks import lightningdit as family_sizes
from floracle.models.zoo import load_model
from floracle.run.errors import InputError
from network_families import (
    DIFFUSERS_FAMILIES,
    FAMILIES,
    KL_SIZES,
    PLAIN_SMALL,
    SMALL,
    outputs,
    read_config,
    read_tensors,
    text_embeddings,
    write_config,
    write_tensors,
)

pytestmark = pytest.mark.filterwarnings("ignore")
STATISTICS = {"latents_mean": [0.5, -1.0, 2.0, 0.0], "latents_std": [1.0, 0.5, 2.0, 4.0]}


@pytest.fixture(autouse=True)
def base_is_small(monkeypatch):
    monkeypatch.setitem(family_sizes.SIZES, "base", SMALL)


def configured(name, folder, **changes):
    """A family's file with other settings; None takes one out."""
    family = (FAMILIES | DIFFUSERS_FAMILIES)[name]
    path = family.write(folder)
    changed = read_config(family, folder) | changes
    write_config(family, folder, {key: v for key, v in changed.items() if v is not ...})
    return path


def kl_folder(folder, **settings):
    """An autoencoder of diffusers, with these settings in its config.json."""
    return configured("kl", folder, **settings)


class Identity:
    """An autoencoder network whose z is its image, four channels of it."""

    def moments(self, images):
        return LatentMoments(images, torch.full_like(images, 0.1))

    def images(self, z):
        return z


def test_latents_have_their_channels_mean_and_deviation():
    """(z − shift − m) / s · scale in float64, and back."""
    mean, std = (0.5, -1.0, 2.0), (1.0, 0.5, 2.0)
    autoencoder = Autoencoder(
        Identity(),
        "identity",
        3,
        1,
        "",
        gaussian=True,
        device=torch.device("cpu"),
        dtype=torch.float64,
        scale=1.7,
        shift=0.2,
        channel_mean=mean,
        channel_std=std,
    )
    images = torch.linspace(-1, 1, 2 * 3 * 4 * 4, dtype=torch.float64).reshape(2, 3, 4, 4)
    m, s = (torch.tensor(v, dtype=torch.float64).reshape(1, 3, 1, 1) for v in (mean, std))
    latents, deviation = autoencoder.encode(images)
    assert_close(latents, (images - 0.2 - m) / s * 1.7, rtol=1e-14, atol=1e-14)
    assert deviation is not None
    assert_close(deviation, (0.1 / s * 1.7).expand_as(images), rtol=1e-14, atol=1e-14)
    assert_close(autoencoder.decode(latents), images, rtol=1e-14, atol=1e-14)
    assert autoencoder.settings["channel_mean"] == list(mean)


@pytest.mark.slow  # importing diffusers takes seconds
@torch.no_grad()
def test_a_vaes_own_statistics_are_followed_as_its_pipelines_do(tmp_path):
    """Decoding is latents · s / scale + m, the line of the pipelines of diffusers."""
    import diffusers

    folder = kl_folder(tmp_path, **STATISTICS, shift_factor=None)
    ours, network = load_autoencoder(folder), diffusers.AutoencoderKL.from_pretrained(folder)
    images = torch.rand(2, 3, 32, 16) * 2 - 1
    latents, std = ours.encode(images)
    m, s = (torch.tensor(v).reshape(1, 4, 1, 1) for v in STATISTICS.values())
    expected = network.encode(images).latent_dist
    scale = KL_SIZES["scaling_factor"]
    assert_close(latents, (expected.mean - m) / s * scale)
    assert_close(std, expected.std / s * scale)
    assert_close(ours.decode(latents), network.decode(latents * s / scale + m).sample)
    assert "mean and deviation by channel" in ours.assumed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"latents_mean": [0.0] * 4}, "of latents_mean and latents_std it has one alone"),
        (STATISTICS, "latents_mean and a shift_factor"),
        (STATISTICS | {"latents_std": [1.0] * 3, "shift_factor": None}, "of its latent_channels"),
        (STATISTICS | {"latents_std": [0.0] * 4, "shift_factor": None}, "each a finite number ab"),
        ({"scaling_factor": 0}, "scaling_factor is 0, but must be a finite number above 0"),
        ({"scaling_factor": "0.18215"}, "scaling_factor is '0.18215', but must be"),
        ({"scaling_factor": float("nan")}, "scaling_factor is nan, but must be"),
        ({"block_out_channels": 8}, "block_out_channels is 8, but must be a list"),
        ({"block_out_channels": [8, 8, 8]}, "not of one length"),
        ({"in_channels": 4}, "in_channels is 4, but must be 3"),
        ({"_class_name": ["AutoencoderKL"]}, "_class_name is a list, but must be text"),
        ({"quantization_config": {"load_in_8bit": True}}, "quantization_config is a dict, but"),
    ],
)
def test_settings_of_a_vae_that_cannot_be_followed_are_refused(settings, words, tmp_path):
    with pytest.raises(InputError, match=words):
        load_autoencoder(kl_folder(tmp_path, **settings))


@pytest.mark.slow
def test_a_scale_that_no_config_says_is_called_a_default(tmp_path):
    folder = kl_folder(tmp_path, scaling_factor=..., shift_factor=...)
    assert (
        "scale 0.18215, shift 0 as diffusers has it by default" in load_autoencoder(folder).assumed
    )


@pytest.mark.slow
def test_a_tiny_vae_has_its_scale_too(tmp_path):
    """Its pipelines divide by the scaling factor as they do for others; 1 is only the default."""
    plain = outputs(load_autoencoder(configured("tiny", tmp_path)))
    folder = configured("tiny", tmp_path, scaling_factor=2.0, shift_factor=0.25)
    assert_close(outputs(load_autoencoder(folder)), (plain - 0.25) * 2, rtol=1e-6, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", DIFFUSERS_FAMILIES)
def test_a_setting_that_this_version_does_not_know_is_named(name, tmp_path):
    family = DIFFUSERS_FAMILIES[name]
    path = configured(name, tmp_path, sharpness_of_later_versions=0.5)
    assert (
        "settings that are not read: sharpness_of_later_versions = 0.5"
        in family.load(path).assumed
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("sd3", {"sample_size": 0}, "sample_size is 0, but must be a whole number from 1"),
        ("sd3", {"in_channels": "abc"}, "in_channels is 'abc', but must be"),
        ("sd3", {"in_channels": 2**80}, "in_channels is 1208925819614629174706176, but must be"),
        ("sd3", {"qk_norm": "l2"}, "qk_norm is 'l2', but must be None or 'rms_norm'"),
        ("sd3", {"num_attention_heads": {"a": 4}}, "num_attention_heads is a dict, but must be"),
        ("sd3", {"sample_size": 64}, "pos_embed_max_size do not cover its sample_size"),
        ("sd3", {"caption_projection_dim": 16}, "caption_projection_dim is not the width"),
        ("flux", {"axes_dims_rope": [8, 8]}, "axes_dims_rope are not three even numbers"),
        ("flux", {"axes_dims_rope": [4, 4, "8"]}, "axes_dims_rope is a list, but must be a list"),
        ("flux", {"out_channels": 8}, r"proj_out\.bias is \[16\], not \[8\]"),
        ("flux", {"patch_size": 2}, "patch_size is 2, but must be 1"),
        ("flux", {"guidance_embeds": "no"}, "guidance_embeds is 'no', but must be true or false"),
        ("flux", {"guidance_embeds": False}, r"does not have: time_text_embed\.guidance_embedder"),
    ],
)
def test_settings_of_a_transformer_that_contradict_are_refused(name, settings, words, tmp_path):
    with pytest.raises(InputError, match=words):
        DIFFUSERS_FAMILIES[name].load(configured(name, tmp_path, **settings))


@pytest.mark.slow
def test_settings_that_leave_no_trace_in_tensors_are_said(tmp_path):
    """Heads of another number, and axes in another order, fit the same tensors."""
    family = DIFFUSERS_FAMILIES["flux"]
    plain = family.load(configured("flux", tmp_path))
    other = family.load(configured("flux", tmp_path, axes_dims_rope=[8, 4, 4]))
    assert (outputs(plain) - outputs(other)).abs().max() > 1e-6
    assert "2 heads of 16, rotary axes 4, 4, 8" in plain.assumed
    assert "2 heads of 16, rotary axes 8, 4, 4" in other.assumed


def in_pipeline(folder, scheduler):
    """The transformer of a pipeline with these settings of its scheduler."""
    inner = folder / "transformer"
    inner.mkdir()
    DIFFUSERS_FAMILIES["sd3"].write(inner)
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(scheduler))
    return folder


FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}


@pytest.mark.slow
@pytest.mark.parametrize(
    "scheduler",
    [
        {"_class_name": "EulerDiscreteScheduler", "prediction_type": "epsilon"},
        {"_class_name": "DDPMScheduler"},
        FLOW | {"invert_sigmas": True},
    ],
)
@pytest.mark.parametrize("inside", [False, True])
def test_the_scheduler_of_another_flow_is_refused(scheduler, inside, tmp_path):
    folder = in_pipeline(tmp_path, scheduler)
    with pytest.raises(InputError, match="does not predict noise − data at σ = 1 − t"):
        load_model(folder / "transformer" if inside else folder, embeddings=text_embeddings())


@pytest.mark.slow
def test_the_number_of_times_of_a_scheduler_is_the_networks(tmp_path):
    (tmp_path / "plain").mkdir()
    (tmp_path / "few").mkdir()
    plain = load_model(in_pipeline(tmp_path / "plain", FLOW), embeddings=text_embeddings())
    few = in_pipeline(tmp_path / "few", FLOW | {"num_train_timesteps": 250})
    field = load_model(few, embeddings=text_embeddings())
    assert field.translated.convention.noise_time == 250
    assert "250 times by its scheduler" in field.assumed
    x, labels = torch.randn(2, 4, 8, 8), torch.tensor([0, 1])
    # 250 (1 − t) is what the other network gets at 1 − (1 − t) / 4.
    t = torch.tensor([0.2, 0.6], dtype=torch.float64)
    assert_close(field(x, t, labels), plain(x, 1 - (1 - t) / 4, labels))


@pytest.mark.parametrize(
    ("name", "settings", "words"),
    [
        ("sit", {"path_type": "Cosine"}, None),
        ("sit", {"path_type": "VP"}, "SiT's VP path"),
        ("sit", {"path_type": ["Linear"]}, "path_type is a list, but must be text"),
        ("sit", {"prediction": "x0"}, "unknown prediction 'x0'"),
        ("sit", {"image_size": 0}, "image_size is 0, but must be a whole number"),
        ("sit", {"num_classes": "10"}, "num_classes is '10', but must be a whole number"),
        ("sit", {"learn_sigma": True}, "sigma is True in the settings, False in the tensors"),
        ("sit", {"model": 3}, "model is 3, but must be text"),
        ("sit", {"model": ...}, "there is no model None"),
        ("repa", {"prediction": "eps"}, "prediction is 'eps', but must be 'v' or 'velocity'"),
        ("repa", {"qk_norm": 1}, "qk_norm is 1, but must be true or false"),
        ("repa", {"encoder_depth": 2}, "has 1 blocks before its decoder_blocks"),
        ("repa", {"cfg_prob": 2}, "cfg_prob is 2, but must be a number from 0 to 1"),
        (
            "lightningdit",
            {"model": ["LightningDiT-B/1"]},
            "section 'model' of .* is a list, not",
        ),
        ("lightningdit", {"data": 3}, "section 'data' of .* is 3, not a table"),
        ("lightningdit", {"data": {"image_size": 128, "num_classes": 10**30}}, "num_classes is"),
        ("lightningdit", {"data": {"image_size": float("nan")}}, "image_size is nan, but must be"),
        ("lightningdit", {"vae": {"downsample_ratio": 0}}, "downsample_ratio is 0, but must be"),
        (
            "lightningdit",
            {"transport": {"path_type": None}},
            "path_type is None, but must be text",
        ),
    ],
)
def test_settings_beside_tensors_are_typed(name, settings, words, tmp_path):
    path = configured(name, tmp_path, **settings)
    if words is None:
        assert "trigonometric" in load_model(path).assumed
        return
    with pytest.raises(InputError, match=words):
        load_model(path)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("in_chans", "abc", "in_chans is 'abc', but must be a whole number"),
        ("use_rope", "true", "use_rope is 'true', but must be true or false"),
        ("use_qknorm", True, "qk_norm is True in the settings, False in the tensors"),
        ("wo_shift", 0, "wo_shift is 0, but must be true or false"),
        ("model_type", {"name": "LightningDiT-B/1"}, "model_type is a dict, but must be text"),
        ("model_type", "LightningDiT-B/0", "must be positive"),
        ("model_type", "LightningDiT-B/" + "9" * 400, "there is no model"),
    ],
)
def test_settings_of_lightningdits_model_are_typed(key, value, words, tmp_path):
    model = read_config(FAMILIES["lightningdit"], _folder_of("lightningdit", tmp_path))["model"]
    path = configured("lightningdit", tmp_path, model=model | {key: value})
    with pytest.raises(InputError, match=words):
        load_model(path)


def _folder_of(name, folder):
    FAMILIES[name].write(folder)
    return folder


def test_settings_of_checkpoints_that_are_not_read_are_named(tmp_path):
    (tmp_path / "a").mkdir()
    path = configured("sit", tmp_path / "a", use_registers=4)
    assert "settings that are not read: use_registers = 4" in load_model(path).assumed
    (tmp_path / "b").mkdir()
    family = FAMILIES["lightningdit"]
    model = read_config(family, _folder_of("lightningdit", tmp_path / "b"))["model"]
    path = configured("lightningdit", tmp_path / "b", model=model | {"rope_base": 100})
    assert "settings that are not read: model.rope_base = 100" in load_model(path).assumed
    assert "not read" not in load_model(family.write(tmp_path / "b")).assumed


@pytest.mark.parametrize(("name", "key"), [("repa", "cfg_prob"), ("lightningdit", "model")])
def test_a_null_label_that_was_never_trained_is_none(name, key, tmp_path):
    """Without label dropout the row of the null label is as it was drawn at the start."""
    value = 0.0
    if key == "model":
        value = read_config(FAMILIES[name], _folder_of(name, tmp_path))["model"]
        value = value | {"class_dropout_prob": 0.0}
    field = load_model(configured(name, tmp_path, **{key: value}))
    assert field.needs_labels
    with pytest.raises(InputError, match="has no null label"):
        field(torch.zeros(1, 4, 8, 8), torch.zeros(1))


def test_a_table_without_a_null_label_is_read_as_such(tmp_path):
    family = FAMILIES["repa"]
    family.write(tmp_path)
    name = "y_embedder.embedding_table.weight"
    found = read_tensors(family, tmp_path)
    write_tensors(family, tmp_path, found | {name: found[name][: PLAIN_SMALL.classes].clone()})
    assert load_model(tmp_path / "last.pt").needs_labels


def test_heads_that_contradict_a_file_are_refused(tmp_path):
    path = FAMILIES["lightningdit"].write(tmp_path)
    assert torch.equal(outputs(load_model(path, heads=4)), outputs(load_model(path)))
    with pytest.raises(InputError, match="has 4 heads, not 8"):
        load_model(path, heads=8)


def test_what_an_autoencoder_leaves_out_is_named(tmp_path):
    """Such as the scale of its latents, which latent diffusion keeps beside the weights."""
    family = FAMILIES["ldm"]
    path = family.write(tmp_path)
    found = read_tensors(family, tmp_path)
    write_tensors(family, tmp_path, found | {"scale_factor": torch.ones(1)})
    words = "1 tensors beside the autoencoder left out (scale_factor)"
    assert words in load_autoencoder(path).assumed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"prompt_embeds": torch.ones(2, 6, 31)}, r"is \[2, 6, 31\], and this transformer takes"),
        ({"pooled_prompt_embeds": torch.ones(2, 24, 1)}, r"takes \[n, 24\]"),
        ({"prompt_embeds": torch.full((2, 6, 32), torch.nan)}, "holds NaN"),
        ({"prompt_embeds": torch.ones(2, 6, 32, dtype=torch.int64)}, "and weights are of one of"),
        ({"prompt_embeds": "a cat"}, "is a str, not a tensor"),
    ],
)
def test_embeddings_of_another_network_are_refused(change, words, tmp_path):
    path = DIFFUSERS_FAMILIES["flux"].write(tmp_path)
    with pytest.raises(InputError, match=words), warnings.catch_warnings():
        load_model(path, embeddings=text_embeddings() | change)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"guidance": "3"}, "guidance is '3', but must be a finite number"),
        ({"guidance": float("nan")}, "guidance is nan, but must be a finite number"),
        ({"embeddings": [1]}, "embeddings= must be a dict of tensors or a .safetensors file"),
    ],
)
def test_arguments_for_a_transformer_are_typed(arguments, words, tmp_path):
    path = DIFFUSERS_FAMILIES["flux"].write(tmp_path)
    with pytest.raises(InputError, match=words):
        load_model(path, **({"embeddings": text_embeddings()} | arguments))


@pytest.mark.parametrize("scale", ["x", 0, -1.0, float("inf"), True])
def test_a_scale_is_a_finite_number_above_0(scale, tmp_path):
    path = FAMILIES["ldm"].write(tmp_path)
    with pytest.raises(InputError, match=r"scale is .*, but must be a finite number above 0"):
        load_autoencoder(path, scale=scale)
