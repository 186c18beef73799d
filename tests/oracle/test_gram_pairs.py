"""Stage curves in Gram space against the ambient float64 reference and against `Oracle.pairs`."""

from __future__ import annotations

import pytest
import torch
from gram_layouts import EXACT, LAYOUTS, TIMES, atoms_of, drawn_pairs, entropy_of, laid_out
from torch.testing import assert_close

from floracle.core.paths import LINEAR, PATHS
from floracle.core.source import NO_LABEL
from floracle.oracle.gram import gram_of, project
from floracle.oracle.gram_pairs import gram_pairs
from floracle.oracle.oracle import Oracle
from floracle.oracle.reference import reference

CURVES = ("variance", "lean", "top", "own", "entropy", "concentration")


def truth_of(data, label, path, rows, noise):
    """The curves [p, T] by name, written down from the dense posterior in float64."""
    atoms, known, weights = atoms_of(data, label)
    own = torch.searchsorted(known, rows)
    centre = (weights @ atoms).float().double()  # any would do
    lengths = (atoms - centre).square().sum(1)
    half = (atoms[own][:, None] - atoms).square().sum(2) / 2
    curves: dict[str, list] = {name: [] for name in CURVES}
    for time in TIMES:
        t = time.repeat(len(rows))
        x = path.sample(atoms[own], noise.double(), t)
        gamma = reference(atoms, x, t, weights=weights, path=path).posterior
        curves["variance"].append(torch.linalg.vecdot(gamma, half))
        curves["lean"].append(torch.linalg.vecdot(gamma, lengths - lengths[own][:, None]) / 2)
        curves["top"].append(gamma.amax(1))
        curves["own"].append(gamma[torch.arange(len(rows)), own])
        curves["entropy"].append(entropy_of(gamma))
        curves["concentration"].append(gamma.square().sum(1))
    return {name: torch.stack(values, 1) for name, values in curves.items()}, half


@pytest.mark.slow
@pytest.mark.parametrize("label", [NO_LABEL, 1])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_curves_are_those_of_the_reference_and_of_pairs(points_source, layout, label):
    data = laid_out(points_source, layout)
    rows, noise = drawn_pairs(data, label)
    gram = gram_of(data, label)
    found = gram_pairs(gram, rows, project(gram, data, noise), TIMES)
    truth, half = truth_of(data, label, LINEAR, rows, noise)
    streamed = Oracle(data).pairs(rows, noise, TIMES, label=label)
    for name in CURVES:
        size = float(truth[name].abs().max())
        assert_close(getattr(found, name), truth[name], atol=EXACT * size, rtol=EXACT)
        assert_close(getattr(streamed, name), getattr(found, name), atol=5e-4 * size, rtol=1e-3)
    known = data.atoms(label).rows
    half[torch.arange(len(rows)), torch.searchsorted(known, rows)] = torch.inf
    assert (found.rivals == known[half.argmin(1)]).all()
    assert_close(found.amplification, streamed.amplification)
    assert (found.class_entropy is None) == (label == 1)
    if found.class_entropy is not None and streamed.class_entropy is not None:
        assert_close(found.class_entropy, streamed.class_entropy, atol=5e-4, rtol=0)


@pytest.mark.parametrize("path", PATHS.values(), ids=list(PATHS))
def test_mirrored_curves_average_both_signs(points_source, path):
    data = laid_out(points_source, "near 1e-2")
    rows, noise = drawn_pairs(data, NO_LABEL)
    gram = gram_of(data)
    found = gram_pairs(gram, rows, project(gram, data, noise), TIMES, path=path, mirrored=True)
    plus, _ = truth_of(data, NO_LABEL, path, rows, noise)
    minus, _ = truth_of(data, NO_LABEL, path, rows, -noise)
    for name in CURVES:
        mean = (plus[name] + minus[name]) / 2
        size = EXACT * float(mean.abs().max())
        assert_close(getattr(found, name), mean, atol=size, rtol=EXACT)
