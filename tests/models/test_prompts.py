"""Prompts in words, read by the encoders of a pipeline: the latents of its own loop."""

from __future__ import annotations

import json
import shutil
import string
import warnings

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

import floracle
import tiny_pipelines
from floracle.cli import main
from floracle.models.networks.diffusers import pack_latents, unpack_latents
from floracle.models.zoo import load_model
from floracle.run.errors import InputError
from tiny_pipelines import SD3_SIZES

pytestmark = [
    pytest.mark.slow,  # importing diffusers takes seconds
    pytest.mark.filterwarnings("ignore"),  # of others' deprecations
]
FLUX_SIZES = tiny_pipelines.FLUX_SIZES | {"pooled_projection_dim": 12}
PROMPTS = ["a red cat", "two dogs and a very long story about them"]
LOOP = {
    "height": 64,
    "width": 64,
    "sigmas": [1.0, 0.75, 0.5, 0.25],
    "num_inference_steps": 4,
    "output_type": "latent",
}


@pytest.fixture(scope="module")
def library():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers = pytest.importorskip("diffusers")
        for name in ("FluxPipeline", "StableDiffusion3Pipeline"):
            getattr(diffusers, name)
    return diffusers


def text_parts(*, projected):
    """Tokenizers of letters, and encoders: those of CLIP twice, and of T5."""
    import transformers as others

    letters = string.ascii_lowercase
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{c}</w>" for c in letters)]
    sizes = others.CLIPTextConfig(
        hidden_size=12,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        vocab_size=len(words),
        max_position_embeddings=16,
        projection_dim=12,
        bos_token_id=0,
        eos_token_id=1,
    )
    clip = others.CLIPTextModelWithProjection if projected else others.CLIPTextModel
    by_letter = others.CLIPTokenizer(
        vocab={word: place for place, word in enumerate(words)}, merges=[], model_max_length=16
    )
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    t5 = others.T5TokenizerFast(vocab=[*pieces, *((c, -3.0) for c in letters)], extra_ids=0)
    narrow = others.T5Config(
        vocab_size=len(t5), d_model=32, d_kv=8, d_ff=37, num_layers=1, num_heads=2
    )
    return by_letter, [clip(sizes).eval() for _ in range(2)], t5, others.T5EncoderModel(narrow)


@pytest.fixture(scope="module")
def pipelines(library):
    """Tiny pipelines of SD3 and Flux, text encoders and all, but for an autoencoder."""
    torch.manual_seed(0)
    scheduler = library.FlowMatchEulerDiscreteScheduler()
    made = {}
    clip, (first, second), t5, wide = text_parts(projected=True)
    made["sd3"] = library.StableDiffusion3Pipeline(
        transformer=library.SD3Transformer2DModel(**SD3_SIZES).eval(),
        scheduler=scheduler,
        vae=None,
        text_encoder=first,
        tokenizer=clip,
        text_encoder_2=second,
        tokenizer_2=clip,
        text_encoder_3=wide.eval(),
        tokenizer_3=t5,
    )
    clip, (first, _), t5, wide = text_parts(projected=False)
    made["flux"] = library.FluxPipeline(
        transformer=library.FluxTransformer2DModel(**FLUX_SIZES).eval(),
        scheduler=scheduler,
        vae=None,
        text_encoder=first,
        tokenizer=clip,
        text_encoder_2=wide.eval(),
        tokenizer_2=t5,
    )
    for pipeline in made.values():
        pipeline.set_progress_bar_config(disable=True)
    return made


@pytest.fixture(scope="module")
def folders(pipelines, tmp_path_factory):
    home = tmp_path_factory.mktemp("pipelines")
    for name, pipeline in pipelines.items():
        pipeline.save_pretrained(home / name)
    return home


def test_sd3_reads_prompts_as_its_pipeline_does(pipelines, folders):
    noise = floracle.noise(range(2), (4, 8, 8))
    ended = pipelines["sd3"](prompt=PROMPTS, latents=noise, guidance_scale=3.0, **LOOP).images
    field = load_model(folders / "sd3", prompt=PROMPTS)
    push = floracle.guided(field, 3.0)
    own = floracle.sample(push, noise, floracle.time_grid(4), labels=torch.arange(2))
    assert_close(own, ended, rtol=0, atol=1e-5)
    swapped = floracle.sample(push, noise, floracle.time_grid(4), labels=torch.tensor([1, 0]))
    assert (swapped - ended).abs().max() > 1e-3  # the text counts
    assert "text by its own encoders, 2 prompts" in field.assumed


def test_flux_reads_prompts_as_its_pipeline_does(pipelines, folders):
    noise = floracle.noise(range(2), (4, 8, 8))
    ended = pipelines["flux"](
        prompt=PROMPTS, latents=pack_latents(noise), guidance_scale=2.5, **LOOP
    ).images
    field = load_model(folders / "flux", prompt=PROMPTS, guidance=2.5)
    own = floracle.sample(field, noise, floracle.time_grid(4), labels=torch.arange(2))
    assert_close(own, unpack_latents(ended, 4, 4), rtol=0, atol=1e-5)


