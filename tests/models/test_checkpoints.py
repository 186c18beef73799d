"""Files that must not be opened, or cannot: the reason and the way out, and nothing is run."""

import argparse
import pathlib

import pytest
import torch
from checkpoint_files import MODERN, lightningdit, tensors
from safetensors.torch import save_file

from floracle.models.checkpoints import open_checkpoint, plain_names
from floracle.run.errors import Mistake


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
        Mistake, match=r"holds pickled code \(.*\).*refused.*safetensors"
    ) as caught:
        open_checkpoint(path)
    assert not trace.exists()
    assert len(str(caught.value).splitlines()) == 1


def test_a_whole_pickled_network_is_refused_by_its_name(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "whole.pt")
    with pytest.raises(Mistake, match=r"torch\.nn\.modules\.linear\.Linear"):
        open_checkpoint(tmp_path / "whole.pt")


def test_arguments_are_the_only_class_that_is_let_through(tmp_path):
    content = {"ema": {"a": torch.ones(2)}, "args": argparse.Namespace(model="SiT-B/2")}
    torch.save(content, tmp_path / "sit.pt")
    assert open_checkpoint(tmp_path / "sit.pt").arguments == {"model": "SiT-B/2"}
    torch.save(content | {"more": tmp_path}, tmp_path / "more.pt")
    with pytest.raises(Mistake, match="PosixPath"):
        open_checkpoint(tmp_path / "more.pt")


def test_opening_leaves_no_class_let_through(tmp_path):
    before = torch.serialization.get_safe_globals()
    torch.save({"a": torch.ones(2)}, tmp_path / "bare.pt")
    open_checkpoint(tmp_path / "bare.pt")
    assert set(torch.serialization.get_safe_globals()) == set(before)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_a_half_downloaded_pt_file_is_named(tmp_path, share):
    whole = lightningdit(tmp_path / "whole.pt", MODERN).read_bytes()
    half = tmp_path / "half.pt"
    half.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(Mistake, match=r"half\.pt is incomplete.*fetch it again"):
        open_checkpoint(half)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9999])
def test_a_half_downloaded_safetensors_file_is_named(tmp_path, share):
    save_file(tensors(MODERN), tmp_path / "whole.safetensors")
    whole, half = (tmp_path / "whole.safetensors").read_bytes(), tmp_path / "half.safetensors"
    half.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(Mistake, match=r"half\.safetensors is incomplete.*fetch it again"):
        open_checkpoint(half)


@pytest.mark.parametrize("name", ["page.pt", "page.safetensors", "page.pth"])
def test_a_page_of_the_web_is_not_a_checkpoint(tmp_path, name):
    (tmp_path / name).write_text("<!DOCTYPE html><html>please log in</html>")
    with pytest.raises(Mistake, match=name):
        open_checkpoint(tmp_path / name)


@pytest.mark.parametrize("name", ["pointer.pt", "pointer.safetensors"])
def test_a_pointer_of_git_lfs_is_named(tmp_path, name):
    (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    with pytest.raises(Mistake, match="git lfs pull"):
        open_checkpoint(tmp_path / name)


def test_old_archives_are_read_as_safely(tmp_path):
    path = tmp_path / "old.pt"
    torch.save({"a": torch.arange(3.0)}, path, _use_new_zipfile_serialization=False)
    assert torch.equal(open_checkpoint(path).tensors["a"], torch.arange(3.0))
    torch.save({"a": Bomb(tmp_path / "trace")}, path, _use_new_zipfile_serialization=False)
    with pytest.raises(Mistake, match="pickled code"):
        open_checkpoint(path)
    assert not (tmp_path / "trace").exists()


def test_weights_that_are_not_there_are_suggested(tmp_path):
    path = lightningdit(tmp_path / "last.pt", MODERN)
    with pytest.raises(Mistake, match="did you mean 'ema'"):
        open_checkpoint(path, "emma")


def test_a_bare_file_has_no_choice_of_weights(tmp_path):
    torch.save(tensors(MODERN), tmp_path / "bare.pt")
    with pytest.raises(Mistake, match="one network only"):
        open_checkpoint(tmp_path / "bare.pt", "ema")


@pytest.mark.parametrize("content", [[1, 2], {}, {"step": 3}, torch.ones(2)])
def test_what_holds_no_weights_is_named(tmp_path, content):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(Mistake, match=r"other\.pt holds"):
        open_checkpoint(tmp_path / "other.pt")


def test_wrappers_leave_no_prefix():
    given = {"module._orig_mod.a": torch.ones(1), "_orig_mod.b.module.c": torch.ones(1)}
    assert set(plain_names(given)) == {"a", "b.module.c"}
