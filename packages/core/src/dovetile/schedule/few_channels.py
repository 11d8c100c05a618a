"""Convolutions of few channels, such as those of images, as convolutions of none.

Copies for matrix units that several threads use are of whole pieces, runs of memory at aligned
addresses. Three channels make none. So the data is copied first: the channels of a place side by
side, padded with zeros until the step of a window is whole pieces, and the rows of all places with
the zeros that windows see beyond them. A window then reads one run for each of its rows, whose
elements are taps and channels alike; the weights, copied once where they stay the same from call to
call, have the same form. What is multiplied with zeros is cheap on such a unit, putting panels
together from single elements is not.
"""

from __future__ import annotations

from collections.abc import Sequence

from dovetile.environment import MATMUL_PRECISION
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp, toposort
from dovetile.optimize.analysis import size
from dovetile.plugins.matrix_unit import PIECE_BYTES, GroupUnit
from dovetile.plugins.specs import Capabilities
from dovetile.schedule.convolutions import Convolution, convolution_of
from dovetile.tensor.nodes import arrange, iota

# A unit takes two pieces of a row at a time.
_STEP_BYTES = 2 * PIECE_BYTES
# So many times as many products, zeros among them, are worth it.
_MOST_PRODUCTS = 4
# A convolution of fewer terms is not worth a copy.
_LEAST_TERMS = 1 << 22


def with_runs_of_taps(sink: UOp, target: Capabilities) -> UOp:
    """The graph with such convolutions on data in that form."""
    units = [u for u in target.matrix_units if isinstance(u, GroupUnit)]
    done: dict[UOp, UOp] = {}
    for node in toposort(sink) if units else ():
        changed = node.with_sources(tuple([done[s] for s in node.src]))
        large = node.op is Op.REDUCE and node.src[0].size >= _LEAST_TERMS
        found = convolution_of(changed) if large else None
        if found is not None and any(_multiplies(u, found) for u in units):
            run = _run(found)
            changed = changed if run is None else _rewritten(found, *run)
        done[node] = changed
    return done[sink] if units else sink


def _multiplies(unit: GroupUnit, found: Convolution) -> bool:
    asked = not unit.rounds or MATMUL_PRECISION.value == "high"
    return asked and (unit.a, unit.b) == (found.data.dtype.name, found.weights.dtype.name)


def _run(found: Convolution) -> tuple[int, int] | None:
    """(how many channels a place gets, elements of a row of a window); None where these or those
    are whole pieces as they are, or where too many zeros would be multiplied."""
    ((channel,), last), itemsize = (found.channels, found.windows[-1]), found.data.dtype.itemsize
    given = width = size(channel)
    apart = last.step % last.length == 0 and last.length * itemsize % _STEP_BYTES == 0
    if apart or given * itemsize % PIECE_BYTES == 0:
        return None
    while last.step * width * itemsize % PIECE_BYTES:
        width += 1
    taps = last.length
    while taps * width * itemsize % _STEP_BYTES:
        taps += 1
    return None if taps * width > _MOST_PRODUCTS * last.length * given else (width, taps * width)


def _rewritten(found: Convolution, width: int, run: int) -> UOp:
    (channel,), (output,), batch = found.channels, found.outputs, found.batch
    *outer, last = found.windows
    taps, given, itemsize = run // width, size(channel), found.data.dtype.itemsize
    lengths = [w.length for w in outer] + [taps]

    moved = [w.axis for w in found.windows] + [found.plain[r] for r in (*batch, channel)]
    data = _picked(found.data, moved)
    amounts, limits = [], []
    for w, n, length in zip(found.windows, data.shape, lengths):
        end = w.first + (w.places - 1) * w.step + length
        after = max(end - n, 0)
        if w is last:  # rows are whole pieces too
            while (n + max(-w.first, 0) + after - max(w.first, 0)) * width * itemsize % PIECE_BYTES:
                after += 1
        amounts.append((max(-w.first, 0), after))
        limits.append((max(w.first, 0), n + sum(amounts[-1])))
    rest = [(0, 0)] * len(batch)
    data = data.pad((*amounts, *rest, (0, width - given)))
    data = data.shrink((*limits, *((0, n) for n in data.shape[len(limits) :])))
    # In memory: batch, rows of windows, their places and channels.
    windows, several = list(range(len(limits))), range(len(limits), len(limits) + len(batch))
    data = data.permute((*several, *windows, len(data.shape) - 1)).stage()
    lead, count = data.shape[: len(batch)], len(outer)
    data = data.reshape((*lead, *data.shape[len(batch) : -2], data.shape[-2] * width))
    data = data.permute((*range(len(batch), len(data.shape)), *range(len(batch))))

    kept = [*found.kept]
    full = (*(size(r) for r in kept), *lengths[:-1], run)
    pairs = [(w.places, n) for w, n in zip(found.windows, (*lengths[:-1], run))]
    shape = tuple(n for pair in pairs for n in pair)
    steps = [w.step for w in outer] + [last.step * width]
    index = []
    for axis, ((places, length), step) in enumerate(zip(pairs, steps)):
        first = iota(places) if step == 1 else iota(places) * step
        pair = (places, length)
        position = arrange(first, [0], pair) + arrange(iota(length), [1], pair)
        index.append(arrange(position, [2 * axis, 2 * axis + 1], shape))
    seen = UOp(Op.INDEX, data.dtype, (data, *index))
    targets = [x for i, w in enumerate(found.windows) for x in (kept.index(w.place), len(kept) + i)]
    a = arrange(seen, [*targets, *map(kept.index, batch)], full)

    turned = found.weights.flip(tuple(sorted(w.weight for w in found.windows if w.backwards)))
    of_taps = [found.of_weights[output], *(w.weight for w in found.windows)]
    weights = _picked(turned, [*of_taps, found.of_weights[channel]])
    zeros = [(0, 0)] * (1 + count)
    weights = weights.pad((*zeros, (0, taps - last.length), (0, width - given))).stage()
    weights = weights.reshape((*weights.shape[:-2], run))
    b = arrange(weights, [kept.index(output), *range(len(kept), len(full))], full)
    product = a.cast(found.node.dtype) * b.cast(found.node.dtype)
    return product.reduce(Op.ADD, 1 + count).reshape(found.node.shape)


def _picked(node: UOp, axes: Sequence[int]) -> UOp:
    """The node with these axes in this order; the others have one element."""
    others = [i for i in range(len(node.shape)) if i not in axes]
    return node.permute((*axes, *others)).reshape(tuple(node.shape[i] for i in axes))
