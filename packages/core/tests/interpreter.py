"""Runs linear programs on NumPy arrays, one operation at a time: what the compiler's passes are
tested with, without any backend. Every access is checked against its buffer."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, lru_cache

import numpy as np

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.ir.ops import AddressSpace, Box, Op
from dovetile.ir.uop import UOp
from dovetile.lower.linear import LinearKernel, buffer_of
from dovetile.plugins.matrix_unit import PIECE_BYTES, ROW_BYTES, GroupUnit, MatrixUnit

Value = np.ndarray | int
"""Single indices are ints."""


def run(kernel: LinearKernel, arrays: Sequence[np.ndarray], parts: Sequence[int] = ()) -> None:
    """Executes all parts of a kernel (in the order of `parts`); writes to its arrays.

    arrays: one-dimensional, by slot. Raises IndexError for an access outside of a buffer.
    """
    slots = {b.arg.slot: a for b, a in zip(kernel.buffers, arrays, strict=True)}
    with np.errstate(all="ignore"):
        for part in parts or range(kernel.parts):
            _workgroup(kernel, slots, part)


def _workgroup(kernel: LinearKernel, slots: dict[int, np.ndarray], part: int) -> None:
    """All threads of a group: each runs on to the next place where they meet, in an order of its
    own, so that what one reads too early is missing."""
    # Unwritten scratch memory holds anything: NaN where it is read as float.
    scratch = np.full(kernel.local_bytes, 255, np.uint8)
    boxes = _Boxes()
    runs = [_Run(kernel, slots, part, thread, scratch, boxes) for thread in range(kernel.threads)]
    steps = [run.block(0, len(kernel.uops)) for run in runs]
    backwards = False
    while True:
        order = reversed(range(len(runs))) if backwards else range(len(runs))
        met = {thread: next(steps[thread], None) for thread in order}
        backwards = not backwards
        node = met[0]
        assert all(other is node for other in met.values()), "threads meet at different places"
        if node is None:
            return
        if node.op is Op.WAIT:
            place, turn = (runs[0].values[s] for s in node.src[:2])
            boxes.wait(int(place), int(turn))
        if node.op is Op.BARRIER and backwards:
            for run in runs:  # asynchronous stores may be done early as well
                run.complete(0)
        if node.op is Op.MATMUL:
            for first in range(0, len(runs), node.arg.threads):
                _multiply(node, runs[first : first + node.arg.threads])
        if node.op is Op.SHUFFLE:
            values = [run.values[node.src[0]] for run in runs]
            for thread, run in enumerate(runs):
                run.values[node] = values[thread ^ node.arg]


@cache
def host(dtype: DType) -> np.dtype:
    """The NumPy type of one lane."""
    return np.dtype(np.int64) if dtype.name == "index" else dtypes.to_numpy(dtype.scalar)


def _multiply(node: UOp, runs: list[_Run]) -> None:
    """A MATMUL of several threads, by its definition."""
    unit = node.arg
    if unit.held:
        a = _held(unit, [run.values[node.src[0]] for run in runs])
    else:
        a = _panel(runs[0], node.src[0], unit.rows, unit.depth, unit.a_transposed)
    b = _panel(runs[0], node.src[1], unit.columns, unit.depth, unit.b_transposed)
    product = a.astype(np.float32) @ b.astype(np.float32).T
    for thread, run in enumerate(runs):
        result = np.array(run.values[node.src[2]], np.float32)
        rows, columns = _elements(unit, thread, result.size)
        run.values[node] = result + product[rows, columns]


def _held(unit: GroupUnit, values: list[np.ndarray]) -> np.ndarray:
    """(rows, depth): what the threads hold."""
    a = np.zeros((unit.rows, unit.depth), values[0].dtype)
    outer = (unit.depth // math.prod(n for n, _, _ in unit.column_digits[1:]), "lane", 0)
    unit = replace(unit, columns=unit.depth, column_digits=(outer, *unit.column_digits[1:]))
    for thread, value in enumerate(values):
        a[_elements(unit, thread, value.size)] = value
    return a


@lru_cache(maxsize=1024)
def _elements(unit: GroupUnit, thread: int, count: int) -> tuple[list[int], list[int]]:
    """The rows and columns of C that the lanes of a thread are."""
    digits = [*unit.row_digits, *unit.column_digits]
    lanes = sorted(((place, n) for n, kind, place in digits if kind == "lane"))
    at, rest = {}, thread
    for n, place in unit.thread_digits:
        at[place], rest = rest % n, rest // n
    rows, columns = [], []
    for lane in range(count):
        rest = lane
        for place, n in reversed(lanes):
            at[place], rest = rest % n, rest // n
        rows.append(_digits(unit.row_digits, at))
        columns.append(_digits(unit.column_digits, at))
    return rows, columns


def _digits(digits: Sequence[tuple[int, str, int]], at: dict[int, int]) -> int:
    value = 0
    for n, _, place in digits:
        value = value * n + at[place]
    return value


def _box(memory: np.ndarray, box: Box, starts: list[int]) -> np.ndarray:
    """The elements of a box in the order of LOCAL memory; zero outside of the array."""
    grid = np.meshgrid(*(s + np.arange(n) for s, n in zip(starts, box.sizes)), indexing="ij")
    inside = np.all([(i >= 0) & (i < n) for i, n in zip(grid, box.extents)], axis=0)
    places = sum(i * stride for i, stride in zip(grid, box.strides))
    values = np.where(inside, memory[np.where(inside, places, 0)], 0).ravel(order="F")
    if box.exchanged:
        row, piece = ROW_BYTES // memory.itemsize, PIECE_BYTES // memory.itemsize
        i = np.arange(values.size)
        values = values[i ^ (i // row % (row // piece) * piece)]
    return values


def _panel(run: _Run, address: UOp, count: int, depth: int, transposed: bool) -> np.ndarray:
    """(count, depth): an operand, read from LOCAL memory as the unit does."""
    memory, start = run.memory[buffer_of(address)], int(run.values[address])
    row, piece = ROW_BYTES // memory.itemsize, PIECE_BYTES // memory.itemsize
    i, k = np.mgrid[:count, :depth]
    if transposed:
        place = start + i // row * max(row, depth) * row + k * row + i % row
    else:
        place = start + k // row * count * row + i * row + k % row
    # Pieces are exchanged within the rows of memory, wherever the panel begins.
    return memory[place ^ (place // row % (row // piece) * piece)]


class _Boxes:
    """What a workgroup fetches: it is there as soon as somebody waits for it, and no sooner."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.rounds: dict[int, int] = {}
        self.begun: dict[int, list[tuple]] = {}

    def wait(self, place: int, turn: int) -> None:
        begun = self.begun.pop(place)
        assert len(begun) == self.counts[place], "not all that arrives was begun"
        assert self.rounds[place] == turn
        self.rounds[place] += 1
        for memory, start, box in begun:
            memory[start : start + box.size] = box


