"""What lies in a file or beside it is used, or named."""

import json
import os
import struct
import tracemalloc
import zipfile
import zlib
from types import MappingProxyType

import numpy as np
import pytest
import torch

from floracle.data.encoding.encode import encode
from floracle.data.packing.pack import pack
from floracle.data.store import open_store
from floracle.run.errors import InputError

RANDOM = np.random.default_rng(0)
COUNT, KINDS = 20, 5
VECTORS = RANDOM.normal(size=(COUNT, 6)).astype(np.float32)
IMAGES = RANDOM.integers(0, 256, (COUNT, 4, 5, 3), dtype=np.uint8)
LABELS = RANDOM.permutation(np.arange(COUNT) % KINDS)
ONE_HOT = np.eye(KINDS, dtype=np.float32)[LABELS]
WEIGHTS = RANDOM.uniform(0.5, 2, COUNT)


def write_safetensors(path, arrays, metadata=None):
    """By the letter of the format: length, JSON, payload."""
    kinds = {"float32": "F32", "float64": "F64", "int64": "I64", "uint8": "U8"}
    entries, payload = {}, b""
    for name, array in arrays.items():
        place = [len(payload), len(payload) + array.nbytes]
        kind = kinds[str(array.dtype)]
        entries[name] = {"dtype": kind, "shape": list(array.shape), "data_offsets": place}
        payload += array.tobytes()
    if metadata:
        entries["__metadata__"] = metadata
    header = json.dumps(entries).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + payload)


def write(path, arrays):
    write_safetensors(path, arrays) if path.suffix == ".safetensors" else np.savez(path, **arrays)
    return path


both_formats = pytest.mark.parametrize("ending", ["npz", "safetensors"])


def points_of(store):
    return store.take(torch.arange(len(store)))


def same(store, expected):
    assert store.labels.tolist() == expected.labels.tolist()
    assert store.fingerprint == expected.fingerprint


# Labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("points", [VECTORS, IMAGES])
@pytest.mark.parametrize("labels", [LABELS, LABELS.astype("u1"), ONE_HOT, ONE_HOT.astype(bool)])
@pytest.mark.parametrize("order", [1, -1])
def test_labels_without_a_name_in_any_order_and_form(tmp_path, points, labels, order):
    np.savez(tmp_path / "set.npz", *(points, labels)[::order])
    store = open_store(tmp_path / "set.npz")
    same(store, open_store(points, labels=LABELS))
    assert store.remarks == ()


@both_formats
@pytest.mark.parametrize(
    "name",
    ["labels", "label", "y", "targets", "target", "classes", "class_ids", "y_train", "Y"],
)
@pytest.mark.parametrize("labels", [LABELS, ONE_HOT])
def test_labels_by_any_of_their_names(tmp_path, ending, name, labels):
    path = write(tmp_path / f"set.{ending}", {"features": VECTORS, name: labels})
    same(open_store(path), open_store(VECTORS, labels=LABELS))


def test_one_hot_labels_are_labels_wherever_they_are_given(tmp_path):
    np.save(tmp_path / "points.npy", VECTORS)
    np.save(tmp_path / "one_hot.npy", ONE_HOT)
    expected = open_store(VECTORS, labels=LABELS)
    for labels in (ONE_HOT, torch.from_numpy(ONE_HOT), tmp_path / "one_hot.npy", ONE_HOT.tolist()):
        same(open_store(VECTORS, labels=labels), expected)
    for wrong in (ONE_HOT * 0.5, ONE_HOT + ONE_HOT[::-1], ONE_HOT * 0):
        with pytest.raises(InputError, match=r"labels are whole numbers|not one-hot"):
            open_store(VECTORS, labels=wrong)
    with pytest.raises(InputError, match=r"have shape \[20, 5\], and are not one-hot"):
        open_store(VECTORS, labels=LABELS[:, None] + np.arange(KINDS))


def test_labels_twice_are_refused(tmp_path):
    np.savez(tmp_path / "set.npz", x=VECTORS, labels=LABELS, targets=LABELS)
    with pytest.raises(InputError, match="labels more than once: labels, targets"):
        open_store(tmp_path / "set.npz")


