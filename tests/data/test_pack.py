import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from floracle.data.normalize import Normalizer
from floracle.data.packed.manifest import ClassSpan
from floracle.data.packing.pack import pack
from floracle.data.packing.plan import _cuts
from floracle.data.packing.verify import verify
from floracle.data.store import open_store
from floracle.oracle.oracle import Oracle
from floracle.run.errors import InputError

SHAPE = (4, 3, 3)


def drawn(count, shape=SHAPE, seed=0):
    return torch.randn(count, *shape, generator=torch.Generator().manual_seed(seed))


def every(store):
    return store.take(torch.arange(len(store)))


def lightningdit(folder, dtype=torch.float32):
    """Two ranks of two shards, with mirrors, repeated rows and statistics."""
    folder.mkdir()
    for rank, shard, count in ((0, 0, 7), (0, 1, 3), (1, 0, 6), (1, 1, 4)):
        z, flipped = (drawn(count, seed=s + 10 * rank + shard).to(dtype) for s in (0, 100))
        y = torch.randint(0, 5, (count,), generator=torch.Generator().manual_seed(rank))
        if shard == 1:
            z[0], flipped[0], y[0] = z[1], flipped[1], y[1]
        content = {"latents": z, "latents_flip": flipped, "labels": y}
        save_file(content, folder / f"latents_rank{rank:02d}_shard{shard:03d}.safetensors")
    mean = torch.linspace(-1, 1, 4).reshape(1, 4, 1, 1)
    torch.save({"mean": mean, "std": mean.abs() + 0.37}, folder / "latents_stats.pt")
    return folder


def pictures(folder):
    rng = np.random.default_rng(0)
    for name in ("wolf", "cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 256, (6, 5, 3), np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{i}.png")
    return folder


def arrays(folder, dtype=np.float32):
    folder.mkdir()
    np.save(folder / "points.npy", drawn(40).numpy().astype(dtype))
    np.save(folder / "labels.npy", np.random.default_rng(1).integers(-1, 4, 40))
    return folder / "points.npy"


def unlabelled(folder):
    folder.mkdir()
    np.save(folder / "points.npy", drawn(40).repeat(2, 1, 1, 1).numpy())
    return folder / "points.npy"


DATA = {
    "shards with mirrors": (lightningdit, {"flips": True}),
    "shards without": (lightningdit, {"flips": False}),
    "half precision": (lambda path: lightningdit(path, torch.float16), {"flips": True}),
    "bfloat16": (lambda path: lightningdit(path, torch.bfloat16), {"flips": True}),
    "pictures": (pictures, {}),
    "mirrored pictures": (pictures, {"flips": True}),
    "labelled array": (arrays, {}),
    "double precision": (lambda path: arrays(path, np.float64), {}),
    "a factor": (arrays, {"normalize": 0.18215}),
    "standard": (arrays, {"normalize": "standard"}),
    "weights": (arrays, {"weights": np.random.default_rng(2).random(40) + 0.1}),
    "no labels, all twice": (unlabelled, {}),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "memory"), [*((kind, 3000) for kind in DATA), ("pictures", None)]
)
def test_packing_loses_nothing(tmp_path, kind, memory):
    make, how = DATA[kind]
    where = make(tmp_path / "data")
    manifest = pack(where, tmp_path / "packed", shard_bytes=700, **how)
    source, store = open_store(where, **how), open_store(tmp_path / "packed", memory=memory)
    assert len(manifest.shards) > 1
    assert store.layout == "packed"
    assert store.resident == (memory is None)
    assert manifest.conversion.largest == 0
    assert torch.equal(every(store), source.take(store.original))
    assert torch.equal(store.labels, source.labels[store.original])
    assert sorted(store.original.tolist()) == list(range(len(source)))
    for name in ("classes", "flips", "picture_range", "duplicates", "shape", "remarks"):
        assert getattr(store, name) == getattr(source, name), name
    for label in {-1, *source.labels.tolist()}:
        assert by_point(store, label) == pytest.approx(by_point(source, label), rel=1e-12)
    verify(tmp_path / "packed")


