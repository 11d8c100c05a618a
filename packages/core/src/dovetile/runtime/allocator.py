"""Device memory that is kept for reuse.

Fresh memory is expensive everywhere (page faults on hosts, driver calls on accelerators), and a
training step asks for the same sizes again and again. Freed memory therefore goes to a pool, by
size class, and comes back from there. All commands of a device run in order, so memory may be
handed out again while commands that use it are still pending: the new owner's come after them.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dovetile.errors import ArgumentError, OutOfMemoryError

_FEW = 4
"""Freed pieces that may lie about uncounted while others of their size are asked for."""


@dataclass(eq=False)
class Allocation:
    """A piece of device memory."""

    address: int
    """As the device's kernels see it."""
    nbytes: int
    handle: Any = None
    """Whatever the device needs to free it."""


def size_class(nbytes: int) -> int:
    """The size actually allocated for a request: at most an eighth more, in few distinct sizes."""
    if nbytes <= 256:
        return 256
    step = max(256, 1 << (nbytes - 1).bit_length() - 4)
    return -(-nbytes // step) * step


class CachingAllocator:
    """Allocates through a device, and keeps what is freed.

    Args:
        allocate: makes an Allocation of so many bytes; raises OutOfMemoryError.
        release: gives an Allocation back to the system.
        synchronize: waits until no command uses freed memory any more.
        keep_bytes: how much freed memory to keep at most; the least recently freed goes first.
    """

    def __init__(
        self,
        allocate: Callable[[int], Allocation],
        release: Callable[[Allocation], None],
        synchronize: Callable[[], None],
        keep_bytes: int,
    ) -> None:
        self.keep_bytes = keep_bytes
        self.used_bytes = 0
        self.kept_bytes = 0
        self.peak_bytes = 0
        self._allocate = allocate
        self._release = release
        self._synchronize = synchronize
        self._lock = threading.RLock()
        # Finalizers run at any moment, even inside our own methods: they only append here.
        self._returned: deque[Allocation] = deque()
        # Kept allocations in the order they were freed, and by size the same, newest last.
        self._kept: OrderedDict[int, Allocation] = OrderedDict()
        self._by_size: dict[int, list[Allocation]] = {}

    def allocate(self, nbytes: int) -> Allocation:
        """Memory for `nbytes` bytes, with unspecified content.

        Raises OutOfMemoryError where there is not so much; everything else stays usable.
        """
        if nbytes < 0:
            raise ArgumentError(f"[allocate] {nbytes} bytes; a size cannot be negative")
        size = size_class(nbytes)
        if 0 < len(self._returned) <= _FEW:
            # What was freed last often fits, is in a cache, and still counts as used.
            try:
                last = self._returned.pop()
            except IndexError:  # another thread took it
                pass
            else:
                if last.nbytes == size:
                    return last
                self._returned.append(last)
        with self._lock:
            self._collect()
            same = self._by_size.get(size)
            if same:
                allocation = same.pop()  # the newest: most likely still in a cache
                del self._kept[id(allocation)]
                self.kept_bytes -= size
            else:
                allocation = self._allocate_new(size)
            self.used_bytes += size
            self.peak_bytes = max(self.peak_bytes, self.used_bytes)
            return allocation

    def free(self, allocation: Allocation) -> None:
        """Hand memory back. May be called from finalizers, on any thread, in any state."""
        self._returned.append(allocation)

    def release_kept(self, down_to: int = 0) -> int:
        """Give kept memory back to the system until `down_to` bytes are kept. Returns the bytes."""
        with self._lock:
            self._collect(trim=False)
            return self._trim(down_to)

    def _allocate_new(self, size: int) -> Allocation:
        try:
            return self._allocate(size)
        except OutOfMemoryError as error:
            if not self._trim(0):
                raise OutOfMemoryError(f"{error}; {self._summary()}") from error
        try:
            return self._allocate(size)
        except OutOfMemoryError as error:
            raise OutOfMemoryError(f"{error}; {self._summary()}") from error

    def _summary(self) -> str:
        return f"{self.used_bytes} bytes are in use by tensors; free some, or use smaller ones"

    def _collect(self, trim: bool = True) -> None:
        while self._returned:
            allocation = self._returned.popleft()
            self.used_bytes -= allocation.nbytes
            self.kept_bytes += allocation.nbytes
            self._kept[id(allocation)] = allocation
            self._by_size.setdefault(allocation.nbytes, []).append(allocation)
        if trim and self.kept_bytes > self.keep_bytes:
            # Some room below the bound, so that not every call has to trim and to wait.
            self._trim(self.keep_bytes * 3 // 4)

    def _trim(self, down_to: int) -> int:
        released = 0
        if self.kept_bytes > down_to:
            self._synchronize()
        while self.kept_bytes > down_to and self._kept:
            _, allocation = self._kept.popitem(last=False)
            same = self._by_size[allocation.nbytes]
            same.remove(allocation)
            if not same:
                del self._by_size[allocation.nbytes]
            self.kept_bytes -= allocation.nbytes
            released += allocation.nbytes
            self._release(allocation)
        return released
