"""`floracle probe` as it is typed: with data and without, alone and side by side."""

from __future__ import annotations

import html
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

import floracle
from floracle.cli import main
from floracle.models.autoencoders.autoencoder import Autoencoder
from tiny_pipelines import FLUX_SIZES, SD3_SIZES, TEXT

NETWORKS = '''
import torch


class Pull(torch.nn.Module):
    """Predicts a ramp, or minus it for label 1; until t = .5 only half of it."""

    def forward(self, x, t, labels):
        sign = torch.where(labels == 1, -1.0, 1.0).to(x.dtype) * torch.where(t < 0.5, 0.5, 1.0)
        return sign[:, None, None, None] * torch.linspace(-1, 1, 16).reshape(1, 4, 4).to(x)


def pull():
    return Pull()


def other():
    return lambda x, t, labels: torch.zeros_like(x)
'''
AS_TYPED = ("--convention", "predicts=data,null_label=5")


@pytest.fixture
def folder(tmp_path):
    points = np.random.default_rng(0).normal(size=(30, 1, 4, 4)).astype(np.float32)
    np.save(tmp_path / "points.npy", points)
    np.save(tmp_path / "classes.npy", np.arange(30) % 2)
    (tmp_path / "networks.py").write_text(NETWORKS)
    return tmp_path


def typed(folder, *words, out="out"):
    """The exit code of `floracle probe` with these words."""
    where = ("--seeds", "0:6", "--steps", "20", "--out", str(folder / out))
    return main(["probe", *map(str, words), *where])


def opened(folder):
    """The pixels of a field's predictions."""
    with Image.open(folder / "predictions.png") as picture:
        return np.asarray(picture)


@pytest.mark.slow
def test_with_data_the_lag_behind_its_oracle_is_said(folder, capsys):
    field, data = f"{folder / 'networks.py'}:pull", folder / "points.npy"
    labelled = ("--label-file", folder / "classes.npy", "--labels", "0,1")
    assert typed(folder, field, "--data", data, *AS_TYPED, *labelled) == 0
    told = capsys.readouterr()
    assert "predicts the data" in told.err  # what was assumed of it
    found, oracle = (floracle.load(folder / "out" / name) for name in ("networks", "oracle"))
    assert found.labels.tolist() == oracle.labels.tolist() == [0, 1] * 3
    own = floracle.Oracle(floracle.open_store(str(data), labels=str(folder / "classes.npy")))
    again = floracle.probe(own, range(6), (1, 4, 4), labels=oracle.labels, grid=oracle.grid)
    assert torch.equal(again.columns["remaining"], oracle.columns["remaining"])
    assert_close(found.predictions[::2, 0], 0.5 * found.predictions[::2, -1], atol=1e-5, rtol=0)
    # ρ is 1 at .45 and 0 at .5, so it passes .1 at .495
    assert found.settling().value == pytest.approx(0.495, abs=1e-6)
    apart = floracle.lag(found, oracle)
    assert apart.value == pytest.approx(0.495 - oracle.settling().value, abs=1e-6)
    assert str(apart) in told.out
    assert str(found.settling()) in told.out
    assert "grid: 0, 0.05 … 0.95, 1 in 20 steps" in told.out
    assert "0, 0.05, 0.1, 0.15" in (folder / "out" / "probe.html").read_text()  # all of it
    for name in ("networks", "oracle"):
        assert opened(folder / "out" / name).shape[1] > 56 * 8


@pytest.mark.slow
def test_the_same_again_answers_at_once_and_another_grid_does_not(folder, capsys):
    words = ("oracle", "--data", folder / "points.npy")
    assert typed(folder, *words) == 0
    once = capsys.readouterr().out
    before = {file: file.stat().st_mtime_ns for file in (folder / "out").rglob("*.*")}
    assert typed(folder, *words) == 0
    assert capsys.readouterr().out == once
    assert {file: file.stat().st_mtime_ns for file in (folder / "out").rglob("*.*")} == before
    assert typed(folder, *words, "--threshold", 0.3, "--shift", 0.5) == 2
    told = capsys.readouterr().err
    assert "threshold: 0.1 there, 0.3 asked" in told
    assert "shift: 1.0 there, 0.5 asked" in told