def by_point(store, label):
    """The weight of every atom of a class, by its bytes."""
    rows, weights = store.atoms(label)
    points = [point.numpy().tobytes() for point in store.take(rows)]
    assert len(set(points)) == len(points)
    return dict(zip(points, weights.tolist(), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("kind", DATA)
def test_the_stored_type_is_kept_and_never_wider_than_float32(tmp_path, kind):
    make, how = DATA[kind]
    where = make(tmp_path / "data")
    pack(where, tmp_path / "packed", spectra=False, **how)
    wide = kind == "double precision"
    expected = torch.float32 if wide else open_store(where, **how).dtype
    assert open_store(tmp_path / "packed").dtype == expected


def test_data_in_order_keeps_its_fingerprint(tmp_path):
    points, labels = drawn(30), torch.arange(30) // 7
    pack(points, tmp_path / "packed", labels=labels, normalize=2.0, spectra=False)
    source = open_store(points, labels=labels, normalize=2.0)
    assert open_store(tmp_path / "packed").fingerprint == source.fingerprint


@pytest.mark.slow
def test_the_fingerprint_is_that_of_the_content(tmp_path):
    points, labels = drawn(30), torch.arange(30) % 3
    one = pack(points, tmp_path / "a", labels=labels, shard_bytes=400)
    assert (
        pack(points, tmp_path / "b", labels=labels, spectra=False).fingerprint == one.fingerprint
    )
    (tmp_path / "a").rename(tmp_path / "c")
    assert open_store(tmp_path / "c").fingerprint == one.fingerprint
    points[3, 0, 0, 0] += 1e-6
    assert pack(points, tmp_path / "d", labels=labels).fingerprint != one.fingerprint


def loaded(folder, key):
    """LightningDiT's ImgLatentDataset, with `latent_norm: true`, line by line."""
    files = sorted(folder.glob("*.safetensors"))
    stats = torch.load(folder / "latents_stats.pt", weights_only=True)
    features, labels = [], []
    for name in files:
        with safe_open(name, framework="pt", device="cpu") as file:
            count = file.get_slice("labels").get_shape()[0]
            assert file.metadata()["total_size"] == f"{count}"
            assert set(file.metadata()) == {"total_size", "dtype", "device"}
            for i in range(count):
                feature = file.get_slice(key)[i : i + 1]
                feature = (feature.float() - stats["mean"]) / stats["std"]
                features.append(feature.squeeze(0))
                labels.append(file.get_slice("labels")[i : i + 1].squeeze(0))
    return torch.stack(features), torch.stack(labels)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_lightningdit_reads_the_folder(tmp_path, dtype):
    pack(lightningdit(tmp_path / "data", dtype), tmp_path / "packed", flips=True, shard_bytes=2000)
    store = open_store(tmp_path / "packed")
    plain, labels = loaded(tmp_path / "packed", "latents")
    mirrors, again = loaded(tmp_path / "packed", "latents_flip")
    assert torch.equal(torch.cat([plain, mirrors]), every(store))
    assert torch.equal(torch.cat([labels, again]), store.labels)
    own = open_store(tmp_path / "packed", layout="lightningdit", flips=True)
    assert torch.equal(every(own), every(store))
    assert own.fingerprint == store.fingerprint


def test_statistics_are_left_out_where_points_are_multiplied(tmp_path):
    pack(drawn(9), tmp_path / "packed", normalize=0.5)
    assert not (tmp_path / "packed/latents_stats.pt").exists()
    pack(drawn(9), tmp_path / "plain")
    stats = torch.load(tmp_path / "plain/latents_stats.pt", weights_only=True)
    assert torch.equal(stats["mean"], torch.zeros(1, 4, 1, 1))
    assert torch.equal(stats["std"], torch.ones(1, 4, 1, 1))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["shards with mirrors", "weights", "pictures"])
def test_oracles_of_both_stores_agree(tmp_path, kind):
    make, how = DATA[kind]
    where = make(tmp_path / "data")
    pack(where, tmp_path / "packed", shard_bytes=900, **how)
    source, store = open_store(where, **how), open_store(tmp_path / "packed", memory=3000)
    x, t = torch.randn(6, *source.shape), torch.tensor([0.0, 0.05, 0.2, 0.5, 0.9, 0.999])
    labels = source.labels[:6].clamp(min=0)
    assert torch.equal(Oracle(store)(x, t, labels), Oracle(source)(x, t, labels))
    ours, theirs = Oracle(store)(x, t), Oracle(source)(x, t)
    assert (ours - theirs).norm() <= 1e-6 * theirs.norm()


@pytest.mark.slow
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_labels_shapes_and_types_come_back(tmp_path_factory, data):
    shape = tuple(data.draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)))
    labels = data.draw(st.lists(st.integers(-1, 5), min_size=1, max_size=12))
    kinds = (torch.uint8, torch.int16, torch.float16, torch.bfloat16, torch.float32, torch.float64)
    kind = data.draw(st.sampled_from(kinds))
    high = data.draw(st.sampled_from([2, 200]))
    points = torch.randint(0, high, (len(labels), *shape)).to(kind)
    folder = tmp_path_factory.mktemp("packed")
    size = data.draw(st.integers(1, 300))
    manifest = pack(points, folder, labels=labels, normalize="raw", shard_bytes=size)
    source, store = open_store(points, labels=labels, normalize="raw"), open_store(folder)
    assert torch.equal(every(store), source.take(store.original))
    assert torch.equal(store.labels, source.labels[store.original])
    order = [label if label >= 0 else 99 for label in store.labels.tolist()]
    assert order == sorted(order)
    for label in set(labels):
        rows = store.original[store.labels == label]
        assert torch.equal(rows, (source.labels == label).nonzero()[:, 0])
        assert by_point(store, label) == pytest.approx(by_point(source, label))
    assert sum(shard.rows for shard in manifest.shards) == len(labels)


