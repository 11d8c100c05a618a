"""Convolutions with fewer multiplications (Winograd, 1980; Lavin and Gray, 2015).

A window of r elements that slides over n = m + r - 1 gives m results with m * r products. Taken as
the product of two polynomials, known by their values at n points, it needs but n: of the input's
elements and the weights' the values at the points are sums with small constant factors, and so are
the results of the products. In two axes, F(4 x 4, 3 x 3) multiplies 36 times for 16 results, where
the plain sum does 144 times.

The rewrite makes of one contraction three values: the transformed input, with an axis of points for
each axis of windows; its product with the transformed weights, which is a matrix product for every
point; and the results. They are ordinary nodes, so that placing, layouts and optimising know
nothing of it. An axis of points, or of results in a tile, is a choice between sums by its counter:
copies of the loop for each value of the counter have what they share in registers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

from dovetile import dtypes
from dovetile.ir.ops import MOVEMENT, AxisKind, Op
from dovetile.ir.symbolic import linear_form
from dovetile.ir.uop import UOp, toposort
from dovetile.optimize.analysis import extent, size
from dovetile.plugins.specs import Capabilities
from dovetile.schedule.place import is_memory, storage
from dovetile.schedule.ranges import Gate, Indices, RangeBuilder

Matrix = tuple[tuple[Fraction, ...], ...]
# Few have small factors, so that little is rounded away: the order is that of Barabasz et al., 2020.
_POINTS = tuple(Fraction(p) for p in ("0", "1", "-1", "2", "-1/2", "-2", "1/2"))
# Results of a tile along an axis. More of them save little, and more is rounded away.
_TILES = (2, 4)
# Tiles that make good columns of a product.
_MANY_TILES = 16
# A convolution with fewer terms is not worth three kernels.
_LEAST_TERMS = 1 << 20
# What a contraction reaches of the operations per second that the target states.
_OF_PEAK = 0.6


@dataclass(frozen=True)
class _Window:
    """An axis of the data along which windows slide in steps of one.

    place, within: the loops over places and within a window, which has element place + within +
    first; backwards: whether the weights' axis (`weight`) is read from its end.
    """

    axis: int
    place: UOp
    within: UOp
    first: int
    weight: int
    backwards: bool

    @property
    def places(self) -> int:
        return size(self.place)

    @property
    def length(self) -> int:
        return size(self.within)


@dataclass(frozen=True)
class _Convolution:
    """A sum of products of data and weights.

    kept: the loops over the result's axes that are longer than 1. plain: for each of the other axes
    of the data its loop; of_weights: the same for the weights. channels: the summed ones.
    """

    node: UOp
    data: UOp
    weights: UOp
    kept: tuple[UOp, ...]
    windows: tuple[_Window, ...]
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


def with_fewer_products(sink: UOp, target: Capabilities) -> UOp:
    """The graph with convolutions done so where that is faster on the target."""
    done: dict[UOp, UOp] = {}
    nodes = toposort(sink)
    written = {_memory(n.src[0]) for n in nodes if n.op is Op.STORE}
    for node in nodes:
        changed = node.with_sources(tuple([done[s] for s in node.src]))
        found = _convolution(changed) if node.op is Op.REDUCE else None
        if found is not None:
            fixed = _memory(found.weights) not in written | {None}
            results = _best(found, target, fixed)
            if results is not None:
                changed = _rewritten(found, results)
        done[node] = changed
    return done[sink]


def _memory(node: UOp) -> UOp | None:
    """The BUFFER that this is a view of."""
    while node.src and node.op is not Op.BUFFER:
        if len(node.src) > 1 and node.op is not Op.AFTER:
            return None
        node = node.src[0]
    return node if node.op is Op.BUFFER else None


# -- what is a convolution -------------------------------------------------------------------------


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
    while not is_memory(factor) and (factor.op in MOVEMENT or factor.op is Op.INDEX):
        factor = factor.src[0]
    return factor


def _convolution(node: UOp) -> _Convolution | None:
    """A sum in float32 over windows in steps of one and over channels, if this is one."""
    if node.arg[0] is not Op.ADD or node.dtype is not dtypes.float32 or node.arg[1] < 2:
        return None
    product = storage(node.src[0])
    if product.op is not Op.MUL or node.src[0].size < _LEAST_TERMS:
        return None
    factors = [_source(s) for s in product.src]
    if factors[0] is factors[1] or any(f.op is Op.CONST or f.dtype is not node.dtype for f in factors):
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
) -> _Convolution | None:
    of_weights: dict[UOp, tuple[int, bool]] = {}
    for axis, index in enumerate(reader.indices[weights]):
        terms, first = linear_form(index)
        if not terms and weights.shape[axis] == 1:
            continue
        ((r, step),) = terms.items() if len(terms) == 1 else ((None, 0),)
        whole = r is not None and r.op is Op.RANGE and size(r) == weights.shape[axis]
        if r is None or not whole or r in of_weights or (step, first) not in ((1, 0), (-1, size(r) - 1)):
            return None
        of_weights[r] = axis, step < 0
    windows: list[_Window] = []
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
            if terms[place] != 1 or abs(terms[within]) != 1 or place in of_weights:
                return None
            weight, backwards = of_weights.pop(within)
            if terms[within] < 0:
                first, backwards = first - size(within) + 1, not backwards
            windows.append(_Window(axis, place, within, first, weight, backwards))
        elif len(ranges) == 1:
            (r,) = ranges
            if terms[r] != 1 or first or size(r) != data.shape[axis] or r in plain:
                return None
            plain[r] = axis
        elif data.shape[axis] != 1:
            return None
    if any(backwards for _, backwards in of_weights.values()) or not windows:
        return None
    found = _Convolution(
        node, data, weights, kept, tuple(windows), plain, {r: x for r, (x, _) in of_weights.items()}
    )
    used = {w.place for w in windows} | {*found.batch, *found.outputs}
    summed = all(r not in kept for r in found.channels)
    whole = used == set(kept) and summed and len(found.channels) == 1 == len(found.outputs)
    return found if whole else None


# -- the price -------------------------------------------------------------------------------------


def _best(found: _Convolution, target: Capabilities, fixed: bool) -> tuple[int, ...] | None:
    """How many results a tile has along each axis of windows; None for the plain sum.

    fixed: whether the weights are transformed once, and not with every call."""
    if target.vector_bytes == 0:
        return None
    inputs, outputs = extent(tuple(found.channels)), extent(tuple(found.outputs))
    batch = extent(tuple(found.batch))
    plain = math.prod(w.places * w.length for w in found.windows)
    seconds_each = 2 * batch * inputs * outputs / target.operations_per_second / _OF_PEAK
    least, best = plain * seconds_each, None
    for results in _TILES:
        points = [results + w.length - 1 for w in found.windows]
        if max(points) > len(_POINTS) + 1:
            continue
        tiles = math.prod(-(-w.places // results) for w in found.windows)
        values = tiles * math.prod(points)
        weights = inputs * outputs * math.prod(points)
        # Each value is written once and read once.
        moved = 2 * values * batch * (inputs + outputs) + weights * (1 if fixed else 3)
        seconds = values * seconds_each + moved * 4 / target.bytes_per_second
        seconds += 2 * target.launch_seconds
        if seconds < least:
            least, best = seconds, (results,) * len(points)
    return best


# -- the rewrite -----------------------------------------------------------------------------------


def _rewritten(found: _Convolution, results: tuple[int, ...]) -> UOp:
    """Each of the values has the axes of points first, and those of tiles last."""
    windows, rank = found.windows, len(results)
    points = [m + w.length - 1 for m, w in zip(results, windows)]
    tiles = [-(-w.places // m) for m, w in zip(results, windows)]
    matrices = [transforms(m, w.length) for m, w in zip(results, windows)]
    (channel,), (output,) = found.channels, found.outputs
    c, o = size(channel), size(output)
    # What is computed for one of the batch lies together, and does not fall on the same few places
    # of a cache, but where it has too few tiles for the columns of a product.
    apart = math.prod(tiles) >= _MANY_TILES
    of_batch = [size(r) for r in found.batch]
    outer, inner = (of_batch, []) if apart else ([], of_batch)
    lead = len(outer)
    front = list(range(lead, lead + rank))

    # The axes of windows first, so that the first window begins at the first element; those of
    # one element are dropped.
    source = found.data.permute(
        (*[w.axis for w in windows], found.plain[channel], *[found.plain[r] for r in found.batch],
         *_others(found.data, [w.axis for w in windows], found.plain))
    )  # fmt: skip
    source = source.reshape((*[found.data.shape[w.axis] for w in windows], c, *of_batch))
    amounts, limits = [], []
    for w, m, n, t in zip(windows, results, source.shape, tiles):
        end = w.first + t * m + w.length - 1  # beyond the last element that a tile has
        amounts.append((max(-w.first, 0), max(end - n, 0)))
        limits.append((max(w.first, 0), max(w.first, 0) + end - w.first))
    rest = [(0, n) for n in source.shape[rank:]]
    source = source.pad((*amounts, *((0, 0) for _ in rest))).shrink((*limits, *rest))
    # Of an INDEX of tiles: tiles, channels, batch.
    shape = (*outer, c, *inner, *tiles)
    batch = [*range(lead), *range(lead + 1, lead + 1 + len(inner))]
    order = [*range(len(shape) - rank, len(shape)), lead, *batch]

    def data(at: tuple[int, ...]) -> UOp:
        first = [
            _arranged(_counter(n, m, k), [i], tuple(tiles))
            for i, (n, m, k) in enumerate(zip(tiles, results, at))
        ]
        return _arranged(UOp(Op.INDEX, source.dtype, (source, *first)), order, shape)

    turned = found.weights.flip(tuple(sorted(w.weight for w in windows if w.backwards)))
    moved = [*[w.weight for w in windows], found.of_weights[output], found.of_weights[channel]]
    turned = turned.permute((*moved, *_others(found.weights, moved, {})))
    turned = turned.reshape((*[w.length for w in windows], o, c))

    def weight(at: tuple[int, ...]) -> UOp:
        part = turned.shrink((*((k, k + 1) for k in at), (0, o), (0, c)))
        return part.reshape((o, c))

    values = _transformed(data, points, [m.of_data for m in matrices])
    a = _chosen(values, points, front, [i if i < lead else i + rank for i in range(len(shape))])
    factors = _transformed(weight, [w.length for w in windows], [m.of_weights for m in matrices])
    b = _chosen(factors, points, list(range(rank)), [rank, rank + 1])
    # For every point: outputs, batch, tiles | channels.
    sizes = (*outer, *points, o, *inner, *tiles, c)
    first = lead + rank
    rows = range(first + 1, len(sizes) - 1)
    a = _arranged(a, [*range(first), len(sizes) - 1, *rows], sizes)
    b = _arranged(b, [*front, first, len(sizes) - 1], sizes)
    product = (a * b).reduce(Op.ADD, 1)
    own = (*outer, o, *inner, *tiles)

    def result(at: tuple[int, ...]) -> UOp:
        point = [(k, k + 1) for k in at]
        part = product.shrink(
            (*((0, n) for n in outer), *point, *((0, n) for n in own[lead:]))
        )
        return part.reshape(own)

    places = _transformed(result, points, [m.of_results for m in matrices])
    # The results' own axes, those of places being two: tiles, places in a tile.
    of_places = {w.place: i for i, w in enumerate(windows)}
    axes = [x for r in found.kept for x in ((r, 0), *(((r, 1),) if r in of_places else ()))]
    within = [axes.index((w.place, 1)) for w in windows]
    ends = (*found.batch, output) if apart else (output, *found.batch)
    other = [axes.index((r, 0)) for r in (*ends, *of_places)]
    whole = _chosen(places, list(results), within, other)
    of_place = {w.place: m * t for w, m, t in zip(windows, results, tiles)}
    whole = whole.reshape(tuple(of_place.get(r, size(r)) for r in found.kept))
    whole = whole.shrink(tuple((0, size(r)) for r in found.kept))
    return whole.reshape(found.node.shape)


def _others(node: UOp, axes: Sequence[int], plain: dict[UOp, int]) -> list[int]:
    """The axes of one element."""
    return [i for i in range(len(node.shape)) if i not in axes and i not in plain.values()]


def _transformed(
    part: Callable[[tuple[int, ...]], UOp], sizes: Sequence[int], matrices: Sequence[Matrix]
) -> dict[tuple[int, ...], UOp]:
    """The parts at all places of `sizes`, multiplied with a matrix along each axis of places."""
    places: list[tuple[int, ...]] = [()]
    for n in sizes:
        places = [(*p, i) for p in places for i in range(n)]
    values = {p: part(p) for p in places}
    for axis, matrix in enumerate(matrices):
        changed: dict[tuple[int, ...], UOp] = {}
        for place in values:
            if place[axis] == 0:
                head, tail = place[:axis], place[axis + 1 :]
                line = [values[(*head, i, *tail)] for i in range(len(matrix[0]))]
                for i, row in enumerate(matrix):
                    changed[(*head, i, *tail)] = _combined(line, row)
        values = changed
    return values


def _combined(values: Sequence[UOp], factors: Sequence[Fraction]) -> UOp:
    """The sum of values with factors; those of one factor are added first."""
    groups: dict[Fraction, UOp] = {}
    for value, factor in zip(values, factors):
        if factor:
            known = groups.get(abs(factor))
            if known is None:
                groups[abs(factor)] = value if factor > 0 else value * value.const_like(-1)
            else:
                signed = value if factor > 0 else value * value.const_like(-1)
                groups[abs(factor)] = known + signed
    terms = [v if f == 1 else v * v.const_like(float(f)) for f, v in groups.items()]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def _chosen(
    values: dict[tuple[int, ...], UOp], sizes: Sequence[int], axes: Sequence[int],
    others: Sequence[int],
) -> UOp:  # fmt: skip
    """One node of all values: its `axes` choose among them, `others` are their own."""
    first = next(iter(values.values()))
    shape = [0] * (len(axes) + len(others))
    for axis, n in (*zip(axes, sizes), *zip(others, first.shape)):
        shape[axis] = n
    full = tuple(shape)
    level = {place: _arranged(v, others, full) for place, v in values.items()}
    for depth in reversed(range(len(axes))):
        counter = _arranged(_counter(sizes[depth]), [axes[depth]], full)
        outer: dict[tuple[int, ...], UOp] = {}
        for place, value in reversed(level.items()):
            head, i = place[:-1], place[-1]
            later = outer.get(head)
            if later is None:
                outer[head] = value
            else:
                outer[head] = counter.ne(counter.const_like(i)).where(later, value)
        level = dict(reversed(outer.items()))
    return level[()]


def _counter(size: int, step: int = 1, first: int = 0) -> UOp:
    node = UOp(Op.IOTA, dtypes.index, (), size)
    node = node * node.const_like(step) if step != 1 else node
    return node + node.const_like(first) if first else node


def _arranged(node: UOp, positions: Sequence[int], shape: tuple[int, ...]) -> UOp:
    """`node` in `shape`: its axis i becomes axis positions[i]; it is repeated along the others."""
    others = [i for i in range(len(shape)) if i not in positions]
    node = node.expand(tuple(shape[i] for i in others)) if others else node
    now = [*positions, *others]
    return node.permute(tuple(now.index(i) for i in range(len(shape))))


# -- the matrices ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Transforms:
    """results = of_results @ ((of_weights @ weights) * (of_data @ data))."""

    of_data: Matrix
    of_weights: Matrix
    of_results: Matrix


@lru_cache
def transforms(m: int, r: int) -> Transforms:
    """The matrices for m results of a window of r (Toom and Cook's, transposed): polynomials of
    degree m - 1 and r - 1 are evaluated at the points and at infinity; their product is
    interpolated."""
    n = m + r - 1
    points = list(_POINTS[: n - 1])
    infinity = [Fraction(0)] * (n - 1) + [Fraction(1)]
    of_results = [[p**i for p in points] + [Fraction(i == m - 1)] for i in range(m)]
    scales = [math.prod(p - q for q in points if q != p) for p in points]
    of_weights = [[p**j / s for j in range(r)] for p, s in zip(points, scales)]
    of_weights.append([Fraction(j == r - 1) for j in range(r)])
    of_data = []
    for p in points:
        of_data.append([*_product_of_roots([q for q in points if q != p]), Fraction(0)])
    infinity = _product_of_roots(points)
    of_data.append(infinity)
    return Transforms(_frozen(of_data), _frozen(of_weights), _frozen(of_results))


def _product_of_roots(roots: Sequence[Fraction]) -> list[Fraction]:
    """The coefficients of prod(x - root), that of 1 first."""
    found = [Fraction(1)]
    for root in roots:
        found = [
            (found[i - 1] if i else 0) - root * (found[i] if i < len(found) else 0)
            for i in range(len(found) + 1)
        ]
    return found


def _frozen(rows: Sequence[Sequence[Fraction]]) -> Matrix:
    return tuple(tuple(Fraction(x) for x in row) for row in rows)