def test_names_of_classes_beside_labels_are_named(tmp_path):
    path, names = tmp_path / "set.npz", np.array(list("abcde"))
    np.savez(path, x=VECTORS, labels=LABELS, classes=names, class_names=names)
    store = open_store(path)
    same(store, open_store(VECTORS, labels=LABELS))
    assert "'classes' [5], 'class_names' [5] as well, which is not used" in store.remarks[0]


@both_formats
def test_what_may_be_labels_under_another_name_is_named(tmp_path, ending):
    path = write(tmp_path / f"set.{ending}", {"x": VECTORS, "digit": LABELS})
    (remark,) = open_store(path).remarks
    assert "'digit' [20] as well, which is not used" in remark


def test_two_arrays_of_points_without_names(tmp_path):
    np.savez(tmp_path / "set.npz", VECTORS, VECTORS[:7])
    store = open_store(tmp_path / "set.npz")
    assert len(store) == COUNT
    assert "'arr_1' [7, 6] as well, which is not used" in store.remarks[0]


# Weights, scales, statistics ------------------------------------------------------------------


@both_formats
@pytest.mark.parametrize("name", ["weights", "sample_weight"])
def test_weights_are_used(tmp_path, ending, name):
    path = write(tmp_path / f"set.{ending}", {"x": VECTORS, "labels": LABELS, name: WEIGHTS})
    same(open_store(path), open_store(VECTORS, labels=LABELS, weights=WEIGHTS))
    shares = open_store(path).atoms().weights.numpy()
    np.testing.assert_allclose(shares, WEIGHTS / WEIGHTS.sum(), rtol=1e-12)
    given = open_store(path, weights=WEIGHTS[::-1].copy())
    same(given, open_store(VECTORS, labels=LABELS, weights=WEIGHTS[::-1].copy()))
    path = write(path, {"x": VECTORS, name: WEIGHTS[:KINDS]})  # of classes, not of points
    assert f"{name!r} [5] as well, which is not used" in open_store(path).remarks[0]


@both_formats
@pytest.mark.parametrize("name", ["mean", "std", "scale", "scaling_factor", "shift", "max"])
@pytest.mark.parametrize("shape", [(6,), (1, 6), ()])
def test_a_scale_beside_floats_is_refused_until_it_is_said(tmp_path, ending, name, shape):
    scale = np.full(shape, 3.0)
    path = write(tmp_path / f"set.{ending}", {"features": VECTORS, name: scale})
    with pytest.raises(InputError, match=rf"holds '{name}' beside its points, .*normalize='raw'"):
        open_store(path)
    for how in ("raw", "standard", 0.5):
        store = open_store(path, normalize=how)
        same(store, open_store(VECTORS, normalize=how))
        assert any(f"{name!r}" in remark and "not used" in remark for remark in store.remarks)


def test_a_scale_beside_bytes_is_named(tmp_path):
    np.savez(tmp_path / "set.npz", images=IMAGES, mean=np.zeros(3), std=np.ones(3))
    store = open_store(tmp_path / "set.npz")
    same(store, open_store(IMAGES))
    assert "'mean' [3], 'std' [3] as well, which is not used" in store.remarks[0]


def test_what_a_header_says_of_a_scale(tmp_path):
    path = tmp_path / "set.safetensors"
    write_safetensors(path, {"latents": VECTORS}, {"scaling_factor": "0.18215", "format": "pt"})
    with pytest.raises(InputError, match="'scaling_factor' beside its points"):
        open_store(path)
    write_safetensors(path, {"latents": VECTORS}, {"vae": "kl-f8", "format": "pt"})
    (remark,) = open_store(path).remarks
    assert "the header" in remark
    assert "'vae' as well" in remark


@both_formats
@pytest.mark.parametrize("names", [("mu", "sigma"), ("mean", "cov"), ("mu_s", "sigma_s")])
def test_statistics_are_no_points(tmp_path, ending, names):
    values = (np.zeros(64), np.eye(64))
    path = write(tmp_path / f"set.{ending}", dict(zip(names, values, strict=True)))
    with pytest.raises(InputError, match="holds statistics as for FID, and no points"):
        open_store(path)


