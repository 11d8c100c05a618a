"""What this process has run and compiled so far, for reports and benchmarks."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass
class Counters:
    """Totals. The difference of two is what happened between them.

    kernels: launches, replayed ones included. operations: arithmetic on floats that these kernels
    state (a multiply-add counts as two). nbytes: bytes of distinct memory that they touch, each
    kernel by itself. compiled: kernels that a compiler made. from_cache: those read from disk.
    """

    kernels: int = 0
    operations: int = 0
    nbytes: int = 0
    compiled: int = 0
    from_cache: int = 0

    def add(self, other: Counters) -> None:
        """Count in what `other` counts."""
        self.kernels += other.kernels
        self.operations += other.operations
        self.nbytes += other.nbytes
        self.compiled += other.compiled
        self.from_cache += other.from_cache

    def __sub__(self, other: Counters) -> Counters:
        return Counters(*(getattr(self, f.name) - getattr(other, f.name) for f in fields(self)))


total = Counters()


def counters() -> Counters:
    """The totals of this process up to now; of two moments, their difference is the work between.

    >>> from dovetile import Tensor, counters
    >>> before = counters()
    >>> (Tensor([1.0, 2.0]) + Tensor([3.0, 4.0])).tolist()
    [4.0, 6.0]
    >>> (counters() - before).kernels
    1
    """
    return total - Counters()
