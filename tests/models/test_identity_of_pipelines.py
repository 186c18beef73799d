"""Oracles are known by their data, text-to-image networks by their text too."""

import pytest
import torch
from digests import told

import floracle
from floracle.models.zoo import load_model
from tiny_pipelines import FLUX_SIZES


def base(x, t, labels=None):
    return 0.5 * x


def test_an_oracle_in_a_field_is_known_by_its_data(points_source):
    torch.manual_seed(0)
    points = torch.randn(20, 6)
    one, same, other = (
        floracle.Oracle(points_source(part)) for part in (points, points.clone(), points + 1e-3)
    )
    one(torch.zeros(1, 6), torch.zeros(1))  # whose caches are no part of it
    digests = [told(floracle.guided(base, 2.0, reference=each)) for each in (one, same, other)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.slow  # importing diffusers takes seconds
@pytest.mark.filterwarnings("ignore")
def test_text_and_embedded_guidance_are_part_of_a_pipeline(tmp_path):
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    made = diffusers.FluxTransformer2DModel(**FLUX_SIZES)
    text = {"prompt_embeds": torch.randn(2, 6, 32), "pooled_prompt_embeds": torch.randn(2, 24)}
    other = {name: value.clone() for name, value in text.items()}
    other["prompt_embeds"][1, 0, 0] += 1e-3  # of the second prompt
    for name in ("a", "b", "c"):
        made.save_pretrained(tmp_path / name)
        if name == "b":
            made.proj_out.bias.data += 1e-3
    digests = [
        told(load_model(tmp_path / name, embeddings=words, guidance=scale), (4, 64, 64))
        for name, words, scale in [
            ("a", text, 3.5),
            ("b", text, 3.5),
            ("c", text, 3.5),
            ("a", other, 3.5),
            ("a", text, 4.0),
        ]
    ]
    assert digests[0] == digests[1]
    assert len(set(digests[1:])) == 4
