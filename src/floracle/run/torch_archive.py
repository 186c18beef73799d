"""The zip archive of a .pt file, checked in full before torch reads it.

    members             a local header (with name and extra field), then the content of one member
    central directory   an entry for each member: name, sizes, CRC-32, offset of its local header
    end record          offset and length of the central directory; zip64 has a longer one before

torch.load trusts the central directory and compares no checksum. Where it maps the file it does
not compare sizes either, so that a member which is cut short gives other weights. The checks here
follow what torch reads; whatever two readers could read in two ways is refused. Section numbers
are those of PKWARE's APPNOTE 6.3.
"""

from __future__ import annotations

import io
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from .errors import InputError
from .files import open_regular
from .torch_storages import declared_storages

# signature, then the fields that are read; x skips the others
LOCAL_HEADER = struct.Struct("<4s2x2H4x3L2H")  # 4.3.7
ENTRY = struct.Struct("<4s4x2H4x3L3H4x2L")  # 4.3.12
ZIP64_END = struct.Struct("<4s28x3Q")  # 4.3.14: entries, length, offset
ZIP64_LOCATOR = struct.Struct("<4s4xQ4x")  # 4.3.15: offset of the zip64 end record
END = struct.Struct("<4s6xH2LH")  # 4.3.16: entries, length, offset, length of a comment
SIGNATURES = {
    LOCAL_HEADER: b"PK\3\4",
    ENTRY: b"PK\1\2",
    ZIP64_END: b"PK\6\6",
    ZIP64_LOCATOR: b"PK\6\7",
    END: b"PK\5\6",
}
STORED, DEFLATED = 0, 8
ENCRYPTED = 1 | 1 << 6 | 1 << 13
DATA_DESCRIPTOR = 1 << 3
"""The flag of local headers whose checksum and sizes are 0, as those of torch.save are."""
FOLDER = 1 << 4
"""The attribute of folders. torch returns uninitialized memory for members that have it."""
IN_ZIP64_FIELD = 0xFFFFFFFF
"""The value of 32 bits that stands for one of 64 bits in the zip64 extra field."""
ZIP64_FIELD = 1
NAME = re.compile(rb"[ -\[\]-~]*")
"""Printable ASCII without the backslash, as torch names members inside the top folder."""
PIECE_BYTES = 2**18
"""Read at a time: small enough for the cache of a core; 2^14 and 2^22 take longer."""


class Damage(Exception):
    """What is wrong with an archive, in words that follow its path."""


class Record(NamedTuple):
    """A member of the archive, for which torch's word is record."""

    name: bytes
    flags: int
    method: int
    crc: int
    compressed_bytes: int
    content_bytes: int
    header_offset: int
    content_offset: int
    is_folder: bool

    @property
    def is_compressed(self) -> bool:
        """Whether it has to be decompressed; torch.save writes no such member, other tools do."""
        return self.method != STORED


def is_archive(path: Path) -> bool:
    """Whether a file starts like a zip archive; torch before 1.6 wrote bare pickles instead."""
    with open_regular(path, links=True) as file:
        return file.read(2) == b"PK"


def checked_records(path: Path) -> list[Record]:
    """The members of an archive that is whole and laid out as torch expects; else a InputError."""
    with open_regular(path, links=True) as file:
        try:
            records = _records(file)
            _check_checksums(file, records)
            _check_storages(file, _by_name(records))
        except Damage as damage:
            raise InputError(
                f"{path} {damage}; fetch it again or save it anew with torch.save"
            ) from damage
    return records


def _records(file: BinaryIO) -> list[Record]:
    """All members; their local headers agree with the central directory, and none overlap."""
    count, start, stop = _directory(file)
    entries, offset = [], start
    for _ in range(count):
        entry, offset = _entry(file, offset)
        entries.append(entry)
    if offset != stop:
        raise Damage("is damaged: its central directory is longer or shorter than declared")
    records = sorted((_located(file, entry) for entry in entries), key=lambda r: r.header_offset)
    limits = [*(record.header_offset for record in records), start]
    for record, limit in zip(records, limits[1:], strict=True):
        if record.content_offset + record.compressed_bytes > limit:
            raise Damage(f"is damaged: {_text(record)} overlaps what follows it")
    return records


