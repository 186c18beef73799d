"""The storages that the pickle of a .pt file declares, read without running any of its code.

torch.save declares each storage by its class (which implies the type of its numbers), by the key
of the member that holds its bytes, and by how many numbers there are.
"""

from __future__ import annotations

import io
import operator
import pickle
from typing import Any, BinaryIO, NamedTuple

ITEM_BYTES = {
    **dict.fromkeys(("Bool", "Byte", "Char", "QInt8", "QUInt8", "QUInt4x2", "QUInt2x4"), 1),
    **dict.fromkeys(("BFloat16", "Half", "Short"), 2),
    **dict.fromkeys(("Float", "Int", "QInt32"), 4),
    **dict.fromkeys(("ComplexFloat", "Double", "Long"), 8),
    "ComplexDouble": 16,
    "Untyped": 1,  # of all types that came after these classes
}
"""Bytes of one number, by the names of torch's storage classes without "Storage"."""


class Storage(NamedTuple):
    """What a pickle declares of the member `data/<key>`."""

    key: str
    numbers: int
    item_bytes: int


def declared_storages(content: bytes) -> list[Storage]:
    """The storages that a pickle declares; a damaged one may raise any exception."""
    reader = _StorageReader(io.BytesIO(content))
    reader.load()
    return reader.storages


class _Inert:
    """Stands for every class in a pickle and its objects: accepts anything and does nothing."""

    def __init__(self, *_: object, **__: object) -> None: ...

    def __call__(self, *_: object, **__: object) -> _Inert:
        """Some pickles call the result of a call, such as that of getattr."""
        return self

    def __setstate__(self, state: object) -> None: ...

    def __setitem__(self, key: object, value: object) -> None: ...

    def append(self, value: object) -> None:
        """As lists do."""

    extend = add = append


class _StorageReader(pickle.Unpickler):
    """An unpickler that imports nothing; pickle's documentation restricts it in this way."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: list[Storage] = []

    def find_class(self, module_name: str, global_name: str, /) -> type:
        """An inert class of that name, instead of the one in the module."""
        return type(global_name, (_Inert,), {})

    def persistent_load(self, pid: Any) -> _Inert:
        """Note a storage; its pid is ("storage", class, key, device, count of numbers)."""
        _, kind, key, _, numbers = pid
        item_bytes = ITEM_BYTES[kind.__name__.removesuffix("Storage")]
        self.storages.append(Storage(str(key), operator.index(numbers), item_bytes))
        return _Inert()
