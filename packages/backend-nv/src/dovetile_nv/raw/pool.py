"""Small pieces of memory out of large ones: each call of the driver takes tens of microseconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dovetile.errors import OutOfMemoryError
from dovetile_nv.raw.memory import Memory, Ranges

_ALIGNMENT = 256


@dataclass(eq=False)
class _Chunk:
    memory: Memory
    ranges: Ranges


@dataclass(eq=False)
class Piece:
    """A part of a larger piece of memory."""

    memory: Memory
    """The larger piece."""
    offset: int
    nbytes: int
    chunk: _Chunk | None
    """None where the piece is all of its memory."""

    @property
    def address(self) -> int:
        return self.memory.address + self.offset

    def host_bytes(self) -> memoryview:
        return self.memory.host_bytes()[self.offset : self.offset + self.nbytes]


class Pool:
    """Takes memory in chunks and gives out parts; large requests get memory of their own.

    Args:
        make: takes memory. release: gives it back. chunk_bytes: taken at a time.
    """

    def __init__(
        self, make: Callable[[int], Memory], release: Callable[[Memory], None], chunk_bytes: int
    ) -> None:
        self._make = make
        self._release = release
        self._chunk_bytes = chunk_bytes
        self._chunks: list[_Chunk] = []

    def take(self, nbytes: int) -> Piece:
        """Memory at a multiple of 256. Raises OutOfMemoryError."""
        nbytes = -(-max(nbytes, 1) // _ALIGNMENT) * _ALIGNMENT
        if nbytes > self._chunk_bytes // 4:
            return Piece(self._make(nbytes), 0, nbytes, None)
        for chunk in reversed(self._chunks):
            try:
                return Piece(chunk.memory, chunk.ranges.take(nbytes, _ALIGNMENT), nbytes, chunk)
            except OutOfMemoryError:
                continue
        memory = self._make(self._chunk_bytes)
        chunk = _Chunk(memory, Ranges(0, memory.nbytes))
        self._chunks.append(chunk)
        return Piece(memory, chunk.ranges.take(nbytes, _ALIGNMENT), nbytes, chunk)

    def give_back(self, piece: Piece) -> None:
        if piece.chunk is None:
            self._release(piece.memory)
        else:
            piece.chunk.ranges.give_back(piece.offset, piece.nbytes)
