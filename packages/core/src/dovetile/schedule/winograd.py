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
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp, toposort
from dovetile.plugins.specs import Capabilities

Matrix = tuple[tuple[Fraction, ...], ...]
# The values at more points lose more than two digits: their factors differ more and more in size.
_POINTS = (0, 1, -1, 2, -2)
# What a contraction reaches of the operations per second that the target states.
_OF_PEAK = 0.6


@dataclass(frozen=True)
class _Convolution:
    """A sum of products with windows.

    data: the INDEX whose windows slide in steps of one over the first axes of its source; axes: for
    each of its axes the axis of the sum's terms. weights, of_weights: the same of the other factor.
    places, windows: for each axis of the windows, its axis of places and within the window.
    """

    node: UOp
    data: UOp
    axes: tuple[int, ...]
    weights: UOp
    of_weights: tuple[int, ...]
    places: tuple[int, ...]
    windows: tuple[int, ...]

    @property
    def terms(self) -> tuple[int, ...]:
        """The sizes of all axes, of which the result has the first."""
        return self.node.src[0].shape

    @property
    def kept(self) -> range:
        return range(len(self.node.shape))

    @property
    def channels(self) -> list[int]:
        """The axes of the sum beside those of the windows."""
        every = range(len(self.kept), len(self.terms))
        return [i for i in every if i not in self.windows]

    @property
    def outputs(self) -> list[int]:
        return [i for i in self.kept if i in self.of_weights]

    @property
    def batch(self) -> list[int]:
        return [i for i in self.kept if i in self.axes and i not in self.places]

    def size(self, axes: Sequence[int]) -> int:
        return math.prod(self.terms[i] for i in axes)


def with_fewer_products(sink: UOp, target: Capabilities) -> UOp:
    """The graph with convolutions done so where that is faster on the target."""
    done: dict[UOp, UOp] = {}
    nodes = toposort(sink)
    written = {_memory(n.src[0]) for n in nodes if n.op is Op.STORE}
    for node in nodes:
        changed = node.with_sources(tuple([done[s] for s in node.src]))
        found = _convolution(changed) if node.op is Op.REDUCE else None
        if found is not None:
            fixed = found.weights is not None and _memory(found.weights) not in written | {None}
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


def _convolution(node: UOp) -> _Convolution | None:
    """A sum in float32 over windows in steps of one, of which each factor has what it must."""
    kept, product = len(node.shape), node.src[0]
    if node.arg[0] is not Op.ADD or node.dtype is not dtypes.float32 or product.op is not Op.MUL:
        return None
    for data, weights in (product.src, product.src[::-1]):
        (data, axes), (weights, of_weights) = _without_copies(data), _without_copies(weights)
        if data.op is not Op.INDEX or data.arg is not None or weights.op is Op.INDEX:
            continue
        pairs = [_slides(i) for i in data.src[1:]]
        if any(pair is None for pair in pairs):
            continue
        ends = [sorted(axes[i] for i in pair) for pair in pairs if pair is not None]
        places, windows = tuple(p for p, _ in ends), tuple(w for _, w in ends)
        found = _Convolution(node, data, axes, weights, of_weights, places, windows)
        if (
            all(p < kept for p in places)
            and all(w >= kept and w in of_weights for w in windows)
            and not any(p in of_weights for p in places)
            and len(found.outputs) == 1
            and not any(i in axes for i in found.outputs)
            and len(found.channels) == 1
            and all(i in axes and i in of_weights for i in found.channels)
            and len(set(axes)) == len(axes) == len(places + windows + (0,)) + len(found.batch)
        ):
            return found
    return None


def _without_copies(node: UOp) -> tuple[UOp, tuple[int, ...]]:
    """(the node below EXPAND and PERMUTE, for each of its axes the one that it has become)."""
    axes = tuple(range(len(node.shape)))
    while node.op in (Op.EXPAND, Op.PERMUTE):
        if node.op is Op.EXPAND:
            axes = axes[: len(node.src[0].shape)]
        else:
            moved = dict(zip(node.arg, axes))
            axes = tuple(moved[i] for i in range(len(axes)))
        node = node.src[0]
    return node, axes


def _slides(index: UOp) -> tuple[int, ...] | None:
    """The two axes whose counters add up to this index."""
    node, axes = _without_copies(index)
    if node.op is not Op.ADD:
        return None
    found = [_without_copies(s) for s in node.src]
    if any(s.op is not Op.IOTA for s, _ in found):
        return None
    return tuple(axes[used[0]] for _, used in found)