@pytest.mark.slow
def test_what_was_finished_is_not_followed_again(folder):
    """A run that ended between two fields, or before its page, goes on from there."""
    field = f"{folder / 'networks.py'}:pull"
    words = (field, "--data", folder / "points.npy", *AS_TYPED)
    assert typed(folder, *words) == 0
    kept = folder / "out" / "oracle" / "result.json"
    before, page = kept.stat().st_mtime_ns, (folder / "out" / "probe.html").read_text()
    (folder / "out" / "result.json").unlink()
    (folder / "out" / "networks" / "result.json").unlink()
    (folder / "out" / "probe.html").unlink()
    assert typed(folder, *words) == 0
    assert kept.stat().st_mtime_ns == before
    assert (folder / "out" / "probe.html").read_text() == page


@pytest.mark.slow
def test_networks_side_by_side_without_data(folder, capsys):
    place = folder / "networks.py"
    words = (f"{place}:pull", f"{place}:other", "--names", "half,none", "--shape", "1,4,4")
    assert typed(folder, *words, *AS_TYPED, "--convention", "predicts=velocity,null_label=0") == 0
    told = capsys.readouterr().out
    assert "half settles at t = 0.495; none settles at t = 0.000" in told
    assert "lag" not in told
    none = floracle.load(folder / "out" / "none")
    assert_close(none.predictions[:, -1], floracle.noise(range(6), (1, 4, 4)))
    assert (none.labels == -1).all()
    page = (folder / "out" / "probe.html").read_text()
    assert page.count('<div class="what">half</div>') == 3  # seeds
    assert "--names half,none" in page


@pytest.mark.slow
def test_points_that_are_no_pictures_have_no_pictures(folder, capsys):
    np.save(folder / "rows.npy", np.random.default_rng(1).normal(size=(20, 5)).astype(np.float32))
    assert typed(folder, "--data", folder / "rows.npy", "--show", "0,.5") == 0  # the oracle alone
    assert "\nThe oracle settles at t = 0." in capsys.readouterr().out
    assert not (folder / "out" / "oracle" / "predictions.png").exists()
    assert floracle.load(folder / "out" / "oracle").prediction_times.tolist() == [0, 0.5, 1]
    assert "What is predicted" not in (folder / "out" / "probe.html").read_text()


@pytest.mark.slow
def test_mistakes(folder, capsys):
    place, data = folder / "networks.py", folder / "points.npy"
    pull = f"{place}:pull"
    np.save(folder / "rows.npy", np.zeros((3, 5), np.float32))
    for words, told in (
        ((), "no field given"),
        (("oracle",), "give --data"),
        ((pull, *AS_TYPED), "give --shape or --data"),
        ((pull, "--shape", "1,4,4"), "pass --convention, e.g. predicts=velocity"),
        ((pull, "--data", data, "--shape", "1,4,4", *AS_TYPED), "the data has its own"),
        ((pull, pull, "--shape", "1,4,4", *AS_TYPED), "different names"),
        ((pull, "--shape", "1,4,4", "--names", "a,b", *AS_TYPED), "--names needs a name"),
        ((pull, "--shape", "4x4", *AS_TYPED), "--shape '4x4'"),
        ((pull, "--shape", "1,4,4", *AS_TYPED, *AS_TYPED), "2 times for 1 networks"),
        ((pull, "--shape", "1,4,4", "--threshold", 2, *AS_TYPED), "between 0 and 1"),
        ((pull, "--shape", "1,4,4", "--show", "0,2", *AS_TYPED), "--show takes times"),
        ((pull, "--shape", "1,4,4", "--show", "x", *AS_TYPED), "--show 'x'"),
        (("oracle", "--data", data, *AS_TYPED), "only the oracle is named"),
        (("oracle", "--data", data, "--labels", 3), "class 3 does not occur in the data"),
        ((f"{place}:nothing", "--shape", "1,4,4", *AS_TYPED), "nothing"),
        ((pull, "--shape", "1,4,4", "--prompt", "a shark", *AS_TYPED), "a text is for SD3"),
        (
            (pull, "--data", folder / "rows.npy", *AS_TYPED),
            "must return a tensor of the shape of its samples",
        ),
    ):
        assert typed(folder, *words) == 2, words
        said = capsys.readouterr().err
        assert told in said, said
        assert "Traceback" not in said
        assert not (folder / "out").exists()


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    """Tiny pipelines of Flux and SD3 as diffusers saves them, and text for them."""
    from safetensors.torch import save_file

    home = tmp_path_factory.mktemp("pipelines")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        diffusers = pytest.importorskip("diffusers")
        torch.manual_seed(0)
        for kind, transformer, parts in (
            ("FluxPipeline", "FluxTransformer2DModel", TEXT),
            (
                "StableDiffusion3Pipeline",
                "SD3Transformer2DModel",
                (*TEXT, "text_encoder_3", "tokenizer_3"),
            ),
        ):
            made = getattr(diffusers, kind)(
                transformer=getattr(diffusers, transformer)(**SIZES[kind]),
                scheduler=diffusers.FlowMatchEulerDiscreteScheduler(),
                vae=diffusers.AutoencoderKL(**AUTOENCODER),
                **dict.fromkeys(parts),
            )
            made.save_pretrained(home / kind)
    text = {"prompt_embeds": torch.randn(2, 6, 32), "pooled_prompt_embeds": torch.randn(2, 24)}
    save_file(text, home / "prompts.safetensors")
    negative = {f"negative_{name}": values[:1].clone() for name, values in text.items()}
    save_file({**text, **negative}, home / "both.safetensors")
    return home


