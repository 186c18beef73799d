"""Encoding with autoencoders that are plain arithmetic, so that every latent is known."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from floracle.cli import main
from floracle.core.seeds import noise
from floracle.data.encoding.encode import encode
from floracle.data.encoding.manifest import read_manifest
from floracle.data.store import open_store
from floracle.run.errors import InputError
from floracle.run.images import quantise


@dataclass(frozen=True)
class Means:
    """Halves the size; channels are what a 2 × 2 square holds, times 3, with small deviations."""

    name: str = "means"
    channels: int = 12
    downsampling: int = 2
    gaussian: bool = True
    weights: str = "a"
    largest: float = 3.0
    calls: list = field(default_factory=list, compare=False)

    @property
    def settings(self):
        return {"name": self.name, "weights": self.weights}

    def encode(self, images):
        self.calls.append(len(images))
        mean = torch.nn.functional.pixel_unshuffle(images, 2) * self.largest
        return mean, 0.01 * (1 + images.mean((1, 2, 3), keepdim=True)).expand_as(mean)

    def decode(self, latents):
        return torch.nn.functional.pixel_shuffle(latents / self.largest, 2)


def pictures(folder, count=5, side=(6, 8), mode="RGB"):
    """Two classes of random pictures."""
    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            shape = (*side, 3) if mode == "RGB" else side
            Image.fromarray(rng.integers(0, 256, shape, np.uint8)).save(folder / name / f"{i}.png")
    return folder


def every(store):
    return store.take(torch.arange(len(store)))


def shards(folder):
    return [load_file(file) for file in sorted(folder.glob("latents_rank00_shard*.safetensors"))]


def test_latents_lie_in_the_order_of_the_pictures_with_their_labels(tmp_path):
    where, coder = pictures(tmp_path / "images"), Means()
    found = encode(where, tmp_path / "out", coder, batch=3, shard_images=4)
    source, files = open_store(where), shards(tmp_path / "out")
    assert [len(file["labels"]) for file in files] == [4, 4, 2]
    assert coder.calls == [3, 1, 3, 1, 2]
    expected = torch.nn.functional.pixel_unshuffle(every(source), 2) * 3
    assert torch.equal(torch.cat([file["latents"] for file in files]), expected)
    assert torch.equal(torch.cat([file["labels"] for file in files]), source.labels)
    assert all(set(file) == {"latents", "labels"} for file in files)
    assert (found.images, found.shape, found.classes) == (10, (12, 3, 4), ("cat", "dog"))
    assert read_manifest(tmp_path / "out") == found
    assert found.settings["images"] == source.fingerprint


@pytest.mark.parametrize("flips", [False, True])
def test_statistics_are_those_of_everything_stored_and_points_have_deviation_one(tmp_path, flips):
    where, out = pictures(tmp_path / "images"), tmp_path / "out"
    encode(where, out, Means(), flips=flips, batch=3, shard_images=4)
    names = ("latents", "latents_flip")[: 1 + flips]
    latents = np.concatenate([file[name].double() for name in names for file in shards(out)])
    stats = torch.load(out / "latents_stats.pt", weights_only=True)
    for name, axis in (("mean", latents.mean((0, 2, 3))), ("std", latents.std((0, 2, 3)))):
        assert stats[name].shape == (1, 12, 1, 1)
        np.testing.assert_allclose(stats[name].flatten(), axis, rtol=1e-6, atol=1e-6)
    store = open_store(out, flips=flips)
    assert store.layout == "lightningdit"
    assert len(store) == 10 * (1 + flips)
    points = every(store).double()
    assert points.mean((0, 2, 3)).abs().max() < 1e-6
    assert (points.std((0, 2, 3), correction=0) - 1).abs().max() < 1e-6


def test_a_stored_mirror_is_the_latent_of_the_mirrored_picture(tmp_path):
    where = pictures(tmp_path / "images")
    encode(where, tmp_path / "out", Means(), flips=True)
    (file,) = shards(tmp_path / "out")
    mirrored = every(open_store(where)).flip(3)
    expected = torch.nn.functional.pixel_unshuffle(mirrored, 2) * 3
    assert torch.equal(file["latents_flip"], expected)
    assert not torch.equal(file["latents_flip"], file["latents"].flip(3))


def test_the_draw_of_an_image_depends_on_the_seed_and_on_it_alone(tmp_path):
    where, coder = pictures(tmp_path / "images"), Means()
    how = {"moments": "sample", "seed": 7}
    encode(where, tmp_path / "a", coder, batch=3, shard_images=4, **how)
    encode(where, tmp_path / "b", coder, batch=10, flips=True, **how)
    encode(where, tmp_path / "c", coder, moments="sample", seed=8)
    one = torch.cat([file["latents"] for file in shards(tmp_path / "a")])
    two, other = shards(tmp_path / "b")[0], shards(tmp_path / "c")[0]
    images = every(open_store(where))
    mean, std = coder.encode(images)
    drawn = (one - mean) / std
    assert torch.equal(one, mean + std * noise(range(7, 17), (12, 3, 4)))
    torch.testing.assert_close(one, two["latents"], rtol=0, atol=1e-6)
    assert (other["latents"] - one).abs().mean() > 0.005
    mirrored, spread = coder.encode(images.flip(3))
    again = (two["latents_flip"] - mirrored) / spread
    correlation = torch.corrcoef(torch.stack([drawn.flatten(), again.flatten()]))[0, 1]
    assert abs(correlation) < 4 / drawn.numel() ** 0.5  # a mirror has noise of its own
    assert abs(again.std() - 1) < 0.08


def test_latents_of_a_store_become_pictures_again(tmp_path):
    where, coder = pictures(tmp_path / "images"), Means()
    encode(where, tmp_path / "out", coder, shard_images=4)
    source, store = open_store(where), open_store(tmp_path / "out")
    rows = torch.tensor([7, 0, 3])
    decoded = coder.decode(store.normalizer.invert(store.take(rows)))
    assert torch.equal(quantise(decoded), source.stored[rows])


def test_grey_pictures_are_three_equal_channels(tmp_path):
    where, coder = pictures(tmp_path / "images", mode="L"), Means()
    encode(where, tmp_path / "out", coder)
    pixels = coder.decode(shards(tmp_path / "out")[0]["latents"])
    expected = every(open_store(where)).expand(-1, 3, -1, -1)
    torch.testing.assert_close(pixels, expected, rtol=0, atol=1e-6)


def test_half_precision_is_rounded_once_and_too_large_is_named(tmp_path):
    where = pictures(tmp_path / "images")
    encode(where, tmp_path / "fp32", Means())
    encode(where, tmp_path / "fp16", Means(), dtype="fp16")
    (wide,), (half,) = shards(tmp_path / "fp32"), shards(tmp_path / "fp16")
    assert torch.equal(half["latents"], wide["latents"].half())
    with pytest.raises(InputError, match=r"image 0 holds [\d.e+]+, which float16 cannot hold"):
        encode(where, tmp_path / "large", Means(largest=1e6), dtype="fp16")


def test_the_same_again_answers_at_once_and_others_are_refused(tmp_path, monkeypatch):
    where, out, coder = pictures(tmp_path / "images"), tmp_path / "out", Means()
    first = encode(where, out, coder, shard_images=4)
    calls, before = len(coder.calls), {path: path.stat().st_mtime_ns for path in out.rglob("*")}
    with monkeypatch.context() as patched:
        patched.setattr(
            "floracle.data.encoding.encode.open_store", None
        )  # no picture is even opened
        assert encode(where, out, coder, shard_images=4) == first
        for how, words in (
            ({"flips": True}, "flips: False there, True asked"),
            ({"batch": 2}, "batch: 16 there, 2 asked"),
            ({"moments": "sample"}, "moments: 'mean' there, 'sample' asked"),
        ):
            with pytest.raises(InputError, match=words):
                encode(where, out, coder, **{"shard_images": 4, **how})
        with pytest.raises(InputError, match="autoencoder weights: 'a' there, 'b' asked"):
            encode(where, out, replace(coder, weights="b"), shard_images=4)
    Image.new("RGB", (8, 6)).save(where / "cat" / "0.png")
    with pytest.raises(InputError, match=r"images: '\w+' there, '\w+' asked"):
        encode(where, out, coder, shard_images=4)
    assert len(coder.calls) == calls
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*")} == before


def test_a_seed_without_draws_changes_nothing(tmp_path):
    where, coder = pictures(tmp_path / "images"), Means()
    first = encode(where, tmp_path / "out", coder)
    assert encode(where, tmp_path / "out", coder, seed=5) == first


REFUSED = {
    "inside": (lambda data: data / "new", {}, "lies inside the data"),
    "a file": (lambda data: data.parent / "file", {}, "is a file"),
    "something else": (lambda data: data.parent / "other", {}, "what no run of floracle enc"),
    "a type": (lambda data: data.parent / "new", {"dtype": "fp8"}, "one of: fp32|did you mean"),
    "a batch": (lambda data: data.parent / "new", {"batch": 0}, "--batch is at least 1"),
    "a seed": (lambda data: data.parent / "new", {"moments": "sample", "seed": 2**32}, "--seed"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_is_refused_and_nothing_is_written(tmp_path, kind):
    data = pictures(tmp_path / "data")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.txt").write_text("mine")
    where, how, words = REFUSED[kind]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=words):
        encode(data, where(data), Means(), **how)
    assert sorted(tmp_path.rglob("*")) == before


def test_data_that_cannot_be_encoded_is_refused_and_nothing_is_written(tmp_path):
    cases = (
        (
            torch.randn(5, 3, 6, 8),
            Means(),
            {},
            r"of bytes, or of floats in -1 ... 1, but points \[3, 6, 8\] of float32",
        ),
        (torch.zeros(5, 4, 6, 6, dtype=torch.uint8), Means(), {}, "no pictures|4 channels"),
        (pictures(tmp_path / "odd", side=(6, 7)), Means(), {}, "6 × 7, .* multiples of 2"),
        (
            tmp_path / "odd",
            replace(Means(), gaussian=False),
            {"moments": "sample"},
            "no deviation",
        ),
    )
    for data, coder, how, words in cases:
        with pytest.raises(InputError, match=words):
            encode(data, tmp_path / "out", coder, **how)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_verb_encodes_and_says_what_came_of_it(tmp_path, capsys):
    from floracle.models.autoencoders.ldm_layers import KLArchitecture, KLAutoencoder
    from floracle.models.autoencoders.load import load_autoencoder

    where, file = pictures(tmp_path / "images"), tmp_path / "kl.pt"
    plan = KLArchitecture((32, 32), 1, (False, True), inner=4, channels=4)
    torch.save({"state_dict": KLAutoencoder(plan).state_dict()}, file)
    words = ["encode", str(where), str(tmp_path / "out"), "--autoencoder", str(file), "--flips"]
    assert main([*words, "--shard-images", "4"]) == 0
    said = capsys.readouterr().out
    assert "10 of shape 4 × 3 × 4, and as many of their mirrors" in said
    assert "KL autoencoder f2d4" in said
    assert said.endswith(f"then: floracle stages {tmp_path / 'out'} --flips\n")
    store, network = (
        open_store(tmp_path / "out", flips=True, normalize="raw"),
        load_autoencoder(file),
    )
    expected = network.encode(every(open_store(where))).mean
    torch.testing.assert_close(every(store)[:10], expected, rtol=1e-4, atol=1e-5)
    assert main([*words, "--batch", "3", "--shard-images", "4"]) == 2
    assert "batch: 16 there, 3 asked" in capsys.readouterr().err
    assert main(words[:3]) == 2
    assert "AUTOENCODER is missing" in capsys.readouterr().err


def test_processes_without_work_are_mentioned(tmp_path, capsys):
    from floracle.cli.verbs.encode import _report as report

    found = encode(pictures(tmp_path / "images"), tmp_path / "out", Means(), shard_images=4)
    for processes, said in ((3, False), (4, True)):
        report(found, "means", tmp_path / "out", processes)
        out = capsys.readouterr().out
        assert ("4 processes for 3 file(s) of latents; a smaller --shard-images" in out) == said
