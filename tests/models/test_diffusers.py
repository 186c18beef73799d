"""SD3 and Flux from folders of diffusers: the latents of their pipelines, and the self-test."""

import json
import sys
from dataclasses import replace

import pytest
import torch
from torch.testing import assert_close

import floracle
from floracle.models.check import check_convention
from floracle.models.convention import CONVENTIONS
from floracle.models.field import model_field
from floracle.models.networks.diffusers import (
    SD3,
    Flux,
    Prompts,
    pack_latents,
    token_positions,
    unpack_latents,
)
from floracle.models.zoo import load_model
from floracle.run.errors import InputError
from tiny_pipelines import FLUX_SIZES, SD3_SIZES, TEXT

pytestmark = pytest.mark.slow  # importing diffusers takes seconds
CPU = torch.device("cpu")
PROMPTS = {"prompt_embeds": (3, 6, 32), "pooled_prompt_embeds": (3, 24)}


@pytest.fixture(scope="module")
def library():
    """The diffusers package; its import warns about others' deprecations."""
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers = pytest.importorskip("diffusers")
        for name in (
            "FluxPipeline",
            "StableDiffusion3Pipeline",
            "FlowMatchEulerDiscreteScheduler",
        ):
            getattr(diffusers, name)
    return diffusers


@pytest.fixture(scope="module")
def embeddings():
    generator = torch.Generator().manual_seed(1)
    return {
        prefix + name: torch.randn(shape, generator=generator)
        for prefix in ("", "negative_")
        for name, shape in PROMPTS.items()
    }


@pytest.fixture(scope="module")
def folders(library, tmp_path_factory):
    """Tiny SD3 and Flux transformers, saved as diffusers saves them."""
    home = tmp_path_factory.mktemp("diffusers")
    torch.manual_seed(0)
    library.SD3Transformer2DModel(**SD3_SIZES).save_pretrained(home / "sd3")
    for name, embedded in (("flux", True), ("schnell", False)):
        sizes = FLUX_SIZES | {"guidance_embeds": embedded}
        library.FluxTransformer2DModel(**sizes).save_pretrained(home / name)
    return home


def pipeline(library, kind, transformer, parts):
    """A pipeline without text encoders or autoencoder."""
    scheduler = library.FlowMatchEulerDiscreteScheduler()
    made = getattr(library, kind)(
        transformer=transformer, scheduler=scheduler, vae=None, **dict.fromkeys(parts)
    )
    made.set_progress_bar_config(disable=True)
    return made


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", ["flux", "schnell"])
def test_flux_ends_where_its_pipeline_ends(library, folders, embeddings, name):
    transformer = library.FluxTransformer2DModel.from_pretrained(folders / name)
    made = pipeline(library, "FluxPipeline", transformer, TEXT)
    noise = floracle.noise(range(3), (4, 8, 8))
    ended = made(
        **{key: embeddings[key] for key in PROMPTS},
        height=64,
        width=64,
        latents=pack_latents(noise),
        sigmas=[1.0, 0.75, 0.5, 0.25],
        num_inference_steps=4,
        guidance_scale=2.5,
        output_type="latent",
    ).images
    field = load_model(folders / name, embeddings=embeddings, guidance=2.5)
    own = floracle.sample(field, noise, floracle.time_grid(4), labels=torch.arange(3))
    assert_close(own, unpack_latents(ended, 4, 4), rtol=0, atol=1e-5)
    assert (own - noise).abs().max() > 0.1


