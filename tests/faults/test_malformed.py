"""Ten thousand damaged files of every layout: each opens or is one clear mistake, in little room.

Hypothesis seeds the damage and names the seed of what fails; no two of the ten thousand are alike,
and none is the file it was made from. Damage is blind (bytes changed, inserted, removed, cut off)
or knows the format: numbers and words of headers and indices are replaced, and archives are packed
again around damaged members, so that their checksums are right.
"""

import gzip
import io
import json
import re
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from floracle.data.store import open_store
from floracle.run.errors import InputError
from hanging import at_most

CASES = 10_000
SECONDS = 2.0
ROOM = 64 * 2**20
NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    255,
    2**15,
    2**20,
    2**24,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**32,
    2**62,
    2**63,
    2**64,
    1e9,
)
WORDS = (*NUMBERS, 1e9, None, True, "", "F32", "..", [], {}, [[]], -0.5, float("nan"), "a" * 300)
DESCRIPTIONS = (
    "|O",
    "<f8",
    ">f4",
    "<c8",
    "|V9",
    "|S1",
    "<M8[s]",
    "<U4",
    "|u1",
    "<f2",
    "<f16",
    "??",
)


def npy(array):
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def zipped(files, packing=zipfile.ZIP_STORED):
    stream = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(stream, "w", packing) as archive:
        warnings.simplefilter("ignore")
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, packing)
    return stream.getvalue()


def png(pixels):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "PNG")
    return stream.getvalue()


def torch_saved(content):
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def shard(count, *, flips=True):
    names = ("latents", "latents_flip") if flips else ("latents",)
    content = {name: torch.randn(count, 4, 2, 2) for name in names}
    metadata = {"total_size": f"{count}", "dtype": "torch.float32", "device": "cuda:0"}
    return save(content | {"labels": torch.arange(count)}, metadata)


RANDOM = np.random.default_rng(0)
MOMENTS = np.abs(RANDOM.normal(size=(4, 8, 2, 2))).astype(np.float32)
IMAGES = RANDOM.integers(0, 256, (4, 6, 5, 3), dtype=np.uint8)
LATENTS = {f"00000/img-mean-std-{row:08d}.npy": npy(each) for row, each in enumerate(MOMENTS)}
PICTURES = {f"00000/img{row:08d}.png": png(each) for row, each in enumerate(IMAGES)}


def indexed(files):
    pairs = [[name, row] for row, name in enumerate(files)]
    return files | {"dataset.json": json.dumps({"labels": pairs}).encode()}


def idx(axes):
    content = IMAGES[..., 0] if axes == 3 else np.arange(4, dtype=np.uint8)
    return struct.pack(f">{1 + axes}I", 0x800 + axes, *content.shape) + content.tobytes()


STATS = {"mean": torch.randn(1, 4, 1, 1), "std": torch.rand(1, 4, 1, 1) + 0.5}
SHARDS = {f"latents_rank{r:02d}_shard000.safetensors": shard(3) for r in range(2)}
CACHE = {
    f"n{row % 2}/{row}.npz": zipped({"moments.npy": npy(each), "moments_flip.npy": npy(each)})
    for row, each in enumerate(MOMENTS)
}
FEATURES = {f"imagenet256_features/{row}.npy": npy(MOMENTS[:1, :4]) for row in range(4)}
FEATURES |= {f"imagenet256_labels/{row}.npy": npy(np.array([row])) for row in range(4)}
ARRAYS = {"latents.npy": npy(MOMENTS), "labels.npy": npy(np.arange(4))}
DRAWN = {"layout": "repa", "moments": "gaussian"}

