"""Memory planning: values that live at different times share one arena.

Greedy by size: the largest value first, each at the lowest offset free during its whole life.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_ALIGNMENT = 64


@dataclass(frozen=True)
class Life:
    """A temporary value: its bytes, and the first and last step that touch it (inclusive)."""

    nbytes: int
    first: int
    last: int


def plan(lives: Sequence[Life]) -> tuple[list[int], int]:
    """(byte offset of each value, size of the arena). Values alive at one time do not overlap."""
    offsets = [0] * len(lives)
    placed: list[int] = []
    total = 0
    for i in sorted(range(len(lives)), key=lambda i: (-lives[i].nbytes, lives[i].first)):
        life = lives[i]
        size = -(-life.nbytes // _ALIGNMENT) * _ALIGNMENT
        offset = 0
        neighbours = sorted(
            (offsets[j], offsets[j] + lives[j].nbytes)
            for j in placed
            if lives[j].first <= life.last and life.first <= lives[j].last
        )
        for start, stop in neighbours:
            if start - offset >= size:
                break
            offset = max(offset, -(-stop // _ALIGNMENT) * _ALIGNMENT)
        offsets[i] = offset
        placed.append(i)
        total = max(total, offset + size)
    return offsets, total
