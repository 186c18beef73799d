"""Sizes that files declare are compared with the files' own, before anything is made of them."""

import io
import pickle
import resource
import struct
import zipfile
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from checkpoint_files import sit, tensors
from floracle.models.autoencoders.load import load_autoencoder
from floracle.models.checkpoints import open_checkpoint, read_pickle
from floracle.models.networks import lightningdit as family_sizes
from floracle.models.networks.tensors import build_network
from floracle.models.zoo import load_model
from floracle.run.errors import InputError
from network_families import (
    DIFFUSERS_FAMILIES,
    MODERN_SMALL,
    PLAIN_SMALL,
    SMALL,
    outputs,
    read_config,
    write_config,
)

pytestmark = pytest.mark.filterwarnings("ignore")
CPU = torch.device("cpu")
MANY = 10**9


@pytest.fixture(autouse=True)
def base_is_small(monkeypatch):
    monkeypatch.setitem(family_sizes.SIZES, "base", SMALL)


@contextmanager
def little_memory():
    """What is inside makes the process no more than 128 MiB larger than it ever was."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**17  # in KiB


@pytest.fixture
def bounded():
    with little_memory():
        yield


def test_an_expanded_tensor_that_outgrows_its_file_is_refused(tmp_path):
    """A few numbers that stand for 3 GB: every copy would take them."""
    found = tensors(MODERN_SMALL)
    wide = torch.ones(1, 1).expand(30_000, 30_000)
    torch.save(found | {"blocks.0.attn.qkv.weight": wide}, tmp_path / "expanded.pt")
    with pytest.raises(InputError, match=r"stands for 3,6\d\d,\d+,\d+ bytes of tensors and has"):
        load_model(tmp_path / "expanded.pt")


def test_one_tensor_under_many_names_is_refused(tmp_path):
    """A second input of the kind: no strides of 0, and 100 MB for 1 MB."""
    block = torch.ones(2**18)
    torch.save({f"blocks.{i}.weight": block for i in range(100)}, tmp_path / "names.pt")
    with pytest.raises(InputError, match="stands for 104,857,600 bytes of tensors and has"):
        open_checkpoint(tmp_path / "names.pt")


def test_an_expanded_tensor_within_its_file_is_the_numbers_that_it_stands_for(tmp_path):
    found = tensors(MODERN_SMALL)
    name = "blocks.0.attn.qkv.bias"
    save_file(found | {name: torch.full_like(found[name], 0.5)}, tmp_path / "full.safetensors")
    expanded = torch.tensor([0.5]).expand(len(found[name]))
    torch.save(found | {name: expanded}, tmp_path / "expanded.pt")
    expected = outputs(load_model(tmp_path / "full.safetensors"))
    assert torch.equal(outputs(load_model(tmp_path / "expanded.pt")), expected)


def test_a_compressed_archive_that_outgrows_its_file_is_refused(tmp_path, bounded):
    """100 MB of zeros are 100 kB of an archive."""
    with zipfile.ZipFile(tmp_path / "zeros.pt", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, protocol=2))
        with archive.open("a/data/0", "w") as member:
            for _ in range(100):
                member.write(bytes(2**20))
    with pytest.raises(InputError, match=r"stands for 104,857,\d+ bytes of tensors and has"):
        read_pickle(tmp_path / "zeros.pt")


def test_members_that_overlap_are_refused(tmp_path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps({}, protocol=2))
        archive.writestr("a/data/0", bytes(4096))
        for number in range(1, 5):  # which all are the first, by the directory
            member = zipfile.ZipInfo(f"a/data/{number}")
            member.header_offset = archive.getinfo("a/data/0").header_offset
            member.file_size = member.compress_size = 4096
            member.CRC = archive.getinfo("a/data/0").CRC
            archive.filelist.append(member)
    (tmp_path / "overlap.pt").write_bytes(file.getvalue())
    with pytest.raises(InputError, match="its members overlap"):
        read_pickle(tmp_path / "overlap.pt")


def in_archive(path, program):
    """An archive of torch.save with this pickle."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a/data.pkl", program)
        archive.writestr("a/byteorder", "little")
        archive.writestr("a/version", "3\n")
    return path


def call(module, name, argument):
    """A pickle of {"a": module.name(argument)}."""
    number = b"\x8a\x05" + argument.to_bytes(5, "little")
    called = f"c{module}\n{name}\n".encode() + number + b"\x85R"
    return b"\x80\x02}X\x01\0\0\0a" + called + b"s."


MEMORY = [
    ("builtins", "bytearray"),
    ("__builtin__", "bytearray"),
    ("torch", "Tensor"),
    ("torch", "FloatTensor"),
    ("torch.storage", "UntypedStorage"),
]