LAYOUTS = {
    "npy": ("a.npy", {"a.npy": npy(MOMENTS), "labels.npy": npy(np.arange(4))}, {}),
    "moments": ("a.npy", {"a.npy": npy(MOMENTS)}, {"layout": "mean-std", "moments": "gaussian"}),
    "npz": ("a.npz", {"a.npz": zipped(ARRAYS)}, {}),
    "packed npz": ("a.npz", {"a.npz": zipped(ARRAYS, zipfile.ZIP_DEFLATED)}, {}),
    "safetensors": ("a.safetensors", {"a.safetensors": shard(4, flips=False)}, {}),
    "idx": (".", {"train-images-idx3-ubyte": idx(3), "train-labels-idx1-ubyte": idx(1)}, {}),
    "packed idx": (".", {"train-images-idx3-ubyte.gz": gzip.compress(idx(3))}, {}),
    "pictures": (".", {f"{name[10:]}": each for name, each in PICTURES.items()}, {}),
    "indexed": (".", indexed(PICTURES), {"flips": True}),
    "picture zip": ("a.zip", {"a.zip": zipped(indexed(PICTURES))}, {}),
    "latent zip": ("a.zip", {"a.zip": zipped(indexed(LATENTS))}, DRAWN),
    "packed zip": ("a.zip", {"a.zip": zipped(indexed(LATENTS), zipfile.ZIP_DEFLATED)}, DRAWN),
    "edm2": (".", indexed(LATENTS), {"layout": "edm2", "moments": "sample"}),
    "repa": (".", {f"vae-sd/{n}": c for n, c in indexed(LATENTS).items()}, DRAWN),
    "lightningdit": (".", SHARDS | {"latents_stats.pt": torch_saved(STATS)}, {"flips": True}),
    "statistics": (".", SHARDS | {"latents_stats.pt": torch_saved(STATS)}, {"flips": False}),
    "mar": (".", CACHE, {"flips": True, "moments": "gaussian"}),
    "fast-dit": (".", FEATURES, {}),
    "weights": ("a.npy", {"a.npy": npy(MOMENTS), "w.npy": npy(np.ones(4))}, {"weights": "w.npy"}),
    "labels": ("a.npy", {"a.npy": npy(MOMENTS), "l.npy": npy(np.arange(4))}, {"labels": "l.npy"}),
}
EACH = CASES // len(LAYOUTS)
ONLY = {"statistics": "latents_stats.pt", "weights": "w.npy", "labels": "l.npy"}
"""Files that are damaged alone."""


def blind(chance, content):
    """Bytes changed, inserted, removed, moved or cut off."""
    content = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4))):
        place = chance.randrange(len(content) + 1)
        some = chance.randrange(1, 9)
        new = chance.choice((chance.randbytes(some), bytes(some), b"\xff" * some))
        kind = chance.randrange(5)
        if kind == 0:
            content[place : place + len(new)] = new
        elif kind == 1:
            content[place:place] = new
        elif kind == 2:
            del content[place : place + some]
        elif kind == 3:
            other = chance.randrange(len(content) + 1)
            content[place : place + some] = content[other : other + some]
        elif chance.random() < 0.3:
            del content[place:]
    return bytes(content)


def replaced(chance, value):
    """JSON with one thing in it replaced, removed or repeated."""
    if chance.random() < 0.2 or not isinstance(value, (dict, list)) or not value:
        return chance.choice(WORDS)
    value = value.copy()
    place = chance.choice(list(value) if isinstance(value, dict) else range(len(value)))
    kind = chance.random()
    if kind < 0.1:
        del value[place]
    elif kind < 0.2:
        other = chance.choice(list(value) if isinstance(value, dict) else range(len(value)))
        value[other] = value[place]
    elif kind < 0.3 and isinstance(value, dict):
        value[str(chance.choice(WORDS))] = value.pop(place)
    else:
        value[place] = replaced(chance, value[place])
    return value


def numbers(chance, content):
    """Text in which a number, or a type, is another one."""
    found = list(re.finditer(rb"\d+|'[<>|][a-zA-Z]\d+'", content[:200]))
    if not found:
        return blind(chance, content)
    where = chance.choice(found)
    kinds = DESCRIPTIONS if where[0].startswith(b"'") else NUMBERS
    new = repr(chance.choice(kinds)) if kinds is DESCRIPTIONS else str(chance.choice(kinds))
    return content[: where.start()] + new.encode() + content[where.end() :]


