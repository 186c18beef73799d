import re
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from floracle.core.point_set import mass
from floracle.data.store import open_store
from floracle.run.errors import InputError

SHAPE = (8, 3, 3)


def latents(count, seed):
    """Like VA-VAE's: far from zero, of another deviation in every channel."""
    drawn = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(seed))
    return drawn * torch.linspace(2, 5, 8)[:, None, None] + torch.linspace(-1, 1, 8)[:, None, None]


def write(folder, sizes, *, flips=True, dtype=torch.float32):
    """As its extract_features.py writes: one file a rank and shard, and the statistics beside."""
    folder.mkdir(parents=True, exist_ok=True)
    plain, mirrors, labels = [], [], []
    for (rank, shard), count in sizes.items():
        z, flipped = (latents(count, seed + 10 * rank + shard).to(dtype) for seed in (0, 100))
        y = torch.randint(0, 1000, (count,), generator=torch.Generator().manual_seed(rank))
        content = {"latents": z, "labels": y} | ({"latents_flip": flipped} if flips else {})
        metadata = {"total_size": f"{count}", "dtype": f"{z.dtype}", "device": f"{z.device}"}
        name = f"latents_rank{rank:02d}_shard{shard:03d}.safetensors"
        save_file(content, folder / name, metadata=metadata)
        plain.append(z), mirrors.append(flipped), labels.append(y)
    mean = torch.linspace(-1, 1, 8).reshape(1, 8, 1, 1) + 0.01
    std = torch.linspace(2, 5, 8).reshape(1, 8, 1, 1) + 0.01
    torch.save({"mean": mean, "std": std}, folder / "latents_stats.pt")
    return torch.cat(plain), torch.cat(mirrors), torch.cat(labels), (mean, std)


FOUR = {(0, 0): 7, (0, 1): 3, (1, 0): 6, (1, 1): 4}


def every(store):
    return store.take(torch.arange(len(store)))


def fed(z, stats):
    """Its ImgLatentDataset, line by line, in float32."""
    feature = z.float()
    feature = (feature - stats[0]) / stats[1]
    return feature * 1.0


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("memory", [None, 3000])
def test_both_mirrors_as_its_project_feeds_them(tmp_path, dtype, memory):
    z, mirrors, labels, stats = write(tmp_path, FOUR, dtype=dtype)
    store = open_store(tmp_path, flips=True, memory=memory)
    assert store.layout == "lightningdit"
    assert store.shape == SHAPE
    assert store.flips
    assert len(store) == 40
    assert torch.equal(every(store), fed(torch.cat([z, mirrors]), stats))
    assert torch.equal(store.labels, labels.repeat(2))
    assert store.remarks == ()


def test_without_mirrors_in_order_of_rank_and_shard(tmp_path):
    z, _, labels, stats = write(
        tmp_path, {(r, s): 2 for r in (1, 0) for s in (*range(11, -1, -1),)}
    )
    order = torch.arange(48).reshape(2, 12, 2).flip(0, 1).flatten()
    store = open_store(tmp_path, flips=False)
    assert torch.equal(every(store), fed(z[order], stats))
    assert torch.equal(store.labels, labels[order])
    assert not store.flips


def test_rows_and_blocks_across_shards(tmp_path):
    z, mirrors, _, stats = write(tmp_path, FOUR)
    store = open_store(tmp_path, flips=True, memory=3000)
    assert not store.resident
    whole = fed(torch.cat([z, mirrors]), stats)
    rows = torch.tensor([39, 0, 6, 7, 7, 20, 19, 12])
    assert torch.equal(store.take(rows), whole[rows])
    for size in (1, 3, 7, 40):
        blocks = list(store.blocks(rows=size))
        assert torch.equal(torch.cat([block.points for block in blocks]), whole.flatten(1))
    assert torch.equal(store.points[5:25:4], whole[5:25:4])
    assert store.points[3:3].shape == (0, *SHAPE)


def test_mirrors_are_asked_for_and_never_made(tmp_path):
    write(tmp_path / "both", FOUR)
    with pytest.raises(InputError, match=r"both .*flips=True for those 2N points, or flips=False"):
        open_store(tmp_path / "both")
    _, _, _, stats = write(tmp_path / "one", FOUR, flips=False)
    assert torch.equal(open_store(tmp_path / "one").normalizer.mean, stats[0].flatten())
    with pytest.raises(InputError, match="cannot be mirrored in latent space"):
        open_store(tmp_path / "one", flips=True)


