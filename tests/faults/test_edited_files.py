"""A thousand random edits of what floracle writes: each is named, or the numbers are honest."""

import random
import shutil

import pytest
import torch
from torch.nn.functional import normalize

import floracle
from edits import survived
from floracle.analysis.load import load
from floracle.cli import main
from floracle.data.packing.pack import pack
from floracle.data.store import open_store
from floracle.models.state_dict import hash_tensors
from floracle.report.stages.write import write_stages_report
from floracle.report.training.page import read_run
from floracle.run.errors import InputError
from floracle.run.output_folder import open_output
from floracle.run.results import Results, load_results
from floracle.training import checkpoint
from floracle.training.config import TrainingSettings
from floracle.training.evaluation import EvaluationPlan

EDITS = 125


def plain(results):
    arrays = {name: array.tolist() for name, array in results.arrays.items()}
    return results.kind, results.settings, results.values, results.provenance, arrays


@pytest.fixture(scope="module")
def stages(tmp_path_factory):
    return measured(tmp_path_factory.mktemp("runs") / "stages", 12)


def measured(out, times):
    """Stages, not drawn, since no edit of a drawing is read."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("floracle.report.stages.write.write_stages_report", lambda folder: folder)
        assert command(out, times) == 0
    return out


def command(out, times):
    words = ["stages", "digits", "--pairs", "4", "--classes", "0,1", "--times", str(times)]
    return main([*words, "--out", str(out)])


@pytest.fixture(scope="module")
def training(tmp_path_factory):
    """A run with two checkpoints that was stopped before its end."""
    out = tmp_path_factory.mktemp("runs") / "training"
    for at in _train(out):
        if at.images >= 96:
            break
    return out


def _train(out):
    settings = TrainingSettings(
        model="pico", patch=4, images=160, batch=16, every=48, lines=2, switch=0.4, rate=1e-3
    )
    data = open_store("digits")
    from floracle.training.build_model import build_model

    return floracle.train(
        build_model(settings, data),
        data,
        settings,
        out=out,
        look=EvaluationPlan(pairs=0, samples=0),
    )


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_results_and_what_lies_beside_them(stages, tmp_path, seed):
    """Read as `floracle report`, `compare` and `load` read them; drawings are not read."""

    def read(folder):
        load(folder)
        from floracle.report.stages.write import _load_beside

        main_result = load(folder)
        beside = _load_beside(folder, "examples", main_result)
        return plain(load_results(folder)), None if beside is None else plain(beside)

    def files(folder):
        kinds = ("result.json", "arrays.safetensors")
        return [path for path in folder.rglob("*") if path.name in kinds]

    named, honest = survived(
        stages, tmp_path, read, random.Random(seed), EDITS, files=files, gone=True
    )
    assert named > 0.8 * EDITS, (named, honest)


@pytest.mark.slow
def test_parts_of_an_unfinished_run(tmp_path):
    place = tmp_path / "run"
    settings = {"pairs": 4, "data": "abc"}

    def begin():
        with open_output(place, "stages", settings) as output:
            for name in ("plan", "0", "1"):
                values = {"name": name, "value": 1.5, "list": [1, 2], "none": None}
                output.save_part(Results("part", {}, values, {"x": torch.randn(3, 4)}), name)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        begin()

    def read(folder):
        with open_output(folder, "stages", settings) as output:
            assert output.resumed
            parts = [output.load_part(name) for name in ("plan", "0", "1")]
            return [None if part is None else plain(part) for part in parts]

    named, honest = survived(place, tmp_path, read, random.Random(3), EDITS, gone=True)
    assert named > 0.8 * EDITS, (named, honest)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_checkpoints_and_what_a_run_is_known_by(training, tmp_path, seed):
    """Read as `train` and `load_model` read them: an older checkpoint is honest if it is named."""
    whole = {}
    for about in checkpoint.record_paths(training):
        kept = checkpoint.read_record_of(about)
        whole[kept.images] = hash_tensors(checkpoint.read_checkpoint(kept))
    assert len(whole) == 2
    newest = max(whole)

    def read(folder):
        settings = floracle_settings(folder)
        kept, words = checkpoint.latest_checkpoint(folder, settings)
        if kept is None:
            raise InputError(words[0] if words else "there is no checkpoint")
        assert hash_tensors(checkpoint.read_checkpoint(kept)) == whole[kept.images]
        assert kept.facts["switch"] == 0.4
        if kept.images != newest:
            raise InputError(words[0] if words else "the newest checkpoint was removed")
        return settings

    def files(folder):
        return [folder / "run.json", *sorted((folder / "checkpoints").iterdir())]

    named, honest = survived(
        training, tmp_path, read, random.Random(seed), EDITS, files=files, gone=True
    )
    assert named > 0.5 * EDITS, (named, honest)  # the older checkpoint is not read


def floracle_settings(folder):
    from floracle.run.folder_checks import check_run_folder

    settings = check_run_folder(folder, "train")
    if settings is None:
        raise InputError("run.json was removed")
    return settings


@pytest.mark.slow
def test_lines_of_a_run(training, tmp_path):
    """Damaged lines are left out; those that are read are as they were."""
    expected = {str(line) for line in read_run(training).lines}

    def read(folder):
        lines = {str(line) for line in read_run(folder).lines}
        assert lines <= expected
        if lines < expected:
            raise InputError("some lines are left out")
        return lines

    def files(folder):
        return [folder / "metrics.jsonl"]

    named, honest = survived(
        training, tmp_path, read, random.Random(5), EDITS, files=files, gone=True
    )
    assert named > 0.5 * EDITS, (named, honest)


@pytest.mark.slow
def test_networks(training, tmp_path):
    drawn = torch.Generator().manual_seed(0)
    x, t = torch.randn(2, 1, 8, 8, generator=drawn), torch.tensor([0.2, 0.7])

    def read(folder):
        return floracle.load_model(folder)(x, t, torch.tensor([1, -1])).tolist()

    def files(folder):
        return [folder / "network.safetensors"]

    named, honest = survived(training, tmp_path, read, random.Random(6), EDITS, files=files)
    assert named > 0.8 * EDITS, (named, honest)


@pytest.mark.slow
def test_packed_stores(tmp_path):
    points = normalize(torch.randn(60, 12, generator=torch.Generator().manual_seed(1)))
    pack(points, tmp_path / "packed", labels=torch.arange(60) % 3, shard_bytes=1200, quiet=True)

    def read(folder):
        store = open_store(folder)
        taken = store.take(torch.arange(len(store))).tolist()
        return taken, store.labels.tolist(), store.fingerprint, store.original.tolist()

    named, honest = survived(tmp_path / "packed", tmp_path, read, random.Random(7), EDITS)
    assert named > 0.5 * EDITS, (named, honest)


@pytest.mark.slow
def test_files_of_another_run_are_named_whichever_they_are(stages, tmp_path):
    other, there = measured(tmp_path / "other", 13), tmp_path / "there"
    shutil.copytree(stages, there)
    shutil.rmtree(there / "examples")
    shutil.copytree(other / "examples", there / "examples")
    with pytest.raises(InputError, match="does not belong to the stages beside it"):
        write_stages_report(there)
    shutil.copy(other / "run.json", there / "run.json")
    assert command(there, 13) == 2  # its result is the other one's
    shutil.copy(stages / "run.json", there / "run.json")
    for name in ("result.json", "arrays.safetensors"):
        shutil.copy(other / name, there / name)
    assert command(there, 12) == 2