# -- the price -------------------------------------------------------------------------------------


def _best(found: _Convolution, target: Capabilities, fixed: bool) -> tuple[int, ...] | None:
    """How many results a tile has along each axis of windows; None for the plain sum.

    fixed: whether the weights are transformed once, and not with every call."""
    if target.vector_bytes == 0:
        return None
    kernel = [found.terms[w] for w in found.windows]
    operations = 2 * found.size(range(len(found.terms))) / target.operations_per_second / _OF_PEAK
    least, best = operations, None
    of_input = found.size(found.batch) * found.size(found.channels)
    of_output = found.size(found.batch) * found.size(found.outputs)
    for results in (2, 4):
        points = [results + r - 1 for r in kernel]
        sizes = [found.terms[p] for p in found.places]
        if max(points) > len(_POINTS) + 1 or any(n % results for n in sizes):
            continue
        fewer = math.prod(points) / math.prod(results * r for r in kernel)
        values = math.prod(n * p // results for n, p in zip(sizes, points))
        weights = found.size([*found.channels, *found.outputs]) * math.prod(points)
        # Each value is written once and read once.
        moved = 2 * values * (of_input + of_output) + weights * (1 if fixed else 3)
        seconds = operations * fewer + moved * 4 / target.bytes_per_second
        seconds += 2 * target.launch_seconds
        if seconds < least:
            least, best = seconds, (results,) * len(kernel)
    return best


# -- the rewrite -----------------------------------------------------------------------------------


def _rewritten(found: _Convolution, results: tuple[int, ...]) -> UOp:
    terms, rank = found.terms, len(results)
    kernel = [terms[w] for w in found.windows]
    points = [m + r - 1 for m, r in zip(results, kernel)]
    tiles = [terms[p] // m for p, m in zip(found.places, results)]
    matrices = [transforms(m, r) for m, r in zip(results, kernel)]
    # Each value has the axes of points first.
    inner = [*found.channels, *found.batch]
    shape = (*[terms[i] for i in inner], *tiles)
    lead = [inner.index(i) for i in found.axes if i in inner]
    order = [*range(len(inner), len(shape)), *lead]  # of the axes of an INDEX of tiles

    def data(at: tuple[int, ...]) -> UOp:
        first = [
            _arranged(_counter(n, m, k), [i], tuple(tiles))
            for i, (n, m, k) in enumerate(zip(tiles, results, at))
        ]
        source = found.data.src[0]
        return _arranged(UOp(Op.INDEX, source.dtype, (source, *first)), order, shape)

    of = [*found.outputs, *found.channels]
    ends = [found.of_weights.index(i) for i in (*found.windows, *of)]
    window = found.weights.permute(tuple(ends))

    def weight(at: tuple[int, ...]) -> UOp:
        part = window.shrink((*((k, k + 1) for k in at), *((0, terms[i]) for i in of)))
        return part.reshape(tuple(terms[i] for i in of))

    front = list(range(rank))
    values = _transformed(data, points, [m.of_data for m in matrices])
    a = _chosen(values, points, front, [rank + i for i in range(len(shape))])
    factors = _transformed(weight, kernel, [m.of_weights for m in matrices])
    b = _chosen(factors, points, front, [rank, rank + 1])
    # For every point: outputs, batch, tiles | channels.
    sizes = (*points, terms[of[0]], *shape[1:], shape[0])
    a = _arranged(a, [*front, len(sizes) - 1, *range(rank + 1, len(sizes) - 1)], sizes)
    b = _arranged(b, [*front, rank, len(sizes) - 1], sizes)
    product = (a * b).reduce(Op.ADD, 1)
    rest = product.shape[rank:]

    def result(at: tuple[int, ...]) -> UOp:
        part = product.shrink((*((k, k + 1) for k in at), *((0, n) for n in rest)))
        return part.reshape(rest)

    places = _transformed(result, points, [m.of_results for m in matrices])
    # The results' own axes, those of places being two: tiles, places in a tile.
    axes = [x for i in found.kept for x in ((i, 0), *(((i, 1),) if i in found.places else ()))]
    within = [axes.index((p, 1)) for p in found.places]
    other = [axes.index((i, 0)) for i in (*found.outputs, *found.batch, *found.places)]
    return _chosen(places, list(results), within, other).reshape(found.node.shape)


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
    points = [Fraction(p) for p in _POINTS[: n - 1]]
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
