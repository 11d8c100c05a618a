"""Memory planning: values that live at different times share one arena.

Greedy by size: the largest value first, each at the lowest offset free during its whole life.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_ALIGNMENT = 64


@dataclass(frozen=True)
class Life:
    """A temporary value: its bytes, and the first and last step that touch it (inclusive)."""

    nbytes: int
    first: int
    last: int


def plan(lives: Sequence[Life]) -> tuple[list[int], int]:
    """(byte offset of each value, size of the arena). Values alive at one time do not overlap.

    The largest first, each in the lowest hole that is free for all of its life. Every value is held
    against all before it, by NumPy: a nanosecond for each pair.
    """
    order = sorted(range(len(lives)), key=lambda i: (-lives[i].nbytes, lives[i].first))
    first = np.array([lives[i].first for i in order], np.int64)
    last = np.array([lives[i].last for i in order], np.int64)
    size = np.array([lives[i].nbytes for i in order], np.int64)
    size += -size % _ALIGNMENT
    start, stop = np.zeros_like(size), np.zeros_like(size)
    for n in range(len(order)):
        at_one_time = (first[:n] <= last[n]) & (first[n] <= last[:n])
        starts, stops = start[:n][at_one_time], stop[:n][at_one_time]
        upwards = starts.argsort()
        # Free is what lies between the end of all below and the start of the next.
        ends = np.concatenate(([0], np.maximum.accumulate(stops[upwards])))
        holes = (starts[upwards] - ends[:-1] >= size[n]).nonzero()[0]
        start[n] = ends[holes[0] if len(holes) else -1]
        stop[n] = start[n] + size[n]
    offsets = dict(zip(order, start.tolist()))
    return [offsets[i] for i in range(len(lives))], int(stop.max(initial=0))
