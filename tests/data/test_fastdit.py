import numpy as np
import pytest
import torch

from floracle.data.store import open_store
from floracle.run.errors import InputError

RANDOM = np.random.default_rng(0)


def write(folder, numbers, drawn=None):
    """As extract_features.py writes: one step a file, scaled by .18215 before it is saved."""
    latents = (RANDOM.normal(size=(len(numbers), 1, 4, 4, 4)) * 5).astype(np.float32) * 0.18215
    latents = latents.astype(np.float32) if drawn is None else drawn
    labels = np.arange(len(numbers)) % 7
    for kind in ("features", "labels"):
        (folder / f"imagenet256_{kind}").mkdir(parents=True)
    for number, latent, label in zip(numbers, latents, labels, strict=True):
        np.save(folder / f"imagenet256_features/{number}.npy", latent)
        np.save(folder / f"imagenet256_labels/{number}.npy", label[None])
    return torch.from_numpy(latents[:, 0]), labels


@pytest.mark.parametrize("memory", [None, 2000])
def test_latents_come_in_the_order_of_their_numbers(tmp_path, memory):
    latents, labels = write(tmp_path, range(12))
    store = open_store(tmp_path, memory=memory)
    assert torch.equal(store.take(torch.arange(12)), latents)
    assert store.labels.tolist() == labels.tolist()
    assert store.layout == "fast-dit"
    assert not store.normalizer.changes
    (remark,) = store.remarks
    assert "mirrored or not by chance" in remark
    same = open_store(tmp_path, normalize="raw", layout="fast-dit", memory=memory)
    assert same.fingerprint == store.fingerprint
    assert torch.equal(same.take(torch.tensor([11, 2])), latents[[11, 2]])


def test_gaps_are_noticed_and_strangers_refused(tmp_path):
    write(tmp_path, [0, 1, 5])
    assert "3 numbers below 5 have no file" in open_store(tmp_path).remarks[1]
    (tmp_path / "imagenet256_labels/1.npy").unlink()
    with pytest.raises(InputError, match=r"has 1\.npy only once"):
        open_store(tmp_path)
    np.save(tmp_path / "imagenet256_labels/1.npy", np.array([1, 2]))
    with pytest.raises(InputError, match=r"1\.npy is int64 \[2\], not one label"):
        open_store(tmp_path)
    (tmp_path / "imagenet256_labels/a.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"0\.npy, 1\.npy, \.\.\.; it holds \['a\.npy'\]"):
        open_store(tmp_path)
    with pytest.raises(InputError, match="cannot be mirrored"):
        open_store(tmp_path, flips=True)
    with pytest.raises(InputError, match="one pair NAME_features"):
        open_store(tmp_path / "imagenet256_labels", layout="fast-dit")


def test_latents_of_another_shape_are_named(tmp_path):
    write(tmp_path, range(3), np.zeros((3, 2, 4, 4, 4), np.float32))
    with pytest.raises(InputError, match=r"0\.npy is \[2, 4, 4, 4\], not \[1, C, H, W\]"):
        open_store(tmp_path)
