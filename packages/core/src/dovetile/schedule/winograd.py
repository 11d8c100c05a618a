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
from fractions import Fraction

from dovetile import dtypes
from dovetile.environment import WINOGRAD
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp, toposort
from dovetile.optimize.analysis import MOST_CHOICES, extent, size
from dovetile.plugins.specs import Capabilities
from dovetile.schedule.convolutions import Convolution, convolution_of
from dovetile.schedule.transforms import MOST_POINTS, Matrix, transforms

# Results of a tile along an axis. More of them save little, and more is rounded away.
_TILES = (2, 4)
# Tiles that make good columns of a product.
_MANY_TILES = 16
# A convolution with fewer terms is not worth three kernels.
_LEAST_TERMS = 1 << 20
# What a contraction reaches of the operations per second that the target states.
_OF_PEAK = 0.6


def with_fewer_products(sink: UOp, target: Capabilities) -> UOp:
    """The graph with convolutions done so where that is faster on the target."""
    if target.vector_bytes == 0 or "GROUP" in target.parallel_axes or not WINOGRAD.value:
        return sink
    done: dict[UOp, UOp] = {}
    nodes = toposort(sink)
    written = {_memory(n.src[0]) for n in nodes if n.op is Op.STORE}
    for node in nodes:
        changed = node.with_sources(tuple([done[s] for s in node.src]))
        large = node.op is Op.REDUCE and node.src[0].size >= _LEAST_TERMS
        found = convolution_of(changed) if large else None
        if found is not None and _is_plain(found):
            fixed = _memory(found.weights) not in written | {None}
            results = _best(found, target, fixed)
            if results is not None:
                changed = _rewritten(found, results)
        done[node] = changed
    return done[sink]


def _is_plain(found: Convolution) -> bool:
    """Whether windows go on by one element, and all that is multiplied is exact to begin with."""
    exact = all(x.dtype is found.node.dtype for x in (found.data, found.weights))
    return exact and all(w.step == 1 for w in found.windows)


def _memory(node: UOp) -> UOp | None:
    """The BUFFER that this is a view of."""
    while node.src and node.op is not Op.BUFFER:
        if len(node.src) > 1 and node.op is not Op.AFTER:
            return None
        node = node.src[0]
    return node if node.op is Op.BUFFER else None


# -- the price -------------------------------------------------------------------------------------


def _best(found: Convolution, target: Capabilities, fixed: bool) -> tuple[int, ...] | None:
    """How many results a tile has along each axis of windows; None for the plain sum.

    fixed: whether the weights are transformed once, and not with every call."""
    inputs, outputs = extent(tuple(found.channels)), extent(tuple(found.outputs))
    batch = extent(tuple(found.batch))
    plain = math.prod(w.places * w.length for w in found.windows)
    seconds_each = 2 * batch * inputs * outputs / target.operations_per_second / _OF_PEAK
    least, best = plain * seconds_each, None
    for results in _TILES:
        points = [results + w.length - 1 for w in found.windows]
        if max(points) > MOST_POINTS or math.prod(points) > MOST_CHOICES:
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


def _rewritten(found: Convolution, results: tuple[int, ...]) -> UOp:
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
        part = product.shrink((*((0, n) for n in outer), *point, *((0, n) for n in own[lead:])))
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