def test_normalizations(tmp_path):
    z, _, _, stats = write(tmp_path, FOUR)
    raw = open_store(tmp_path, flips=False, normalize="raw")
    assert torch.equal(every(raw), z)
    assert "unnormalised" in raw.remarks[0]
    scaled = open_store(tmp_path, flips=False, normalize=0.18215)
    assert torch.equal(every(scaled), z * 0.18215)
    standard = every(open_store(tmp_path, flips=False, normalize="standard"))
    assert standard.mean((0, 2, 3)).abs().max() < 1e-5
    stored = open_store(tmp_path, flips=False)
    torch.testing.assert_close(stored.normalizer.invert(every(stored)), z)
    prints = [stored.fingerprint, raw.fingerprint, scaled.fingerprint]
    (tmp_path / "latents_stats.pt").unlink()
    with pytest.raises(InputError, match=r"no latents_stats\.pt.*normalize='raw'"):
        open_store(tmp_path, flips=False)
    prints += [open_store(tmp_path, flips=False, normalize="raw").fingerprint]
    assert len(set(prints)) == 3
    assert stats[1].min() > 0


def test_statistics_of_another_autoencoder_are_noticed(tmp_path):
    write(tmp_path, FOUR)
    other = {"mean": torch.zeros(1, 8, 1, 1), "std": torch.full((1, 8, 1, 1), 0.18)}
    torch.save(other, tmp_path / "latents_stats.pt")
    (remark,) = open_store(tmp_path, flips=False).remarks
    assert "unnormalised" in remark
    assert "latents_stats.pt" in remark
    torch.save(
        {"mean": torch.zeros(1, 4, 1, 1), "std": torch.ones(4)}, tmp_path / "latents_stats.pt"
    )
    with pytest.raises(
        InputError, match=r"latents_stats\.pt: mean is Tensor \[1, 4, 1, 1\].* 8 channels"
    ):
        open_store(tmp_path, flips=False)


class Trap:
    def __reduce__(self):
        return (print, ("trap",))


@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize(
    "content", ["trap", 3, {"mean": 0.0, "std": 1.0}, {"mean": torch.ones(8)}]
)
def test_statistics_that_are_none(tmp_path, capsys, content, legacy):
    write(tmp_path, FOUR)
    content = {"mean": Trap(), "std": Trap()} if content == "trap" else content
    path = tmp_path / "latents_stats.pt"
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(InputError, match=r"latents_stats\.pt") as caught:
        open_store(tmp_path, flips=False)
    assert capsys.readouterr().out == ""
    assert str(caught.value).isprintable()
    assert "trust" not in str(caught.value)  # torch advises to run what it refused


def test_statistics_whose_checksum_differs(tmp_path):
    _, _, _, (mean, _) = write(tmp_path, FOUR)
    path = tmp_path / "latents_stats.pt"
    word = mean.numpy().tobytes()
    content = path.read_bytes()
    assert content.count(word) == 1
    path.write_bytes(content.replace(word, word[:-1] + b"\0"))
    with pytest.raises(InputError, match=r"latents_stats\.pt is damaged: the checksum"):
        open_store(tmp_path, flips=False)


