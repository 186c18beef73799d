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


def bare_storages(file: BinaryIO) -> list[Storage]:
    """The storages of a file of torch before 1.6; anything else may raise any exception.

    Three pickles come first: a magic number, the version of the format, and the machine.
    """
    readers = [_StorageReader(file) for _ in range(4)]
    for reader in readers:
        reader.load()
    return readers[-1].storages


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


class _Allocation:
    """Stands for a class whose call makes memory of a size that the pickle alone decides."""

    def __new__(cls, *_: object) -> _Allocation:
        raise pickle.UnpicklingError(f"{cls.__name__} is called")


# Python's own Unpickler: the one in C fills gigabytes where a memo has a large number.
class _StorageReader(pickle._Unpickler):  # pyright: ignore
    """An unpickler that imports nothing; pickle's documentation restricts it in this way."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.storages: list[Storage] = []

    def find_class(self, module: str, name: str) -> type:
        """An inert class of that name, instead of the one in the module.

        Tensors are made by functions such as `_rebuild_tensor_v2`; their classes are only named.
        """
        allocates = name.endswith(("Tensor", "Storage")) or name == "bytearray"
        return type(name, (_Allocation if allocates else _Inert,), {})

    def persistent_load(self, pid: Any) -> _Inert:
        """Note a storage; its pid is ("storage", class, key, device, count of numbers).

        Before torch 1.6 a view of another storage followed.
        """
        _, kind, key, _, numbers = pid[:5]
        item_bytes = ITEM_BYTES[kind.__name__.removesuffix("Storage")]
        self.storages.append(Storage(str(key), operator.index(numbers), item_bytes))
        return _Inert()
