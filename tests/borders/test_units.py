"""Two sets that are not in one unit are told from two sets that merely differ."""

import numpy as np
import pytest
import torch
from PIL import Image

from floracle.data.store import open_store
from floracle.data.units import Units, compare_units


def mismatch(training, other, normalize="stored"):
    """What is said of two arrays, opened as training and held-out data are."""
    store = open_store(training, normalize=normalize)
    held_out = open_store(other, normalize=store.normalizer)
    return compare_units(Units.of(store), Units.of(held_out))


def pictures(count=60, channels=3, side=8):
    """Bytes with black and white, smooth as pictures are."""
    coarse = torch.rand(count, channels, 2, 2)
    smooth = torch.nn.functional.interpolate(coarse, side, mode="bilinear")
    images = (smooth * 300 - 20).clamp(0, 255).byte()
    images[0, :, 0, 0], images[0, :, 0, 1] = 0, 255
    return images


def as_floats(images):
    return images.float() / 127.5 - 1


FORMS = {
    "bytes": lambda images: images,
    "long": lambda images: images.long(),
    "levels": lambda images: images.float(),
    "signed": as_floats,
    "unit": lambda images: images.double() / 255,
    "imagenet": lambda images: (images.float() / 255 - 0.45) / 0.225,
    "twice": lambda images: as_floats(images) * 2 - 1,
}
ONE_UNIT = {"bytes", "long", "levels"}
UNKNOWN = {("imagenet", "signed"), ("imagenet", "unit"), ("twice", "signed"), ("twice", "unit")}
UNKNOWN |= {("imagenet", "twice"), ("twice", "imagenet"), ("signed", "imagenet")}
"""Neither range nor scale decides."""


@pytest.mark.parametrize("training", FORMS)
@pytest.mark.parametrize("normalize", ["stored", "standard"])
def test_pictures_of_different_units_are_certain(training, normalize):
    images = pictures()
    for name, form in FORMS.items():
        said = mismatch(FORMS[training](images[:30]), form(images[30:]), normalize)
        if name == training or {name, training} <= ONE_UNIT:
            assert said is None, name
        elif (training, name) not in UNKNOWN:
            assert said is not None, name
            assert said.certain, said.sentence


def test_the_sentence_names_types_ranges_and_the_way_out():
    images = pictures()
    said = mismatch(images, as_floats(images))
    assert said is not None
    assert said.certain
    assert said.sentence == (
        "the held-out data is not in the unit of the training data: levels against normalized"
        " values (training values are uint8 0 ... 255, held-out values float32 -1 ... 1, in the"
        " scale in which the training data is stored); store both alike, in one type and scale"
    )
    said = mismatch(as_floats(images), images)
    assert said is not None
    assert "values beyond -1 ... 1" in said.sentence or "against levels" in said.sentence


@pytest.mark.parametrize("shape", [(4, 4, 4), (16, 8), (32,)])
@pytest.mark.parametrize("factor", [0.18215, 1 / 0.18215, 40.0, 1 / 127.5])
def test_latents_times_a_factor_are_certain(shape, factor):
    """Not bytes at all: a scaling factor that one of two sets was given."""
    latents = torch.randn(400, *shape) * 1.3 + 0.2
    said = mismatch(latents[:200], latents[200:] * factor)
    assert said is not None
    assert said.certain
    measured = float(said.sentence.split("standard deviation is ")[1].split()[0])
    assert measured == pytest.approx(factor, rel=0.05)
    assert mismatch(latents[:200], latents[200:]) is None


def test_a_shift_is_a_doubt():
    latents = torch.randn(400, 8)
    said = mismatch(latents[:200], latents[200:] + 30)
    assert said is not None
    assert not said.certain
    assert "may not be in the unit" in said.sentence
    distance = float(said.sentence.split("its points lie ")[1].split()[0])
    assert distance == pytest.approx((30**2 + 1) ** 0.5, rel=0.05)


def test_one_class_of_narrow_classes_is_in_one_unit():
    centers = torch.randn(20, 8)
    labels = torch.randint(20, (2000,))
    points = centers[labels] + 0.01 * torch.randn(2000, 8)
    for label in range(20):
        assert mismatch(points, points[labels == label]) is None
        whole = mismatch(points[labels == label], points)
        assert whole is None or not whole.certain


