"""What is handed over the counter: queries, pickles, spectra, names, messages."""

import pickle

import numpy as np
import pytest
import torch

import floracle
from floracle import InputError, Oracle, open_store
from floracle.analysis.serialization import check_shapes
from floracle.cli import main
from floracle.core.paths import PATHS


@pytest.fixture(scope="module")
def digits():
    return open_store("digits")


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_an_oracle_can_be_handed_to_a_worker(digits, path):
    """Its copy answers to the last bit, and takes no point along that it can read again."""
    oracle = Oracle(digits, path=path)
    x, t = digits.points[:4] * 0.5, torch.full((4,), 0.5)
    velocity = oracle(x, t)
    content = pickle.dumps(oracle)
    assert len(content) < 2 * digits.points.numel() * 4
    assert torch.equal(pickle.loads(content)(x, t), velocity)


@pytest.mark.parametrize("name", ["digits-pico"])
def test_a_network_and_its_guidance_can_be_handed_to_a_worker(digits, name):
    field = floracle.guided(floracle.load_model(name), 1.5)
    x, t, labels = digits.points[:4], torch.full((4,), 0.5), torch.arange(4)
    assert torch.equal(pickle.loads(pickle.dumps(field))(x, t, labels), field(x, t, labels))


@pytest.mark.parametrize(
    ("query", "words"),
    [
        (lambda x, t: (x, 0.5), r"t must be a tensor float64 \[2\].* got 0\.5"),
        (lambda x, t: (x, [0.5, 0.5]), r"t must be .* got a list"),
        (lambda x, t: (x.numpy(), t), "samples must be .* got a ndarray"),
        (lambda x, t: (x, t, [1, 2]), r"labels must be a tensor int64 \[2\]"),
        (lambda x, t: (x, t, 3), "labels must be .* got 3"),
    ],
)
@pytest.mark.parametrize("ask", ["__call__", "posterior"])
def test_queries_of_another_type_are_one_line(digits, query, words, ask):
    x, t = digits.points[:2], torch.full((2,), 0.5)
    with pytest.raises(InputError, match=words):
        getattr(Oracle(digits), ask)(*query(x, t))


@pytest.mark.parametrize("values", [[1e300, 1e300], [1e200, 1.0], [1e-300, 1e-320], [1e101]])
def test_a_spectrum_out_of_range_is_refused(tmp_path, capsys, values):
    np.save(tmp_path / "spectrum.npy", np.array(values))
    words = ["predict", "--points", "100", "--spectrum", str(tmp_path / "spectrum.npy")]
    assert main(words) == 2
    assert "is beyond 1e-100 ... 1e100" in capsys.readouterr().err


def test_axes_are_named_as_they_are_written():
    """The whole sentence: not the function that describes axes."""
    with pytest.raises(ValueError, match=r"^curves has shape \[2, 3\], not \[k T\] with T = 4$"):
        check_shapes({"times": torch.zeros(4), "curves": torch.zeros(2, 3)},
                     {"times": "T", "curves": "k T"})  # fmt: skip


@pytest.mark.slow
def test_names_with_dollar_signs_are_no_formulas(tmp_path, capsys):
    words = ["gaussian:20x4", "gaussian:30x4", "--pairs", "4", "--times", "12"]
    names = r"a$x^$,b$\frac$"
    assert main(["compare", *words, "--names", names, "--out", str(tmp_path / "c")]) == 0
    assert "this is a bug" not in capsys.readouterr().err
