import io
import json
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

import floracle
from floracle.data.store import open_store
from floracle.run.errors import InputError

RANDOM = np.random.default_rng(0)
COUNT = 12


def moments(count=COUNT, channels=4):
    """[mean ‖ std] of raw latents, as an autoencoder of Stable Diffusion gives them."""
    mean = RANDOM.normal(size=(count, channels, 4, 4)) * 4 + 2
    std = np.exp(RANDOM.normal(size=mean.shape) * 0.3 - 3)
    return np.concatenate([mean, std], 1).astype(np.float32)


def bytes_of(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG", compress_level=0)
    return stream.getvalue()


def named(arrays, kind="img-mean-std-", ending="npy"):
    """Ten files a folder here, where the projects have a thousand."""
    encode = bytes_of if ending == "npy" else png
    return {
        f"{row // 10:05d}/{kind}{row:08d}.{ending}": encode(array)
        for row, array in enumerate(arrays)
    }


def index(files, labels):
    pairs = (
        None
        if labels is None
        else [[name, label] for name, label in zip(files, labels, strict=True)]
    )
    return json.dumps({"labels": pairs}).encode()


def write(where, files, packing=zipfile.ZIP_STORED):
    if where.suffix == ".zip":
        with zipfile.ZipFile(where, "w", packing) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return where
    for name, content in files.items():
        (where / name).parent.mkdir(parents=True, exist_ok=True)
        (where / name).write_bytes(content)
    return where


LABELS = [5, 0, 999, 1, 1, 2, 3, 4, 5, 6, 7, 8]


@pytest.fixture(params=["folder", "a.zip", "packed.zip"])
def stored(request, tmp_path):
    """The moments, and where they lie, names of the index in another order."""
    arrays = moments()
    files = named(arrays)
    pairs = dict(zip(files, LABELS, strict=True))
    turned = dict(reversed(pairs.items()))
    files |= {"dataset.json": index(turned, turned.values())}
    packing = zipfile.ZIP_DEFLATED if "packed" in request.param else zipfile.ZIP_STORED
    return arrays, write(tmp_path / request.param, files, packing)


def every(store):
    return store.take(torch.arange(len(store)))


def test_whose_latents_is_asked(stored):
    _, where = stored
    with pytest.raises(InputError, match="say layout='repa' or layout='edm2'"):
        open_store(where, moments="mean")
    with pytest.raises(InputError, match=r"say moments='mean' .*'sample' .*'gaussian'"):
        open_store(where, layout="repa")
    with pytest.raises(InputError, match="cannot be mirrored"):
        open_store(where, layout="repa", moments="mean", flips=True)


@pytest.mark.parametrize("memory", [None, 2000])
def test_repa(stored, memory):
    arrays, where = stored
    z = torch.from_numpy(arrays)
    mean, std = torch.chunk(z, 2, dim=1)
    means = open_store(where, layout="repa", moments="mean", memory=memory)
    assert torch.equal(every(means), mean * 0.18215 + 0.0)
    assert means.labels.tolist() == LABELS
    assert (means.layout, means.shape, means.stds) == ("repa", (4, 4, 4), None)
    draws = open_store(where, layout="repa", moments="sample", memory=memory)
    noise = floracle.noise(range(COUNT), (4, 4, 4))
    assert torch.equal(every(draws), (mean + std * noise) * 0.18215)
    clouds = open_store(where, layout="repa", moments="gaussian", memory=memory)
    rows = torch.tensor([11, 0, 3])
    assert torch.equal(every(clouds), mean * 0.18215)
    assert torch.equal(clouds.take_stds(rows), std[rows] * 0.18215)
    assert clouds.take_stds(rows).dtype == torch.float32
    assert clouds.stds is not None
    assert torch.equal(clouds.stds[2:5], std[2:5] * 0.18215)
    assert len({means.fingerprint, draws.fingerprint, clouds.fingerprint}) == 3
    torch.testing.assert_close(means.normalizer.invert(every(means)), mean)
    assert means.remarks == ()


@pytest.mark.parametrize("memory", [None, 2000])
def test_edm2(stored, memory):
    arrays, where = stored
    mean, std = torch.chunk(torch.from_numpy(arrays), 2, dim=1)
    raw_mean, raw_std = np.float32([5.81, 3.25, 0.12, -2.15]), np.float32([4.17, 4.62, 3.71, 3.28])
    scale = np.float32(0.5) / raw_std
    bias = np.float32(0) - raw_mean * scale
    scale, bias = (torch.from_numpy(value).reshape(1, -1, 1, 1) for value in (scale, bias))
    store = open_store(where, layout="edm2", moments="mean", memory=memory)
    assert torch.equal(every(store), mean * scale + bias)
    assert store.labels.tolist() == LABELS
    torch.testing.assert_close(store.normalizer.invert(every(store)), mean)
    draws = open_store(where, layout="edm2", moments="sample", memory=memory)
    noise = floracle.noise(range(COUNT), (4, 4, 4))
    assert torch.equal(every(draws), (mean + noise * std) * scale + bias)
    clouds = open_store(where, layout="edm2", moments="gaussian", memory=memory)
    assert torch.equal(clouds.take_stds(torch.arange(COUNT)), std * scale)
    raw = open_store(where, layout="edm2", moments="mean", normalize="raw")
    assert torch.equal(every(raw), mean)
    assert "unnormalised" in raw.remarks[0]


def test_edm2_knows_four_channels(tmp_path):
    where = write(tmp_path / "a", named(moments(channels=3)))
    with pytest.raises(InputError, match="4 channels, these are 3"):
        open_store(where, layout="edm2", moments="mean")
    assert open_store(where, layout="edm2", moments="mean", normalize="raw").shape == (3, 4, 4)


def test_gaussians_of_one_mean_and_other_deviations_are_not_one(tmp_path):
    arrays = moments(3)
    arrays[1:, :4] = arrays[0, :4]
    arrays[2] = arrays[1]
    where = write(tmp_path / "a", named(arrays))
    opened = {how: open_store(where, layout="repa", moments=how) for how in ("mean", "gaussian")}
    assert opened["mean"].atoms().rows.tolist() == [0]
    assert opened["gaussian"].atoms().rows.tolist() == [0, 1]
    assert opened["gaussian"].atoms().weights.tolist() == [1 / 3, 2 / 3]
    with pytest.raises(InputError, match="not opened with moments='gaussian'"):
        opened["mean"].take_stds(torch.tensor([0]))


def test_the_folder_that_repa_is_given(tmp_path):
    arrays = moments()
    files = named(arrays)
    files |= {"dataset.json": index(files, LABELS)}
    write(tmp_path / "vae-sd", files)
    write(
        tmp_path / "images", named(RANDOM.integers(0, 256, (2, 8, 8, 3), np.uint8), ending="png")
    )
    with pytest.raises(InputError, match="layout='repa'"):
        open_store(tmp_path)
    store = open_store(tmp_path, layout="repa", moments="mean")
    assert torch.equal(every(store), torch.from_numpy(arrays[:, :4]) * 0.18215)
    assert store.labels.tolist() == LABELS


@pytest.mark.parametrize("where", ["folder", "a.zip", "packed.zip"])
@pytest.mark.parametrize("memory", [None, 300])
def test_pictures_with_an_index(tmp_path, where, memory):
    images = RANDOM.integers(0, 256, (COUNT, 6, 5, 3), dtype=np.uint8)
    files = named(images, kind="img", ending="png")
    files |= {"dataset.json": index(files, LABELS)}
    packing = zipfile.ZIP_DEFLATED if "packed" in where else zipfile.ZIP_STORED
    place = write(tmp_path / where, files, packing)
    store = open_store(place, memory=memory)
    expected = open_store(images, labels=LABELS)
    assert torch.equal(every(store), every(expected))
    assert store.labels.tolist() == LABELS
    assert store.fingerprint == expected.fingerprint
    both = open_store(place, flips=True, memory=memory)
    assert both.fingerprint == open_store(images, labels=LABELS, flips=True).fingerprint
    with pytest.raises(InputError, match="holds no moments"):
        open_store(place, layout="edm2")
    with pytest.raises(InputError, match="holds points"):
        open_store(place, moments="mean")


def test_archives_without_an_index(tmp_path):
    images = RANDOM.integers(0, 256, (COUNT, 6, 5), dtype=np.uint8)
    numbered = write(tmp_path / "a.zip", named(images, kind="img", ending="png"))
    assert open_store(numbered).labels.tolist() == [-1] * COUNT
    files = {f"{'cat' if row % 2 else 'ant'}/{row}.png": png(images[row]) for row in range(4)}
    classed = open_store(write(tmp_path / "b.zip", files))
    assert classed.classes == ("ant", "cat")
    assert classed.labels.tolist() == [0, 0, 1, 1]
    flat = {f"{row}.png": png(images[row]) for row in range(4)}
    assert open_store(write(tmp_path / "c.zip", flat)).labels.tolist() == [-1] * 4
    with pytest.raises(InputError, match="both loose and in class folders"):
        open_store(write(tmp_path / "d.zip", files | flat))
    with pytest.raises(InputError, match="neither pictures nor"):
        open_store(write(tmp_path / "e.zip", {"a.txt": b"x"}))


NAMES = list(named(moments()))


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, None),
        ([None] * COUNT, None),
        ([[0.0, 1.0]] * COUNT, "embedding; only classes are read"),
        ([0.5] * COUNT, "whole numbers"),
        ([True] * COUNT, "whole numbers"),
        (["a"] * COUNT, "whole numbers"),
        ([-3] * COUNT, "-3"),
    ],
)
def test_labels_of_an_index(tmp_path, labels, words):
    files = named(moments()) | {"dataset.json": index(NAMES, labels)}
    where = write(tmp_path / "a.zip", files)
    if words is None:
        store = open_store(where, layout="repa", moments="mean")
        assert store.labels.tolist() == [-1] * COUNT
        return
    with pytest.raises(InputError, match=rf"a\.zip: dataset\.json.*{words}"):
        open_store(where, layout="repa", moments="mean")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (index(NAMES[:-1], LABELS[:-1]), "no label for '00001/img-mean-std-00000011.npy'"),
        (index([*NAMES, "x.npy"], [*LABELS, 1]), "no file 'x.npy'"),
        (index([*NAMES, NAMES[0]], [*LABELS, 1]), "twice"),
        (b'{"labels": {}}', "no list"),
        (b'{"labels": [["a"]]}', r"no \[name, class\]"),
        (b"[]", "no labels; write"),
        (b"{}", "no labels; write"),
        (b"[" * 100_000, "index"),
        (b"\xff", "index"),
    ],
)
def test_indices_that_do_not_fit(tmp_path, content, words):
    where = write(tmp_path / "a", named(moments()) | {"dataset.json": content})
    with pytest.raises(InputError, match=rf"a: dataset\.json.*{words}"):
        open_store(where, layout="repa", moments="mean")


def test_files_unlike_the_first(tmp_path):
    files = named(moments())
    where = write(tmp_path / "a", files | {NAMES[3]: bytes_of(np.zeros((8, 4, 3), np.float32))})
    with pytest.raises(InputError, match=r"00000003\.npy is float32 \[8, 4, 3\], but the first"):
        open_store(where, layout="repa", moments="mean")
    negative = {NAMES[3]: bytes_of(np.full((8, 4, 4), -1, np.float32))}
    where = write(tmp_path / "b", files | negative)
    with pytest.raises(InputError, match="layout='mean-logvar'"):
        open_store(where, layout="repa", moments="gaussian")
    odd = write(tmp_path / "c", named(np.zeros((3, 7, 4, 4), np.float32)))
    with pytest.raises(InputError, match=r"moments are floats \[N, 2C"):
        open_store(odd, layout="repa", moments="mean")
