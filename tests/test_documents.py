"""README and docs say what is true: commands parse, outputs are printed, code runs."""

from __future__ import annotations

import importlib
import json
import re
import sys

import numpy as np
import pytest
import torch

import floracle
from documents import ROOT, blocks, commands, options_of, printed, tables
from floracle.cli import VERBS, build, main
from floracle.training.build_model import build_model

LONG = {
    "mnist-model.md": "benchmarks/mnist_model.py measures it",
    "train.md": "trains for minutes; tests/cli/test_train_command.py trains shorter",
    "reproduce.md": "takes a minute; tests/recipes run the same with quick settings",
}
"""Pages whose code is not run here as it stands, and what runs it."""
PACKAGES = "(core|run|data|oracle|models|sampling|analysis|training|report|recipes|cli)/"
PIPELINES = ("stable-diffusion-3", "sd3/transformer")
"""Networks of the size of a pipeline; tests/models run the same calls with tiny ones."""


@pytest.mark.parametrize(("line", "words"), list(commands()), ids=[line for line, _ in commands()])
def test_commands_are_known_as_they_are_written(line, words):
    """Verbs and options; placeholders are names like any other."""
    words = [re.sub(r"\|.*", "", word) for word in words]
    build().parse_args(words, print_error=False, exit_on_error=False)


@pytest.mark.parametrize(
    ("line", "words", "lines"), list(printed()), ids=[line for line, _, _ in printed()]
)
def test_outputs_are_printed(line, words, lines, capsys, tmp_path, monkeypatch):
    """As they stand, but for spaces and rules; … stands for what differs between machines."""
    if "latents.npy" in words:
        pytest.skip("the words of processes: tests/cli/test_processes_cli.py")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "160")
    main(words)
    told = capsys.readouterr()
    found = [plain(each) for each in (told.out + told.err).splitlines() if plain(each)]
    for expected in filter(None, map(plain, lines)):
        if expected == "…":
            continue
        pattern = re.escape(expected).replace("…", ".*")
        assert any(re.fullmatch(pattern, each) for each in found), (expected, found)


def plain(line: str) -> str:
    """Words with one space between, without rules."""
    return " ".join(re.sub("[─]+", "", line).split())


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_stands_on_the_page_of_its_verb(verb):
    page = (ROOT / "docs" / "how-to" / f"{verb}.md").read_text()
    named = set(re.findall(r"--[a-z][a-z-]*", page))
    assert options_of(verb) - named == set()


@pytest.mark.slow
@pytest.mark.parametrize(
    "block",
    [one for one in blocks() if one.kind == "python"],
    ids=lambda block: block.name,
)
def test_code_runs_as_it_is_written(block, request, shared, tmp_path, monkeypatch):
    """In a folder that has what the page speaks of."""
    if block.page.name in LONG or any(name in block.text for name in PIPELINES):
        compile(block.text, block.name, "exec")
        return
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, block.name, "exec"), surroundings(shared, tmp_path))


def surroundings(shared, folder) -> dict:
    """Names and files that code of the pages takes for granted."""
    (folder / "weights").symlink_to(shared / "weights")
    (folder / "my_code.py").write_text("def network():\n    return lambda x, t, labels: 0.9 * x\n")
    (folder / "pictures").mkdir()
    from PIL import Image

    for number in range(3):
        pixels = np.random.default_rng(number).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "pictures" / f"{number}.png")
    data = floracle.open_store("digits")
    stages = floracle.stages(floracle.Oracle(data), pairs=32, classes=[3])
    floracle.save(stages.to_results(), folder / "runs" / "stages")
    model = floracle.load_model("digits-pico")
    labels = torch.arange(16) % 10
    noise = floracle.noise(range(16), data.shape)
    return {
        "floracle": floracle,
        "torch": torch,
        "data": data,
        "model": model,
        "field": model,
        "network": build_model(floracle.TrainingSettings(model="nano", patch=4), data),
        "noise": noise,
        "x": noise,
        "t": torch.full((16,), 0.3),
        "labels": labels,
        "grid": floracle.time_grid(6),
        "images": torch.zeros(2, 3, 64, 64),
        "rows": torch.arange(2),
        "losses": torch.ones(16),
    }


@pytest.mark.parametrize(("place", "name", "lines"), list(tables()))
def test_tables_are_those_of_committed_results(place, name, lines, monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setattr(sys, "argv", [name])
    module = importlib.import_module(name)
    results = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    made = "\n".join(module.table(results.get("sets", results)))
    assert lines == made


@pytest.mark.parametrize(
    ("page", "least"),
    [("mathematics.md", 37), ("architecture.md", 17)],
    ids=["equations", "house"],
)
def test_maps_lead_somewhere(page, least):
    """Files and names of the map of equations, and of the architecture, are there."""
    text = (ROOT / "docs" / page).read_text()
    text = text.partition("## 14.")[2] or text
    named = re.findall(r"`([\w/]+\.py) (\w+)`", text)
    assert len(named) >= least
    for file, name in named:
        folder = ROOT / ("tests" if "test_" in file else "src/floracle")
        defined = rf"^(def|class) {name}\b"
        assert re.search(defined, (folder / file).read_text(), re.MULTILINE), f"{file} {name}"


def test_files_that_the_architecture_names_are_there():
    """Paths below src/floracle, rooms among them."""
    text = (ROOT / "docs" / "architecture.md").read_text()
    paths = [found[0] for found in re.finditer(rf"\b{PACKAGES}[\w/.]*", text)]
    paths = [path for path in paths if "test_" not in path]
    assert len(paths) > 30
    for path in paths:
        assert (ROOT / "src" / "floracle" / path).exists(), path


def test_there_are_tables_commands_and_outputs_to_check():
    assert len(list(tables())) >= 4
    assert len(list(commands())) > 60
    assert len(list(printed())) >= 9