class _Run:
    def __init__(
        self, kernel: LinearKernel, slots: dict[int, np.ndarray], part: int, thread: int,
        scratch: np.ndarray, boxes: _Boxes,
    ) -> None:  # fmt: skip
        self.uops = kernel.uops
        self.slots, self.scratch = slots, scratch
        self.pending: list[list[tuple]] = [[]]
        self.boxes = boxes
        self.indices = {"part": part, "group": part, "local": thread}
        self.memory: dict[UOp, np.ndarray] = {}
        self.values: dict[UOp, Value] = {}
        self.ends: dict[UOp, int] = {n.src[1]: i for i, n in enumerate(self.uops) if n.op is Op.END}

    def block(self, first: int, last: int) -> Iterator[UOp]:
        """Runs these operations; yields where all threads must meet."""
        i = first
        while i < last:
            node = self.uops[i]
            if node.op is Op.RANGE:
                end = self.ends[node]
                for counter in range(int(self.values[node.src[0]])):
                    self.values[node] = counter
                    yield from self.block(i + 1, end)
                i = end + 1
                continue
            waits = node.op is Op.WAIT and node.arg is None
            if waits or node.op in (Op.BARRIER, Op.SHUFFLE) or isinstance(node.arg, GroupUnit):
                yield node
            else:
                self.execute(node)
            i += 1

    def execute(self, node: UOp) -> None:
        op, src = node.op, node.src
        if op is Op.BUFFER:
            self.memory[node] = self.buffer(node)
        elif op is Op.CONST:
            index = node.dtype is dtypes.index and type(node.arg) is int
            self.values[node] = node.arg if index else np.asarray(node.arg).astype(host(node.dtype))
        elif op is Op.SPECIAL:
            self.values[node] = self.indices[node.arg]
        elif op is Op.INDEX:
            self.values[node] = self.values[src[1]]
        elif op is Op.LOAD:
            self.values[node] = self.load(node)
        elif op is Op.STORE and node.arg == "async":
            self.pending[-1].append(self.written(node))
        elif op is Op.STORE and node.arg == "arrivals":
            if len(src) == 2 or self.values[src[2]]:
                self.boxes.counts[int(self.values[src[0]])] = int(self.values[src[1]])
                self.boxes.rounds[int(self.values[src[0]])] = 0
        elif op is Op.FETCH:
            if self.values[src[2]]:
                place, starts = int(self.values[src[1]]), [int(self.values[s]) for s in src[4:]]
                memory, start = self.memory[buffer_of(src[0])], int(self.values[src[0]])
                box = _box(self.memory[src[3]], node.arg, starts)
                self.boxes.begun.setdefault(place, []).append((memory, start, box))
        elif op is Op.STORE:
            memory, places, value = self.written(node)
            memory[places] = value
        elif op is Op.COMMIT:
            self.pending.append([])
        elif op is Op.WAIT:
            self.complete(node.arg)
        elif op not in (Op.AFTER, Op.GROUP, Op.SINK, Op.END):
            value = compute(node, [self.values[s] for s in src])
            self.values[node] = int(value) if node.dtype is dtypes.index else value

    def complete(self, left: int) -> None:
        """Does all asynchronous stores but those of the last `left` groups."""
        while len(self.pending) - 1 > left:
            for memory, places, value in self.pending.pop(0):
                memory[places] = value

    def buffer(self, node: UOp) -> np.ndarray:
        count, dtype = node.arg.size * node.dtype.lanes, host(node.dtype)
        if node.arg.space is AddressSpace.GLOBAL:
            array = self.slots[node.arg.slot]
            assert array.shape == (count,) and array.dtype == dtype
            return array
        if node.arg.space is AddressSpace.LOCAL:
            start = node.arg.slot
            return self.scratch[start : start + count * dtype.itemsize].view(dtype)
        if node not in self.memory:
            self.memory[node] = np.zeros(count, dtype)
        return self.memory[node]

    def places(self, address: UOp, lanes: int, gate: np.ndarray | None) -> np.ndarray | int | slice:
        position = self.values[address]
        if type(position) is int and gate is None:
            if not 0 <= position <= self.memory[buffer_of(address)].size - lanes:
                raise IndexError(f"elements {position} of {buffer_of(address)}")
            return position if lanes == 1 else slice(position, position + lanes)
        position = np.asarray(position)
        if position.ndim == 0 and lanes > 1:
            position = position + np.arange(lanes)
        size = self.memory[buffer_of(address)].size
        inside = (position >= 0) & (position < size)
        if gate is not None:
            inside |= ~gate
        if not inside.all():
            raise IndexError(f"elements {position} of {buffer_of(address)}")
        return np.where((position >= 0) & (position < size), position, 0)

    def load(self, node: UOp) -> np.ndarray:
        address, rest = node.src[0], node.src[1:]
        gate = np.asarray(self.values[rest[1]], bool) if rest else None
        places = self.places(address, node.dtype.lanes, gate)
        value = self.memory[buffer_of(address)][places]
        if type(places) is slice:
            return value.copy()  # not what is stored there later
        return value if gate is None else np.where(gate, value, self.values[rest[0]])

    def written(self, node: UOp) -> tuple[np.ndarray, np.ndarray | int | slice, np.ndarray]:
        """(memory, places there, values) of a STORE."""
        address, value, rest = node.src[0], np.asarray(self.values[node.src[1]]), node.src[2:]
        gate = np.asarray(self.values[rest[0]], bool) if rest else None
        places = self.places(address, node.src[1].dtype.lanes, gate)
        memory = self.memory[buffer_of(address)]
        if gate is None:
            return memory, places, value
        places, value, gate = np.broadcast_arrays(places, value, gate)
        return memory, places[gate], value[gate]


