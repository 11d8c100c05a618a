"""C structures as bytes: fields by name, offset and format."""

from __future__ import annotations

import struct
from typing import Any


class Structure:
    """The layout of a C structure.

    Args:
        size: in bytes.
        fields: offset and format (of the struct module, little-endian) by name.
    """

    def __init__(self, name: str, size: int, fields: dict[str, tuple[int, str]]) -> None:
        self.name = name
        self.size = size
        self.fields = fields

    def pack(self, **values: Any) -> bytearray:
        """The structure as bytes; fields that are not named are zero."""
        memory = bytearray(self.size)
        for field, value in values.items():
            self.set(memory, field, value)
        return memory

    def set(self, memory: Any, field: str, value: Any, base: int = 0) -> None:
        """Set a field of the structure at `base` of a writable buffer."""
        offset, text = self.fields[field]
        struct.pack_into("<" + text, memory, base + offset, value)

    def get(self, memory: Any, field: str, base: int = 0) -> Any:
        """A field of the structure at `base` of a buffer; arrays come as tuples."""
        offset, text = self.fields[field]
        values = struct.unpack_from("<" + text, memory, base + offset)
        return values[0] if len(values) == 1 else values


def bits(high_low: tuple[int, int], value: int) -> int:
    """`value` placed in the bit range (highest bit, lowest bit)."""
    return value << high_low[1]