def test_the_reference_batch_of_adm_names_its_statistics(tmp_path):
    path, sigma = tmp_path / "VIRTUAL.npz", np.eye(64)
    np.savez(path, IMAGES, mu=np.zeros(64), sigma=sigma, mu_s=np.zeros(64), sigma_s=sigma)
    store = open_store(path)
    same(store, open_store(IMAGES))
    assert all(name in store.remarks[0] for name in ("'mu'", "'sigma'", "'mu_s'", "'sigma_s'"))


@pytest.mark.parametrize("ending", ["npy", "npz", "safetensors"])
@pytest.mark.parametrize(
    "beside", ["weights.npy", "set_weights.npy", "mean.npy", "set_std.npy", "targets.npy"]
)
def test_files_beside_an_array_that_are_not_read_are_named(tmp_path, ending, beside):
    path = tmp_path / f"set.{ending}"
    np.save(path, VECTORS) if ending == "npy" else write(path, {"x": VECTORS})
    assert open_store(path).remarks == ()
    np.save(tmp_path / beside, WEIGHTS)
    (remark,) = open_store(path).remarks
    assert remark.startswith(f"{beside} beside {path} is not read with it")


# Mirrors and statistics of latents ------------------------------------------------------------

LATENTS, MIRRORS = (RANDOM.normal(size=(COUNT, 4, 3, 3)).astype(np.float32) * 5 for _ in range(2))
MEAN, STD = torch.tensor([1.0, -2.0, 0.5, 3.0]), torch.tensor([5.0, 4.0, 6.0, 2.0])


def write_stats(folder, **others):
    stats = {"mean": MEAN.reshape(1, 4, 1, 1), "std": STD.reshape(1, 4, 1, 1), **others}
    torch.save(stats, folder / "latents_stats.pt")


@pytest.mark.parametrize("name", ["latents_rank00_shard000", "renamed"])
@pytest.mark.parametrize("flips", [False, True])
def test_a_shard_under_any_name_keeps_its_mirrors_and_statistics(tmp_path, name, flips):
    path = tmp_path / f"{name}.safetensors"
    write_safetensors(path, {"latents": LATENTS, "latents_flip": MIRRORS, "labels": LABELS})
    with pytest.raises(InputError, match="flips=True for those 2N points"):
        open_store(path)
    with pytest.raises(InputError, match=r"holds no latents_stats\.pt"):
        open_store(path, flips=flips)
    write_stats(tmp_path)
    store = open_store(path, flips=flips)
    stored = np.concatenate([LATENTS, MIRRORS]) if flips else LATENTS
    expected = (torch.from_numpy(stored) - MEAN[:, None, None]) / STD[:, None, None]
    assert torch.equal(points_of(store), expected)
    assert store.labels.tolist() == LABELS.tolist() * (1 + flips)
    assert store.layout == "lightningdit"


def test_a_shard_without_mirrors_beside_its_statistics(tmp_path):
    path = tmp_path / "renamed.safetensors"
    write_safetensors(path, {"latents": LATENTS, "labels": LABELS})
    assert open_store(path).layout == "safetensors"
    write_stats(tmp_path)
    store = open_store(path)
    expected = (torch.from_numpy(LATENTS) - MEAN[:, None, None]) / STD[:, None, None]
    assert torch.equal(points_of(store), expected)


def test_mirrors_in_an_npz_must_be_said(tmp_path):
    path = tmp_path / "set.npz"
    np.savez(path, latents=LATENTS, latents_flip=MIRRORS, labels=LABELS)
    with pytest.raises(InputError, match="flips=True for those 2N points"):
        open_store(path, normalize=0.2)
    store = open_store(path, flips=True, normalize=0.2)
    expected = torch.from_numpy(np.concatenate([LATENTS, MIRRORS])) * torch.tensor(0.2)
    assert torch.equal(points_of(store), expected)
    rows = torch.tensor([25, 3, 39])
    assert torch.equal(store.take(rows), expected[rows])
    lazy = open_store(path, flips=True, normalize=0.2, memory=2000)
    assert torch.equal(lazy.take(rows), expected[rows])
    same(
        open_store(path, flips=False, normalize=0.2),
        open_store(LATENTS, labels=LABELS, normalize=0.2),
    )


