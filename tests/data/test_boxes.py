"""Archives of strangers: what leads out, lies or locks is refused before it is read."""

import io
import json
import stat
import struct
import warnings
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image

from floracle.data.store import open_store
from floracle.run.errors import InputError


def png(seed):
    stream = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 5, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def write(path, names, packing=zipfile.ZIP_STORED):
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", packing) as archive:
        warnings.simplefilter("ignore")
        for place, name in enumerate(names):
            archive.writestr(name, png(place))
    return path


def refused(path, words, **how):
    with pytest.raises(InputError, match=words) as caught:
        open_store(path, **how)
    assert path.name in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "../out.png",
        "a/../../out.png",
        "..",
        "/etc/out.png",
        "\\out.png",
        "a\\..\\out.png",
        "C:/out.png",
        "c:out.png",
        "a/..",
    ],
)
def test_names_that_lead_out(tmp_path, name):
    refused(write(tmp_path / "a.zip", ["a/0.png", name]), "leads out of the archive")


@pytest.mark.parametrize("name", ["0\n.png", "a/\x1b[2J.png", "\x7f.png", "0\x9b1m.png"])
def test_names_that_would_move_the_cursor(tmp_path, name):
    path = write(tmp_path / "a.zip", ["0.png", name])
    refused(path, "control characters")
    with pytest.raises(InputError) as caught:
        open_store(path)
    assert str(caught.value).isprintable()


def test_names_of_any_language_are_fine(tmp_path):
    names = ["é.png", "图.png", "at 5\u202fPM.png"]
    assert len(open_store(write(tmp_path / "a.zip", names))) == 3


def test_names_that_only_look_so_are_fine(tmp_path):
    assert len(open_store(write(tmp_path / "a.zip", ["a..png", "b..png", "c...png"]))) == 3
    # a name that begins with a dot is hidden, as in a folder
    assert len(open_store(write(tmp_path / "b.zip", ["..a.png", "b..png", "c...png"]))) == 2


def test_links(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("0.png", png(0))
        link = zipfile.ZipInfo("1.png")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        archive.writestr(link, "/etc/passwd")
    refused(tmp_path / "a.zip", "is a link")


def test_passwords(tmp_path):
    path = write(tmp_path / "a.zip", ["0.png", "1.png"])
    content = bytearray(path.read_bytes())
    for mark, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + place] |= 1
    path.write_bytes(content)
    refused(path, "locked with a password")


def test_repeated_names_and_files_that_are_folders(tmp_path):
    refused(write(tmp_path / "a.zip", ["0.png", "1.png", "0.png"]), "'0.png' more than once")
    refused(write(tmp_path / "b.zip", ["x/0.png", "x"]), "'x' is both a file and a folder")
    refused(write(tmp_path / "c.zip", ["x.png/y/0.png", "x.png"]), "both a file and a folder")


def test_unknown_packing(tmp_path):
    refused(write(tmp_path / "a.zip", ["0.png"], zipfile.ZIP_BZIP2), "packed in an unknown way")
    refused(write(tmp_path / "b.zip", ["0.png"], zipfile.ZIP_LZMA), "packed in an unknown way")


def test_bombs(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.png", png(0))
        archive.writestr("1.png", bytes(2**26))
    refused(tmp_path / "a.zip", "unpacks to 64 MiB, more than the memory of 32 MiB", memory="64M")
    path = write(tmp_path / "b.zip", ["0.png", "1.png"], zipfile.ZIP_DEFLATED)
    content = bytearray(path.read_bytes())
    place = content.index(b"PK\x01\x02") + 24
    content[place : place + 4] = struct.pack("<I", 2**30)
    path.write_bytes(content)
    refused(path, "claims 1073741824 bytes in .*, which cannot be")


def listed(count, *, long):
    """An archive whose list names one member `count` times, by the letter of the format."""
    first = b"PK\3\4" + struct.pack("<HHHHHIIIHH", 20, 0, 0, 0, 33, 0, 0, 0, 1, 0) + b"a"
    entry = b"PK\1\2" + struct.pack(
        "<HHHHHHIIIHHHHHII", *(20, 20, 0, 0, 0, 33), *(0,) * 3, 1, *(0,) * 6
    )
    entries = (entry + b"a") * count
    end = struct.pack("<HHHHIIH", 0, 0, count % 2**16, count % 2**16, len(entries), len(first), 0)
    content = first + entries
    if long:
        sizes = (44, 45, 45, 0, 0, count, count, len(entries), len(first))
        record = b"PK\6\6" + struct.pack("<QHHIIQQQQ", *sizes)
        content += record + b"PK\6\7" + struct.pack("<IQI", 0, len(content), 1)
        end = struct.pack("<HHHHIIH", 0, 0, *(2**16 - 1,) * 2, *(2**32 - 1,) * 2, 0)
    return content + b"PK\5\6" + end


@pytest.mark.slow
@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("name", ["a.zip", "a.npz"])
def test_endless_lists_of_members(tmp_path, long, name):
    (tmp_path / name).write_bytes(listed(60_000, long=long))
    refused(tmp_path / name, "so many members", memory="64M")
    refused(tmp_path / name, "'a' more than once", memory="4G")


def test_members_that_share_bytes(tmp_path):
    path = write(tmp_path / "a.zip", ["0.png", "1.png"])
    content = bytearray(path.read_bytes())
    second = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4) + 42
    content[second : second + 4] = bytes(4)
    path.write_bytes(content)
    refused(path, "overlap")


@pytest.mark.parametrize("packing", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("memory", [None, 64])
def test_damage_that_only_the_checksum_shows(tmp_path, packing, memory):
    array = np.random.default_rng(0).normal(size=(2, 3, 3)).astype(np.float32)
    stream = io.BytesIO()
    np.save(stream, array)
    files = {f"00000/img-mean-std-0000000{row}.npy": stream.getvalue() for row in range(3)}
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", packing) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr("dataset.json", json.dumps({"labels": [[name, 0] for name in files]}))
    how = {"layout": "repa", "moments": "mean", "memory": memory}
    assert len(open_store(path, **how)) == 3
    content = bytearray(path.read_bytes())
    wrong = struct.pack("<I", zlib.crc32(stream.getvalue()) ^ 1)
    place = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 4) + 16
    content[place : place + 4] = wrong
    path.write_bytes(content)
    refused(path, "00000001.npy.*CRC", **how)


def test_damaged_pictures_in_archives_are_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("0.png", png(0))
        archive.writestr("1.png", png(1)[:60])
    refused(tmp_path / "a.zip", r"a\.zip: 1\.png")
    (tmp_path / "b.zip").write_bytes(b"")
    refused(tmp_path / "b.zip", "zip")
