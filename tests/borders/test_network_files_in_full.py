"""A file of a network is whole, or is refused by the names of its tensors: one check for all."""

import argparse
import json
import zipfile

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from checkpoint_files import repa, tensors
from floracle.models.networks import lightningdit as family_sizes
from floracle.models.zoo import load_model
from floracle.run.errors import InputError
from network_families import (
    ALL,
    DIFFUSERS_FAMILIES,
    FAMILIES,
    MODERN_SMALL,
    PLAIN_SMALL,
    SMALL,
    WEIGHTS,
    outputs,
    read_tensors,
    text_embeddings,
    write_config,
    write_tensors,
    written,
)

OPEN = [
    pytest.param(name, marks=[pytest.mark.slow] if name in DIFFUSERS_FAMILIES else [])
    for name in ALL
    if not ALL[name].sealed
]
"""Families whose tensors no digest protects; importing diffusers takes seconds."""
pytestmark = pytest.mark.filterwarnings("ignore")
LAST = {
    "ldm": "decoder.conv_out.weight",
    "taef2": "0.weight",
    "flux": "proj_out.weight",
    "sd3": "proj_out.weight",
    "kl": "decoder.conv_out.weight",
    "tiny": "decoder.layers.0.weight",
}
"""A tensor of each family; of the others it is the last layer's."""


@pytest.fixture(autouse=True)
def base_is_small(monkeypatch):
    """Names such as "SiT-B/2" stand for a network that a test can hold."""
    monkeypatch.setitem(family_sizes.SIZES, "base", SMALL)


def last_tensor(name):
    return LAST.get(name, "final_layer.linear.weight")


HALF = "diffusion_pytorch_model.fp16.safetensors"


def without(tensor_name):
    return lambda found: {name: value for name, value in found.items() if name != tensor_name}


def replaced(tensor_name, change):
    return lambda found: found | {tensor_name: change(found[tensor_name])}


def with_nan(tensor):
    return tensor.clone().index_fill_(0, torch.tensor([0]), torch.nan)


@pytest.mark.parametrize("name", OPEN)
def test_a_missing_tensor_is_named_by_every_loader(name, tmp_path):
    path = written(name, tmp_path, without(last_tensor(name)))
    with pytest.raises(InputError, match=rf"lacks {last_tensor(name)}"):
        ALL[name].load(path)


@pytest.mark.parametrize("name", OPEN)
def test_a_tensor_that_is_not_finite_is_named_by_every_loader(name, tmp_path):
    path = written(name, tmp_path, replaced(last_tensor(name), with_nan))
    with pytest.raises(InputError, match=rf"{last_tensor(name)} holds NaN or infinite numbers"):
        ALL[name].load(path)


@pytest.mark.parametrize("name", [case for case in OPEN if case.values[0] != "ldm"])
def test_a_tensor_left_over_is_named_by_every_loader(name, tmp_path):
    path = written(name, tmp_path, lambda found: found | {"adapter.weight": torch.ones(3)})
    with pytest.raises(InputError, match=r"does not have: adapter\.weight"):
        ALL[name].load(path)


@pytest.mark.parametrize("kind", [torch.int8, torch.float8_e4m3fn, torch.complex64])
@pytest.mark.parametrize("name", OPEN)
def test_a_type_that_networks_cannot_run_is_named_by_every_loader(name, kind, tmp_path):
    path = written(name, tmp_path, replaced(last_tensor(name), lambda tensor: tensor.to(kind)))
    with pytest.raises(InputError, match=rf"{last_tensor(name)} holds {kind}, and weights are"):
        ALL[name].load(path)


@pytest.mark.parametrize("name", OPEN)
def test_another_shape_is_named_by_every_loader(name, tmp_path):
    path = written(name, tmp_path, replaced(last_tensor(name), lambda tensor: tensor[:-1].clone()))
    with pytest.raises(InputError, match=r" is \[.*\], not \[|contradict its tensors"):
        ALL[name].load(path)


