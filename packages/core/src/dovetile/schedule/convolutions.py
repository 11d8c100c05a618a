"""Which sums of products are convolutions: seen in how their loops read the two factors.

A graph says it in many ways: as windows over padded data, or, where it is the gradient of that, as
products that are padded, flipped and then addressed. The loops read the same in all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from dovetile import dtypes
from dovetile.ir.ops import MOVEMENT, AxisKind, Op
from dovetile.ir.symbolic import linear_form
from dovetile.ir.uop import UOp
from dovetile.optimize.analysis import size
from dovetile.schedule.place import is_memory
from dovetile.schedule.ranges import Gate, Indices, RangeBuilder


@dataclass(frozen=True)
class Window:
    """An axis of the data along which windows slide.

    place, within: the loops over places and within a window, which has element place * step +
    within + first; backwards: whether the weights' axis (`weight`) is read from its end.
    """

    axis: int
    place: UOp
    within: UOp
    first: int
    weight: int
    backwards: bool
    step: int = 1

    @property
    def places(self) -> int:
        return size(self.place)

    @property
    def length(self) -> int:
        return size(self.within)


@dataclass(frozen=True)
class Convolution:
    """A sum of products of data and weights.

    kept: the loops over the result's axes that are longer than 1. plain: for each of the other axes
    of the data its loop; of_weights: the same for the weights. channels: the summed ones.
    """

    node: UOp
    data: UOp
    weights: UOp
    kept: tuple[UOp, ...]
    windows: tuple[Window, ...]
    plain: dict[UOp, int]
    of_weights: dict[UOp, int]

    @property
    def channels(self) -> list[UOp]:
        return [r for r in self.plain if r in self.of_weights]

    @property
    def batch(self) -> list[UOp]:
        return [r for r in self.plain if r not in self.of_weights]

    @property
    def outputs(self) -> list[UOp]:
        return [r for r in self.of_weights if r not in self.plain]


# What float32 has all values of.
_EXACT = frozenset({dtypes.float32, dtypes.float16, dtypes.bfloat16})


class _Operands(RangeBuilder):
    """Follows the loops of a sum down to its factors, and notes how their axes are read."""

    def __init__(self, factors: Sequence[UOp]) -> None:
        super().__init__({f: UOp.buffer(f.size, f.dtype, None) for f in factors})
        self.indices: dict[UOp, Indices] = {}
        self.outside: set[UOp] = set()
        self.inside: dict[UOp, set[UOp]] = {}

    def _read(self, node: UOp, buffer: UOp, indices: Indices, gate: Gate, state: UOp | None) -> UOp:
        self.indices[node] = indices
        self.outside |= gate
        self.inside[node] = set()
        for i, n in zip(indices, node.shape):
            self.inside[node] |= self._inside(i, n)
        return buffer.index(self.place(node.shape, indices, None)).load()


def _source(factor: UOp) -> UOp:
    """What a factor's elements are read from, with the axes that it has there."""
    while not is_memory(factor) and (
        factor.op in MOVEMENT
        or factor.op is Op.INDEX
        or factor.op is Op.CAST
        and factor.dtype is dtypes.float32
        and factor.src[0].dtype in _EXACT
    ):
        factor = factor.src[0]
    return factor


def convolution_of(node: UOp) -> Convolution | None:
    """A sum in float32 over windows and over channels, if this is one."""
    if node.arg[0] is not Op.ADD or node.dtype is not dtypes.float32 or node.arg[1] < 2:
        return None
    product = _source(node.src[0])
    if product.op is not Op.MUL:
        return None
    factors = [_source(s) for s in product.src]
    if factors[0] is factors[1] or any(f.dtype not in _EXACT for f in factors):
        return None
    reader = _Operands(factors)
    outer = tuple(reader.loop(n, AxisKind.LOOP) for n in node.shape)
    reader.value(node, outer)
    if set(reader.indices) != set(factors) or reader.checks:
        return None
    kept = tuple(r for r in outer if r.op is Op.RANGE)
    for data, weights in (factors, factors[::-1]):
        # Beyond the edges of the data, and nowhere else, there are zeros.
        if reader.inside[weights] or reader.outside != reader.inside[data]:
            continue
        found = _read_as(node, data, weights, kept, reader)
        if found is not None:
            return found
    return None


def _read_as(
    node: UOp, data: UOp, weights: UOp, kept: tuple[UOp, ...], reader: _Operands
) -> Convolution | None:
    """The convolution of these factors; None where an axis of one is read otherwise."""
    of_weights: dict[UOp, tuple[int, bool]] = {}
    for axis, index in enumerate(reader.indices[weights]):
        terms, first = linear_form(index)
        if not terms and weights.shape[axis] == 1:
            continue
        if len(terms) != 1:
            return None
        ((r, step),) = terms.items()
        n = weights.shape[axis]
        if r.op is not Op.RANGE or size(r) != n or r in of_weights:
            return None
        if (step, first) not in ((1, 0), (-1, n - 1)):
            return None
        of_weights[r] = axis, step < 0
    windows: list[Window] = []
    plain: dict[UOp, int] = {}
    for axis, index in enumerate(reader.indices[data]):
        terms, first = linear_form(index)
        ranges = list(terms)
        if any(r.op is not Op.RANGE for r in ranges):
            return None
        if len(ranges) == 2:
            if ranges[0] not in kept:
                ranges.reverse()
            place, within = ranges
            if place not in kept or within in kept or within not in of_weights:
                return None
            if terms[place] < 1 or abs(terms[within]) != 1 or place in of_weights:
                return None
            weight, backwards = of_weights.pop(within)
            if terms[within] < 0:
                first, backwards = first - size(within) + 1, not backwards
            windows.append(Window(axis, place, within, first, weight, backwards, terms[place]))
        elif len(ranges) == 1:
            (r,) = ranges
            if terms[r] != 1 or first or size(r) != data.shape[axis] or r in plain:
                return None
            plain[r] = axis
        elif data.shape[axis] != 1:
            return None
    if any(backwards for _, backwards in of_weights.values()) or not windows:
        return None
    found = Convolution(
        node, data, weights, kept, tuple(windows), plain, {r: x for r, (x, _) in of_weights.items()}
    )
    used = {w.place for w in windows} | {*found.batch, *found.outputs}
    summed = all(r not in kept for r in found.channels)
    whole = used == set(kept) and summed and len(found.channels) == 1 == len(found.outputs)
    return found if whole else None