@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=20),
    most=st.integers(0, 40),
)
def test_only_a_class_larger_than_a_shard_is_cut(sizes, most):
    ends = np.cumsum(sizes).tolist()
    spans = tuple(ClassSpan(i, ends[i] - size, ends[i]) for i, size in enumerate(sizes))
    cuts = _cuts(spans, most)
    assert [first for first, _ in cuts] == [0, *(end for _, end in cuts[:-1])]
    assert cuts[-1][1] == ends[-1]
    for first, end in cuts:
        assert 0 < end - first <= max(most, 1)
    for span in spans:
        inside = [end for _, end in cuts[:-1] if span.first < end < span.end]
        assert not inside or span.end - span.first > max(most, 1)


def test_a_narrower_type_says_what_it_costs(tmp_path):
    points = drawn(50) * 3 + 1
    for dtype, kind in (("fp16", torch.float16), ("bf16", torch.bfloat16)):
        manifest = pack(points, tmp_path / dtype, normalize="standard", dtype=dtype)
        source, store = open_store(points, normalize="standard"), open_store(tmp_path / dtype)
        assert store.dtype == kind
        errors = (points.to(kind).double() - points.double()) / source.normalizer.std.reshape(
            4, 1, 1
        )
        assert manifest.conversion.largest == pytest.approx(float(errors.abs().max()), rel=1e-5)
        assert manifest.conversion.rms == pytest.approx(float(errors.square().mean().sqrt()))
        moved = (every(store) - source.take(store.original)).double()
        assert float(moved.abs().max()) == pytest.approx(manifest.conversion.largest, rel=1e-3)
        verify(tmp_path / dtype)


def test_points_that_become_equal_are_one_atom(tmp_path):
    points = torch.tensor([[1.0, 2.0], [1.0 + 1e-6, 2.0], [3.0, 4.0]])
    pack(points, tmp_path / "packed", dtype="fp16")
    store = open_store(tmp_path / "packed")
    assert store.duplicates == 1
    assert store.atoms().weights.tolist() == pytest.approx([2 / 3, 1 / 3])


@pytest.mark.parametrize(("dtype", "value"), [("fp16", 70000.0), ("bf16", 3.4e38)])
def test_values_too_large_for_a_type_are_named_by_row(tmp_path, dtype, value):
    points = drawn(20)
    points[13, 2, 1, 1] = -value
    with pytest.raises(InputError, match=r"row 13 holds .* too large .*--dtype fp32"):
        pack(points, tmp_path / "packed", dtype=dtype, labels=torch.arange(20) % 3)
    assert not (tmp_path / "packed").exists()


