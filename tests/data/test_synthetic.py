import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from floracle.data.layouts.synthetic import gaussian
from floracle.data.store import open_store
from floracle.run.errors import InputError


def test_digits_are_those_of_scikit_learn():
    store = open_store("digits")
    images, labels = load_digits(return_X_y=True)
    assert store.shape == (1, 8, 8)
    assert store.labels.tolist() == labels.tolist()
    assert store.classes == tuple("0123456789")
    assert store.picture_range == (-1.0, 1.0)
    found = store.take(torch.arange(1797)).flatten(1).numpy()
    assert np.array_equal((found + 1) * 8, images)


def test_a_file_called_digits_needs_a_separator(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits").mkdir()
    assert len(open_store("digits")) == 1797
    with pytest.raises(InputError, match="no pictures"):
        open_store("./digits")


def test_gaussian_by_name_is_the_function():
    store = open_store("gaussian:30x4:7")
    assert torch.equal(store.take(torch.arange(30)), gaussian(30, 4, seed=7))
    assert open_store("gaussian:30x4").fingerprint == open_store("gaussian:30x4:0").fingerprint
    assert open_store("gaussian:30x4:1").fingerprint != store.fingerprint
    assert store.name == "gaussian:30x4:7"


@pytest.mark.parametrize("spectrum", [None, 1.5, [4.0, 0.0, 0.25]])
def test_gaussian_has_the_spectrum_asked_for(spectrum):
    points = gaussian(20_000, 3, spectrum=spectrum, seed=3).double()
    power = [1.0, 2**-1.5, 3**-1.5]
    exact = {None: [1.0] * 3, 1.5: power}.get(spectrum if not isinstance(spectrum, list) else 0)
    exact = torch.tensor(exact or spectrum, dtype=torch.float64)
    # the deviation of a variance over n draws is variance · √(2/n) = 1 %
    assert ((points.var(0) - exact).abs() <= 0.05 * exact).all()
    assert (points.mean(0).abs() <= 5 * (exact / 20_000).sqrt()).all()


@pytest.mark.parametrize("name", ["gaussian:", "gaussian:3", "gaussian:0x3", "gaussian:3x3:-1"])
def test_malformed_clouds_are_refused(name):
    with pytest.raises(InputError):
        open_store(name)


def test_clouds_that_cannot_be(tmp_path):
    with pytest.raises(InputError, match="memory"):
        open_store("gaussian:1000000000x1000000")
    with pytest.raises(InputError, match="variances"):
        gaussian(3, 2, spectrum=[1.0])
    with pytest.raises(InputError, match="variances"):
        gaussian(3, 2, spectrum=[1.0, -1.0])