@pytest.mark.parametrize("wrap", ["module.{}", "_orig_mod.{}", "module._orig_mod.{}"])
@pytest.mark.parametrize("name", OPEN)
def test_wrappers_around_a_network_change_nothing(name, wrap, tmp_path):
    expected = outputs(ALL[name].load(written(name, tmp_path)))
    write_tensors(
        ALL[name],
        tmp_path,
        {wrap.format(key): value for key, value in read_tensors(ALL[name], tmp_path).items()},
    )
    path = tmp_path if (tmp_path / "config.json").exists() or name == "taef2" else None
    assert torch.equal(outputs(ALL[name].load(path or tmp_path / ALL[name].weights)), expected)


@pytest.mark.parametrize("wrapper", ["_orig_mod", "_checkpoint_wrapped_module", "module"])
def test_wrappers_inside_a_network_change_nothing(wrapper, tmp_path):
    whole, wrapped = tmp_path / "whole.safetensors", tmp_path / "wrapped.safetensors"
    found = tensors(MODERN_SMALL)
    save_file(found, whole)
    # Each block is compiled by itself, as in training of large networks.
    renamed = {
        name.replace("blocks.0.", f"blocks.0.{wrapper}.").replace(
            "blocks.1.", f"blocks.1.{wrapper}."
        ): v
        for name, v in found.items()
    }
    assert renamed.keys() != found.keys()
    save_file(renamed, wrapped)
    assert torch.equal(outputs(load_model(wrapped)), outputs(load_model(whole)))


def test_a_name_with_and_without_its_wrapper_is_refused(tmp_path):
    found = tensors(MODERN_SMALL)
    found["module.pos_embed"] = found["pos_embed"] + 1
    save_file(found, tmp_path / "twice.safetensors")
    with pytest.raises(InputError, match="has pos_embed twice, with the name of a wrapper"):
        load_model(tmp_path / "twice.safetensors")


def test_bfloat16_with_float32_parts_is_evaluated_in_float32(tmp_path):
    """As float32 holds every bfloat16, no number of the file is rounded."""
    found = tensors(MODERN_SMALL)
    mixed = {  # norms and positions stay in float32, as in many checkpoints
        name: value if "norm" in name or name == "pos_embed" else value.bfloat16()
        for name, value in found.items()
    }
    save_file(mixed, tmp_path / "mixed.safetensors")
    save_file(
        {name: value.float() for name, value in mixed.items()}, tmp_path / "wide.safetensors"
    )
    field = load_model(tmp_path / "mixed.safetensors")
    assert torch.equal(outputs(field), outputs(load_model(tmp_path / "wide.safetensors")))
    assert "weights of bfloat16 and float32, all in the widest" in field.assumed


def test_rotary_tables_in_float32_leave_a_network_in_bfloat16(tmp_path):
    """They are computed anew, so their type is not one of its weights."""
    halved = {
        name: value if "rope" in name else value.bfloat16()
        for name, value in tensors(MODERN_SMALL).items()
    }
    assert {value.dtype for value in halved.values()} == {torch.bfloat16, torch.float32}
    save_file(halved, tmp_path / "half.safetensors")
    field = load_model(tmp_path / "half.safetensors")
    assert "widest" not in field.assumed
    assert field.translated.model.dtype == torch.bfloat16


@pytest.mark.slow  # importing diffusers takes seconds
def test_one_half_precise_tensor_does_not_round_the_others(tmp_path):
    """The type of a folder is not that of the tensor which happens to come first."""
    family = DIFFUSERS_FAMILIES["flux"]
    family.write(tmp_path)
    found = read_tensors(family, tmp_path)
    first = min(found)
    mixed = found | {first: found[first].bfloat16()}
    write_tensors(family, tmp_path, mixed)
    field = family.load(tmp_path)
    write_tensors(family, tmp_path, {name: value.float() for name, value in mixed.items()})
    assert torch.equal(outputs(field), outputs(family.load(tmp_path)))
    assert "weights of bfloat16 and float32, all in the widest" in field.assumed