@pytest.mark.filterwarnings("ignore")
def test_sd3_with_guidance_ends_where_its_pipeline_ends(library, folders, embeddings):
    transformer = library.SD3Transformer2DModel.from_pretrained(folders / "sd3")
    parts = (*TEXT, "text_encoder_3", "tokenizer_3")
    made = pipeline(library, "StableDiffusion3Pipeline", transformer, parts)
    noise = floracle.noise(range(3), (4, 8, 8))
    negative = {key: value[:1].expand_as(value) for key, value in embeddings.items()}
    ended = made(
        **{key: negative[key] if "negative" in key else embeddings[key] for key in embeddings},
        height=64,
        width=64,
        latents=noise,
        sigmas=[1.0, 0.75, 0.5, 0.25],
        num_inference_steps=4,
        guidance_scale=3.0,
        output_type="latent",
    ).images
    field = floracle.guided(load_model(folders / "sd3", embeddings=embeddings), 3.0)
    own = floracle.sample(field, noise, floracle.time_grid(4), labels=torch.arange(3))
    assert_close(own, ended, rtol=0, atol=1e-5)
    assert (own - noise).abs().max() > 0.1


class FromOracle:
    """A transformer that knows the velocity of a data set, and speaks as diffusers' do."""

    def __init__(self, oracle, scale, *, packs):
        self.oracle, self.scale, self.packs = oracle, scale, packs

    def __call__(self, *, hidden_states, timestep, **rest):
        assert rest["return_dict"] is False
        side = int(hidden_states.shape[1] ** 0.5)
        x = unpack_latents(hidden_states, side, side) if self.packs else hidden_states
        t = (1 - timestep.double() / self.scale).clamp(0, 0.999)
        said = -self.oracle(x, t)
        return (pack_latents(said) if self.packs else said,)


@pytest.fixture(scope="module")
def world(points_source):
    generator = torch.Generator().manual_seed(2)
    waves = torch.rand(150, 1, generator=generator) * torch.linspace(1, 9, 64)
    source = points_source((0.5 + torch.sin(waves)).reshape(150, 4, 4, 4))
    return source, floracle.Oracle(source)


@pytest.mark.parametrize(("kind", "scale"), [("sd3", 1000), ("flux", 1)])
@pytest.mark.parametrize("wrong", [False, True])
def test_the_self_test_sees_the_clock_of_diffusers(world, kind, scale, wrong):
    source, oracle = world
    prompts = Prompts(torch.zeros(2, 3, 5), torch.zeros(2, 5), negative=True)
    transformer = FromOracle(oracle, scale, packs=kind == "flux")
    network = SD3(transformer, prompts) if kind == "sd3" else Flux(transformer, prompts, None)
    other = {"sd3": "flux", "flux": "sd3"}[kind]
    convention = CONVENTIONS[other if wrong else kind]
    field = model_field(
        network,
        replace(convention, null_label=1),
        name=kind,
        assumed=[],
        device=CPU,
        dtype=None,
        shape=(4, 4, 4),
        classes=1,
    )
    expected = "wrong time scale" if wrong else "as declared"
    assert check_convention(field, source).answer == expected
    assert check_convention(field).answer == expected


def test_packs_are_the_pipelines_own(library):
    x = torch.randn(2, 4, 6, 8)
    own = library.FluxPipeline._pack_latents(x, 2, 4, 6, 8)
    assert torch.equal(pack_latents(x), own)
    assert torch.equal(unpack_latents(own, 3, 4), x)
    where = library.FluxPipeline._prepare_latent_image_ids(2, 3, 4, "cpu", torch.float32)
    assert torch.equal(token_positions(3, 4).float(), where)


def test_the_folder_of_a_pipeline_has_its_transformer_inside(folders, embeddings, tmp_path):
    (tmp_path / "model_index.json").write_text('{"_class_name": "StableDiffusion3Pipeline"}')
    (tmp_path / "transformer").symlink_to(folders / "sd3")
    inner = load_model(folders / "sd3", embeddings=embeddings)
    outer = load_model(tmp_path, embeddings=embeddings)
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([0.3, 0.6])
    assert torch.equal(inner(x, t), outer(x, t))
    assert "noise − data" in outer.assumed
    assert "1000 at noise and 0 at data" in outer.assumed


