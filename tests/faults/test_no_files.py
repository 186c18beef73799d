"""Pipes, devices, folders and links in the places of files: refused at once, never waited for."""

import os

import numpy as np
import pytest
from test_malformed import LAYOUTS, write

from floracle.data.packing.pack import pack
from floracle.data.store import open_store
from floracle.run.errors import InputError
from hanging import at_most

OBSTACLES = {
    "pipe": os.mkfifo,
    "device": lambda path: os.symlink("/dev/zero", path),
    "folder": os.mkdir,
    "link to nowhere": lambda path: os.symlink("nowhere", path),
    "link to itself": lambda path: os.symlink(path.name, path),
    "link to a folder": lambda path: os.symlink("..", path),
}


@pytest.mark.parametrize("obstacle", OBSTACLES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_what_is_no_file_is_refused_at_once_wherever_a_file_belongs(
    tmp_path, monkeypatch, layout, obstacle
):
    monkeypatch.chdir(tmp_path)
    name, files, how = LAYOUTS[layout]
    write(tmp_path, files)
    for target in {*list(files)[:2], *list(files)[-2:]}:
        path = tmp_path / target
        path.unlink()
        OBSTACLES[obstacle](path)
        with at_most(2, waiting=True), pytest.raises(InputError, match=path.name) as caught:
            open_store(tmp_path / name, **how)
        assert "cannot be read as data" not in str(caught.value)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        path.write_bytes(files[target])
    open_store(tmp_path / name, **how)


@pytest.mark.slow
@pytest.mark.parametrize("obstacle", OBSTACLES)
def test_what_is_no_file_is_refused_at_once_in_a_packed_store(tmp_path, obstacle):
    store = tmp_path / "packed"
    pack(np.arange(24, dtype=np.float32).reshape(6, 4), store, spectra=False, quiet=True)
    files = [path for path in store.rglob("*") if path.is_file()]
    for path in (path for path in files if "unfinished" not in path.parts):
        content = path.read_bytes()
        path.unlink()
        OBSTACLES[obstacle](path)
        with at_most(2, waiting=True):
            if path.name == "verified.json":  # what was found whole before is found again
                open_store(store)
            else:
                with pytest.raises(InputError, match=path.name):
                    open_store(store)
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        path.write_bytes(content)
    open_store(store)
