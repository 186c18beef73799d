import numpy as np
import pytest
import torch

import floracle
from floracle.data.store import open_store
from floracle.run.errors import InputError

RANDOM = np.random.default_rng(0)
CLASSES = ("n01440764", "n01443537", "n02102040")
SHAPE = (4, 3, 3)


def write(folder, *, flips=True, save=np.savez):
    """As MAR caches latents: posterior.parameters of a picture and of its mirror, a file each."""
    kept = {"moments": [], "moments_flip": []}
    for wnid in CLASSES:
        (folder / wnid).mkdir(parents=True)
        for name in ("a_1", "a_10", "a_2"):
            own = {}
            for key in kept:
                mean = RANDOM.normal(size=SHAPE) * 4
                logvar = RANDOM.uniform(-40, 25, size=SHAPE)
                own[key] = np.concatenate([mean, logvar]).astype(np.float32)
                kept[key].append(own[key])
            save(
                folder / wnid / f"{name}.JPEG.npz",
                **(own if flips else {"moments": own["moments"]}),
            )
    return tuple(torch.from_numpy(np.stack(each)) for each in kept.values())


def gaussian(parameters):
    """Its DiagonalGaussianDistribution."""
    mean, logvar = torch.chunk(parameters, 2, dim=1)
    logvar = torch.clamp(logvar, -30.0, 20.0)
    return mean, torch.exp(0.5 * logvar)


def every(store):
    return store.take(torch.arange(len(store)))


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize("memory", [None, 2000])
def test_draws_of_both_mirrors_as_its_project_feeds_them(tmp_path, save, memory):
    plain, mirrored = write(tmp_path, save=save)
    mean, std = gaussian(torch.cat([plain, mirrored]))
    noise = floracle.noise(range(18), SHAPE)
    draws = open_store(tmp_path, flips=True, moments="sample", memory=memory)
    assert torch.equal(every(draws), (mean + std * noise).mul_(0.2325))
    assert draws.labels.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2] * 2
    assert draws.classes == CLASSES
    assert draws.layout == "mar"
    assert draws.remarks == ()
    clouds = open_store(tmp_path, flips=False, moments="gaussian", memory=memory)
    mean, std = gaussian(plain)
    assert torch.equal(every(clouds), mean * 0.2325)
    assert torch.equal(clouds.take_stds(torch.arange(9)), std * 0.2325)
    means = open_store(tmp_path, flips=False, moments="mean", normalize="raw", memory=memory)
    assert torch.equal(every(means), mean)


def test_mirrors_and_moments_are_asked_for(tmp_path):
    write(tmp_path / "both")
    with pytest.raises(InputError, match="flips=True for those 2N points"):
        open_store(tmp_path / "both", moments="mean")
    with pytest.raises(InputError, match="moments='mean'"):
        open_store(tmp_path / "both", flips=False)
    plain, _ = write(tmp_path / "one", flips=False)
    store = open_store(tmp_path / "one", moments="mean", layout="mar")
    assert torch.equal(every(store), plain[:, :4] * 0.2325)
    with pytest.raises(InputError, match="cannot be mirrored"):
        open_store(tmp_path / "one", moments="mean", flips=True)


def test_files_unlike_the_first(tmp_path):
    write(tmp_path)
    path = tmp_path / CLASSES[1] / "a_2.JPEG.npz"
    good = np.load(path)["moments"]
    how = {"flips": True, "moments": "mean", "layout": "mar"}
    np.savez(path, moments=good)
    with pytest.raises(InputError, match=r"a_2\.JPEG\.npz holds no moments_flip"):
        open_store(tmp_path, **how)
    np.savez(path, moments=good, moments_flip=good[:, :2])
    with pytest.raises(InputError, match=r"a_2\.JPEG\.npz: moments_flip is float32 \[8, 2, 3\]"):
        open_store(tmp_path, **how)
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(InputError, match=r"a_2\.JPEG\.npz"):
        open_store(tmp_path, **how)
    path.rename(tmp_path / "loose.npz")
    with pytest.raises(InputError, match=r"CLASS/NAME\.npz"):
        open_store(tmp_path, **how)
