"""Pictures whose data ends early, under headers and checksums that say nothing of it; 16 bits."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
import torch
from PIL import Image

from floracle.data.store import open_store
from floracle.run.errors import InputError

RANDOM = np.random.default_rng(0)
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def smooth(height, width, channels=3):
    steps = RANDOM.normal(size=(height, width, channels)) * 8
    pixels = (np.cumsum(steps, 0) + 128).clip(0, 255).astype(np.uint8)
    return pixels.squeeze()


def encoded(pixels, kind, **how):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind, **how)
    return stream.getvalue()


def png(rows, width, *, depth, colours, interlaced=0):
    """By the letter of the format; `rows` are the filtered bytes, filter first."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, 8, depth, colours, 0, 0, interlaced)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return SIGNATURE + body


def stored_bytes(store):
    points = store.take(torch.arange(len(store)))
    return (points * 127.5 + 127.5).round().byte().permute(0, 2, 3, 1).numpy()


def refused(tmp_path, content, words, ending):
    """Refused from a folder and from an archive, in memory and beyond it, by name."""
    (tmp_path / "set").mkdir(exist_ok=True)
    (tmp_path / f"set/bad{ending}").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        archive.writestr(f"bad{ending}", content)
    for path in (tmp_path / "set", tmp_path / "set.zip"):
        for memory in (None, 1):
            with pytest.raises(InputError, match=rf"bad\{ending}.* {words}"):
                open_store(path, memory=memory)


@pytest.mark.parametrize(("depth", "colours", "row_bytes"), [(8, 2, 15), (8, 0, 5), (1, 0, 1)])
@pytest.mark.parametrize("rows", [1, 2, 7])
def test_a_png_that_ends_early_with_valid_checksums(tmp_path, depth, colours, row_bytes, rows):
    whole = b"\0" + bytes([200]) * row_bytes
    refused(tmp_path, png(whole * rows, 5, depth=depth, colours=colours), "ends after", ".png")
    (tmp_path / "set/bad.png").write_bytes(png(whole * 8, 5, depth=depth, colours=colours))
    assert len(open_store(tmp_path / "set")) == 1


def test_a_png_in_passes_that_ends_early(tmp_path):
    # Adam7 of 8 x 8 grey: passes of 1, 1, 1, 2, 2, 4 and 4 rows
    sizes = ((1, 1), (1, 1), (1, 2), (2, 2), (2, 4), (4, 4), (4, 8))
    rows = b"".join((b"\0" + bytes([200]) * width) * count for count, width in sizes)
    content = png(rows, 8, depth=8, colours=0, interlaced=1)
    assert np.asarray(Image.open(io.BytesIO(content))).min() == 200
    (tmp_path / "set").mkdir()
    (tmp_path / "set/good.png").write_bytes(content)
    assert (stored_bytes(open_store(tmp_path / "set")) == 200).all()
    (tmp_path / "set/good.png").unlink()
    refused(tmp_path, png(rows[:-9], 8, depth=8, colours=0, interlaced=1), "ends after", ".png")


def test_a_png_whose_pixels_have_another_checksum(tmp_path):
    content = bytearray(encoded(smooth(8, 8), "PNG"))
    content[content.index(b"IEND") - 5] ^= 1  # the end of the checksum before this chunk
    refused(tmp_path, bytes(content), "the checksum of its pixels differs", ".png")


JPEGS = [
    {},
    {"progressive": True},
    {"restart_marker_rows": 1},
    {"restart_marker_blocks": 1},
    {"optimize": True, "quality": 100, "subsampling": 0},
]


@pytest.mark.parametrize("how", JPEGS, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_jpeg_cut_short_with_an_end_marker(tmp_path, how, channels, share):
    pixels = smooth(64, 48, channels)
    content = encoded(pixels, "JPEG", **how)
    start = content.index(b"\xff\xda") + 14
    cut = start + int((len(content) - start) * share)
    if "restart_marker_blocks" in how:  # just before a restart, where nothing is missing so far
        cut = content.rindex(b"\xff\xd3", start, cut)
    refused(tmp_path, content[:cut] + b"\xff\xd9", "ends before its last rows", ".jpg")
    # whole, with bytes after its end, it is what Pillow makes of it
    (tmp_path / "set/bad.jpg").write_bytes(content + b"\xff\xd8 a second picture")
    expected = np.asarray(Image.open(io.BytesIO(content))).reshape(64, 48, channels)
    assert np.array_equal(stored_bytes(open_store(tmp_path / "set"))[0], expected)


@pytest.mark.parametrize("how", [{"lossless": True}, {"quality": 80}])
def test_a_webp_cut_short_with_sizes_to_match(tmp_path, how):
    content = encoded(smooth(64, 48), "WEBP", **how)
    cut = bytearray(content[: len(content) // 4 * 2])
    cut[4:8], cut[16:20] = (struct.pack("<I", len(cut) - size) for size in (8, 20))
    refused(tmp_path, bytes(cut), "cannot be read as a picture", ".webp")
    refused(tmp_path, content[: len(content) // 2], "cannot be read as a picture", ".webp")


@pytest.mark.parametrize(("colours", "channels"), [(2, 3), (6, 4), (4, 2), (0, 1)])
@pytest.mark.parametrize("filtered", [False, True])
def test_sixteen_bits_become_the_nearest_of_eight(tmp_path, colours, channels, filtered):
    levels = RANDOM.integers(0, 65536, (8, 7, channels), dtype=np.uint16)
    levels[0, 0], levels[0, 1], levels[0, 2] = 0, 65535, 128
    data = levels.astype(">u2").reshape(8, -1).view(np.uint8).astype(np.int64)
    kinds = np.arange(8) % 3 if filtered else np.zeros(8, int)  # none, left and above
    rows = data.copy()
    rows[kinds == 1, 2 * channels :] -= data[kinds == 1, : -2 * channels]
    rows[kinds == 2] -= data[np.flatnonzero(kinds == 2) - 1]
    content = b"".join(
        bytes([k]) + (row % 256).astype(np.uint8).tobytes()
        for k, row in zip(kinds, rows, strict=True)
    )
    (tmp_path / "deep.png").write_bytes(png(content, 7, depth=16, colours=colours))
    kept = 3 if channels > 2 else 1
    expected = np.floor(levels[..., :kept] / 65535 * 255 + 0.5).astype(np.uint8)
    expected = np.broadcast_to(expected, (8, 7, 1 if channels == 1 else 3))
    assert np.array_equal(stored_bytes(open_store(tmp_path))[0], expected)


def test_sixteen_bits_in_passes(tmp_path):
    sizes = ((1, 1), (1, 1), (1, 2), (2, 2), (2, 4), (4, 4), (4, 8))
    row = struct.pack(">3H", 129, 386, 65406)  # 1, 2 and 254 rounded; 0, 1 and 255 cut off
    rows = b"".join((b"\0" + row * width) * count for count, width in sizes)
    (tmp_path / "deep.png").write_bytes(png(rows, 8, depth=16, colours=2, interlaced=1))
    found = stored_bytes(open_store(tmp_path))[0]
    assert (found == np.array([1, 2, 254])).all()
    assert found.shape == (8, 8, 3)
