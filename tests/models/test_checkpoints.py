"""Files that must not be opened, or cannot: the reason and the way out, and nothing is run.

Archives of torch.save are damaged in tests/faults/test_checkpoint_archives.py.
"""

import argparse
import os
import pathlib
import random
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from checkpoint_files import MODERN, lightningdit, network, tensors
from floracle.models.autoencoders.taef2 import load_taef2
from floracle.models.checkpoints import open_checkpoint, read_safetensors
from floracle.models.networks.diffusers import load_text_to_image
from floracle.models.networks.diffusers_folder import WEIGHTS
from floracle.models.networks.folder_weights import read_weights
from floracle.models.networks.prompts import read_embeddings
from floracle.models.state_dict import fill_network, unwrapped_names
from floracle.models.weights import read_network, write_network
from floracle.run.errors import InputError
from tiny_pipelines import FLUX_SIZES

CPU = torch.device("cpu")
EDITS = 300


class Bomb:
    """Pickled code: loading it as a pickle leaves a trace."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return pathlib.Path.touch, (pathlib.Path(self.trace),)


def test_pickled_code_is_refused_and_not_run(tmp_path):
    trace, path = tmp_path / "trace", tmp_path / "evil.pt"
    torch.save({"ema": tensors(MODERN), "opt": Bomb(trace)}, path)
    with pytest.raises(
        InputError, match=r"holds pickled code \(.*\).*refused.*safetensors"
    ) as caught:
        open_checkpoint(path)
    assert not trace.exists()
    assert len(str(caught.value).splitlines()) == 1


def test_a_whole_pickled_network_is_refused_by_its_name(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(InputError, match=r"torch\.nn\.modules\.linear\.Linear"):
        open_checkpoint(tmp_path / "whole.pt")


def test_arguments_are_the_only_class_that_is_let_through(tmp_path):
    content = {"ema": {"a": torch.ones(2)}, "args": argparse.Namespace(model="SiT-B/2")}
    torch.save(content, tmp_path / "sit.pt")
    assert open_checkpoint(tmp_path / "sit.pt").arguments == {"model": "SiT-B/2"}
    torch.save(content | {"more": tmp_path}, tmp_path / "more.pt")
    with pytest.raises(InputError, match="PosixPath"):
        open_checkpoint(tmp_path / "more.pt")


def test_opening_leaves_no_class_let_through(tmp_path):
    before = torch.serialization.get_safe_globals()
    torch.save({"a": torch.ones(2)}, tmp_path / "bare.pt")
    open_checkpoint(tmp_path / "bare.pt")
    assert set(torch.serialization.get_safe_globals()) == set(before)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_half_downloaded_pt_file_is_named(tmp_path, share):
    whole = lightningdit(tmp_path / "whole.pt", MODERN).read_bytes()
    half = tmp_path / "half.pt"
    half.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"half\.pt is incomplete.*fetch it again"):
        open_checkpoint(half)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9999])
def test_a_half_downloaded_safetensors_file_is_named(tmp_path, share):
    save_file(tensors(MODERN), tmp_path / "whole.safetensors")
    whole, half = (tmp_path / "whole.safetensors").read_bytes(), tmp_path / "half.safetensors"
    half.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(InputError, match=r"half\.safetensors is incomplete.*fetch it again"):
        open_checkpoint(half)


@pytest.mark.parametrize("name", ["page.pt", "page.safetensors", "page.pth"])
def test_a_page_of_the_web_is_not_a_checkpoint(tmp_path, name):
    (tmp_path / name).write_text("<!DOCTYPE html><html>please log in</html>")
    with pytest.raises(InputError, match=name):
        open_checkpoint(tmp_path / name)


@pytest.mark.parametrize("name", ["pointer.pt", "pointer.safetensors"])
def test_a_pointer_of_git_lfs_is_named(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(InputError, match="git lfs pull"):
        open_checkpoint(tmp_path / name)


def test_old_archives_are_read_as_safely(tmp_path):
    path = tmp_path / "old.pt"
    torch.save({"a": torch.arange(3.0)}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(open_checkpoint(path).tensors["a"], torch.arange(3.0))
    torch.save({"a": Bomb(tmp_path / "trace")}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(InputError, match="pickled code"):
        open_checkpoint(path)
    assert not (tmp_path / "trace").exists()


def test_weights_that_are_not_there_are_suggested(tmp_path):
    path = lightningdit(tmp_path / "last.pt", MODERN)
    with pytest.raises(InputError, match="did you mean 'ema'"):
        open_checkpoint(path, "emma")


def test_a_bare_file_has_no_choice_of_weights(tmp_path):
    torch.save(tensors(MODERN), tmp_path / "bare.pt")
    with pytest.raises(InputError, match="one network only"):
        open_checkpoint(tmp_path / "bare.pt", "ema")


@pytest.mark.parametrize(
    "content",
    [[1, 2], {}, {"step": 3}, torch.ones(2), {0: torch.ones(2)}, {0: {"a": torch.ones(2)}}],
)
def test_what_holds_no_weights_is_named(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(InputError, match=r"other\.pt holds"):
        open_checkpoint(tmp_path / "other.pt")


def test_wrappers_leave_no_prefix():
    given = {"module._orig_mod.a": torch.ones(1), "_orig_mod.b.module.c": torch.ones(1)}
    assert set(unwrapped_names(given, "file")) == {"a", "b.c"}


@pytest.fixture(scope="module")
def network_file(tmp_path_factory):
    """The bytes of a network that was written, and what they are read as."""
    plan = replace(MODERN, depth=1, width=16, heads=2)
    path = tmp_path_factory.mktemp("network") / "network.safetensors"
    write_network(path, network(plan))
    return path.read_bytes(), read_network(path)


def header_edit(rng, content):
    """One byte of the table of tensors or of its length, another length of the file or table."""
    length = int.from_bytes(content[:8], "little")
    table = content.index(b'"blocks.', content.index(b"}", content.index(b"__metadata__")))
    place = rng.randrange(table, 8 + length)
    before, byte, after = content[:place], content[place], content[place + 1 :]
    match rng.randrange(6):
        case 0:
            return before + bytes([byte ^ 1 << rng.randrange(8)]) + after
        case 1:
            return before + bytes([rng.choice(b'0123456789",:[]{} .abF')]) + after
        case 2:
            return rng.randrange(2 * length).to_bytes(8, "little") + content[8:]
        case 3:
            return content[: rng.randrange(len(content))]
        case 4:
            return before + after[rng.choice([0, 1, 7]) :]
        case _:
            return before + rng.choice([b" ", b"0", b"9" * 8, b"null"]) + content[place:]


def test_an_edited_header_of_a_network_is_read_as_it_was_or_refused(tmp_path, network_file):
    """Bytes of tensors, and of what describes them, have no checksum in this format."""
    content, whole = network_file
    rng, wanted = random.Random(0), whole.network.state_dict()
    for _ in range(EDITS):
        (tmp_path / "edited.safetensors").write_bytes(header_edit(rng, content))
        try:
            found = read_network(tmp_path / "edited.safetensors")
        except InputError as mistake:
            (_,) = str(mistake).splitlines()
            continue
        assert (found.network.plan, found.convention) == (whole.network.plan, whole.convention)
        assert all(map(torch.equal, found.network.state_dict().values(), wanted.values()))


def test_every_cut_of_a_safetensors_file_is_refused(tmp_path, network_file):
    content, _ = network_file
    table = 8 + int.from_bytes(content[:8], "little")
    sizes = [*range(12), table - 1, table, table + 1, len(content) - 1]
    for changed in [*(content[:size] for size in sizes), content + b"\0", content + bytes(8)]:
        (tmp_path / "cut.safetensors").write_bytes(changed)
        with pytest.raises(InputError, match=r"cut\.safetensors is incomplete"):
            read_safetensors(tmp_path / "cut.safetensors")


def test_whole_numbers_are_no_weights_of_an_autoencoder(tmp_path):
    with torch.device("meta"):
        layer = torch.nn.Linear(2, 3)
    tensors = {"weight": torch.ones(3, 2), "bias": torch.ones(3, dtype=torch.int32)}
    with pytest.raises(InputError, match=r"bias holds torch\.int32"):
        fill_network(layer, tensors, tmp_path, advice="name another file")


READERS = {
    "model.pt": open_checkpoint,
    "model.ckpt": open_checkpoint,
    "model.safetensors": open_checkpoint,
    "network.safetensors": read_network,
    "text.safetensors": lambda path: read_embeddings(str(path), CPU, torch.float32, widths=(2, 2)),
    "diffusion_pytorch_model.safetensors": lambda path: read_weights(
        path.parent, WEIGHTS, "network"
    ),
    "taef2_encoder.safetensors": lambda path: load_taef2(path.parent, CPU, None),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_refused_at_once(tmp_path, name, kind):
    path = tmp_path / name
    (tmp_path / "taef2_decoder.safetensors").write_bytes(b"")
    match kind:
        case "pipe":
            os.mkfifo(path)
        case "folder":
            path.mkdir()
        case _:
            path.symlink_to("/dev/zero")
    with pytest.raises(InputError, match=rf"{name} is no regular file"):
        READERS[name](path)


def test_links_to_files_are_followed(tmp_path):
    for name, save in {"a.pt": torch.save, "a.safetensors": save_file}.items():
        save({"a": torch.ones(3)}, tmp_path / "blob")
        (tmp_path / name).symlink_to(tmp_path / "blob")
        assert torch.equal(open_checkpoint(tmp_path / name).tensors["a"], torch.ones(3))


@pytest.mark.slow  # importing diffusers takes seconds
@pytest.mark.filterwarnings("ignore")
def test_a_tensor_of_another_name_is_not_drawn_anew_by_diffusers(tmp_path):
    library = pytest.importorskip("diffusers")
    library.FluxTransformer2DModel(**FLUX_SIZES).save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    tensors["proj_out.wait"] = tensors.pop("proj_out.weight")
    save_file(tensors, path)
    text = {"prompt_embeds": torch.ones(1, 6, 32), "pooled_prompt_embeds": torch.ones(1, 24)}
    with pytest.raises(InputError, match=r"lacks proj_out\.weight"):
        load_text_to_image(tmp_path, text, None, guidance=1.0, device=CPU, dtype=None)
