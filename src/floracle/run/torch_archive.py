"""The zip archive of a .pt file, checked in full before torch reads it.

torch.load trusts the central directory of the archive and compares no checksum. If it maps the
file it does not compare sizes either, so a member that is cut short gives other weights. Python's
zipfile reads the archive here. On top of its checks, whatever torch could read in another way than
zipfile is refused: it must be an archive as torch.save writes it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import BinaryIO
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from .errors import InputError
from .files import open_regular
from .torch_storages import bare_storages, declared_storages

END_SIGNATURE, END_BYTES = b"PK\5\6", 22
"""Of the end record, the last structure of an archive without a comment."""
LOCATOR_SIGNATURE, LOCATOR_BYTES, ZIP64_END_BYTES = b"PK\6\7", 20, 56
"""Of the locator before it, if sizes have 64 bits, and of the zip64 end record before that."""
FOLDER_ATTRIBUTE = 1 << 4
"""torch returns uninitialized memory for members that have it."""
NEEDS_ZIP64 = 0xFFFFFFFF
"""A size or offset of 32 bits that says: read the 64 bits of the zip64 extra field."""
MEMBER_NAME = re.compile(r"[ -\[\]-~]*")
"""Printable ASCII without the backslash, as torch names members inside the top folder."""
MAX_GROWTH, MIN_BYTES_TO_REFUSE = 20, 2**26
"""A file may stand for 20 times its bytes, or 64 MiB: trained weights compress by less than 2, and
a network that is written once under several names has no more than its 28 blocks to repeat."""
CHUNK_BYTES = 2**18
"""Read at a time: small enough for the cache of a core; 2^14 and 2^22 are slower."""


class Damage(Exception):
    """What is wrong with an archive, in words that follow its path."""


def is_archive(path: Path) -> bool:
    """Whether a file starts like a zip archive; torch before 1.6 wrote bare pickles instead."""
    with open_regular(path, links=True) as file:
        return file.read(2) == b"PK"


def check_archive(path: Path) -> bool:
    """Raise an InputError unless an archive is whole and as torch.save writes it.

    Returns whether no member is compressed, so that torch may map the file. The checksums take
    about 0.5 s of one core for each GB, and no more memory than a chunk.
    """
    with open_regular(path, links=True) as file:
        try:
            _check_end(file)
            try:
                archive = ZipFile(file)
            except Exception as error:  # damage can raise anything from ValueError to MemoryError
                raise Damage("is damaged: its central directory cannot be read") from error
            members = _members_by_name(archive.infolist())
            _check_sizes(members.values(), file.seek(0, os.SEEK_END))
            _check_contents(archive)
            _check_storages(archive, members)
        except Damage as damage:
            raise InputError(
                f"{path} {damage}; fetch it again or save it anew with torch.save"
            ) from damage
    return all(member.compress_type == ZIP_STORED for member in archive.infolist())


def check_growth(path: Path, declared: int) -> None:
    """Refuse a file that stands for far more bytes than it has, before they are made."""
    if fault := _growth(declared, path.stat().st_size):
        raise InputError(f"{path} {fault}; fetch it again, or save its tensors with .contiguous()")


def _growth(declared: int, size: int) -> str | None:
    if declared <= max(MAX_GROWTH * size, MIN_BYTES_TO_REFUSE):
        return None
    return f"stands for {declared:,} bytes of tensors and has {size:,} itself"


def check_bare_pickle(path: Path) -> bool:
    """Raise an InputError if a file of torch before 1.6 declares more numbers than it can hold.

    Returns False: torch does not map such files.
    """
    with open_regular(path, links=True) as file:
        try:
            storages = bare_storages(file)
        except Exception as error:  # unpickling may raise any exception
            raise InputError(
                f"{path} was not written by torch.save; name a .pt, .pth or .safetensors"
                f" checkpoint"
            ) from error
    if sum(storage.numbers * storage.item_bytes for storage in storages) > path.stat().st_size:
        raise InputError(f"{path} is incomplete: its tensors need more bytes than it has")
    return False


def _check_sizes(members: Iterable[ZipInfo], size: int) -> None:
    """Refuse members that overlap, and those that decompress to far more than the file has."""
    members = list(members)
    if sum(member.compress_size for member in members) > size:
        raise Damage("is damaged: its members overlap")
    if fault := _growth(sum(member.file_size for member in members), size):
        raise Damage(fault)


def _check_end(file: BinaryIO) -> None:
    """Refuse an end that zipfile and torch could read in two ways."""
    size = file.seek(0, os.SEEK_END)
    locator_start = size - END_BYTES - LOCATOR_BYTES
    file.seek(max(0, locator_start))
    locator, end = file.read(LOCATOR_BYTES), file.read()
    # Both search past a comment or other bytes after the end record.
    if not end.startswith(END_SIGNATURE) or end[-2:] != b"\0\0":
        raise Damage(f"is incomplete: it ends after {size:,} bytes without an end record")
    # torch reads the zip64 end record where its locator says, zipfile directly before that.
    zip64_end = int.from_bytes(locator[8:16], "little")
    if locator.startswith(LOCATOR_SIGNATURE) and zip64_end != locator_start - ZIP64_END_BYTES:
        raise Damage("is damaged: its zip64 end record is not where its locator says")


def _members_by_name(members: Iterable[ZipInfo]) -> dict[str, ZipInfo]:
    """Members by their lower-case names in the top folder: torch's look-up ignores case."""
    by_name: dict[str, ZipInfo] = {}
    top_folders = set()
    for member in members:
        folder, _, name = member.orig_filename.partition("/")
        top_folders.add(folder)
        named = bool(MEMBER_NAME.fullmatch(name) and (name or _is_folder(member)))
        if len(top_folders) > 1 or not named:
            raise Damage(f"has a member, {_label(member)}, that torch.save does not write")
        if by_name.setdefault(name.lower(), member) is not member:
            raise Damage(f"is damaged: {_label(member)} is in it twice")
        if _is_folder(member) and member.file_size:
            raise Damage(
                f"has a member, {_label(member)}, that is marked as a folder and has"
                f" {member.file_size:,} bytes"
            )
        if NEEDS_ZIP64 in (member.file_size, member.compress_size, member.header_offset):
            raise Damage("is damaged: a size or offset of 64 bits is missing")
        if member.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            raise Damage(f"has a member, {_label(member)}, compressed as torch does not read")
        if member.compress_type == ZIP_STORED and member.compress_size != member.file_size:
            raise Damage(
                f"has a member, {_label(member)}, that has {member.compress_size:,} bytes, not the"
                f" declared {member.file_size:,}"
            )
    if "data.pkl" not in by_name or "constants.pkl" in by_name:
        kind = "a program of TorchScript" if "constants.pkl" in by_name else "some zip archive"
        raise Damage(f"is {kind}, not a file of torch.save")
    # zipfile shifts all offsets if something precedes the archive; torch does not
    if min(member.header_offset for member in by_name.values()):
        raise Damage("is damaged: its central directory is not where its end record says")
    return {name: member for name, member in by_name.items() if not _is_folder(member)}