def test_flux_with_true_guidance_ends_where_its_pipeline_ends(pipelines, folders):
    noise = floracle.noise(range(1), (4, 8, 8))
    ended = pipelines["flux"](
        prompt=PROMPTS[0],
        negative_prompt="",
        true_cfg_scale=4.0,
        latents=pack_latents(noise),
        guidance_scale=2.5,
        **LOOP,
    ).images
    field = load_model(folders / "flux", prompt=PROMPTS[0], guidance=2.5)
    own = floracle.sample(floracle.guided(field, 4.0), noise, floracle.time_grid(4), labels=0)
    assert_close(own, unpack_latents(ended, 4, 4), rtol=0, atol=1e-5)


def test_sd3_goes_without_t5_as_its_pipeline_does(library, pipelines, folders, tmp_path):
    parts = dict(pipelines["sd3"].components)
    short = library.StableDiffusion3Pipeline(
        **parts | {"text_encoder_3": None, "tokenizer_3": None}
    )
    short.set_progress_bar_config(disable=True)
    short.save_pretrained(tmp_path / "short")
    noise = floracle.noise(range(1), (4, 8, 8))
    ended = short(prompt=PROMPTS[0], latents=noise, guidance_scale=3.0, **LOOP).images
    push = floracle.guided(load_model(tmp_path / "short", prompt=PROMPTS[0]), 3.0)
    own = floracle.sample(push, noise, floracle.time_grid(4), labels=0)
    assert_close(own, ended, rtol=0, atol=1e-5)
    with_t5 = floracle.guided(load_model(folders / "sd3", prompt=PROMPTS[0]), 3.0)
    other = floracle.sample(with_t5, noise, floracle.time_grid(4), labels=0)
    assert (other - own).abs().max() > 1e-3


def test_no_bars_and_no_warnings_are_shown(folders, capfd):
    capfd.readouterr()
    load_model(folders / "sd3", prompt=PROMPTS[0])
    told = capfd.readouterr()
    assert told.out == told.err == ""


def test_a_folder_without_encoders_says_what_to_give(folders, tmp_path):
    words = "has no text_encoder, so it cannot encode a prompt; .* or pass embeddings="
    with pytest.raises(InputError, match=words):
        load_model(folders / "sd3" / "transformer", prompt="a cat")
    copy = tmp_path / "flux"
    shutil.copytree(folders / "flux", copy)
    shutil.rmtree(copy / "text_encoder_2")
    with pytest.raises(InputError, match="has no text_encoder_2, so"):
        load_model(copy, prompt="a cat")
    index = json.loads((folders / "flux" / "model_index.json").read_text())
    index["tokenizer"] = [None, None]
    (copy / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match="has no tokenizer, so"):
        load_model(copy, prompt="a cat")


