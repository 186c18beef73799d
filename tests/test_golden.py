"""Numbers that no change of names, files or rooms may move: to the last bit on one machine.

`python tests/test_golden.py` writes tests/golden.json anew, which a change of the mathematics has
to justify. On other processors sums are ordered otherwise, so that there 10⁻⁵ is allowed.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

import floracle
from floracle.cli import main

KEPT = Path(__file__).with_name("golden.json")
SHARED = Path(os.environ.get("FLORACLE_SHARED", Path(__file__).parents[1] / ".." / "shared"))
CLOSE = 1e-5


def machine() -> str:
    """What decides the order of sums."""
    words = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    model = next((line for line in words.splitlines() if line.startswith("model name")), "")
    return f"{model.partition(':')[2].strip()}, torch {torch.__version__}"


def run(*words: str) -> None:
    """A command, in a folder of its own."""
    assert main(list(map(str, words))) == 0


def of_stages(stages: floracle.Stages) -> dict:
    group = stages.main
    numbers = {
        "times": stages.times,
        **{name: curve.mean for name, curve in group.curves.items()},
        **{f"{name} error": curve.error for name, curve in group.curves.items()},
        "area": (group.area.value, group.area.error),
        "predicted": (group.predicted_centre, group.predicted_collapse),
    }
    for name in ("centre", "collapse", "end"):
        mark = getattr(group, name)
        numbers[name] = [value for value in (mark.value, mark.low, mark.high) if value is not None]
    return numbers


def stages_digits() -> dict:
    run("stages", "digits", "--out", "s")
    return of_stages(floracle.load("s"))


def stages_fashion() -> dict:
    place = SHARED / "data" / "fashion_mnist" / "train-images-idx3-ubyte.gz"
    return of_stages(floracle.stages(floracle.Oracle(floracle.open_store(place)), classes=[6]))


def stages_photographs() -> dict:
    """With a memory of its own: how many pairs are computed at a time decides the last bits."""
    store = floracle.open_store(SHARED / "data" / "images256" / "train")
    return of_stages(floracle.stages(floracle.Oracle(store, memory="3G"), classes=[0]))


def predict() -> dict:
    store = floracle.open_store("digits")
    twin = floracle.twin(floracle.profile(store, 3))
    bound = floracle.predict(1281, dims=4096)
    return {
        "twin": (twin.centre, twin.collapse, twin.end),
        "own": twin.self_weight,
        "bound": (bound.centre, bound.collapse),
    }


def sample() -> dict:
    run("sample", "oracle", "digits", "--seeds", "0:16", "--labels", "0,1,2,3", "--out", "x")
    with np.load("x/samples.npz") as found:
        return {"samples": found["arr_0"], "rows": found["rows"], "distances": found["distances"]}


def loss() -> dict:
    words = ("--pairs", "16", "--trajectories", "4", "--classes", "0,3")
    run("loss", "digits-pico", "--data", "digits", *words, "--out", "l")
    losses = floracle.load("l")
    (path,), (own,) = losses.path.values(), losses.own.values()
    return {f"{kind} {name}": curve.mean
            for kind, of in (("path", path), ("own", own))
            for name, curve in of.mean_curves().items()}  # fmt: skip


def probe() -> dict:
    run(
        "probe", "digits-pico", "--data", "digits", "--seeds", "0:8", "--labels", "3", "--out", "p"
    )
    found = floracle.load("p/digits-pico")
    return {**found.columns, "detours": found.detours, "predictions": found.predictions}


def mix() -> dict:
    words = ("--switch", "0,.3,1", "--landing", ".1", "--seeds", "0:16", "--labels", "3")
    digits = floracle.open_store("digits")
    np.save("mirrored.npy", digits.points.flip(-1).numpy())  # held-out data is no training data
    np.save("mirrored_labels.npy", digits.labels.numpy())
    unseen = ("--held-out", "mirrored.npy", "--resume", ".2,.5", "--rows", "0:8")
    run("mix", "digits-pico", "--data", "digits", *words, *unseen, "--steps", "20", "--out", "m")
    parts = ("switch", "landing-0.1", "resume")
    switch, landing, resume = (floracle.load(f"m/{part}") for part in parts)
    return {
        "switch": switch.nearest_distance,
        "landing": landing.misses,
        "off": resume.squared_change,
        "within": resume.noise_variance,
    }


def compare() -> dict:
    run("compare", "digits", "gaussian:500x64", "--pairs", "64", "--times", "20", "--out", "c")
    each = {name: of_stages(floracle.load(f"c/{name}")) for name in ("digits", "gaussian-500x64")}
    return {f"{of} {name}": values for of, one in each.items() for name, values in one.items()}


def inspect() -> dict:
    facts = asdict(floracle.inspect(floracle.open_store("digits")))
    names = ("points", "classes", "channels", "normalizer", "duplicates", "neighbourhood", "size")
    text = json.dumps([facts[name] for name in names])
    return {"numbers": list(map(float, re.findall(r"-?\d+\.?\d*(?:e-?\d+)?", text)))}


def clocks() -> dict:
    grids = {name: floracle.preset_grid(name, 20).grid for name in ("sit", "sd3", "flux", "rae")}
    return {**grids, "interval": floracle.guidance_interval("edm", 0.34, 1.02)}


def reproduced() -> dict:
    found = {}
    for item in ("figure-2a", "figure-2b", "figure-3", "table-2", "appendix-d"):
        run("reproduce", item, "--quick", "--out", item)
        arrays = floracle.load(item).arrays
        found |= {f"{item} {name}": values for name, values in arrays.items()}
    return found


def trained() -> dict:
    from floracle.training.build_model import build_model

    data = floracle.open_store("digits")
    settings = floracle.TrainingSettings(
        model="nano", patch=4, images=96, batch=32, target="oracle"
    )
    network = build_model(settings, data)
    losses = [at.loss for at in floracle.train(network, data, settings, out="t")]
    return {"losses": losses, **{f"w {k}": v for k, v in network.state_dict().items()}}


def packed() -> dict:
    run("pack", "digits", "packed")
    words = floracle.open_store("packed").fingerprint
    return {"fingerprint": [int(words[i : i + 6], 16) for i in range(0, 24, 6)]}


PLACES: dict[str, Callable[[], dict]] = {
    one.__name__: one
    for one in (
        *(stages_digits, stages_fashion, stages_photographs, predict, sample, loss, probe, mix),
        *(compare, inspect, clocks, reproduced, trained, packed),
    )
}


def told(values: object) -> dict:
    """A hash of all bits, and a few numbers for other machines."""
    array = np.asarray(values.detach() if isinstance(values, torch.Tensor) else values)
    numbers = array.astype(np.float64).ravel()
    finite = numbers[np.isfinite(numbers)]
    few = [finite.mean(), np.abs(finite).max(), finite[0], finite[-1]] if len(finite) else []
    return {
        "bits": hashlib.sha256(np.ascontiguousarray(numbers).tobytes()).hexdigest()[:16],
        "size": len(numbers),
        "few": [float(value) for value in few],
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", PLACES)
def test_numbers_are_as_they_were(name, request, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if name in ("stages_fashion", "stages_photographs"):
        request.getfixturevalue("shared")
    kept = json.loads(KEPT.read_text())
    found = {key: told(values) for key, values in PLACES[name]().items()}
    expected = kept["numbers"][name]
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        assert found[key]["size"] == values["size"], key
        if machine() == kept["machine"] and torch.get_num_threads() == kept["threads"]:
            assert found[key]["bits"] == values["bits"], key
        else:
            for one, other in zip(found[key]["few"], values["few"], strict=True):
                assert math.isclose(one, other, rel_tol=CLOSE, abs_tol=CLOSE), key


def write() -> None:
    """Keep the numbers as they are now."""
    numbers = {}
    for name, measure in PLACES.items():
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            numbers[name] = {key: told(values) for key, values in measure().items()}
        sys.stderr.write(f"{name}\n")
    about = {"machine": machine(), "threads": torch.get_num_threads()}
    KEPT.write_text(json.dumps({**about, "numbers": numbers}, indent=1) + "\n")


if __name__ == "__main__":
    write()