def _check_contents(archive: ZipFile) -> None:
    """Read every member; refuse those whose size or CRC-32 is not the declared one."""
    # torch.serialization.set_crc32_options(False) leaves every checksum 0: nothing to compare
    # with. zipfile compares none if there is none.
    if not any(member.CRC for member in archive.infolist()):
        for member in archive.infolist():
            del member.CRC
    for member in archive.infolist():
        try:
            # zipfile compares the name in the local header, and refuses encrypted members
            content = archive.open(member)
        except Exception as error:
            raise Damage(
                f"is damaged: {_label(member)} is encrypted or not where its directory says"
            ) from error
        try:
            size = 0
            with content:
                while chunk := content.read(CHUNK_BYTES):
                    size += len(chunk)
        except BadZipFile as error:
            raise Damage(f"is damaged: the checksum of {_label(member)} differs") from error
        except Exception as error:
            raise Damage(f"is damaged: {_label(member)} cannot be decompressed") from error
        if size != member.file_size:
            raise Damage(f"is damaged: {_label(member)} ends after {size:,} bytes")


def _check_storages(archive: ZipFile, members: Mapping[str, ZipInfo]) -> None:
    """Refuse big-endian numbers, and members of other sizes than the tensors in them need."""
    if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
        raise Damage("was written on a big-endian machine")
    try:
        storages = declared_storages(archive.read(members["data.pkl"]))
    except Exception as error:  # unpickling may raise any exception
        raise Damage("is damaged: its data.pkl cannot be read") from error
    for storage in storages:
        name = f"data/{storage.key}"
        member = members.get(name.lower())
        if member is None:
            raise Damage(f"is incomplete: {name!r} is not in it")
        # torch.save counts whole numbers: the last bytes of a storage may be fewer than one takes
        if member.file_size // storage.item_bytes != storage.numbers:
            raise Damage(
                f"is damaged: {_label(member)} has {member.file_size:,} bytes, but its tensors"
                f" need {storage.numbers * storage.item_bytes:,}"
            )


def _is_folder(member: ZipInfo) -> bool:
    return bool(member.external_attr & FOLDER_ATTRIBUTE) or member.orig_filename.endswith("/")


def _label(member: ZipInfo) -> str:
    """The name of a member for messages, without the top folder, escaped."""
    name = member.orig_filename.partition("/")[2] or member.orig_filename
    return ascii(name)