def test_a_missing_block_at_the_end_is_named(tmp_path):
    """Tensors without settings tell the depth of a network: it is said if it is no known one."""
    found = {name: v for name, v in tensors(MODERN_SMALL).items() if "blocks.1." not in name}
    save_file(found, tmp_path / "cut.safetensors")
    assert (
        "1 blocks of width 32, as many as it has tensors for"
        in load_model(tmp_path / "cut.safetensors").assumed
    )


def test_a_missing_early_block_of_repa_is_named(tmp_path):
    path = repa(tmp_path / "last.pt", PLAIN_SMALL, legacy=1, encoder_depth=2)
    with pytest.raises(InputError, match="has 1 blocks before its decoder_blocks, and its enc"):
        load_model(path)


PLAIN_FAULTS = {
    "sparse": (lambda tensor: tensor.to_sparse(), "is sparse"),
    "csr": (lambda tensor: tensor.flatten(1).to_sparse_csr(), "is sparse"),
    "quantized": (
        lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8),
        "is quant",
    ),
    "meta": (lambda tensor: tensor.to("meta"), "has a shape and no numbers"),
    "empty": (lambda tensor: tensor[:0].clone(), r"is empty"),
}


@pytest.mark.parametrize("fault", PLAIN_FAULTS)
@pytest.mark.parametrize("name", ["lightningdit", "sit", "repa", "ldm"])
def test_tensors_that_are_not_plain_are_named(name, fault, tmp_path):
    change, words = PLAIN_FAULTS[fault]
    path = written(name, tmp_path, replaced(last_tensor(name), change))
    with pytest.raises(InputError, match=rf"{last_tensor(name)} {words}"):
        ALL[name].load(path)


@pytest.mark.slow
@pytest.mark.parametrize("depth", [-1, 0, 2, 10**9, "1", 1.0, True, None, [1]])
@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_a_depth_that_is_not_the_files_is_refused(name, depth, tmp_path):
    path = written(name, tmp_path)
    config = json.loads((path / "config.json").read_text())
    write_config(ALL[name], path, config | {"num_layers": depth})
    with pytest.raises(InputError, match=r"num_layers|transformer_blocks\.|blocks, and the files"):
        ALL[name].load(path)


@pytest.mark.slow
def test_half_precision_alone_is_loaded_and_said(tmp_path):
    path = written("flux", tmp_path)
    expected = {name: value.half() for name, value in load_file(path / WEIGHTS).items()}
    (path / WEIGHTS).unlink()
    save_file(expected, path / HALF, metadata={"format": "pt"})
    field = load_model(path, embeddings=text_embeddings(), dtype=torch.float32)
    assert "the variant fp16, the only one" in field.assumed
    save_file({name: v.float() for name, v in expected.items()}, path / WEIGHTS)
    plain = load_model(path, embeddings=text_embeddings())  # the plain file comes first
    assert torch.equal(outputs(field), outputs(plain))
    assert "variant" not in plain.assumed


@pytest.mark.slow
def test_the_config_of_another_network_is_named(tmp_path):
    sd3, flux = (written(name, tmp_path / name) for name in ("sd3", "flux"))
    (sd3 / WEIGHTS).write_bytes((flux / WEIGHTS).read_bytes())
    with pytest.raises(InputError, match=r"lacks .* tensors: .*not saved in full"):
        ALL["sd3"].load(sd3)


@pytest.mark.slow
def test_attention_of_old_autoencoders_has_todays_names(tmp_path):
    path = written("kl", tmp_path)
    expected, found = outputs(ALL["kl"].load(path)), load_file(path / WEIGHTS)
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for today, before in old.items():
        found = {name.replace(f".{today}.", f".{before}."): v for name, v in found.items()}
    assert any(name.endswith("query.weight") for name in found)
    save_file(found, path / WEIGHTS)
    assert_close(outputs(ALL["kl"].load(path)), expected, rtol=0, atol=0)


