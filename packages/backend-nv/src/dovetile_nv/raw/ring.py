"""Places in memory that is used again and again, in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from dovetile.errors import ArgumentError


class Ring:
    """Gives out places, and again those whose commands are complete.

    Args:
        nbytes: size of the memory. places: how many may be in use at the same time.
    """

    def __init__(self, nbytes: int, places: int = 1 << 30) -> None:
        self.nbytes = nbytes
        self._places = places
        self._end = 0  # only grows; the place in memory is the remainder
        self._used: deque[tuple[int, int]] = deque()  # (position, its start), oldest first

    def take(self, nbytes: int, position: int, wait: Callable[[int], None]) -> int:
        """The offset of a place.

        Args:
            position: when its commands are complete. wait: waits for such a position, if need be.
        """
        size = self.nbytes
        if nbytes > size:
            raise ArgumentError(f"[launch] {nbytes} bytes; a command may have {size}")
        start = self._end
        place = start % size
        if place + nbytes > size:
            start += size - place
            place = 0
        used = self._used
        while used and (start + nbytes - used[0][1] > size or len(used) >= self._places):
            wait(used[0][0])
            used.popleft()
        self._end = start + nbytes
        used.append((position, start))
        return place