def test_a_packed_store_is_packed_again(tmp_path):
    where = arrays(tmp_path / "data")
    pack(where, tmp_path / "a", normalize=0.5, weights=np.arange(1, 41))
    pack(tmp_path / "a", tmp_path / "b", shard_bytes=500)
    first, second = open_store(tmp_path / "a"), open_store(tmp_path / "b")
    assert torch.equal(every(first), every(second))
    assert first.fingerprint == second.fingerprint


REFUSED = {
    "inside": (lambda data: data / "new", {}, "inside the data"),
    "the data itself": (lambda data: data, {}, "inside the data"),
    "a file": (lambda data: data.parent / "file", {}, "is a file"),
    "something else": (lambda data: data.parent / "other", {}, "what no run of floracle pack"),
    "a type": (lambda data: data.parent / "new", {"dtype": "fp8"}, "choose stored, fp16"),
    "a size": (lambda data: data.parent / "new", {"shard_bytes": "big"}, "shard-bytes"),
    "spectra": (lambda data: data.parent / "new", {"memory": 2000}, "--no-spectra"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_packed_is_refused_and_nothing_is_written(tmp_path, kind):
    data = pictures(tmp_path / "data")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.txt").write_text("mine")
    where, how, words = REFUSED[kind]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=words):
        pack(data, where(data), **how)
    assert sorted(tmp_path.rglob("*")) == before


def test_gaussians_are_no_points(tmp_path):
    moments = torch.cat([drawn(6), drawn(6).abs() + 0.1], 1)
    with pytest.raises(InputError, match="moments='mean' or 'sample'"):
        pack(moments, tmp_path / "packed", layout="mean-std", moments="gaussian")
    pack(moments, tmp_path / "packed", layout="mean-std", moments="sample", normalize="raw")
    source = open_store(moments, layout="mean-std", moments="sample", normalize="raw")
    assert torch.equal(every(open_store(tmp_path / "packed")), every(source))


def test_a_disk_too_small_is_seen_beforehand(tmp_path, monkeypatch):
    full = type("Usage", (), {"free": 1000})
    monkeypatch.setattr("floracle.data.destination.shutil.disk_usage", lambda _: full)
    with pytest.raises(InputError, match=r"needs .* MB more, and .* are free"):
        pack(drawn(40), tmp_path / "packed")
    assert not (tmp_path / "packed").exists()


def test_the_same_again_answers_at_once_and_others_are_refused(tmp_path, monkeypatch):
    where, out = arrays(tmp_path / "data"), tmp_path / "packed"
    first = pack(where, out, shard_bytes=600)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    with monkeypatch.context() as patched:
        patched.setattr(
            "floracle.data.packing.pack.open_store", None
        )  # the data is not even opened
        assert pack(where, out, shard_bytes=600).fingerprint == first.fingerprint
        with pytest.raises(InputError, match=r"dtype: 'stored' there, 'fp16' asked"):
            pack(where, out, shard_bytes=600, dtype="fp16")
    os_touch(where)
    assert pack(where, out, shard_bytes=600).fingerprint == first.fingerprint
    np.save(where, drawn(40, seed=9).numpy())
    with pytest.raises(InputError, match=r"other settings \(data: '\w+' there, '\w+' asked\)"):
        pack(where, out, shard_bytes=600)
    after = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    record = out / "floracle/verified.json"
    assert after | {record: 0} == before | {record: 0}


def os_touch(path):
    path.write_bytes(path.read_bytes())


def test_a_normalizer_of_ones_own_is_kept_to_the_last_bit(tmp_path):
    own = Normalizer(torch.tensor([0.1, 0.2, 0.3, 0.4]), torch.tensor(0.7))
    pack(drawn(12), tmp_path / "packed", normalize=own)
    source, store = open_store(drawn(12), normalize=own), open_store(tmp_path / "packed")
    assert torch.equal(every(store), every(source))
    assert store.fingerprint == source.fingerprint


def test_a_finished_store_holds_nothing_unfinished(tmp_path):
    labels = torch.arange(60) % 3
    pack(torch.randn(60, 12), tmp_path / "packed", labels=labels, shard_bytes=1200, quiet=True)
    assert not (tmp_path / "packed" / "floracle" / "unfinished").exists()
