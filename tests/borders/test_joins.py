"""Two sets meet by the names of their classes; labels belong to the data they are named after."""

import numpy as np
import pytest
import torch
from PIL import Image

import floracle
from floracle import InputError, Oracle, open_store
from floracle.cli import main
from floracle.data.held_out import join_held_out

SIDE, MEMBERS = 4, 24
GREY = {"ant": 30, "bird": 80, "cat": 120, "dog": 170, "eel": 220}
"""Mean levels of the classes: so far apart that labels of another class change every loss."""


def pictures(folder, names, seed, count=MEMBERS):
    """Class folders of noisy grey pictures around the level of each class."""
    source = np.random.default_rng(seed)
    for name in names:
        (folder / name).mkdir(parents=True)
        for i in range(count):
            level = GREY.get(name, 100) + source.normal(0, 12, (SIDE, SIDE))
            Image.fromarray(level.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i}.png")
    return folder


def unseen(data, held_out, classes=(0, 1, 2)):
    """The conditional loss of the oracle on held-out pairs at t = .3, by class."""
    losses = floracle.oracle_loss(
        Oracle(data), Oracle(data), times=torch.tensor([0.3, 0.5]), pairs=32, classes=classes,
        held_out=held_out,
    )  # fmt: skip
    return [group.curves["held_out"].mean[0].item() for group in losses.classes]


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sets")
    training = pictures(folder / "train", ["cat", "dog", "eel"], 0)
    same = pictures(folder / "same", ["cat", "dog", "eel"], 1)
    more = pictures(folder / "more", ["ant"], 2)  # the ranks of all others move by one
    for name in ("cat", "dog", "eel"):
        (more / name).symlink_to(same / name)
    return open_store(training), open_store(same), open_store(more)


def test_classes_of_two_sets_are_joined_by_name(sets):
    training, same, more = sets
    joined = join_held_out(training, more)
    assert joined.classes == ("cat", "dog", "eel")
    assert torch.equal(joined.take(joined.atoms(0).rows), same.take(same.atoms(0).rows))
    assert len(joined.atoms().rows) == 3 * MEMBERS  # the whole set has no ants
    assert joined.excluded == list(range(MEMBERS))
    with pytest.warns(UserWarning, match=r"24 rows of .* left out: .* no class ant"):
        losses = unseen(training, more)
    assert losses == unseen(training, same)


def test_a_set_that_fits_keeps_its_fingerprint(sets):
    training, same, more = sets
    assert join_held_out(training, same).fingerprint == same.fingerprint
    assert join_held_out(training, more).fingerprint not in (more.fingerprint, same.fingerprint)


def test_a_class_that_is_missing_moves_no_other(sets, tmp_path):
    training, same, _ = sets
    for name in ("dog", "eel"):
        (tmp_path / name).symlink_to(f"{same.name}/{name}")
    joined = join_held_out(training, open_store(tmp_path))
    assert joined.labels.unique().tolist() == [1, 2]
    assert "no class cat" in joined.remarks[-1]
    assert unseen(training, joined, (1, 2)) == unseen(training, same, (1, 2))
    with pytest.raises(InputError, match="class 0"):
        unseen(training, joined)


def test_classes_without_a_name_in_common_are_refused(sets, tmp_path):
    other = open_store(pictures(tmp_path, ["ant", "bird", "cow"], 3))
    with pytest.raises(InputError, match=r"no class of the held-out data \(ant, bird, cow\)"):
        join_held_out(sets[0], other)


def test_numbers_beside_names_are_trusted_and_said(sets):
    training, same, _ = sets
    numbers = open_store(same.points, labels=same.labels)
    joined = join_held_out(training, numbers)
    assert torch.equal(joined.labels, same.labels)
    assert "numbers are taken for ranks: 0 is cat, 1 is dog, 2 is eel" in joined.remarks[-1]


def test_numbers_that_may_be_names_or_ranks_are_refused(tmp_path):
    training = open_store(pictures(tmp_path / "a", ["1", "2", "10"], 0))  # ranks 0, 2, 1
    assert training.classes == ("1", "10", "2")
    other = open_store(pictures(tmp_path / "b", ["1", "2"], 1))
    joined = join_held_out(training, other)  # both have names
    assert [training.classes[label] for label in joined.labels.unique()] == ["1", "2"]
    numbers = open_store(other.points, labels=[1] * MEMBERS + [2] * MEMBERS)
    with pytest.raises(InputError, match="names or ranks"):
        join_held_out(training, numbers)


def test_labels_that_are_given_do_not_take_the_names_of_folders(sets):
    same = sets[1]
    turned = open_store(same.name, labels=(same.labels + 1) % 3)
    assert turned.classes == ("0", "1", "2")


@pytest.mark.slow
@pytest.mark.parametrize("verb", ["stages", "loss", "mix", "train"])
def test_verbs_join_by_name(sets, tmp_path, capsys, verb):
    training, _, more = sets
    words = {
        "stages": ["stages", training.name, "--pairs", "4", "--times", "12"],
        "loss": ["loss", "oracle", "--data", training.name, "--pairs", "4", "--trajectories", "0"],
        "mix": [
            *("mix", "oracle", "--data", training.name, "--resume", ".5", "--rows", "30,40"),
            *("--noises", "2", "--steps", "4"),
        ],
        "train": [
            *("train", training.name, "--model", "pico", "--images", "64", "--batch", "32"),
            *("--pairs", "4", "--samples", "0", "--patch", "2"),
        ],
    }[verb]
    words += ["--held-out", more.name, "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert "left out: the training set has no class ant" in capsys.readouterr().err
    if verb == "mix":
        words[words.index("30,40")] = "3,40"
        assert main([*words[:-1], str(tmp_path / "other")]) == 2
        assert "held-out row 3 is left out" in capsys.readouterr().err


def test_labels_of_a_folder_belong_to_its_only_array(tmp_path):
    """They are never those of the array that happens to have as many rows."""
    source = np.random.default_rng(0)
    for name in ("train", "val"):
        np.save(tmp_path / f"{name}.npy", source.normal(size=(6, 5)))
    np.save(tmp_path / "labels.npy", np.arange(6) % 2)
    for name in ("train", "val"):
        store = open_store(tmp_path / f"{name}.npy")
        assert store.labels.tolist() == [-1] * 6
        assert "labels.npy is not used" in store.remarks[0]
        assert f"{name}_labels.npy" in store.remarks[0]
    np.save(tmp_path / "train_labels.npy", np.arange(6) % 3)
    assert open_store(tmp_path / "train.npy").labels.tolist() == [0, 1, 2, 0, 1, 2]


def test_a_weights_file_is_no_second_array(tmp_path):
    np.save(tmp_path / "x.npy", np.random.default_rng(0).normal(size=(6, 5)))
    np.save(tmp_path / "weights.npy", np.ones(6))
    np.save(tmp_path / "labels.npy", np.arange(6) % 2)
    assert open_store(tmp_path / "x.npy").labels.tolist() == [0, 1, 0, 1, 0, 1]
