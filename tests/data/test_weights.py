import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from floracle.core.point_set import mass
from floracle.data.store import open_store
from floracle.run.errors import InputError

SOME = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0], [5.0, 6.0], [3.0, 4.0], [1.0, 2.0]])
WEIGHTS = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]


def test_duplicates_sum_their_weights():
    store = open_store(SOME, weights=WEIGHTS, labels=[1, 0, 0, 0, 0, 1])
    rows, shares = store.atoms()
    assert rows.tolist() == [0, 1, 3]
    torch.testing.assert_close(shares, torch.tensor([10, 7, 4]).double() / 21, rtol=1e-15, atol=0)
    assert store.atoms(1).weights.tolist() == [1.0]
    torch.testing.assert_close(store.atoms(0).weights, torch.tensor([7, 3, 4]).double() / 14)
    assert store.weights is not None
    assert store.weights.tolist() == WEIGHTS
    assert mass(store, 1) == pytest.approx(1 / 3)
    blocks = list(store.blocks(rows=2))
    assert torch.equal(torch.cat([block.weights for block in blocks]), shares)
    assert open_store(SOME).weights is None


@pytest.mark.slow
@given(st.lists(st.floats(1e-30, 1e30), min_size=6, max_size=6), st.floats(1e-200, 1e200))
def test_shares_do_not_depend_on_the_scale(weights, scale):
    one = open_store(SOME, weights=weights).atoms().weights
    other = open_store(SOME, weights=np.array(weights) * scale).atoms().weights
    torch.testing.assert_close(one, other, rtol=1e-12, atol=0)
    assert one.sum() == pytest.approx(1, rel=1e-12)


def test_equal_weights_are_no_weights():
    plain, equal = open_store(SOME), open_store(SOME, weights=torch.full((6,), 3))
    torch.testing.assert_close(plain.atoms().weights, equal.atoms().weights, rtol=1e-15, atol=0)


def test_weights_of_any_kind(tmp_path):
    np.save(tmp_path / "weights.npy", np.array(WEIGHTS, np.float32))
    kinds = (WEIGHTS, tuple(WEIGHTS), torch.tensor(WEIGHTS), np.array(WEIGHTS, ">f8"))
    kinds += (
        torch.tensor(WEIGHTS).bfloat16(),
        np.array(WEIGHTS, np.int16),
        tmp_path / "weights.npy",
        str(tmp_path / "weights.npy"),
    )
    prints = {open_store(SOME, weights=kind).fingerprint for kind in kinds}
    assert len(prints) == 1
    assert open_store(SOME, weights=np.array(WEIGHTS) * 4).fingerprint in prints
    others = {open_store(SOME, weights=other).fingerprint for other in (None, WEIGHTS[::-1])}
    assert len(prints | others) == 3


def test_mirrors_weigh_what_their_pictures_weigh():
    images = torch.randint(0, 256, (3, 4, 5), dtype=torch.uint8)
    store = open_store(images, weights=[1, 2, 5], flips=True)
    torch.testing.assert_close(store.atoms().weights * 16, torch.tensor([1, 2, 5] * 2).double())


def test_the_weights_are_our_own():
    weights = np.array(WEIGHTS)
    store = open_store(SOME, weights=weights)
    weights[0] = 99
    assert store.weights is not None
    assert store.weights[0] == 1


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        ([1, 1, 0, 1, 1, 1], "row 2 is zero, so that the row is no training point; remove it"),
        ([1, -1, 0, 1, 1, 1], "row 1 is negative"),
        ([1, 1, 1, 1, 1, np.nan], "row 5 is not a finite number"),
        ([1, 1, 1, np.inf, 1, 1], "row 3 is not a finite number"),
        ([1, 1, 1, 1e300, 1e-300, 1], "row 4 vanishes"),
        ([1, 1], r"\[2\], but there are 6 points"),
        ([[1]] * 6, r"\[6, 1\]"),
        (3.0, r"\[\]"),
        (["a"] * 6, "such as float64"),
        ([None] * 6, "no list of numbers"),
        ([[1], [1, 2]], "no list of numbers"),
        ([True] * 6, "weights are bool"),
        ([1j] * 6, "complex"),
        ("nowhere.npy", "there is no nowhere.npy"),
    ],
)
def test_weights_that_are_none(tmp_path, monkeypatch, weights, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=words):
        open_store(SOME, weights=weights)
