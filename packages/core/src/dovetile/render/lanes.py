"""Vectors as their lanes, for languages and processors whose arithmetic is scalar.

What is left of vectors are whole accesses to memory: a LOAD of which every lane is an EXTRACT, and
a STORE of a VECTOR of scalars, never wider than the target's widest access nor than its address is
aligned.
"""

from __future__ import annotations

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.ir.ops import ELEMENTWISE, AddressSpace, Op
from dovetile.ir.uop import UOp
from dovetile.lower.linear import LinearKernel, buffer_of, known_divisor
from dovetile.lower.linearize import linearize


def in_lanes(kernel: LinearKernel, access_bytes: int, alignment: int) -> LinearKernel:
    """The kernel without vector arithmetic.

    Args:
        access_bytes: the widest access to memory, a power of two.
        alignment: what the start of every GLOBAL buffer is a multiple of, in bytes.
    """
    if not any(node.dtype.lanes > 1 for node in kernel.uops):
        return kernel
    lanes = _Lanes(access_bytes, alignment)
    for node in kernel.uops:
        lanes.take(node)
    return LinearKernel.of(kernel.name, linearize(lanes.whole[kernel.uops[-1]]), kernel.steady)


class _Lanes:
    """The graph as it is rebuilt, sources first."""

    def __init__(self, access_bytes: int, alignment: int) -> None:
        self.access_bytes = access_bytes
        self.alignment = alignment
        self.whole: dict[UOp, UOp] = {}
        """What has become of scalars, memory and effects."""
        self.lanes: dict[UOp, list[UOp]] = {}
        """What has become of vectors."""
        self.divisors: dict[UOp, int] = {}

    def take(self, node: UOp) -> None:
        op = node.op
        if op is Op.BUFFER:
            self.whole[node] = _of_scalars(node)
        elif op is Op.AFTER and node.src[0] in self.whole:
            memory = self.whole[node.src[0]]
            effects = tuple(self.whole[s] for s in node.src[1:])
            self.whole[node] = UOp(op, memory.dtype, (memory, *effects), node.arg)
        elif op is Op.INDEX:
            self._index(node)
        elif op is Op.LOAD and node.dtype.lanes > 1:
            self.lanes[node] = self._load(node)
        elif op is Op.STORE and node.src[1].dtype.lanes > 1:
            self.whole[node] = self._store(node)
        elif op is Op.EXTRACT:
            picked = [self.lanes[node.src[0]][lane] for lane in node.arg]
            self._put(node, picked)
        elif node.dtype.lanes > 1:
            self.lanes[node] = self._vector(node)
        else:
            self.whole[node] = node.with_sources(tuple(self._joined(s) for s in node.src))

    def _put(self, node: UOp, lanes: list[UOp]) -> None:
        if node.dtype.lanes == 1:
            self.whole[node] = lanes[0]
        else:
            self.lanes[node] = lanes

    def _each(self, node: UOp, count: int) -> list[UOp]:
        """The lanes of a vector, or a scalar as often."""
        return self.lanes[node] if node in self.lanes else [self.whole[node]] * count

    def _joined(self, node: UOp) -> UOp:
        """A source of what has no lanes of its own (a matrix unit): the vector of its lanes."""
        return self.whole[node] if node in self.whole else _together(self.lanes[node])

    def _vector(self, node: UOp) -> list[UOp]:
        count, scalar = node.dtype.lanes, node.dtype.scalar
        if node.op is Op.CONST:
            return [UOp(Op.CONST, scalar, (), node.arg)] * count
        if node.op is Op.VECTOR:
            if len(node.src) == 1:
                return self._each(node.src[0], count)
            return [lane for s in node.src for lane in self._each(s, 1)]
        if node.op in ELEMENTWISE or node.op in (Op.SHUFFLE, Op.AFTER):
            sources = zip(*(self._each(s, count) for s in node.src))
            return [UOp(node.op, scalar, lane, node.arg) for lane in sources]
        whole = node.with_sources(tuple(self._joined(s) for s in node.src))
        return [UOp(Op.EXTRACT, scalar, (whole,), (lane,)) for lane in range(count)]

    # -- memory ------------------------------------------------------------------------------------

    def _index(self, node: UOp) -> None:
        memory = self.whole[node.src[0]]
        width = buffer_of(node).dtype.lanes
        positions = [
            position * width if width > 1 else position for position in self._each(node.src[1], 1)
        ]
        addresses = [UOp(Op.INDEX, memory.dtype, (memory, p)) for p in positions]
        if node.src[1].dtype.lanes == 1:
            self.whole[node] = addresses[0]
        else:
            self.lanes[node] = addresses

    def _load(self, node: UOp) -> list[UOp]:
        result: list[UOp] = []
        count = node.dtype.lanes
        others = [self._each(s, count) for s in node.src[1:]]
        width = self._width(node, node.dtype)
        for start in range(0, count, width):
            address = self._address(node, start)
            if width == 1:
                sources = (address, *(other[start] for other in others))
                result.append(UOp(Op.LOAD, node.dtype.scalar, sources))
                continue
            piece = node.dtype.vec(width)
            sources = (address,)
            if others:
                alternative = UOp(Op.VECTOR, piece, tuple(others[0][start : start + width]))
                sources = (address, alternative, others[1][start])
            load = UOp(Op.LOAD, piece, sources)
            result += [
                UOp(Op.EXTRACT, node.dtype.scalar, (load,), (lane,)) for lane in range(width)
            ]
        return result

    def _store(self, node: UOp) -> UOp:
        dtype = node.src[1].dtype
        values, *gates = (self._each(s, dtype.lanes) for s in node.src[1:])
        width = self._width(node, dtype)
        if node.arg == "async":  # of what one load reads
            width = min(width, values[0].src[0].dtype.lanes if values[0].op is Op.EXTRACT else 1)
        stores = []
        for start in range(0, dtype.lanes, width):
            value = values[start]
            if width > 1:
                value = _together(values[start : start + width])
            sources = (self._address(node, start), value, *(gate[start] for gate in gates))
            stores.append(UOp(Op.STORE, dtypes.void, sources, node.arg))
        return stores[0] if len(stores) == 1 else UOp.group(*stores)

    def _address(self, access: UOp, lane: int) -> UOp:
        address = access.src[0]
        if address in self.lanes:
            return self.lanes[address][lane]
        address = self.whole[address]
        memory, position = address.src
        return UOp(Op.INDEX, address.dtype, (memory, position + lane if lane else position))

    def _width(self, access: UOp, dtype: DType) -> int:
        """How many lanes of an access are one: as many as memory and mask allow."""
        address = access.src[0]
        gate = access.src[-1] if len(access.src) > 2 else None
        masked = gate is not None and len(set(self._each(gate, 1))) > 1
        memory = buffer_of(address)
        if masked or memory.arg.space is AddressSpace.REG:
            return 1
        if address in self.lanes:
            aligned = self._stretch([a.src[1] for a in self.lanes[address]]) * dtype.itemsize
        else:
            aligned = known_divisor(self.whole[address].src[1], self.divisors) * dtype.itemsize
        start = self.alignment
        if memory.arg.space is AddressSpace.LOCAL:
            start = memory.arg.slot & -memory.arg.slot or self.access_bytes
        limit = min(aligned, start, self.access_bytes) // dtype.itemsize
        width = 1
        while 2 * width <= limit and dtype.lanes % (2 * width) == 0:
            width *= 2
        return width

    def _stretch(self, positions: list[UOp]) -> int:
        """A power of two: in so many lanes each, positions follow each other, the first of them at
        a multiple of it."""
        width = len(positions) & -len(positions)
        places = [_offset(p) for p in positions]
        while width > 1:
            starts = range(0, len(positions), width)
            if all(
                places[start + i] == (places[start][0], places[start][1] + i)
                for start in starts
                for i in range(width)
            ) and all(known_divisor(positions[s], self.divisors) % width == 0 for s in starts):
                break
            width //= 2
        return width


def _offset(position: UOp) -> tuple[UOp | None, int]:
    """(what is not known, the constant beside it)."""
    if position.op is Op.ADD and position.src[1].is_const:
        return position.src[0], position.src[1].arg
    return (None, position.arg) if position.is_const else (position, 0)


def _together(lanes: list[UOp]) -> UOp:
    """The vector of these lanes: one that has just them, if there is one."""
    whole = lanes[0].src[0] if lanes[0].op is Op.EXTRACT else None
    if whole is not None and whole.dtype.lanes == len(lanes):
        if all(
            x.op is Op.EXTRACT and x.src == (whole,) and x.arg == (i,) for i, x in enumerate(lanes)
        ):
            return whole
    return UOp(Op.VECTOR, lanes[0].dtype.vec(len(lanes)), tuple(lanes))


def _of_scalars(buffer: UOp) -> UOp:
    """A buffer of vectors as one of their lanes."""
    lanes = buffer.dtype.lanes
    if lanes == 1:
        return buffer
    size = buffer.arg.size * lanes
    return UOp(Op.BUFFER, buffer.dtype.scalar, (), buffer.arg._replace(size=size))
