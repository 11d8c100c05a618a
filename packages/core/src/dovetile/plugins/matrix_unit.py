"""Matrix units: instructions that multiply two small matrices and add the product to a third.

A target declares those it has as a table of `MatrixUnit` values. An operand of the instruction is a
fragment: the lanes of one vector value. A REDUCE whose arg is a unit sums up products for whole
fragments; the program's MATMUL is the instruction itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from dovetile.errors import PluginError


@dataclass(frozen=True)
class MatrixUnit:
    """C[rows, columns] += A[rows, depth] @ B[depth, columns].

    The lanes of A are its elements row by row. Those of B go by groups of `group` steps of the sum:
    [depth / group][columns][group], as hardware wants the terms of a sum side by side. Those of C
    are row by row. A dot-product instruction is a unit of one row, its C an ordinary vector.

    A unit may take subnormal operands as zero, and adds up the products of one instruction in an
    order, and with roundings in between, of its own.
    """

    name: str
    """The instruction, as the renderers of the target know it."""
    rows: int
    columns: int
    depth: int
    a: str
    """Names of the dtypes of A's elements, of B's, and of C's."""
    b: str
    accumulator: str
    group: int = 1
    registers: int = 0
    """Registers of its own that hold fragments; 0: they are ordinary vectors, and so is C, which
    any other operation may use. From registers of its own C only goes to memory."""
    cycles: float = 1.0
    """From the start of one to that of the next on a worker (cost model)."""
    rounds: bool = False
    """Whether it takes fewer digits of its operands than these have: it is used only on request."""

    def __str__(self) -> str:
        return f"{self.name} ({self.rows}x{self.columns}x{self.depth})"

    def __post_init__(self) -> None:
        sizes = (self.rows, self.columns, self.depth, self.group)
        if any(n < 1 or n & (n - 1) for n in sizes) or self.depth % self.group:
            raise PluginError(
                f"[MatrixUnit] {self.name}: rows, columns, depth, group = {sizes}; each must be a "
                "power of two, and group divide depth"
            )
        if not self.registers and self.rows != 1:
            raise PluginError(
                f"[MatrixUnit] {self.name}: {self.rows} rows in ordinary vectors; without "
                "registers of its own a unit has one row"
            )


@dataclass(frozen=True)
class GroupUnit(MatrixUnit):
    """A unit that several threads of a workgroup use together, on operands in LOCAL memory.

    Operands lie there in rows of `ROW_BYTES`: those of A along its depth, one for each row, those
    of B along its depth, one for each column. Transposed operands have rows along the other axis,
    one for each step of the depth, and the further blocks of such rows behind each other. The
    pieces of `PIECE_BYTES` of row r are exchanged: piece p lies at p ^ (r % 8).

    C is spread over the threads. Its rows and columns are numbers whose digits, the most
    significant first, are parts of a thread's index or of the lane in what that thread holds:
    `row_digits` and `column_digits` have (size, kind, place), kind "thread" or "lane"; the lower
    its place, the more significant a digit of the lane is, and the less one of the thread.

    A may also be `held` by the threads, where it lies as a C of as many columns as it is deep: what
    one product has left there is an operand of the next. Then the depth may be any multiple of what
    the instruction multiplies: it is several of them.
    """

    row_digits: tuple[tuple[int, str, int], ...] = ()
    column_digits: tuple[tuple[int, str, int], ...] = ()
    a_transposed: bool = False
    b_transposed: bool = False
    transposes: bool = True
    """Whether its operands may be transposed."""
    holds: bool = False
    """Whether the threads may hold A."""
    held: bool = False
    """In a kernel: whether they do."""
    awaited: bool = False
    """In a kernel: whether a step of a loop awaits even sums that it only adds to, and what these
    are made from may be filled anew in the next step."""
    axes: tuple[int, ...] = ()
    """In a kernel: the id of each digit's axis, by its place."""

    @property
    def threads(self) -> int:
        """How many threads use it together."""
        digits = (*self.row_digits, *self.column_digits)
        return math.prod(size for size, kind, _ in digits if kind == "thread")

    @property
    def lanes(self) -> int:
        """How many elements of C each of them holds."""
        return self.rows * self.columns // self.threads

    @property
    def thread_digits(self) -> list[tuple[int, int]]:
        """(size, place) of the digits of the thread's index, the least significant first."""
        digits = (*self.row_digits, *self.column_digits)
        return sorted(
            ((n, place) for n, kind, place in digits if kind == "thread"), key=lambda d: d[1]
        )

    def __post_init__(self) -> None:
        for n, digits in ((self.rows, self.row_digits), (self.columns, self.column_digits)):
            if math.prod(size for size, _, _ in digits) != n:
                raise PluginError(f"[MatrixUnit] {self.name}: digits {digits} do not make up {n}")


ROW_BYTES, PIECE_BYTES = 128, 16