def compute(node: UOp, values: list[Value]) -> Value:
    """The value of an elementwise operation, a VECTOR or an EXTRACT."""
    op = node.op
    if node.dtype is dtypes.index and op in _ON_INDICES and all(type(v) is int for v in values):
        return _ON_INDICES[op](*values)
    dtype = host(node.dtype)
    if op is Op.VECTOR:
        lanes = node.dtype.lanes
        if len(values) == 1:
            return np.full(lanes, values[0])
        return np.concatenate([np.atleast_1d(v) for v in values]).astype(dtype)
    if op is Op.MATMUL:
        return _matmul(node.arg, *values)
    if op is Op.EXTRACT:
        picked = values[0][list(node.arg)]
        return picked if node.dtype.lanes > 1 else picked[0]
    if op is Op.CAST:
        return np.asarray(values[0]).astype(dtype)
    if op is Op.BITCAST:
        return np.asarray(values[0]).view(dtype)
    if op in (Op.FLOORDIV, Op.FLOORMOD):
        function = np.floor_divide if op is Op.FLOORDIV else np.mod
        zero = values[1] == 0
        return np.where(zero, 0, function(values[0], np.where(zero, 1, values[1]))).astype(dtype)
    if op is Op.MULACC:  # double precision rounds once, as nearly as these tests can tell
        wide = np.float64 if dtype.kind == "f" else dtype
        x, y, z = (np.asarray(v).astype(wide) for v in values)
        return (x * y + z).astype(dtype)
    return np.asarray(_FUNCTIONS[op](*values)).astype(dtype)


