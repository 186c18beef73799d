"""Damaged .pt files: each is read exactly as it was, or is one clear mistake.

torch.load(mmap=True) compares neither checksums nor sizes: on its own it gives other weights for
many of these files. The random edits are seeded. None of them changes numbers and puts every
checksum right again: such an archive is as whole as the one that it was made from.
"""

from __future__ import annotations

import io
import pickle
import random
import struct
import zipfile
from collections import Counter

import pytest
import torch

from floracle.models.checkpoints import read_pickle
from floracle.run.errors import InputError
from floracle.run.torch_archive import CHUNK_BYTES
from floracle.run.torch_storages import ITEM_BYTES

CPU = torch.device("cpu")
EDITS = 300
TENSORS = {
    "a": torch.arange(16.0),
    "b": torch.arange(100, 108).bfloat16(),
    "c": torch.arange(-8, 8).double().reshape(4, 4).T,
    "d": torch.arange(32.0, 48.0),
}


def saved(content=TENSORS):
    """The bytes of a file of torch.save."""
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def members(archive):
    with zipfile.ZipFile(io.BytesIO(archive)) as file:
        return {name: file.read(name) for name in file.namelist()}


def packed(contents, method=zipfile.ZIP_STORED, *, wide=False):
    """An archive of these contents, with the right sums, and `wide` with sizes of 64 bits."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in contents.items():
            with archive.open(name, "w", force_zip64=wide) as member:
                member.write(content)
    return file.getvalue()


def entries(archive):
    """Where the entries of the directory begin, by the names of the members."""
    places, place = {}, archive.find(b"PK\1\2")
    while place >= 0:
        length = struct.unpack_from("<H", archive, place + 28)[0]
        places[archive[place + 46 : place + 46 + length].decode()] = place
        place = archive.find(b"PK\1\2", place + 46)
    return places


def with_number(content, place, form, value):
    changed = bytearray(content)
    struct.pack_into(form, changed, place, value)
    return bytes(changed)


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert found[name].dtype == tensor.dtype
        assert torch.equal(found[name], tensor)


def refused(read, path):
    """The mistake that a file is, in one line that names it."""
    with pytest.raises(InputError) as caught:
        read(path)
    (line,) = str(caught.value).splitlines()
    assert path.name in line
    return line


def outcome(read, path):
    """What a file holds, or None where it is refused in one line."""
    try:
        return read(path)
    except InputError as mistake:
        (_,) = str(mistake).splitlines()
        return None


@pytest.fixture
def written(tmp_path):
    """`written(content)` is the path of a .pt file with these bytes."""

    def write(content, name="model.pt"):
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


@pytest.mark.parametrize("change", [-16, -4, 4, 64])
def test_a_member_of_another_size_than_its_tensor_is_refused(written, change):
    contents = members(saved())
    whole = contents["archive/data/0"]
    contents["archive/data/0"] = (whole + bytes(64))[: len(whole) + change]
    line = refused(read_pickle, written(packed(contents)))
    assert f"'data/0' has {64 + change} bytes, but its tensors need 64" in line


@pytest.mark.parametrize("some", ["data/1", ""])
def test_compressed_members_are_decompressed_not_mapped(written, some):
    file, contents = io.BytesIO(), members(saved())
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in contents.items():
            kind = zipfile.ZIP_DEFLATED if some in name else zipfile.ZIP_STORED
            archive.writestr(name, content, kind)
    assert_same(read_pickle(written(file.getvalue())), TENSORS)


def test_a_member_that_decompresses_to_more_than_declared_is_refused(written):
    contents = {**members(saved()), "archive/data/3": bytes(3 * CHUNK_BYTES)}
    archive = packed(contents, zipfile.ZIP_DEFLATED)
    place = entries(archive)["archive/data/3"]
    start = struct.unpack_from("<L", archive, place + 42)[0]
    archive = with_number(with_number(archive, place + 24, "<L", 64), start + 22, "<L", 64)
    assert "'data/3'" in refused(read_pickle, written(archive))


def test_every_changed_byte_of_a_tensor_is_noticed(written):
    archive = saved()
    place = archive.index(TENSORS["a"].numpy().tobytes())
    for byte in range(place, place + 64, 7):
        changed = with_number(archive, byte, "B", archive[byte] ^ 1)
        assert "checksum of 'data/0' differs" in refused(read_pickle, written(changed))


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_member_marked_as_a_folder_is_refused(written, method):
    archive = packed(members(saved()), method)
    for name, place in entries(archive).items():
        changed = with_number(archive, place + 38, "B", 1 << 4)  # torch reads what memory held
        line = refused(read_pickle, written(changed))
        assert f"{name.removeprefix('archive/')!r}, that is marked as a folder" in line


@pytest.mark.parametrize("numbers", [0, 1, 3_000_000])
def test_archives_of_torch_are_read_whatever_their_size(written, numbers):
    content = {"a": torch.arange(float(numbers)), **TENSORS}
    assert_same(read_pickle(written(saved(content))), content)


def test_sizes_of_64_bits_are_read(written):
    archive = packed(members(saved()), wide=True)
    assert b"\1\0\x10\0" in archive  # the extra field of 16 bytes
    assert_same(read_pickle(written(archive)), TENSORS)
    for name, place in entries(archive).items():  # the directory too may need its extra field
        length = struct.unpack_from("<H", archive, place + 28)[0]
        sizes = struct.unpack_from("<2L", archive, place + 20)
        wide = bytearray(archive)
        struct.pack_into("<2L", wide, place + 20, 2**32 - 1, 2**32 - 1)
        struct.pack_into("<H", wide, place + 30, 20)
        wide[place + 46 + length : place + 46 + length] = struct.pack("<2H2Q", 1, 16, *sizes)
        end = len(wide) - 22
        struct.pack_into("<L", wide, end + 12, struct.unpack_from("<L", wide, end + 12)[0] + 20)
        assert_same(read_pickle(written(bytes(wide))), TENSORS)
        wide[place + 46 + length] = 2  # another kind of field, so that the sizes are missing
        assert "64 bits" in refused(read_pickle, written(bytes(wide))), name


def test_archives_without_checksums_are_read(written):
    torch.serialization.set_crc32_options(False)
    try:
        archive = saved()
    finally:
        torch.serialization.set_crc32_options(True)
    assert_same(read_pickle(written(archive)), TENSORS)


def test_archives_of_older_versions_are_read(written):
    younger = (".format_version", ".storage_alignment", "byteorder", ".data/serialization_id")
    contents = members(saved())
    contents = {name: contents[name] for name in contents if not name.endswith(younger)}
    assert len(contents) == 2 + len(TENSORS)
    assert_same(read_pickle(written(packed(contents))), TENSORS)


def test_big_endian_numbers_are_refused(written):
    archive = packed({**members(saved()), "archive/byteorder": b"big"})
    assert "big-endian" in refused(read_pickle, written(archive))


def test_every_kind_of_number_and_of_sharing_is_read(written):
    unusual = ("bits", "q", "complex32")  # of other layouts, or with a warning of torch's own
    kinds = {kind for kind in vars(torch).values() if isinstance(kind, torch.dtype)}
    for kind in kinds:
        if any(word in str(kind) for word in unusual):
            continue
        whole = torch.arange(32, dtype=torch.uint8).view(kind)
        try:
            archive = saved({"a": whole})
        except (KeyError, RuntimeError, NotImplementedError):
            continue  # torch itself cannot save it
        found = read_pickle(written(archive))["a"]
        assert found.dtype == kind
        assert torch.equal(found.view(torch.uint8), whole.view(torch.uint8))
    whole = torch.arange(24.0)
    shared = {"a": whole[2:7], "b": whole.reshape(4, 6).T, "c": whole, "d": whole[:0]}
    assert_same(read_pickle(written(saved(shared))), shared)
    odd = {"a": torch.arange(10, dtype=torch.uint8)[:8].view(torch.float32)}  # of 10 bytes
    assert_same(read_pickle(written(saved(odd))), odd)


def test_bytes_of_a_number_are_those_of_torch():
    sizes = {
        name: kind.itemsize for kind, name in torch.storage._dtype_to_storage_type_map().items()
    }
    assert {name.removesuffix("Storage"): size for name, size in sizes.items()} | {
        "Untyped": 1
    } == ITEM_BYTES


def test_what_two_readers_could_read_in_two_ways_is_refused(written):
    archive, contents = saved(), members(saved())
    twice = {**contents, "archive/DATA/0": bytes(64)}  # torch looks names up in any case
    elsewhere = {**contents, "other/data/0": bytes(64)}
    end = len(archive) - 22
    for changed in (
        packed(twice),
        packed(elsewhere),
        packed({name.replace("archive/", ""): content for name, content in contents.items()}),
        archive[:1000] + archive,
        with_number(archive, end + 20, "<H", 3) + b"abc",
        archive + bytes(30),
        with_number(archive, end - 12, "<Q", 0),
    ):
        refused(read_pickle, written(changed))


@pytest.mark.parametrize("kind", ["zip", "script"])
def test_archives_of_others_are_named(written, tmp_path, kind):
    if kind == "zip":
        assert "not a file of torch.save" in refused(
            read_pickle, written(packed({"a/b.txt": b"c", "a/d.txt": b"e"}))
        )
        return
    contents = {**members(saved()), "archive/constants.pkl": b"", "archive/code/a.py": b""}
    assert "TorchScript" in refused(read_pickle, written(packed(contents)))


class Named(pickle.Pickler):
    """A pickler that writes the one name of a tensor which it is given, rightly or not."""

    name: object

    def persistent_id(self, obj):
        return self.name if obj is CPU else None


@pytest.mark.parametrize(
    "name",
    [
        ("storage", torch.FloatStorage, "9", "cpu", 16),
        ("storage", torch.FloatStorage, "0", "cpu", "16"),
        ("storage", torch.FloatStorage, "0\n1", "cpu", 16),
        ("storage", torch.FloatStorage, "0", "cpu", 2**70),
        ("storage", torch.FloatStorage, "0", "cpu", -1),
        ("storage", torch.Tensor, "0", "cpu", 16),
        ("storage", torch.FloatStorage, "0", "cpu"),
        ("module", torch.FloatStorage, "0", "cpu", 16),
        ("storage", "FloatStorage", "0", "cpu", 16),
        16,
    ],
)
def test_a_pickle_that_contradicts_its_archive_is_refused(written, name):
    file = io.BytesIO()
    pickler = Named(file, protocol=2)
    pickler.name = name
    pickler.dump({"a": CPU})
    refused(
        read_pickle, written(packed({**members(saved()), "archive/data.pkl": file.getvalue()}))
    )


def blind_edit(rng, archive):
    """Bytes changed, removed, inserted, repeated, exchanged or zeroed."""
    first, second = sorted(rng.sample(range(len(archive)), 2))
    length = min(rng.choice([1, 2, 4, 16, 64, 300]), second - first)
    piece, other = archive[first : first + length], archive[second : second + length]
    match rng.randrange(8):
        case 0 | 1:
            return with_number(archive, first, "B", archive[first] ^ 1 << rng.randrange(8))
        case 2:
            return archive[:first]
        case 3:
            return archive[:first] + archive[first + length :]
        case 4:
            return archive[:first] + rng.randbytes(length) + archive[first:]
        case 5:
            return archive[:second] + piece + archive[second:]
        case 6:
            return (
                archive[:first]
                + other
                + archive[first + length : second]
                + piece
                + archive[second + length :]
            )
        case _:
            return archive[:first] + bytes(length) + archive[first + length :]


def field_edit(rng, archive):
    """One number of an entry of the directory, of a header or of the end, right or not."""
    place = rng.choice(list(entries(archive).values()))
    forms = {8: "H", 10: "H", 16: "L", 20: "L", 24: "L", 28: "H", 30: "H", 38: "L", 42: "L"}
    match rng.randrange(3):
        case 0:
            place = struct.unpack_from("<L", archive, place + 42)[0]
            forms = {6: "H", 8: "H", 14: "L", 18: "L", 22: "L", 26: "H", 28: "H"}
        case 1:
            place = len(archive) - 98
            forms = {24: "Q", 32: "Q", 40: "Q", 48: "Q", 64: "Q", 86: "H", 88: "L", 92: "L"}
        case _:
            pass
    offset, form = rng.choice(list(forms.items()))
    there = struct.unpack_from(f"<{form}", archive, place + offset)[0]
    most = 2 ** (8 * struct.calcsize(f"<{form}")) - 1
    value = rng.choice(
        [0, 1, 8, 16, 64, most, there + 16, there + 1, there - 16, rng.randint(0, most)]
    )
    return with_number(archive, place + offset, f"<{form}", value % (most + 1))


def member_edit(rng, archive):
    """Members packed, reordered, dropped, repeated, cut, lengthened or exchanged; sums right."""
    contents = members(archive)
    name, other = rng.sample(list(contents), 2)
    length = rng.choice([1, 4, 16])
    match rng.randrange(8):
        case 0:
            return packed(contents, zipfile.ZIP_DEFLATED, wide=rng.random() < 0.5)
        case 1:
            return packed(dict(rng.sample(list(contents.items()), len(contents))))
        case 2:
            return packed({name: content for name, content in contents.items() if name != other})
        case 3:
            again = other[:-1] + "~"
            twice = packed({**contents, again: contents[name]})
            return twice.replace(again.encode(), other.encode())
        case 4:
            return packed({**contents, name: contents[name][:-length]})
        case 5:
            return packed({**contents, name: contents[name] + bytes(length)})
        case 6:
            first, second = (entries(archive)[key] + 42 for key in (name, other))
            places = [archive[place : place + 4] for place in (second, first)]
            archive = archive[:first] + places[0] + archive[first + 4 :]
            return archive[:second] + places[1] + archive[second + 4 :]
        case _:
            place = archive.rindex(name.encode())  # in the directory alone
            mark = bytes([rng.choice(b"01239/\\Aa. \0")])
            place += rng.randrange(len(name))
            return archive[:place] + mark + archive[place + 1 :]


@pytest.mark.slow
@pytest.mark.parametrize("edit", [blind_edit, field_edit, member_edit])
def test_an_edited_archive_is_read_as_it_was_or_refused(written, edit):
    rng, outcomes = random.Random(edit.__name__), Counter()
    for archive in (saved(), packed(members(saved()), zipfile.ZIP_DEFLATED)):
        for _ in range(EDITS // 2):
            source = archive if edit is not field_edit else saved()
            found = outcome(read_pickle, written(edit(rng, source)))
            outcomes["refused" if found is None else "read"] += 1
            if found is not None:
                assert_same(found, TENSORS)
    assert min(outcomes["read"], outcomes["refused"]) > EDITS // 100, outcomes


def test_an_edited_file_of_old_versions_is_read_or_refused(written):
    rng, file = random.Random(0), io.BytesIO()
    torch.save(TENSORS, file, _use_new_zipfile_serialization=False)  # it has no sums
    for _ in range(EDITS):
        outcome(read_pickle, written(blind_edit(rng, file.getvalue())))