def _directory(file: BinaryIO) -> tuple[int, int, int]:
    """The number of entries of the central directory, and where it starts and stops."""
    file_bytes = file.seek(0, io.SEEK_END)
    stop = file_bytes - END.size
    end = _fields(file, stop, END)
    if end is None or end[3]:  # torch.save writes no comment, and readers search past one
        raise Damage(f"is incomplete: it ends after {file_bytes:,} bytes without an end record")
    count, length, start, _ = end
    if locator := _fields(file, stop - ZIP64_LOCATOR.size, ZIP64_LOCATOR):
        stop -= ZIP64_LOCATOR.size + ZIP64_END.size
        zip64_end = _fields(file, stop, ZIP64_END)
        if zip64_end is None or locator != (stop,):
            raise Damage("is damaged: its zip64 end record is not where its locator says")
        count, length, start = zip64_end
    # torch uses the declared offset, other readers count back from the end record
    if start + length != stop:
        raise Damage("is damaged: its central directory is not where its end record says")
    return count, start, stop


def _entry(file: BinaryIO, offset: int) -> tuple[Record, int]:
    """A member as the central directory describes it, and the offset of the next entry."""
    fields = _fields(file, offset, ENTRY)
    if fields is None:
        raise Damage("is damaged: an entry of its central directory does not begin as one")
    flags, method, crc, compressed, content, name_bytes, extra_bytes, comment_bytes = fields[:8]
    attributes, header = fields[8:]
    name, extra = file.read(name_bytes), file.read(extra_bytes)
    content, compressed, header = _with_zip64(extra, (content, compressed, header))
    is_folder = bool(attributes & FOLDER) or name.endswith(b"/")
    record = Record(name, flags, method, crc, compressed, content, header, 0, is_folder)
    return record, offset + ENTRY.size + name_bytes + extra_bytes + comment_bytes


def _located(file: BinaryIO, entry: Record) -> Record:
    """A member with the offset of its content, once its local header agrees with its entry."""
    fields = _fields(file, entry.header_offset, LOCAL_HEADER)
    if fields is None:
        raise Damage(f"is damaged: {_text(entry)} is not where its central directory says")
    flags, method, crc, compressed, content, name_bytes, extra_bytes = fields
    name, extra = file.read(name_bytes), file.read(extra_bytes)
    content, compressed = _with_zip64(extra, (content, compressed))
    pairs = [
        (crc, entry.crc),
        (compressed, entry.compressed_bytes),
        (content, entry.content_bytes),
    ]
    is_later = bool(flags & DATA_DESCRIPTOR)
    agrees = all(value == listed or (is_later and value == 0) for value, listed in pairs)
    if (name, flags, method) != (entry.name, entry.flags, entry.method) or not agrees:
        raise Damage(f"is damaged: the local header of {_text(entry)} contradicts its entry")
    if fault := _fault(entry):
        raise Damage(f"has a member, {_text(entry)}, that {fault}")
    offset = entry.header_offset + LOCAL_HEADER.size + name_bytes + extra_bytes
    return entry._replace(content_offset=offset)


def _fault(record: Record) -> str | None:
    """Why torch could not read a member."""
    if record.flags & ENCRYPTED:
        return "is encrypted"
    if record.method not in (STORED, DEFLATED):
        return "is compressed in a way that torch does not read"
    if record.method == STORED and record.compressed_bytes != record.content_bytes:
        return f"has {record.compressed_bytes:,} bytes, not the declared {record.content_bytes:,}"
    if record.is_folder and record.content_bytes:
        return f"is marked as a folder and has {record.content_bytes:,} bytes"
    return None


def _fields(file: BinaryIO, offset: int, layout: struct.Struct) -> tuple[Any, ...] | None:
    """The fields of a structure; None where its signature is not at this offset."""
    if offset < 0:
        return None
    file.seek(offset)
    content = file.read(layout.size)
    if len(content) < layout.size or not content.startswith(SIGNATURES[layout]):
        return None
    return layout.unpack(content)[1:]