def test_labels_choose_the_prompt(folders, embeddings):
    field = load_model(folders / "sd3", embeddings=embeddings)
    x, t = torch.randn(1, 4, 8, 8).expand(4, -1, -1, -1), torch.full((4,), 0.4)
    said = field(x, t, torch.tensor([0, 1, 2, -1]))
    assert torch.pdist(said.flatten(1)).min() > 1e-3
    assert_close(field(x, t)[0], said[3])
    with pytest.raises(InputError, match="labels 0 to 2, and -1 for none, got 3"):
        field(x, t, torch.tensor([0, 1, 2, 3]))


def test_embeddings_may_lie_in_a_file(folders, embeddings, tmp_path):
    from safetensors.torch import save_file

    save_file(embeddings, tmp_path / "text.safetensors")
    x, t = torch.randn(3, 4, 8, 8), torch.full((3,), 0.4)
    first = load_model(folders / "sd3", embeddings=embeddings)
    again = load_model(folders / "sd3", embeddings=tmp_path / "text.safetensors")
    assert torch.equal(first(x, t, torch.arange(3)), again(x, t, torch.arange(3)))


def test_the_guidance_that_flux_embeds_counts(folders, embeddings):
    x, t = torch.randn(2, 4, 8, 8), torch.full((2,), 0.4)
    said = {
        (name, scale): load_model(folders / name, embeddings=embeddings, guidance=scale)(x, t)
        for name in ("flux", "schnell")
        for scale in (1.0, 5.0)
    }
    assert (said["flux", 1.0] - said["flux", 5.0]).abs().max() > 1e-4
    assert torch.equal(said["schnell", 1.0], said["schnell", 5.0])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (None, "pass prompt= .* or embeddings="),
        ({"prompt_embeds": torch.ones(1, 2, 32)}, "pooled_prompt_embeds"),
        ({"promt_embeds": torch.ones(1, 2, 32)}, "did you mean 'prompt_embeds'"),
    ],
)
def test_missing_text_is_named(folders, change, words):
    with pytest.raises(InputError, match=words):
        load_model(folders / "sd3", embeddings=change)


def test_without_a_negative_prompt_every_sample_needs_one(folders, embeddings):
    field = load_model(folders / "sd3", embeddings={key: embeddings[key] for key in PROMPTS})
    with pytest.raises(InputError, match="no null label"):
        field(torch.randn(1, 4, 8, 8), torch.zeros(1))


def test_wrong_channels_and_odd_edges_are_named(folders, embeddings):
    field = load_model(folders / "flux", embeddings=embeddings)
    with pytest.raises(InputError, match="4 channels"):
        field(torch.randn(1, 16, 8, 8), torch.zeros(1))
    with pytest.raises(InputError, match="odd edge"):
        field(torch.randn(1, 4, 7, 8), torch.zeros(1))


def test_other_networks_of_diffusers_are_named(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "UNet2DConditionModel"}))
    with pytest.raises(InputError, match="holds a UNet2DConditionModel"):
        load_model(tmp_path)


def test_pickled_weights_of_diffusers_are_refused(folders, embeddings, tmp_path):
    (tmp_path / "config.json").write_bytes((folders / "sd3" / "config.json").read_bytes())
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(InputError, match=r"has no diffusion_pytorch_model\.safetensors"):
        load_model(tmp_path, embeddings=embeddings)


def test_half_a_download_is_named(folders, embeddings, tmp_path):
    name = "diffusion_pytorch_model.safetensors"
    (tmp_path / "config.json").write_bytes((folders / "sd3" / "config.json").read_bytes())
    (tmp_path / name).write_bytes((folders / "sd3" / name).read_bytes()[:-100])
    with pytest.raises(InputError, match="is incomplete"):
        load_model(tmp_path, embeddings=embeddings)


def test_without_diffusers_the_way_to_it_is_said(folders, embeddings, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(InputError, match=r"pip install 'floracle\[diffusers\]'"):
        load_model(folders / "sd3", embeddings=embeddings)
