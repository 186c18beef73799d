"""Held-out data that is training data: counted by row, refused, or left out."""

import numpy as np
import pytest
import torch

import floracle
from floracle import InputError, Oracle, open_store
from floracle.cli import main
from floracle.data.held_out import join_held_out


@pytest.fixture(scope="module")
def digits():
    store = open_store("digits")
    order = torch.randperm(len(store), generator=torch.Generator().manual_seed(0))
    return store.take(order), store.labels[order]


def split(digits, extra=None):
    """1500 training digits, the others held out, with `extra` rows behind them."""
    points, labels = digits
    held_out = points[1500:] if extra is None else torch.cat([points[1500:], extra])
    return open_store(points[:1500], labels=labels[:1500]), open_store(held_out)


def test_sets_apart_have_no_overlap(digits):
    training, held_out = split(digits)
    joined = join_held_out(training, held_out)
    assert joined.excluded == []
    assert joined.remarks == held_out.remarks


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_rows_in_both_sets_are_named_and_refused(digits, kind):
    training, held_out = split(digits, digits[0][[7, 3]])
    held_out = open_store(held_out.points.to(kind))  # of whatever type they are stored
    with pytest.raises(InputError, match=r"2 of 299 rows .* are training points: 297, 298; "):
        join_held_out(training, held_out)
    joined = join_held_out(training, held_out, drop_overlap=True)
    assert joined.excluded == [297, 298]
    assert len(joined.atoms().rows) == 297


def test_bytes_are_found_among_floats(digits):
    """The same picture as bytes and as floats is the same point."""
    stored = (digits[0] * 127.5 + 127.5).round().clamp(0, 255).byte()
    training = open_store(stored[:1500])
    floats = open_store(stored[1495:].float(), normalize=training.normalizer)
    with pytest.raises(InputError, match=r"5 of 302 rows .* 0, 1, 2, 3, 4;"):
        join_held_out(training, floats)


def test_copies_with_noise_are_near(digits):
    points = digits[0]
    noise = torch.randn(100, *points.shape[1:], generator=torch.Generator().manual_seed(1))
    training, held_out = split(digits, points[:100] + 0.01 * noise)
    with pytest.raises(InputError, match=r"100 of 397 rows .* nearly repeat .* --drop-overlap"):
        join_held_out(training, held_out)
    joined = join_held_out(training, held_out, drop_overlap=True)
    assert joined.excluded == list(range(297, 397))
    training, held_out = split(digits, points[:3] + 0.01 * noise[:3])
    joined = join_held_out(training, held_out)  # too few to change a loss: said, not refused
    assert joined.excluded == []
    assert "3 of 300 rows" in joined.remarks[-1]
    assert "297, 298, 299" in joined.remarks[-1]


def test_the_training_set_is_no_held_out_data(digits, tmp_path, capsys):
    training, _ = split(digits)
    for drop in (False, True):
        with pytest.raises(InputError, match=r"every row .* is a training point"):
            join_held_out(training, training, drop_overlap=drop)
    with pytest.raises(InputError, match="every row"):
        floracle.oracle_loss(
            Oracle(training), Oracle(training), times=torch.tensor([0.3, 0.5]), held_out=training
        )
    for words in (
        ["loss", "digits-pico", "--data", "digits", "--pairs", "4"],
        ["stages", "digits"],
        ["mix", "digits-pico", "--data", "digits", "--resume", ".5", "--rows", "0:4"],
        ["train", "digits", "--model", "pico", "--images", "64"],
    ):
        assert main([*words, "--held-out", "digits", "--out", str(tmp_path / "out")]) == 2
        assert "every row of the held-out data digits is a training" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_command_line_leaves_out_the_overlap(digits, tmp_path, capsys):
    points = digits[0].numpy()
    np.save(tmp_path / "train.npy", points[:1500])
    np.save(tmp_path / "val.npy", points[1490:])
    words = ["stages", str(tmp_path / "train.npy"), "--pairs", "4", "--times", "12"]
    words += ["--held-out", str(tmp_path / "val.npy"), "--out", str(tmp_path / "out")]
    assert main(words) == 2
    assert "10 of 307 rows" in capsys.readouterr().err
    assert main([*words, "--drop-overlap"]) == 0
    assert "10 rows of" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_test_sets_are_no_near_duplicates(shared, name):
    folder = shared / "data" / name
    training = open_store(folder / "train-images-idx3-ubyte.gz")
    held_out = open_store(folder / "t10k-images-idx3-ubyte.gz")
    joined = join_held_out(training, held_out)
    assert joined.remarks == held_out.remarks
    assert joined.fingerprint == held_out.fingerprint