def test_points_of_sets_with_their_own_normalizers_are_compared_as_points():
    """Bytes that become [−1, 1], and floats that are there already."""
    images = pictures()
    training, other = open_store(images[:30]), open_store(as_floats(images[30:]))
    assert compare_units(Units.of(training), Units.of(other)) is None
    assert compare_units(Units.of(other), Units.of(training)) is None


def test_channels_alone_suffice():
    """Of a network that knows the scale of its data and no more."""
    latents = torch.randn(300, 4, 4, 4)
    store, scaled = open_store(latents), open_store(latents / 0.18215)
    known = Units(300, store.channels)
    assert compare_units(known, Units.of(store)) is None
    said = compare_units(known, Units.of(scaled), names=("network's", "training"))
    assert said is not None
    assert said.certain
    assert said.sentence.startswith("the training data is not in the unit of the network's data")


def test_counts_are_no_pictures():
    assert mismatch(torch.randint(0, 2, (50, 8)), torch.randint(0, 4, (50, 8))) is None
    masks = torch.rand(50, 1, 8, 8) > 0.5
    assert mismatch(masks[:25].byte(), masks[25:].byte()) is None


def test_one_point_or_a_constant_says_nothing_of_its_deviation():
    latents = torch.randn(50, 8)
    assert mismatch(latents, latents[:1]) is None
    assert mismatch(latents[:1], latents) is None
    assert mismatch(pictures(), torch.zeros(5, 3, 8, 8, dtype=torch.uint8)) is None
    assert mismatch(torch.ones(3, 8), torch.ones(1, 8)) is None


def real_sets(shared):
    """Points and labels of several sets, as they are stored."""
    data = shared / "data"
    for name in ("mnist", "fashion_mnist"):
        store = open_store(data / f"{name}/t10k-images-idx3-ubyte.gz")
        yield name, store.stored[:], store.labels
    sheet = np.asarray(Image.open(data / "cifar10/test-00.webp").convert("RGB"))
    tiles = sheet.reshape(50, 32, 50, 32, 3).swapaxes(1, 2).reshape(-1, 32, 32, 3)
    labels = np.load(data / "cifar10/labels.npz")["test_labels"][:2500]
    yield "cifar10", torch.from_numpy(tiles).permute(0, 3, 1, 2), torch.from_numpy(labels)
    for name in ("f16d32", "f16d32_vfdinov2"):
        tokens = open_store(data / f"vavae_tokens/{name}.safetensors").stored[:]
        yield name, tokens, torch.cdist(tokens, tokens[:20]).argmin(1)
    digits = open_store("digits")
    yield "digits", digits.stored[:], digits.labels


@pytest.mark.slow
def test_no_alarm_at_parts_of_real_sets(shared):
    for name, stored, labels in real_sets(shared):
        forms = [stored]
        if stored.dtype == torch.uint8:
            forms += [stored.float(), as_floats(stored), as_floats(stored).flatten(1)]
        for points in forms:
            whole = open_store(points)
            parts = [points[::2], points[:5], points[5:7], points[7:8]]
            for label in labels.unique():
                parts += [points[labels == label], points[labels == label][:5]]
            for part in parts:
                held_out = open_store(part, normalize=whole.normalizer)
                said = compare_units(Units.of(whole), Units.of(held_out))
                assert said is None, (name, said)
                said = compare_units(Units.of(held_out), Units.of(whole))
                assert said is None, (name, len(part), said)


@pytest.mark.slow
def test_other_pictures_of_the_same_unit_raise_no_alarm(shared):
    digits, clothes = (
        open_store(shared / f"data/{name}/t10k-images-idx3-ubyte.gz").stored[:]
        for name in ("mnist", "fashion_mnist")
    )
    for form in (FORMS["bytes"], FORMS["signed"], FORMS["unit"]):
        for normalize in ("stored", "standard"):
            assert mismatch(form(digits), form(clothes), normalize) is None
            assert mismatch(form(clothes), form(digits), normalize) is None
            assert mismatch(form(digits), form(clothes[:5]), normalize) is None


@pytest.mark.slow
def test_photographs_of_one_class_raise_no_alarm(shared):
    folder = shared / "data/images256"
    store = open_store(folder / "val")
    whole = open_store(store.stored[:], labels=store.labels)
    for label in range(len(store.classes)):
        rows = (store.labels == label).nonzero().flatten()
        for count in (1, 5, len(rows)):
            part = open_store(store.stored[rows[:count]])
            assert compare_units(Units.of(whole), Units.of(part)) is None