SIZES = {"FluxPipeline": FLUX_SIZES, "StableDiffusion3Pipeline": SD3_SIZES}
AUTOENCODER = {
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
    "block_out_channels": (8, 8),
    "latent_channels": 4,
    "norm_num_groups": 4,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "shift_factor": 0.0609,
    "scaling_factor": 1.5035,
}


@pytest.mark.slow  # importing diffusers takes seconds
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("text", ["both", "prompts"])
def test_pipelines_from_a_folder_without_data_or_labels(pipelines, tmp_path, text, capsys):
    """Their samples are those of `sample`, and the pictures those of their own autoencoder."""
    fields = [str(pipelines / kind) for kind in SIZES]
    words = ("--embeddings", pipelines / f"{text}.safetensors", "--autoencoder", fields[0])
    assert typed(tmp_path, *fields, *words, "--shape", "4,8,8") == 0
    assert ("needs labels; 0 to 1 are used in rotation" in capsys.readouterr().err) == (
        text == "prompts"
    )
    labels = torch.arange(6) % 2 if text == "prompts" else None
    for kind in SIZES:
        found = floracle.load(tmp_path / "out" / kind)
        embeddings = pipelines / f"{text}.safetensors"
        field = floracle.load_model(pipelines / kind, embeddings=embeddings)
        x = floracle.noise(range(6), (4, 8, 8))
        end = floracle.sample(field, x, floracle.time_grid(20), labels=labels)
        assert torch.equal(found.predictions[:, -1], end)
        assert (end - x).abs().max() > 0.1
        shown = opened(tmp_path / "out" / kind)
        decoded = floracle.load_autoencoder(fields[0]).decode(end[:1])
        picture = ((decoded[0] + 1) * 127.5 + 0.5).clamp(0, 255).floor().to(torch.uint8)
        side, columns = 64, found.predictions.shape[1]
        last = shown[:side, (columns - 1) * (side + 2) :][:: side // 16, :: side // 16]
        assert np.abs(last.astype(int) - picture.movedim(0, -1).numpy()).max() <= 1


def test_options_are_judged_before_data_is_opened(folder, capsys):
    """And those that would have no effect are refused."""
    gone = ("oracle", "--data", folder / "gone.npy")
    pull = (f"{folder / 'networks.py'}:pull", "--shape", "1,4,4", *AS_TYPED)
    for words, told in (
        ((*gone, "--solver", "eulr"), "did you mean 'euler'?"),
        ((*gone, "--shift", 0), "shift must be positive"),
        ((*gone, "--threshold", 2), "between 0 and 1"),
        ((*gone, "--until", 1.5), "until is a late time"),
        ((*gone, "--show", "0,2"), "--show takes times"),
        ((*gone, "--shape", "1,4,4"), "the data has its own"),
        ((*gone, "--names", "a\tb"), r"--names takes what can be printed, got 'a\tb'"),
        ((*pull, "--flips"), "--flips is for --data"),
        ((*pull, "--normalize", "2"), "--normalize is for --data"),
        ((*gone, "--steps", "50.7"), "--steps is a whole number, got 50.7"),
    ):
        command = ["probe", *map(str, words), "--out", str(folder / "out")]
        assert main(command) == 2, words
        assert told in capsys.readouterr().err
        assert not (folder / "out").exists()


def test_as_many_fields_as_there_are_colours(folder, capsys):
    """Several fields are taken; without --shape they fail later, for want of one."""
    pull, other = (f"{folder / 'networks.py'}:{name}" for name in ("pull", "other"))
    assert typed(folder, pull, other, "--names", "a,b", *AS_TYPED) == 2
    assert "the shape of a sample" in capsys.readouterr().err
    assert typed(folder, *[pull] * 6, *AS_TYPED) == 2
    assert "a figure shows up to 5 fields, got 6" in capsys.readouterr().err


def test_an_autoencoder_that_does_not_fit_is_refused_before_anything_is_followed(
    folder, capsys, monkeypatch
):
    def none_to_follow(*_, **__):
        pytest.fail("a trajectory was followed")

    decoder = Autoencoder(
        torch.nn.Identity(), "coder", 32, 8, "", False, torch.device("cpu"), torch.float32
    )
    monkeypatch.setattr(
        "floracle.models.autoencoders.load.load_autoencoder", lambda *_, **__: decoder
    )
    monkeypatch.setattr("floracle.analysis.trajectories.probe.probe", none_to_follow)
    words = ("oracle", "--data", folder / "points.npy", "--autoencoder", "coder")
    assert typed(folder, *words) == 2
    said = capsys.readouterr().err
    assert "coder decodes latents of 32 channels, but samples are [1, 4, 4]" in said
    assert not (folder / "out").exists()


@pytest.mark.slow
def test_a_file_may_be_called_anything(folder, capsys):
    """What cannot be printed is escaped, on the terminal, on the page and in its figures."""
    odd = folder / "net\x1b[31m\x07.py"
    odd.write_text(NETWORKS)
    words = (f"{odd}:pull", "--shape", "1,4,4", *AS_TYPED)
    assert typed(folder, *words) == 0
    told = capsys.readouterr()
    assert r"net\x1b[31m\x07 settles" in told.out
    assert "\x1b" not in told.out + told.err
    files = [*(folder / "out" / "figures").glob("*.svg"), folder / "out" / "probe.html"]
    assert len(files) == 6
    for file in files:
        text = file.read_text()
        assert not set(text) & {"\x1b", "\x07"}
    command = re.findall("<pre>(floracle.*?)</pre>", text, re.DOTALL)[0]
    assert r"net\x1b[31m\x07.py:pull'" in html.unescape(command)
    assert "$'" in html.unescape(command)


@pytest.mark.slow
def test_two_lags_are_told_with_their_names(capsys, tmp_path, monkeypatch):
    """Behind the oracle's own trajectories, and behind the times at which the target parts."""
    monkeypatch.chdir(tmp_path)
    assert main(["stages", "digits", "--classes", "3", "--pairs", "256", "--out", "parted"]) == 0
    stages = floracle.load("parted").main
    words = ["digits-pico", "--data", "digits", "--seeds", "0:4", "--labels", "3", "--steps", "20"]
    capsys.readouterr()
    assert main(["probe", *words, "--stages", "parted", "--out", "probed"]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "behind the oracle" in told or "lag" in told
    page = Path("probed/probe.html").read_text()
    assert "lag behind the oracle" in page
    for name in ("collapse", "end"):
        assert f"behind the {name}, {getattr(stages, name).value:.3g}" in page
    field = floracle.load("probed/digits-pico")
    behind = floracle.lag(field, stages.end.value)
    assert behind.value == pytest.approx(field.settling().value - stages.end.value)
    for wrong in (["--stages", "probed"], ["--stages", "parted", "--flips"]):
        assert main(["probe", *words, *wrong, "--out", "other"]) == 2
    seven = ["7" if word == "3" else word for word in words]
    capsys.readouterr()
    assert main(["probe", *seven, "--stages", "parted", "--out", "seven"]) == 2
    assert "did not measure" in capsys.readouterr().err
    with pytest.raises(floracle.InputError, match="time in"):
        floracle.lag(field, 2.0)
    oracle = floracle.Oracle(floracle.open_store("digits"), path=floracle.COSINE)
    other = floracle.probe(oracle, range(4), (1, 8, 8), labels=3, path=floracle.COSINE,
                           grid=floracle.time_grid(20))  # fmt: skip
    with pytest.raises(floracle.InputError, match="cosine"):
        floracle.lag(field, other)