def _matmul(unit: MatrixUnit, a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """The unit's three fragments as matrices; C, flat again."""
    a = a.reshape(unit.rows, unit.depth).astype(c.dtype)
    b = b.reshape(unit.depth // unit.group, unit.columns, unit.group).astype(c.dtype)
    b = b.transpose(0, 2, 1).reshape(unit.depth, unit.columns)
    return (a @ b + c.reshape(unit.rows, unit.columns)).reshape(-1)


# Single indices are most of what there is to compute, and Python's own numbers are the fastest.
_ON_INDICES = {
    Op.ADD: operator.add,
    Op.SUB: operator.sub,
    Op.MUL: operator.mul,
    Op.MAX: max,
    Op.MIN: min,
    Op.FLOORDIV: lambda a, b: a // b if b else 0,
    Op.FLOORMOD: lambda a, b: a % b if b else 0,
}

_FUNCTIONS = {
    Op.ADD: np.add,
    Op.SUB: np.subtract,
    Op.MUL: np.multiply,
    Op.DIV: np.divide,
    Op.MAX: np.maximum,
    Op.MIN: np.minimum,
    Op.LT: np.less,
    Op.NE: np.not_equal,
    Op.AND: np.bitwise_and,
    Op.OR: np.bitwise_or,
    Op.XOR: np.bitwise_xor,
    Op.SHL: np.left_shift,
    Op.SHR: np.right_shift,
    Op.WHERE: np.where,
    Op.SQRT: np.sqrt,
    Op.TRUNC: np.trunc,
    Op.EXP2: np.exp2,
    Op.LOG2: np.log2,
    Op.SIN: np.sin,
}