def _with_zip64(extra: bytes, values: Sequence[int]) -> list[int]:
    """Sizes and offsets, those that need 64 bits from the zip64 extra field (4.5.3)."""
    field = b""
    while len(extra) >= 4 and not field:
        kind, length = struct.unpack_from("<2H", extra)
        field = extra[4 : 4 + length] if kind == ZIP64_FIELD else b""
        extra = extra[4 + length :]
    wide = iter(struct.unpack(f"<{len(field) // 8}Q", field[: len(field) // 8 * 8]))
    widened = [next(wide, None) if value == IN_ZIP64_FIELD else value for value in values]
    if None in widened:
        raise Damage("is damaged: a size or offset of 64 bits is missing")
    return [value for value in widened if value is not None]


def _by_name(records: Iterable[Record]) -> dict[str, Record]:
    """Files by their lower-case names in the top folder: torch's look-up ignores case."""
    named, top = {}, None
    for record in records:
        folder, _, name = record.name.partition(b"/")
        top = folder if top is None else top
        if folder != top or not NAME.fullmatch(name) or not (name or record.is_folder):
            raise Damage(f"has a member, {_text(record)}, that torch.save does not write")
        if named.setdefault(name.decode("ascii").lower(), record) is not record:
            raise Damage(f"is damaged: {_text(record)} is in it twice")
    if "data.pkl" not in named or "constants.pkl" in named:
        kind = "a program of TorchScript" if "constants.pkl" in named else "some zip archive"
        raise Damage(f"is {kind}, not a file of torch.save")
    return {name: record for name, record in named.items() if not record.is_folder}


def _check_checksums(file: BinaryIO, records: Iterable[Record]) -> None:
    """Refuse contents whose CRC-32 is not the one that was written.

    This takes 0.3 to 0.4 s of one core for each GB (0.2 s of it for the sums), or as long as the
    disk takes to read it, and the memory of one piece.
    """
    # torch.serialization.set_crc32_options(False) leaves every checksum 0: nothing to compare with
    has_checksums = any(record.crc for record in records)
    for record in records:
        crc = content_bytes = 0
        for piece in _pieces(file, record):
            crc, content_bytes = zlib.crc32(piece, crc), content_bytes + len(piece)
            if content_bytes > record.content_bytes:
                break  # a small member may decompress to a thousand times its size
        if content_bytes != record.content_bytes or (has_checksums and crc != record.crc):
            raise Damage(f"is damaged: the checksum of {_text(record)} differs")


def _pieces(file: BinaryIO, record: Record) -> Iterator[bytes]:
    """The content of a member, decompressed, one piece after the other."""
    if not record.is_compressed:
        yield from _stored_pieces(file, record)
        return
    decompressor = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        for stored in _stored_pieces(file, record):
            piece = decompressor.decompress(stored, PIECE_BYTES)
            while piece:
                yield piece
                piece = decompressor.decompress(decompressor.unconsumed_tail, PIECE_BYTES)
    except zlib.error as error:
        raise Damage(f"is damaged: {_text(record)} cannot be decompressed") from error


def _stored_pieces(file: BinaryIO, record: Record) -> Iterator[bytes]:
    """The bytes of a member as they are in the archive."""
    file.seek(record.content_offset)
    remaining = record.compressed_bytes
    while remaining and (piece := file.read(min(PIECE_BYTES, remaining))):
        yield piece
        remaining -= len(piece)


def _check_storages(file: BinaryIO, records: Mapping[str, Record]) -> None:
    """Refuse big-endian numbers, and members of other sizes than the tensors in them need."""
    if "byteorder" in records and _content(file, records["byteorder"]) != b"little":
        raise Damage("was written on a big-endian machine")
    try:
        storages = declared_storages(_content(file, records["data.pkl"]))
    except Exception as error:  # the documentation of pickle rules out none
        raise Damage("is damaged: its data.pkl cannot be read") from error
    for storage in storages:
        name = f"data/{storage.key}"
        record = records.get(name.lower())
        if record is None:
            raise Damage(f"is incomplete: {name!r} is not in it")
        # torch.save counts whole numbers: the last bytes of a storage may be fewer than one takes
        if record.content_bytes // storage.item_bytes != storage.numbers:
            raise Damage(
                f"is damaged: {_text(record)} has {record.content_bytes:,} bytes, but its tensors"
                f" need {storage.numbers * storage.item_bytes:,}"
            )


def _content(file: BinaryIO, record: Record) -> bytes:
    return b"".join(_pieces(file, record))


def _text(record: Record) -> str:
    """The name of a member for messages, without the top folder."""
    name = record.name.partition(b"/")[2] or record.name
    return repr(name.decode("ascii", "replace"))