def test_shards_that_are_missing_or_unlike(tmp_path):
    write(tmp_path, FOUR | {(0, 2): 2, (2, 0): 1})
    name = "latents_rank{}_shard{}.safetensors"
    (tmp_path / name.format("00", "001")).rename(tmp_path / "kept")
    with pytest.raises(InputError, match="no shard 1 of rank 0"):
        open_store(tmp_path, flips=False)
    (tmp_path / "kept").rename(tmp_path / name.format("00", "001"))
    for shard in ("000", "001"):
        (tmp_path / name.format("01", shard)).rename(tmp_path / f"kept{shard}")
    with pytest.raises(InputError, match="no shards of rank 1"):
        open_store(tmp_path, flips=False)
    odd = {"latents": torch.zeros(1, 4, 3, 3), "labels": torch.zeros(1, dtype=torch.int64)}
    save_file(odd, tmp_path / name.format("01", "000"))
    with pytest.raises(InputError, match=r"rank01_shard000\.safetensors holds labels, latents, "):
        open_store(tmp_path, flips=False)
    odd |= {"latents_flip": odd["latents"].clone()}
    save_file(odd, tmp_path / name.format("01", "000"))
    with pytest.raises(
        InputError, match=r"rank01_shard000.*\[1, 4, 3, 3\], but .*rank00_shard000"
    ):
        open_store(tmp_path, flips=False)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": torch.zeros(6, dtype=torch.int64)}, "7 latents, but labels"),
        ({"labels": torch.zeros(7)}, "float32"),
        ({"labels": torch.full((7,), -5)}, "-5"),
        ({"latents_flip": torch.zeros(7, 8, 3, 2)}, "differ in shape"),
        ({"latents": torch.full((7, *SHAPE), torch.nan)}, "NaN"),
    ],
)
def test_shards_that_contradict_themselves(tmp_path, change, words):
    write(tmp_path, {(0, 0): 7})
    content = {
        "latents": torch.zeros(7, *SHAPE),
        "latents_flip": torch.zeros(7, *SHAPE),
        "labels": torch.zeros(7, dtype=torch.int64),
    }
    path = tmp_path / "latents_rank00_shard000.safetensors"
    save_file(content | change, path)
    with pytest.raises(InputError, match=words):
        open_store(tmp_path, flips=False)
    save_file(content, path, metadata={"total_size": "8"})
    with pytest.raises(InputError, match="7 latents where it says '8'"):
        open_store(tmp_path, flips=False)


def test_rows_that_a_sampler_repeated_are_noticed(tmp_path):
    write(tmp_path, FOUR)
    path = tmp_path / "latents_rank01_shard001.safetensors"
    first = latents(7, 0)[:1]
    content = {
        "latents": torch.cat([latents(3, 5), first]),
        "latents_flip": torch.cat([latents(3, 6), latents(7, 100)[:1]]),
        "labels": torch.randint(0, 1000, (4,), generator=torch.Generator().manual_seed(0)),
    }
    save_file(content, path)
    store = open_store(tmp_path, flips=True)
    assert store.duplicates == 2
    (remark,) = store.remarks
    assert "2 rows repeat" in remark
    assert "DistributedSampler" in remark
    assert store.atoms().weights.max() == 2 / 40


def test_one_shard_alone_and_labels_and_weights_of_ones_own(tmp_path):
    z, _, _, stats = write(tmp_path, FOUR)
    one = open_store(tmp_path / "latents_rank00_shard000.safetensors", flips=False)
    assert torch.equal(every(one), fed(z[:7], stats))
    labels, weights = torch.arange(20) % 2, np.arange(1.0, 21.0)
    store = open_store(tmp_path, flips=True, labels=labels, weights=weights)
    assert torch.equal(store.labels, labels.repeat(2))
    assert store.weights is not None
    assert store.weights.tolist() == [*range(1, 21)] * 2
    assert mass(store, 1) == pytest.approx(110 / 210, rel=1e-12)
    with pytest.raises(InputError, match="there are 20 points"):
        open_store(tmp_path, flips=True, labels=labels.repeat(2))


@pytest.mark.parametrize(
    ("storage", "offset", "opens"),
    [
        (b"K\x08", b"K\x00", True),
        (b"K\x02", b"K\x00", False),
        (b"K\x08", b"K\x01", False),
        (b"J\xff\xff\xff\x7f", b"K\x00", False),  # more is claimed than there is
        (b"J\xff\xff\xff\x7f", b"J\x00\x00\x00\x40", False),
        (b"J\xff\xff\xff\xff", b"K\x00", False),
    ],
)
def test_statistics_that_claim_more_than_there_is(tmp_path, storage, offset, opens):
    """A storage of so many numbers and a tensor that begins somewhere in it, checksums right."""
    write(tmp_path, FOUR)
    path = tmp_path / "latents_stats.pt"
    with zipfile.ZipFile(path) as archive:
        files = {member: archive.read(member) for member in archive.infolist()}
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in files.items():
            forged, count = re.subn(rb"K\x08(tq.Q)K\x00", storage + rb"\1" + offset, content)
            assert count == 2 * member.filename.endswith("data.pkl")
            archive.writestr(zipfile.ZipInfo(member.filename), forged)
    if opens:
        assert open_store(tmp_path, flips=False).normalizer.std.min() > 0
        return
    with pytest.raises(InputError, match=r"latents_stats\.pt"):
        open_store(tmp_path, flips=False)