def of_npy(chance, content):
    """Another header of the right length."""
    length = int.from_bytes(content[8:10], "little")
    header = numbers(chance, content[10 : 10 + length].rstrip()) + b"\n"
    return content[:8] + struct.pack("<H", len(header)) + header + content[10 + length :]


def of_safetensors(chance, content):
    """Another header of the right length."""
    length = int.from_bytes(content[:8], "little")
    header = replaced(chance, json.loads(content[8 : 8 + length]))
    header = json.dumps(header).encode()
    return struct.pack("<Q", len(header)) + header + content[8 + length :]


def of_zip(chance, content):
    """Packed again around a damaged member, a repeated or another name; or its list damaged."""
    if chance.random() < 0.3:
        place = content.index(b"PK\x01\x02")
        return content[:place] + blind(chance, content[place:])
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
        packing = archive.infolist()[0].compress_type
    name = chance.choice(list(files))
    if chance.random() < 0.2:
        files[chance.choice(("../x.npy", "/x.png", "x/", "moments", "x.npy"))] = files.pop(name)
    else:
        files[name] = damaged(chance, name, files[name])
    return zipped(files, packing)


def damaged(chance, name, content):
    """A file with some damage, blind or of its own kind."""
    endings = {
        ".npy": of_npy,
        ".npz": of_zip,
        ".zip": of_zip,
        ".pt": of_zip,
        ".safetensors": of_safetensors,
        ".json": lambda c, text: json.dumps(replaced(c, json.loads(text))).encode(),
        ".gz": lambda c, packed: gzip.compress(blind(c, gzip.decompress(packed))),
    }
    own = endings.get(Path(name).suffix)
    return own(chance, content) if own and chance.random() < 0.6 else blind(chance, content)


def peak():
    """Bytes of the largest size this process had since it was last forgotten."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", status)[1])


def forget_peak():
    Path("/proc/self/clear_refs").write_text("5")


def write(folder, files):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # what is mapped keeps its own file
        path.write_bytes(content)


def opened(where, how):
    """Whether it opens and all of it can be read; else it is a mistake of one line.

    It is the mistake of the reader that met the damage: the outermost net, whose words are "cannot
    be read as data", would hide every fault of a reader from this test.
    """
    try:
        with at_most(SECONDS):
            store = open_store(where, memory="64M", **how)
            points = store.take(torch.arange(len(store)))
            assert points.isfinite().all()
            if store.stds is not None:
                assert (store.take_stds(torch.arange(len(store))) >= 0).all()
            assert len(store.labels) == len(store)
    except InputError as mistake:
        assert re.fullmatch(r"[^\x00-\x1f\x7f]+", str(mistake))  # noqa: PT017
        assert "cannot be read as data" not in str(mistake)  # noqa: PT017
        return False
    return True


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_damaged_files_open_or_are_one_mistake(tmp_path, monkeypatch, layout):
    monkeypatch.chdir(tmp_path)
    name, files, how = LAYOUTS[layout]
    write(tmp_path, files)
    assert opened(tmp_path / name, how)
    targets, outcomes = [ONLY[layout]] if layout in ONLY else list(files), []
    tried = set(files.items())

    @settings(
        max_examples=EACH,
        phases=[Phase.generate],  # a seed has no smaller one that does the same
        suppress_health_check=[HealthCheck.filter_too_much],
    )
    @given(chance=st.randoms(use_true_random=True))
    def damage(chance):
        target = chance.choice(targets)
        case = target, damaged(chance, target, files[target])
        assume(case not in tried)
        write(tmp_path, dict([case]))
        forget_peak()
        before = peak()
        outcomes.append(opened(tmp_path / name, how))
        assert peak() - before < ROOM
        write(tmp_path, {target: files[target]})
        tried.add(case)

    damage()
    assert opened(tmp_path / name, how)
    assert len(outcomes) == EACH
    assert 0 < sum(outcomes) < len(outcomes)