def test_statistics_with_more_than_mean_and_std_are_refused(tmp_path):
    path = tmp_path / "latents_rank00_shard000.safetensors"
    write_safetensors(path, {"latents": LATENTS, "labels": LABELS})
    write_stats(tmp_path, latent_multiplier=torch.tensor(0.5))
    with pytest.raises(InputError, match=r"latents_stats\.pt holds latent_multiplier as well"):
        open_store(tmp_path)


@pytest.mark.parametrize("name", ["weights", "scale"])
def test_what_else_a_shard_holds(tmp_path, name):
    path = tmp_path / "latents_rank00_shard000.safetensors"
    arrays = {"latents": LATENTS, "labels": LABELS, name: WEIGHTS}
    write_safetensors(path, arrays, {"dtype": "torch.float32", "vae": "f16d32"})
    write_safetensors(tmp_path / "more.safetensors", {"latents": LATENTS, "labels": LABELS})
    write_stats(tmp_path)
    if name == "scale":
        with pytest.raises(InputError, match="holds 'scale' beside its points"):
            open_store(tmp_path)
        return
    remarks = open_store(tmp_path).remarks
    assert "holds 'weights', 'vae' as well, which is not used" in remarks[0]
    assert "holds more.safetensors as well" in remarks[1]


# Sizes that are declared ----------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["x", "labels", "weights", "arr_1"])
def test_a_small_npz_cannot_take_much_memory(tmp_path, name):
    huge = np.zeros(2**28, np.uint8)  # 256 MiB in some 260 kB; as float32 a GiB
    arrays = {"x": VECTORS, name: huge.reshape(4, -1) if name == "x" else huge}
    with zipfile.ZipFile(tmp_path / "set.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as file:
        for key, array in arrays.items():
            with file.open(f"{key}.npy", "w") as member:
                np.lib.format.write_array(member, array)
    del huge, arrays
    assert os.path.getsize(tmp_path / "set.npz") < 2**19
    tracemalloc.start()
    try:
        if name == "weights":  # not one for each point: named, and never unpacked
            assert "'weights' [268435456]" in open_store(tmp_path / "set.npz").remarks[0]
        else:
            with pytest.raises(InputError, match=r"no data|but there are 20 points|should hold"):
                open_store(tmp_path / "set.npz", memory="8G")
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("colours", [2, 6])
def test_a_small_picture_cannot_take_much_memory(tmp_path, colours):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    side, packer = 8000, zlib.compressobj(9)
    row = bytes(1 + side * (3 if colours == 2 else 4))
    data = b"".join(packer.compress(row) for _ in range(100)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 8, colours, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    content = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)
    (tmp_path / "0.png").write_bytes(content)
    with pytest.raises(InputError, match=r"0\.png unpacks to 183 MiB from .* KiB"):
        open_store(tmp_path)


# Names of classes -----------------------------------------------------------------------------


class Halves:
    """Every 2 x 2 pixels of each channel become one value."""

    name, channels, downsampling, gaussian = "halves", 3, 2, False
    settings = MappingProxyType({"weights": "none"})

    def encode(self, images):
        return torch.nn.functional.avg_pool2d(images, 2), None


def test_encoded_and_packed_pictures_keep_the_names_of_classes(tmp_path):
    from PIL import Image

    for row, name in enumerate(("10", "2", "cat")):
        (tmp_path / "set" / name).mkdir(parents=True)
        pixels = RANDOM.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"set/{name}/{row}.png")
    encode(tmp_path / "set", tmp_path / "latents", Halves(), quiet=True)
    assert open_store(tmp_path / "latents").classes == ("10", "2", "cat")
    shard = tmp_path / "latents/latents_rank00_shard000.safetensors"
    assert open_store(shard).classes == ("10", "2", "cat")
    pack(tmp_path / "latents", tmp_path / "packed", quiet=True)
    assert open_store(tmp_path / "packed").classes == ("10", "2", "cat")
    # the names are those of these shards alone
    write_safetensors(shard, {"latents": LATENTS[:, :3], "labels": LABELS})
    assert open_store(tmp_path / "latents").classes == ("0", "1", "2", "3", "4")
