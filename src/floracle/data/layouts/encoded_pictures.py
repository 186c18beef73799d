"""Whether the data of a PNG or JPEG is all there, and the levels of PNGs of 16 bits.

Pillow is silent on both. Where the compressed data of a PNG ends early, or a JPEG has its end
marker early, the rest of the picture is one colour; of 16 bits, colours keep the higher byte
alone. libwebp refuses what is cut short, so WebP needs no check.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image

from floracle.run.errors import InputError

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""By colour type: grey, RGB, palette, grey with alpha, RGB with alpha."""
WHOLE = ((0, 0, 1, 1),)
ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)
"""First column, first row and their steps, of the passes of an interlaced PNG."""

JPEG_START, JPEG_END = b"\xff\xd8", 0xD9
FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of frames, the size of a picture
RESTART_INTERVAL, SCAN = 0xDD, 0xDA
NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")  # that ends the data of a scan
RESTART_MARKER = re.compile(rb"\xff[\xd0-\xd7]")
TAIL = b"\xfb\xef\xbe" * 32
"""Long codes, 111110 repeated: read where data is missing, they change the picture."""


class PngHeader(NamedTuple):
    """The content of IHDR."""

    width: int
    height: int
    depth: int
    colours: int
    compression: int
    filtering: int
    interlaced: int

    @property
    def sample_bits(self) -> int:
        """Bits of a pixel."""
        return self.depth * PNG_CHANNELS[self.colours]

    @property
    def passes(self) -> Iterator[tuple[int, int]]:
        """Rows of each pass, and the bytes of a row without that of its filter."""
        for x, y, step_x, step_y in ADAM7 if self.interlaced else WHOLE:
            columns, rows = -(-(self.width - x) // step_x), -(-(self.height - y) // step_y)
            if columns > 0 and rows > 0:
                yield rows, -(-columns * self.sample_bits // 8)


@dataclass
class JpegData:
    """What the segments of a JPEG declare, up to its end."""

    end: int = 0  # where its end marker stands
    size: tuple[int, int] = (0, 0)  # width, height
    sampling: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By component, its samples across and down in a unit of the picture."""
    shifts: dict[tuple[int, int], int] = field(default_factory=dict)
    """By component and coefficient, the bits that are still missing; 0 when it is complete."""
    restarts_missing: bool = False


def check_complete(content: bytes, pixels: np.ndarray, name: str) -> None:
    """Refuse a PNG or JPEG whose data ends before its last row; `pixels` are what Pillow made."""
    if content.startswith(PNG_SIGNATURE):
        _inflate_png(content, name)
    elif content.startswith(JPEG_START):
        _check_jpeg(content, pixels, name)


def is_deep_png(content: bytes) -> bool:
    """Whether this is a PNG of 16 bits with colours or transparency; Pillow reads plain grey."""
    return content.startswith(PNG_SIGNATURE) and content[24] == 16 and content[25] != 0


def read_deep_png(content: bytes, name: str) -> np.ndarray:
    """The levels of a PNG of 16 bits, uint16 [H, W, C].

    The filters of PNG work on each byte of a pixel by itself. So the higher bytes of all levels
    are a PNG of 8 bits, and the lower bytes another one, under the same filters.
    """
    header, data = _inflate_png(content, name)
    halves, start = ([], []), 0
    for rows, row_bytes in header.passes:
        stop = start + rows * (1 + row_bytes)
        filtered = np.frombuffer(data, np.uint8)[start:stop].reshape(rows, 1 + row_bytes)
        for byte, half in enumerate(halves):
            half.append(np.hstack([filtered[:, :1], filtered[:, 1 + byte :: 2]]).tobytes())
        start = stop
    high, low = (_decode_bytes(header, b"".join(half)) for half in halves)
    return (high.astype(np.uint16) << 8) | low


def _decode_bytes(header: PngHeader, filtered: bytes) -> np.ndarray:
    """The bytes [H, W, C] of a PNG of 8 bits with this filtered data."""
    chunks = (
        (b"IHDR", struct.pack(">IIBBBBB", *header._replace(depth=8))),
        (b"IDAT", zlib.compress(filtered, 1)),
        (b"IEND", b""),
    )
    png = PNG_SIGNATURE + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in chunks
    )
    with Image.open(BytesIO(png), formats=("PNG",)) as image:
        return np.asarray(image)


def _inflate_png(content: bytes, name: str) -> tuple[PngHeader, bytes]:
    """The header of a PNG and its filtered rows, all of them."""
    header, compressed, position = None, [], len(PNG_SIGNATURE)
    while position + 12 <= len(content):
        (size,), kind = struct.unpack_from(">I", content, position), content[position + 4 :][:4]
        body = content[position + 8 : position + 8 + size]
        (checksum,) = struct.unpack(">I", content[position + 8 + size :][:4].rjust(4, b"\0"))
        position += 12 + size
        if kind == b"IHDR":
            header = PngHeader(*struct.unpack(">IIBBBBB", body))
        if kind == b"IDAT":
            if zlib.crc32(kind + body) != checksum:
                raise InputError(f"{name} is damaged: the checksum of its pixels differs")
            compressed.append(body)
        if kind == b"IEND":
            break
    if header is None:
        raise InputError(f"{name} is damaged: it has no header")
    needed = sum(rows * (1 + row_bytes) for rows, row_bytes in header.passes)
    data = zlib.decompressobj().decompress(b"".join(compressed), needed)
    if len(data) < needed:
        raise InputError(
            f"{name} is damaged: its data ends after {len(data)} of {needed} bytes of pixels, so"
            " the last rows are missing"
        )
    return header, data


def _check_jpeg(content: bytes, pixels: np.ndarray, name: str) -> None:
    jpeg = _read_jpeg(content)
    missing = jpeg.restarts_missing or not all(
        jpeg.shifts.get((component, coefficient)) == 0
        for component in jpeg.sampling
        for coefficient in range(64)
    )
    if not missing:
        # A decoder that has read all blocks ignores what follows; one that lacks some reads it.
        longer = content[: jpeg.end] + TAIL + content[jpeg.end :]
        with Image.open(BytesIO(longer), formats=("JPEG",)) as image:
            missing = not np.array_equal(np.asarray(image), pixels)
    if missing:
        raise InputError(
            f"{name} is damaged: its data ends before its last rows, which would be of one colour"
        )


def _read_jpeg(content: bytes) -> JpegData:
    """The segments of a JPEG, from its first marker to its end."""
    jpeg, interval, position = JpegData(), 0, 2
    while position + 4 <= len(content):
        marker = content[position + 1]
        if content[position] != 0xFF or marker == 0xFF:  # bytes that fill up
            position += 1
            continue
        if marker == JPEG_END:
            break
        (size,) = struct.unpack_from(">H", content, position + 2)
        body = content[position + 4 : position + 2 + size]
        position += 2 + size
        if marker in FRAMES:
            height, width, count = struct.unpack_from(">HHB", body, 1)
            jpeg.size = width, height
            components = (body[6 + 3 * i : 9 + 3 * i] for i in range(count))
            jpeg.sampling = {c[0]: (c[1] >> 4, c[1] & 15) for c in components}
        elif marker == RESTART_INTERVAL:
            (interval,) = struct.unpack_from(">H", body)
        elif marker == SCAN:
            end = NEXT_MARKER.search(content, position)
            stop = end.start() if end else len(content)
            _read_scan(jpeg, body, content[position:stop], interval)
            position = stop
    jpeg.end = min(position, len(content))
    return jpeg


def _read_scan(jpeg: JpegData, body: bytes, data: bytes, interval: int) -> None:
    """What a scan adds: bits of coefficients, in as many pieces as restarts make of its units."""
    count = body[0]
    components = [body[1 + 2 * i] for i in range(count)]
    first, last, shifts = body[1 + 2 * count : 4 + 2 * count]
    for component in components:
        for coefficient in range(first, last + 1):
            jpeg.shifts[component, coefficient] = shifts & 15
    if interval:
        across, down = (max(sides) for sides in zip(*jpeg.sampling.values(), strict=True))
        width, height = jpeg.size
        if count == 1:  # the blocks of one component, else units of all of them
            own_across, own_down = jpeg.sampling[components[0]]
            width, height = -(-width * own_across // across), -(-height * own_down // down)
            across = down = 1
        units = -(-width // (8 * across)) * -(-height // (8 * down))
        restarts = -(-units // interval) - 1
        jpeg.restarts_missing |= len(RESTART_MARKER.findall(data)) < restarts