@pytest.mark.parametrize(("module", "name"), MEMORY)
@pytest.mark.parametrize("bare", [False, True])
def test_a_pickle_that_only_asks_for_memory_is_refused(module, name, bare, tmp_path, bounded):
    """Each of them is a call that loading without code lets through."""
    program = call(module, name, 2 * 10**9)
    path = tmp_path / "memory.pt"
    if bare:
        head = [pickle.dumps(value, protocol=2) for value in (0x1950A86A20F9469CFC6C, 1001, {})]
        path.write_bytes(b"".join([*head, program]))
    else:
        in_archive(path, program)
    with pytest.raises(InputError, match=r"memory\.pt"):
        read_pickle(path)


def test_a_memo_with_a_large_number_takes_no_memory(tmp_path, bounded):
    program = b"\x80\x02}r" + struct.pack("<I", 2**31) + b"."
    with pytest.raises(InputError, match=r"holds no|holds a dict"):
        open_checkpoint(in_archive(tmp_path / "memo.pt", program))


def test_an_old_file_that_declares_more_than_it_has_is_refused(tmp_path, bounded):
    path = tmp_path / "old.pt"
    torch.save({"a": torch.arange(3.0)}, path, _use_new_zipfile_serialization=False)
    content = path.read_bytes()
    assert content.count(b"cpuq\x06K\x03") == 1  # the 3 numbers of its storage
    larger = content.replace(b"cpuq\x06K\x03", b"cpuq\x06J\xff\xff\xff\x7f")
    path.write_bytes(larger)
    with pytest.raises(InputError, match=r"its tensors need more bytes than it has"):
        read_pickle(path)


SETTINGS = [
    ("sd3", {"num_layers": MANY}),
    ("sd3", {"num_layers": 10**6}),
    ("sd3", {"pos_embed_max_size": 10**6}),
    ("sd3", {"joint_attention_dim": 10**6}),
    ("flux", {"num_single_layers": 10**5}),
    ("flux", {"attention_head_dim": 10**6, "axes_dims_rope": [10**6 - 8, 4, 4]}),
    ("kl", {"layers_per_block": 10**6}),
    ("kl", {"block_out_channels": [2**20] * 2, "norm_num_groups": 4}),
    ("kl", {"latent_channels": 2**20}),
    ("tiny", {"num_encoder_blocks": [10**6] * 3}),
]


@pytest.mark.slow  # importing diffusers takes seconds
@pytest.mark.parametrize(("name", "settings"), SETTINGS)
def test_a_config_that_outgrows_its_files_is_refused(name, settings, tmp_path):
    family = DIFFUSERS_FAMILIES[name]
    path = family.write(tmp_path)
    write_config(family, path, read_config(family, path) | settings)
    words = r"config\.json|as in this architecture|cannot be loaded"
    with little_memory(), pytest.raises(InputError, match=words):
        family.load(path)


@pytest.mark.parametrize(
    "settings",
    [
        {"depth": MANY},
        {"depth": 10**6},
        {"side": 2**20, "patch": 1},
        {"width": 2**20},
        {"classes": 2**20},
        {"channels": 2**20},
    ],
)
def test_a_network_of_ours_is_compared_with_its_tensors_before_it_is_built(settings, bounded):
    with pytest.raises(InputError, match="its settings contradict its tensors"):
        build_network(replace(MODERN_SMALL, **settings), tensors(MODERN_SMALL), "file")


def test_positions_of_another_width_are_refused_before_they_are_computed(tmp_path, bounded):
    found = tensors(PLAIN_SMALL) | {"pos_embed": torch.ones(1, 10**6, 1)}
    save_file(found, tmp_path / "positions.safetensors")
    with pytest.raises(InputError, match="pos_embed is 1 wide and x_embedder"):
        load_model(tmp_path / "positions.safetensors", convention="sit")


def test_arguments_that_outgrow_their_tensors_are_refused(tmp_path, bounded):
    path = sit(tmp_path / "large.pt", PLAIN_SMALL, image_size=2**20)
    with pytest.raises(InputError, match="side is 131072 in the settings, 8 in the tensors"):
        load_model(path)


def test_a_level_of_an_autoencoder_with_a_large_number_is_refused(tmp_path, bounded):
    found = {
        "encoder.conv_in.weight": torch.ones(32, 3, 3, 3),
        "encoder.conv_out.weight": torch.ones(8, 32, 3, 3),
        "post_quant_conv.weight": torch.ones(4, 4, 1, 1),
        f"encoder.down.{MANY}.block.0.conv1.weight": torch.ones(32, 32, 3, 3),
    }
    save_file(found, tmp_path / "levels.safetensors")
    with pytest.raises(InputError, match=r"levels\.safetensors lacks encoder\.down\.0"):
        load_autoencoder(tmp_path / "levels.safetensors")
