"""A kernel as renderers receive it: program-level operations in the order of execution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from dovetile import dtypes
from dovetile.ir.ops import AddressSpace, Op
from dovetile.ir.uop import UOp


@dataclass(frozen=True)
class LinearKernel:
    """One kernel, ready to be written as text. Every node of `uops` follows its sources.

    Signed FLOORDIV and FLOORMOD have a dividend that is not negative and a positive divisor;
    everything else has been decomposed.
    """

    name: str
    """Name of the compiled function."""
    uops: tuple[UOp, ...]
    """Nodes in order of execution; a RANGE begins a loop, its END closes it."""
    buffers: tuple[UOp, ...]
    """The GLOBAL BUFFERs, in order of their slots: the pointer arguments."""
    variables: tuple[UOp, ...] = ()
    """The VARIABLEs in order of their names: the integer arguments."""
    parts: int = 1
    """How many workgroups, or parts of a THREAD axis, the kernel is launched with."""
    threads: int = 1
    """Threads of each workgroup."""
    local_bytes: int = 0
    """Bytes of LOCAL memory that one call uses."""
    written: frozenset[int] = frozenset()
    """Slots of the GLOBAL buffers that are stored to."""
    steady: frozenset[int] = frozenset()
    """Slots of those that no launch writes which may still go on when this one begins."""
    changing: frozenset[int] = frozenset()
    """Slots of those that are read and that others may write until the barrier "launch"."""

    @staticmethod
    def of(name: str, uops: Sequence[UOp], steady: frozenset[int] = frozenset()) -> LinearKernel:
        """The kernel of these operations, with everything else read off them."""
        buffers: dict[int, UOp] = {}
        variables: dict[str, UOp] = {}
        written: set[int] = set()
        parts, threads, local_bytes = 1, 1, 0
        for node in uops:
            if node.op is Op.BUFFER:
                if node.arg.space is AddressSpace.GLOBAL:
                    buffers[node.arg.slot] = node
                elif node.arg.space is AddressSpace.LOCAL:
                    local_bytes = max(local_bytes, local_end(node))
            elif node.op is Op.VARIABLE:
                variables[node.arg.name] = node
            elif node.op is Op.SPECIAL and node.arg == "local":
                threads = int(node.src[0].maximum)
            elif node.op is Op.SPECIAL:
                parts = int(node.src[0].maximum)
            elif node.op is Op.STORE:
                target = buffer_of(node.src[0])
                if target.arg.space is AddressSpace.GLOBAL:
                    written.add(target.arg.slot)
        return LinearKernel(
            name,
            tuple(uops),
            tuple(buffers[slot] for slot in sorted(buffers)),
            tuple(variables[key] for key in sorted(variables)),
            parts,
            threads,
            local_bytes,
            frozenset(written),
            steady,
        )


def local_end(buffer: UOp) -> int:
    """The byte of LOCAL memory at which a buffer there ends."""
    return buffer.arg.slot + buffer.arg.size * buffer.dtype.itemsize * buffer.dtype.lanes


def plain(value: UOp) -> UOp:
    """A LOAD of memory that holds the alternative where the gate is false, as one without gate."""
    known = value.op is Op.LOAD and value.arg == "held"
    return value.src[0].load(dtype=value.dtype) if known else value


def reads_memory(value: UOp) -> bool:
    """Whether this is a LOAD whose address may be read whatever its gate says."""
    return value.op is Op.LOAD and (len(value.src) == 1 or value.arg == "held")


def buffer_of(address: UOp) -> UOp:
    """The BUFFER that an INDEX (or AFTER) at program level points into."""
    while address.op is not Op.BUFFER:
        address = address.src[0]
    return address


def barrier(*effects: UOp) -> UOp:
    """All threads of the workgroup have done these."""
    return UOp(Op.BARRIER, dtypes.void, effects, "workgroup")


def is_behind_values(node: UOp) -> bool:
    """Whether this is a barrier that threads come to with values: what these were read from may be
    filled anew."""
    kept = (s for s in node.src if s.dtype is not dtypes.void and s.op is not Op.RANGE)
    return node.op is Op.BARRIER and any(kept)


def known_divisor(node: UOp, known: dict[UOp, int]) -> int:
    """A power of two up to 64 that divides the integer `node` whatever its variables are.

    `known` remembers the answers for one kernel; sources are asked for with a bounded depth, since
    the answer only serves to state alignments.
    """
    return _divisor(node, known, 24)


def _divisor(node: UOp, known: dict[UOp, int], depth: int) -> int:
    found = known.get(node)
    if found is not None:
        return found
    op, src = node.op, node.src
    result = 1
    if op is Op.CONST:
        result = math.gcd(int(node.arg), 64)
    elif depth == 0:
        return 1
    elif op in (Op.ADD, Op.XOR, Op.FLOORMOD, Op.MIN, Op.MAX):
        result = math.gcd(_divisor(src[0], known, depth - 1), _divisor(src[1], known, depth - 1))
    elif op is Op.MUL:
        product = _divisor(src[0], known, depth - 1) * _divisor(src[1], known, depth - 1)
        result = min(product, 64)
    elif op is Op.FLOORDIV and src[1].op is Op.CONST:
        dividend = _divisor(src[0], known, depth - 1)
        result = dividend // src[1].arg if src[1].arg > 0 and dividend % src[1].arg == 0 else 1
    elif op is Op.SHL and src[1].op is Op.CONST:
        result = min(_divisor(src[0], known, depth - 1) << min(src[1].arg, 6), 64)
    known[node] = result
    return result
