import io

import numpy as np
import pytest
import torch
from PIL import Image

from floracle.run.errors import InputError
from floracle.run.images import (
    display_for,
    enlarge,
    latent_display,
    png,
    quantise,
    reduce_image,
    tiles,
)


def test_black_and_white_are_the_ends_of_the_range_and_beyond_is_clamped():
    values = torch.tensor([-7.0, -1.0, 0.0, 1.0, 7.0])
    assert quantise(values).tolist() == [0, 0, 128, 255, 255]
    assert quantise(values * 2, -2, 2).tolist() == [0, 0, 128, 255, 255]


def test_it_is_the_usual_formula_on_minus_one_to_one():
    values = torch.linspace(-1.2, 1.2, 10001, dtype=torch.float64)
    usual = (127.5 * values + 128).clamp(0, 255).to(torch.uint8)
    assert torch.equal(quantise(values), usual)


def test_bytes_come_back():
    levels = torch.arange(256)
    assert torch.equal(quantise(levels / 127.5 - 1), levels.to(torch.uint8))


def test_nan_and_an_empty_range_are_refused():
    with pytest.raises(InputError, match="NaN"):
        quantise(torch.tensor([float("nan")]))
    with pytest.raises(InputError, match="black"):
        quantise(torch.zeros(1), 1, 1)


def test_tiles_lie_row_by_row_with_a_gap():
    pictures = torch.arange(3, dtype=torch.uint8).reshape(3, 1, 1, 1).expand(3, 1, 2, 2)
    sheet = tiles(pictures, 2, gap=1)
    assert sheet.shape == (1, 5, 5)
    assert sheet[0, 0].tolist() == [0, 0, 255, 1, 1]
    assert sheet[0, 3].tolist() == [2, 2, 255, 255, 255]


def test_enlarging_repeats_pixels_and_reducing_averages_them():
    picture = torch.tensor([[[[0, 255], [255, 0]]]], dtype=torch.uint8)
    assert enlarge(picture, 5).shape == (1, 1, 6, 6)
    assert torch.equal(reduce_image(enlarge(picture, 6), 2), picture)
    assert reduce_image(picture, 1).item() == 128


def test_png_holds_the_same_pixels():
    for channels in (1, 3):
        picture = torch.randint(0, 256, (channels, 5, 7), dtype=torch.uint8)
        with Image.open(io.BytesIO(png(picture))) as image:
            again = torch.from_numpy(np.array(image)).reshape(5, 7, channels)
        assert torch.equal(again.movedim(-1, 0), picture)


def test_a_picture_beyond_the_limit_is_refused():
    with pytest.raises(InputError, match="too large"):
        png(torch.zeros((), dtype=torch.uint8).expand(1, 2**13, 2**13))


def test_only_pictures_and_latents_are_shown():
    points = torch.randn(9, 4, 8, 8)
    assert display_for((3, 8, 8), (-1.0, 1.0), points).directions is None
    assert display_for((4, 8, 8), None, points).pictures(points).shape == (9, 3, 8, 8)
    assert display_for((2, 8, 8), None, points[:, :2]).pictures(points[:, :2]).shape[1] == 1
    assert display_for((256,), None, points) is None
    assert display_for((16, 1, 256), None, points) is None


def test_latents_span_black_to_white_along_their_leading_channels():
    scale = torch.tensor([9.0, 5.0, 2.0, 0.1])[:, None, None]
    points = torch.randn(64, 4, 8, 8, generator=torch.Generator().manual_seed(0)) * scale + 3
    pictures = latent_display(points).pictures(points).flatten(2).movedim(1, 0).flatten(1)
    for channel in pictures.double():
        assert (channel <= 0).double().mean() == pytest.approx(0.01, abs=0.01)
        assert (channel >= 255).double().mean() == pytest.approx(0.01, abs=0.01)
    assert torch.equal(latent_display(points).directions, latent_display(points).directions)