def test_damaged_encoders_are_named(folders, tmp_path):
    copy = tmp_path / "flux"
    shutil.copytree(folders / "flux", copy)
    weights = copy / "text_encoder" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"model\.safetensors is incomplete"):
        load_model(copy, prompt="a cat")
    weights.unlink()
    (weights.parent / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(InputError, match=r"has no model\.safetensors; save the pipeline again"):
        load_model(copy, prompt="a cat")
    config = copy / "text_encoder" / "config.json"
    weights.write_bytes((folders / "flux" / "text_encoder" / "model.safetensors").read_bytes())
    config.write_text(config.read_text().replace('"hidden_size": 12', '"hidden_size": 14'))
    with pytest.raises(InputError, match=r"describes a larger network than the files beside it"):
        load_model(copy, prompt="a cat")


def changed_encoder(folders, tmp_path, part, *, tensors=None, **config):
    """The pipeline of SD3 with other tensors or settings of one encoder."""
    copy = tmp_path / "sd3"
    shutil.copytree(folders / "sd3", copy)
    file, described = copy / part / "model.safetensors", copy / part / "config.json"
    if tensors is not None:
        save_file(tensors(load_file(file)), file, metadata={"format": "pt"})
    described.write_text(json.dumps(json.loads(described.read_text()) | config))
    return copy


TOKENS = "text_model.embeddings.token_embedding.weight"
ENCODER_FAULTS = [
    ("text_encoder", lambda found: found | {"adapter.weight": torch.ones(2)}, "adapter"),
    (
        "text_encoder",
        lambda found: {name: v for name, v in found.items() if "layers.1.mlp.fc2" not in name},
        "larger network than the files",
    ),
    (
        "text_encoder",
        # As many numbers as before, so that only the names can tell.
        lambda found: {name.replace("fc2.bias", "fc2.bios"): v for name, v in found.items()},
        "lacks .*fc2",
    ),
    ("text_encoder_2", lambda found: found | {TOKENS: found[TOKENS] * torch.nan}, "holds NaN"),
    ("text_encoder_2", lambda found: found | {TOKENS: found[TOKENS].to(torch.int8)}, "int8, and"),
    (
        "text_encoder_3",
        lambda found: found | {"encoder.embed_tokens.weight": found["shared.weight"] + 1},
        "are one tensor of this network, and are not equal",
    ),
    ("text_encoder_3", lambda found: found | {"wo": torch.ones(1)}, "beside the tensors of its"),
]


@pytest.mark.parametrize(("part", "change", "words"), ENCODER_FAULTS)
def test_text_encoders_are_whole_as_transformers_are(folders, tmp_path, part, change, words):
    with pytest.raises(InputError, match=words):
        load_model(changed_encoder(folders, tmp_path, part, tensors=change), prompt="a cat")


@pytest.mark.parametrize(
    ("part", "config"),
    [
        ("text_encoder", {"num_hidden_layers": 10**9}),
        ("text_encoder", {"num_hidden_layers": 10**4}),
        ("text_encoder", {"num_hidden_layers": 1}),
        ("text_encoder", {"vocab_size": 10**6}),
        ("text_encoder_2", {"hidden_size": "12"}),
        ("text_encoder_2", {"num_attention_heads": 0}),
        ("text_encoder_3", {"num_layers": 10**5}),
        ("text_encoder_3", {"d_model": [32]}),
        ("text_encoder_3", {"quantization_config": {"bits": 8}}),
    ],
)
def test_settings_of_text_encoders_are_compared_with_their_files(folders, tmp_path, part, config):
    with pytest.raises(InputError, match=rf"{part}"):
        load_model(changed_encoder(folders, tmp_path, part, **config), prompt="a cat")


def test_wrappers_and_shards_of_a_text_encoder_change_nothing(folders, tmp_path):
    def wrapped(found):
        return {f"_orig_mod.{name}": value for name, value in found.items()}

    copy = changed_encoder(folders, tmp_path, "text_encoder", tensors=wrapped)
    (copy / "text_encoder_2" / "model.safetensors").rename(
        copy / "text_encoder_2" / "model.fp16.safetensors"
    )
    x, t = torch.randn(1, 4, 8, 8), torch.tensor([0.4])
    expected, found = (load_model(folder, prompt="a cat") for folder in (folders / "sd3", copy))
    assert torch.equal(found(x, t, torch.tensor([0])), expected(x, t, torch.tensor([0])))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"prompt": []}, "a text or several"),
        ({"prompt": [3]}, "a text or several"),
        ({"prompt": "a cat", "embeddings": {}}, "text is given twice"),
        ({}, "need text; pass prompt="),
    ],
)
def test_nonsense_is_refused(folders, given, words):
    with pytest.raises(InputError, match=words):
        load_model(folders / "sd3", **given)


def test_a_prompt_means_nothing_for_other_networks(tmp_path):
    (tmp_path / "mine.py").write_text("def network():\n    return lambda x, t: x\n")
    with pytest.raises(InputError, match="prompt= means nothing for a function"):
        load_model(f"{tmp_path / 'mine.py'}:network", convention="sit", prompt="a cat")


def test_the_command_line_follows_a_prompt(folders, tmp_path, capfd):
    np.save(tmp_path / "latents.npy", np.random.default_rng(0).normal(size=(9, 4, 8, 8)))
    data = (str(tmp_path / "latents.npy"), "--seeds", "0:3", "--steps", "4")
    words = (*data, "--prompt", PROMPTS[0], "--guidance", "3", "--interval", ".2,.6")
    assert main(["sample", str(folders / "sd3"), *words, "--out", str(tmp_path / "out")]) == 0
    told = capfd.readouterr()
    assert "evaluations a sample: 6, for 4 velocities" in told.out  # .25 and .5 are inside
    assert "text by its own encoders, 1 prompt, label 0" in told.err
    push = floracle.guided(
        load_model(folders / "sd3", prompt=PROMPTS[0]), 3.0, interval=(0.2, 0.6)
    )
    noise = floracle.noise(range(3), (4, 8, 8))
    own = floracle.sample(push, noise, floracle.time_grid(4), labels=0)
    found = np.load(tmp_path / "out" / "samples.npz")["arr_0"]
    assert_close(torch.tensor(found), own)


def test_the_oracle_is_mixed_with_a_prompt(folders, tmp_path, capfd):
    np.save(tmp_path / "latents.npy", np.random.default_rng(0).normal(size=(9, 4, 8, 8)))
    data = (str(tmp_path / "latents.npy"), "--seeds", "0:3", "--steps", "4", "--at", ".5")
    words = (*data, "--then", "oracle", "--prompt", PROMPTS[1], "--guidance", "2,1")
    assert main(["sample", str(folders / "flux"), *words, "--out", str(tmp_path / "out")]) == 0
    assert "3 of 3 samples landed" in capfd.readouterr().out
