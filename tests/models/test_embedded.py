"""The network that comes along: small, of these very digits, as trained networks are."""

import pytest
import torch

import floracle
from floracle.models.weights import read_header
from floracle.models.zoo import EMBEDDED, load_model
from floracle.run.errors import InputError


@pytest.fixture(scope="module")
def digits():
    return floracle.open_store("digits")


@pytest.fixture(scope="module")
def network():
    return load_model("digits-pico")


def test_it_is_at_most_a_megabyte_and_trained_on_these_digits(digits):
    file = EMBEDDED["digits-pico"]
    assert file.stat().st_size <= 1_000_000
    made = read_header(file)["made"]
    assert made["data"] == digits.fingerprint
    assert made["images"] == 1_000_000


def test_it_is_near_the_oracle_in_navigation_and_its_own_in_refinement(digits, network):
    """A tenth of the gap at most before centre; past the end, where the gap is gone, more."""
    times = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.8, 0.9], dtype=torch.float64)
    found = floracle.oracle_loss(network, floracle.Oracle(digits), times=times, pairs=16)
    curves = found.mean_curves()
    oracle, conditional = curves["oracle"].mean, curves["conditional"].mean
    early = times < 0.4
    gap = conditional - oracle  # within noise of its cross term
    assert (oracle[early] < 0.1 * gap[early]).all()
    assert (oracle[~early] > 0.3).all()


@pytest.mark.slow
def test_its_convention_is_told_from_others(digits, network):
    assert floracle.check_convention(network, digits).as_declared
    flipped = load_model("digits-pico", convention="repa,null_label=10")
    assert "flipped in time" in floracle.check_convention(flipped, digits).text


def test_a_file_of_that_name_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "digits-pico").mkdir()
    with pytest.raises(InputError, match="neither a run"):
        load_model("digits-pico")
    with pytest.raises(InputError, match="or digits-pico"):
        load_model("digits-piko")
