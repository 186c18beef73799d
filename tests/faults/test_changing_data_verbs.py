"""Data that changes while a verb runs: one clear line, and nothing is kept as an answer."""

import numpy as np
import pytest
import torch

from floracle.cli import main
from floracle.data.store import Store, open_store

FEW = "--seeds 0:2 --steps 3"
COMMANDS = {
    "stages": "stages {} --pairs 4 --times 12 --classes 0",
    "held-out": "stages digits --pairs 4 --times 12 --classes 0 --held-out {}",
    "compare": "compare gaussian:20x64 {} --pairs 4 --times 12 --classes whole",
    "sample": f"sample oracle {{}} {FEW}",
    "probe": f"probe digits-pico --data {{}} {FEW}",
    "loss": "loss digits-pico --data {} --pairs 2 --trajectories 0 --times .3,.5 --classes 0",
    "mix": f"mix digits-pico --data {{}} --switch .5 {FEW}",
    "train": "train {} --model pico --patch 4 --images 64 --batch 32 --pairs 0 --samples 0"
    " --target-until .3",
    "reproduce": "reproduce figure-2a {} --quick",
    "inspect": "inspect {}",
}


def replaced(path):
    """Another file of the same size takes its place."""
    other = path.with_suffix(".new")
    other.write_bytes(path.read_bytes()[:-8] + b"12345678")
    other.rename(path)


KINDS = {
    "overwritten": lambda path: path.write_bytes(path.read_bytes()[:-8] + b"\1\2\3\4\1\2\3\4"),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1000]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"more"),
    "removed": lambda path: path.unlink(),
    "replaced": lambda path: replaced(path),
}
TRIED = [("stages", kind) for kind in KINDS]
OTHERS = [verb for verb in COMMANDS if verb != "stages"]
TRIED += [(verb, list(KINDS)[i % len(KINDS)]) for i, verb in enumerate(OTHERS)]


@pytest.mark.slow
@pytest.mark.parametrize(("verb", "kind"), TRIED, ids=[f"{v}-{k}" for v, k in TRIED])
def test_a_verb_whose_data_changes_says_so_and_keeps_nothing(
    tmp_path, verb, kind, monkeypatch, capsys
):
    digits = open_store("digits")
    path, out = tmp_path / "x.npy", tmp_path / "out"
    points = digits.take(torch.arange(300))
    np.save(path, (points.flip(-1) if verb == "held-out" else points).numpy())
    np.save(tmp_path / "x_labels.npy", digits.labels[:300].numpy())
    check, changed = Store.check_unchanged, []

    def change_first(store):
        """What a verb asks before it saves; by then it has read all that it reads."""
        if str(path) in store.files.names and out.exists() and not changed:
            changed.append(kind)
            KINDS[kind](path)
        check(store)

    monkeypatch.setattr(Store, "check_unchanged", change_first)
    code = main([*COMMANDS[verb].format(path).split(), "--out", str(out)])
    said = capsys.readouterr().err.splitlines()[-1]
    assert changed
    assert code == 2, said
    assert "changed while it was read" in said or "is gone since it was read" in said
    results = [place for place in out.rglob("result.json") if ".floracle" not in place.parts]
    own = [place for place in results if "gaussian" not in str(place.relative_to(out))]
    assert not own
    assert not list(out.rglob("*.npz"))
