"""A .zip archive is what its folder is: classes, refusals, files of the system, order of rows."""

import io
import json
import os
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from floracle.data.packing.pack import pack
from floracle.data.store import open_store
from floracle.run.errors import InputError

RANDOM = np.random.default_rng(0)


def png(*shape):
    stream = io.BytesIO()
    pixels = RANDOM.integers(0, 256, shape or (4, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def npz(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def folder_and_zip(where, files, empty=()):
    """The same files as a folder and as an archive of it, with folders that hold nothing."""
    for name, content in files.items():
        (where / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (where / "set" / name).write_bytes(content)
    for name in empty:
        (where / "set" / name).mkdir(parents=True)
    with zipfile.ZipFile(where / "set.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        for name in empty:
            archive.writestr(f"{name}/", b"")
    return where / "set", where / "set.zip"


def pictures(*names):
    return {name: png() for name in names}


def facts(store):
    return store.fingerprint, store.classes, store.labels.tolist(), store.shape, store.ignored


def both(where, files, empty=()):
    """What the folder and the archive give, which is the same."""
    folder, archive = (open_store(path) for path in folder_and_zip(where, files, empty))
    assert facts(folder) == facts(archive)
    assert len(folder.remarks) == len(archive.remarks)
    return folder


def both_refuse(where, files, words, empty=()):
    for path in folder_and_zip(where, files, empty):
        with pytest.raises(InputError, match=words) as caught:
            open_store(path)
        assert str(path) in str(caught.value)


def test_class_folders(tmp_path):
    # "cat-2/" comes before "cat/" as text, and after it as a folder
    store = both(tmp_path, pictures("cat/9.png", "cat-2/0.png", "cat/a/1.png", "ant/x.png"))
    assert store.classes == ("ant", "cat", "cat-2")
    assert store.labels.tolist() == [0, 1, 1, 2]


def test_folders_of_five_digits_are_classes_and_the_folders_of_edm_are_not(tmp_path):
    classed = both(tmp_path / "a", pictures("00000/0.png", "00000/1.png", "00001/0.png"))
    assert classed.classes == ("00000", "00001")
    assert classed.labels.tolist() == [0, 0, 1]
    numbered = pictures("00000/img00000999.png", "00001/img00001000.png")
    store = both(tmp_path / "b", numbered)
    assert store.labels.tolist() == [-1, -1]
    assert any("number the pictures as EDM does" in remark for remark in store.remarks)


def test_what_systems_add_is_passed_over(tmp_path):
    added = {
        name: b"no picture"
        for name in (
            *("__MACOSX/cat/._0.png", "cat/._0.png", "._cat", ".DS_Store", "cat/Thumbs.db"),
            *("desktop.ini", "dog/desktop.ini", "@eaDir/cat.png", "dog/@eaDir/0.png"),
            *(".cache/0.png", "$RECYCLE.BIN/0.png"),
        )
    }
    store = both(tmp_path, pictures("cat/0.png", "dog/0.png") | added, empty=["__MACOSX/dog"])
    assert store.classes == ("cat", "dog")
    assert (len(store), store.ignored) == (2, 0)


@pytest.mark.parametrize(
    "names",
    [
        ["train/cat/0.png", "val/cat/0.png"],
        ["train/0.png", "test/0.png"],
        ["Train/0.png"],
        ["train2017/0.png", "val2017/0.png", "annotations/0.png"],
        ["train/0.png", "test/0.png", "unlabelled/0.png"],
        ["photos/train/cat/0.png", "photos/val/cat/0.png"],
        ["cat/train/0.png", "cat/test/0.png", "dog/train/0.png", "dog/test/0.png"],
    ],
)
def test_splits_are_no_classes(tmp_path, names):
    both_refuse(tmp_path, pictures(*names), "is divided into")


def test_a_class_that_is_called_like_a_split_stays_one(tmp_path):
    assert both(tmp_path, pictures("car/0.png", "train/0.png")).classes == ("car", "train")


def test_other_refusals(tmp_path):
    both_refuse(tmp_path / "a", pictures("0.png", "cat/0.png"), "both loose and in class folders")
    files = pictures("cat/0.png") | {"dog/notes.txt": b"x"}
    both_refuse(tmp_path / "b", files, "dog holds no pictures, so it is no class")
    both_refuse(tmp_path / "c", pictures("cat/0.png"), "dog holds no pictures", empty=["dog"])
    both_refuse(tmp_path / "d", {"a.txt": b"x"}, "holds n.* pictures")
    sizes = {"cat/0.png": png(4, 5), "cat/1.png": png(5, 4)}
    both_refuse(tmp_path / "e", sizes, "use one size")


def test_a_folder_around_the_classes_is_noticed(tmp_path):
    store = both(tmp_path, pictures("photos/cat/0.png", "photos/dog/0.png"))
    assert store.classes == ("photos",)
    assert "whose folders are cat, dog: if those are the classes" in store.remarks[0]


def test_names_that_begin_with_a_point_and_a_slash(tmp_path):
    files = pictures("cat/0.png", "dog/0.png")
    folder, _ = folder_and_zip(tmp_path, files)
    with zipfile.ZipFile(tmp_path / "dotted.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(f"./{name}", content)
    assert facts(open_store(tmp_path / "dotted.zip")) == facts(open_store(folder))


@pytest.mark.parametrize("labels", [[7, 3], None])
def test_an_index_goes_before_folders(tmp_path, labels):
    files = pictures("cat/0.png", "dog/0.png")
    pairs = None if labels is None else [list(p) for p in zip(files, labels, strict=True)]
    files["dataset.json"] = json.dumps({"labels": pairs, "scale": 2}).encode()
    store = both(tmp_path, files | {"dog/Thumbs.db": b"x"})
    assert store.labels.tolist() == (labels or [-1, -1])
    assert any("scale" in remark and "not used" in remark for remark in store.remarks)


def test_the_folder_of_repa_in_an_archive(tmp_path):
    arrays = RANDOM.normal(size=(2, 8, 4, 4)).astype(np.float32)
    files = {}
    for row, array in enumerate(arrays):
        stream = io.BytesIO()
        np.save(stream, array)
        files[f"vae-sd/00000/img-mean-std-0000000{row}.npy"] = stream.getvalue()
    files |= pictures("images/00000/img00000000.png", "images/00000/img00000001.png")
    pairs = [["00000/img-mean-std-00000000.npy", 3], ["00000/img-mean-std-00000001.npy", 1]]
    files["vae-sd/dataset.json"] = json.dumps({"labels": pairs}).encode()
    for path in folder_and_zip(tmp_path, files):
        store = open_store(path, layout="repa", moments="mean")
        assert store.labels.tolist() == [3, 1]
        expected = torch.from_numpy(arrays[:, :4]) * 0.18215
        assert torch.equal(store.take(torch.arange(2)), expected)


def test_an_archive_of_arrays_that_are_no_moments(tmp_path):
    stream = io.BytesIO()
    np.save(stream, RANDOM.normal(size=(4, 3)))
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("points.npy", stream.getvalue())
    with pytest.raises(InputError, match=r"holds points\.npy, .* unpack it and name one file"):
        open_store(path)


def test_names_in_archives_of_macos_are_those_of_the_folder(tmp_path):
    files = pictures("café/0.png", "zèbre/0.png")
    folder, archive = folder_and_zip(tmp_path, files)
    content = bytearray(archive.read_bytes())
    for mark, place in ((b"PK\3\4", 7), (b"PK\1\2", 9)):  # the bit that says UTF-8
        start = content.find(mark)
        while start >= 0:
            content[start + place] &= ~8
            start = content.find(mark, start + 4)
    archive.write_bytes(content)
    assert facts(open_store(archive)) == facts(open_store(folder))
    assert open_store(archive).classes == ("café", "zèbre")


@pytest.mark.parametrize("layout", ["pictures", "mar", "repa"])
def test_class_folders_that_are_no_utf_8_are_refused(tmp_path, layout):
    folder, how = os.fsencode(tmp_path) + b"/set/caf\xe9", {}
    os.makedirs(folder)
    if layout == "pictures":
        name, content = b"0.png", png()
    elif layout == "mar":
        name, content, how = b"0.npz", npz(moments=MOMENTS), {"moments": "mean"}
    else:
        stream = io.BytesIO()
        np.save(stream, MOMENTS)
        name, content = b"img-mean-std-0.npy", stream.getvalue()
        how = {"layout": "repa", "moments": "mean"}
    with open(os.path.join(folder, name), "wb") as file:
        file.write(content)
    with pytest.raises(InputError, match=r"class folder 'caf\\udce9' is not named in UTF-8"):
        open_store(tmp_path / "set", **how)
    with pytest.raises(InputError, match=r"is not named in UTF-8 without control"):
        pack(tmp_path / "set", tmp_path / "packed", quiet=True, **how)


# One cached sample is one point ---------------------------------------------------------------

MOMENTS = RANDOM.normal(size=(8, 4, 4)).astype(np.float32)


@pytest.mark.parametrize("flips", [False, True])
def test_one_sample_of_mar_is_one_point(tmp_path, flips):
    path = tmp_path / "n01440764_1.JPEG.npz"
    path.write_bytes(npz(moments=MOMENTS, moments_flip=MOMENTS[..., ::-1].copy()))
    with pytest.raises(InputError, match="say flips=True"):
        open_store(path, moments="mean")
    store = open_store(path, moments="mean", flips=flips)
    assert (len(store), store.shape, store.layout) == (1 + flips, (4, 4, 4), "mar")
    assert torch.equal(store.take(torch.tensor([0]))[0], torch.from_numpy(MOMENTS[:4]) * 0.2325)
    alone = tmp_path / "alone.npz"
    alone.write_bytes(npz(moments=MOMENTS))
    with pytest.raises(InputError, match="holds a Gaussian for every sample"):
        open_store(alone)


def test_one_sample_of_repa_is_one_point(tmp_path):
    np.save(tmp_path / "img-mean-std-00000000.npy", MOMENTS)
    with pytest.raises(InputError, match="say layout='repa' or layout='edm2'"):
        open_store(tmp_path / "img-mean-std-00000000.npy")
    how = {"layout": "repa", "moments": "mean"}
    store = open_store(tmp_path / "img-mean-std-00000000.npy", **how)
    assert torch.equal(store.take(torch.tensor([0]))[0], torch.from_numpy(MOMENTS[:4]) * 0.18215)


def test_one_latent_with_its_label_is_one_point(tmp_path):
    np.savez(tmp_path / "0.npz", latent=MOMENTS, label=7)
    store = open_store(tmp_path / "0.npz")
    assert (len(store), store.labels.tolist()) == (1, [7])
    assert torch.equal(store.take(torch.tensor([0]))[0], torch.from_numpy(MOMENTS))


@pytest.mark.parametrize("count", [4, 8, 16, 32])
@pytest.mark.parametrize("ending", ["npy", "npz"])
def test_one_latent_or_as_many_points_as_channels_is_asked(tmp_path, count, ending):
    path, array = tmp_path / f"set.{ending}", RANDOM.normal(size=(count, 6, 6)).astype("f4")
    np.save(path, array) if ending == "npy" else np.savez(path, z=array)
    with pytest.raises(InputError, match=rf"one latent of {count} channels, or {count} points"):
        open_store(path)
    for stacked in (array[None], array[:, None]):
        np.save(path, stacked) if ending == "npy" else np.savez(path, z=stacked)
        assert len(open_store(path)) == len(stacked)
    if ending == "npz":  # labels settle it
        np.savez(path, z=array, labels=np.arange(count))
        assert len(open_store(path)) == count
