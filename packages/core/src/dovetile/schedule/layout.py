"""How the elements of a held value lie in memory.

`order` and `blocks` choose layouts; without one a value is row-major.
"""

from __future__ import annotations

from typing import NamedTuple, TypeVar

from dovetile.ir.uop import UOp

T = TypeVar("T")


class Layout(NamedTuple):
    """The axes of a value in this order, outermost first; of one, blocks of `width` elements lie
    innermost of all. That axis is two: its blocks, in its place, and the elements of a block."""

    order: tuple[int, ...]
    axis: int = 0
    width: int = 1

    @staticmethod
    def blocks(rank: int, axis: int, width: int) -> Layout:
        """Row-major, but for blocks of one axis."""
        return Layout(tuple(range(rank)), axis, width)

    @property
    def is_order(self) -> bool:
        """Whether the axes lie whole: blocks of the innermost one follow each other."""
        return self.width == 1 or self.order[-1] == self.axis

    def parts(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """A shape with that axis as two, the second behind the first."""
        if self.width == 1:
            return shape
        i = self.axis
        return (*shape[:i], shape[i] // self.width, self.width, *shape[i + 1 :])

    def in_memory(self, values: tuple[T, ...]) -> tuple[T, ...]:
        """Something of each part, in the order of memory."""
        return tuple([values[i] for i in self._places()])

    def from_memory(self, values: tuple[T, ...]) -> tuple[T, ...]:
        """The inverse of `in_memory`."""
        found = dict(zip(self._places(), values))
        return tuple([found[i] for i in range(len(values))])

    def applied(self, node: UOp) -> UOp:
        """A node which is row-major as this one is in this layout."""
        parts = node.reshape(self.parts(node.shape))
        return parts.permute(self.in_memory(tuple(range(len(parts.shape)))))

    def _places(self) -> tuple[int, ...]:
        """The numbers of the parts in the order of memory."""
        if self.width == 1:
            return self.order
        return (*(i + (i > self.axis) for i in self.order), self.axis + 1)