def test_settings_under_another_type_are_read_or_refused(tmp_path):
    """A table of arguments is as good as a Namespace; a text is not."""
    path = FAMILIES["sit"].write(tmp_path)
    content = torch.load(path, weights_only=False)
    expected = outputs(load_model(path))
    torch.save(content | {"args": vars(content["args"])}, path)
    assert torch.equal(outputs(load_model(path)), expected)
    torch.save(content | {"args": "--model SiT-B/2"}, path)
    with pytest.raises(InputError, match=r"its 'args' is '--model SiT-B/2', so the settings"):
        load_model(path)
    torch.save(
        content | {"args": argparse.Namespace(**{"model": "SiT-B/2", "image_size": "x"})}, path
    )
    with pytest.raises(InputError, match=r"image_size is 'x', but must be a whole number"):
        load_model(path)


def loop():
    """A table that holds itself."""
    table = {}
    table["ema"] = table
    return table


CONTENTS = {
    "keys": ({5: torch.ones(2), "a": torch.ones(2)}, "holds 5, a, but none of the weights"),
    "inner keys": ({"ema": {5: torch.ones(2)}}, "holds ema, but none of the weights"),
    "numbers": ({"ema": {"a": 1.5}}, "holds ema, but none of the weights"),
    "tuples": ({("a", "b"): torch.ones(2)}, "holds a tuple, but none of the weights"),
    "tensors": ({torch.ones(2): 1}, "holds a Tensor, but none of the weights"),
    "text": ("ema", "holds a str; a checkpoint is a table of tensors"),
    "arguments": (argparse.Namespace(model="SiT-B/2"), "holds a Namespace; a checkpoint is"),
    "loop": (loop(), "holds ema, but none of the weights"),
    "settings": ({"ema": {"a": torch.ones(2)}, "config": [1]}, "its 'config' is a list, so"),
    "lines": ({"a\nb": 1}, r"holds a\\nb, but none of the weights"),
}


@pytest.mark.parametrize("kind", CONTENTS)
def test_other_contents_of_a_pt_file_are_named_in_one_line(kind, tmp_path):
    content, words = CONTENTS[kind]
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(InputError, match=words) as caught:
        load_model(tmp_path / "other.pt")
    assert len(str(caught.value).splitlines()) == 1


PROGRAMS = {
    "arguments with values": b"cargparse\nNamespace\nK\x01\x85R",
    "arguments with a list": b"cargparse\nNamespace\n)R]K\x01ab",
    "an unknown opcode": b"\xfe",
    "a call of nothing": b"R",
    "a class of python": b"cbuiltins\neval\nX\x01\0\0\x001\x85R",
    "a frozen set": b"(\x91",
    "nothing": b"",
    "an old class": b"(iargparse\nNamespace\n",
    "an extension": b"\x82\x01",
    "a number of 4 GB": b"\x8b\xff\xff\xff\x7f",
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_odd_pickles_are_refused_in_one_line(kind, tmp_path):
    with zipfile.ZipFile(tmp_path / "odd.pt", "w") as archive:
        archive.writestr("a/data.pkl", b"\x80\x02" + PROGRAMS[kind] + b".")
        archive.writestr("a/byteorder", "little")
    with pytest.raises(InputError, match=r"odd\.pt") as caught:
        load_model(tmp_path / "odd.pt")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("kind", [torch.int8, torch.complex64, torch.float8_e4m3fn, "float32"])
@pytest.mark.parametrize("name", ["lightningdit", "own", "ldm", "taef2"])
def test_a_type_to_evaluate_in_is_one_of_those_that_networks_run_in(name, kind, tmp_path):
    path = ALL[name].write(tmp_path)
    with pytest.raises(InputError, match=r"networks are evaluated in one of torch\.float16, "):
        ALL[name].load(path, dtype=kind)
