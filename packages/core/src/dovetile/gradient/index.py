"""The gradient of INDEX: every element of the source gets what was read from it, summed.

Three forms, the first that fits:

* Windows (convolution, pooling): positions affine in the result's axes. The gradient is gathered,
  by an INDEX again, so nothing is scattered.
* One-hot: where few positions can read an element, WHERE(index == place, gradient, 0), summed.
* Scatter: STORE with ADD to zeros, in the order of the indices, so the sum is deterministic.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from dovetile import dtypes
from dovetile.gradient.store import held
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp
from dovetile.tensor.nodes import arrange, constant, inverse, iota

# Up to so many readers per element the one-hot form is cheaper than a sequential scatter.
_FEW_READERS = 16


class Affine(NamedTuple):
    """constant + sum of coefficients[axis] * (position along that axis)."""

    constant: int
    coefficients: dict[int, int]


def affine(node: UOp) -> Affine | None:
    """The index-typed `node` as an affine function of its axes, or None."""
    op, src = node.op, node.src
    if op is Op.CONST:
        return Affine(node.arg, {})
    if op is Op.IOTA:
        return Affine(0, {0: 1})
    if op is Op.EXPAND:
        return affine(src[0])
    if op is Op.PERMUTE:
        inner, place = affine(src[0]), inverse(node.arg)
        if inner is None:
            return None
        return Affine(inner.constant, {place[axis]: c for axis, c in inner.coefficients.items()})
    if op is Op.ADD:
        a, b = affine(src[0]), affine(src[1])
        if a is None or b is None:
            return None
        axes = {*a.coefficients, *b.coefficients}
        both = {x: a.coefficients.get(x, 0) + b.coefficients.get(x, 0) for x in axes}
        return Affine(a.constant + b.constant, both)
    if op is Op.MUL:
        a, b = affine(src[0]), affine(src[1])
        if a is None or b is None or a.coefficients and b.coefficients:
            return None
        if a.coefficients:
            a, b = b, a
        scaled = {x: c * a.constant for x, c in b.coefficients.items()}
        return Affine(a.constant * b.constant, scaled)
    return None


def index_gradient(node: UOp, g: UOp) -> UOp:
    """The gradient by the source of an INDEX, given that by its result."""
    dtype = g.dtype
    if dtype.itemsize < 4:  # half precision adds up in float32
        return index_gradient(node.replace(dtype=dtypes.float32), g.cast(dtypes.float32)).cast(
            dtype
        )
    if g.size == 0:
        return constant(0.0, dtype, node.src[0].shape)
    forms = [affine(index) for index in node.src[1:]]
    if all(form is not None for form in forms):
        gathered = _gather(node, g, forms)  # type: ignore[arg-type]
        if gathered is not None:
            return gathered
    spread = _one_hot(node, g, forms)
    return _scatter(node, g) if spread is None else spread


def _gather(node: UOp, g: UOp, forms: list[Affine]) -> UOp | None:
    """Windows: source[c + s * i + t * j] was read as result[i, j]: gather at i = (h - t * j) / s.

    Zeros between the rows of the gradient make s = 1, and its turned window axis makes the sign
    of t positive: gradient[h] = sum over j of spread[h + t * j, j].
    """
    source, shape = node.src[0], node.src[1].shape
    used = [axis for form in forms for axis in form.coefficients]
    if len(set(used)) < len(used) or any(
        len(f.coefficients) > 2 or f.constant < 0 or any(c <= 0 for c in f.coefficients.values())
        for f in forms
    ):
        return None
    rank, count = len(shape), len(forms)
    unused = [axis for axis in range(rank) if axis not in used]
    if unused:  # read again and again along these axes
        order = [a for a in range(len(g.shape)) if a not in unused]
        g = g.permute((*order, *unused)).reduce(Op.ADD, len(unused))
        renamed = {old: new for new, old in enumerate(order)}
        forms = [
            Affine(f.constant, {renamed[a]: c for a, c in f.coefficients.items()}) for f in forms
        ]
        rank -= len(unused)
    windows: list[tuple[int, int, int, int, int]] = []  # dim, its axis, window's axis, size, t
    places: dict[int, int] = {}  # dim -> the axis of g that becomes it
    missing = []
    for dim, form in enumerate(forms):
        size, start = source.shape[dim], form.constant
        axes = sorted(form.coefficients, key=lambda a: g.shape[a], reverse=True)
        if not axes:  # a fixed position: the other places get nothing
            missing.append(dim)
            continue
        g = _spaced(g, axes[0], form.coefficients[axes[0]])
        length = g.shape[axes[0]]
        if len(axes) == 1:
            g = _padded(g, axes[0], start, size - start - length)
            places[dim] = axes[0]
            continue
        window, step = g.shape[axes[1]], form.coefficients[axes[1]]
        reach = step * (window - 1)
        g = _padded(g, axes[0], start + reach, size - start - length).flip((axes[1],))
        windows.append((dim, axes[0], axes[1], size, step))
    for dim in missing:
        g = g.reshape((*g.shape, 1))
        g = _padded(g, len(g.shape) - 1, forms[dim].constant,
                    source.shape[dim] - forms[dim].constant - 1)  # fmt: skip
        places[dim] = len(g.shape) - 1
    rest = list(range(rank, len(g.shape) - len(missing)))
    if not windows:
        return g.permute((*(places[dim] for dim in range(count)), *rest))
    lead = [axis for _, a, b, _, _ in windows for axis in (a, b)]
    others = [axis for axis in range(len(g.shape)) if axis not in lead]
    full = tuple(n for _, _, b, size, _ in windows for n in (size, g.shape[b]))
    indices = []
    for i, (_, _, b, size, step) in enumerate(windows):
        window = iota(g.shape[b])
        scaled = window if step == 1 else window * step
        indices.append(arrange(iota(size), [2 * i], full) + arrange(scaled, [2 * i + 1], full))
        indices.append(arrange(window, [2 * i + 1], full))
    node = UOp(Op.INDEX, g.dtype, (g.permute((*lead, *others)), *indices))
    axes = {axis: len(full) + i for i, axis in enumerate(others)}
    first = {dim: 2 * i for i, (dim, *_) in enumerate(windows)}
    order = [first[dim] if dim in first else axes[places[dim]] for dim in range(count)]
    order += [axes[axis] for axis in rest]
    order += [2 * i + 1 for i in range(len(windows))]
    return node.permute(tuple(order)).reduce(Op.ADD, len(windows))


def _spaced(g: UOp, axis: int, step: int) -> UOp:
    from dovetile.tensor.convolution import dilate

    return dilate(g, axis, step)


def _padded(g: UOp, axis: int, before: int, after: int) -> UOp:
    amounts = [(0, 0)] * len(g.shape)
    amounts[axis] = (before, after)
    return g.pad(tuple(amounts))


def _one_hot(node: UOp, g: UOp, forms: list[Affine | None]) -> UOp | None:
    """WHERE(index == place, g, 0), summed over the readers of a place.

    An axis of the indices that one index simply counts through stays an axis of the source.
    """
    source, indices = node.src[0], node.src[1:]
    shape, count = indices[0].shape, len(indices)
    own: dict[int, int] = {}  # dim -> axis of the indices
    for dim, form in enumerate(forms):
        if form is not None and form.constant == 0 and len(form.coefficients) == 1:
            ((axis, coefficient),) = form.coefficients.items()
            if coefficient == 1 and axis not in own.values():
                own[dim] = axis
    readers = [axis for axis in range(len(shape)) if axis not in own.values()]
    if math.prod(shape[axis] for axis in readers) > _FEW_READERS:
        return None
    rest = source.shape[count:]
    # Axes of the product: the source's dims, then the readers.
    sizes = [shape[own[dim]] if dim in own else source.shape[dim] for dim in range(count)]
    full = (*sizes, *rest, *(shape[axis] for axis in readers))
    place = {axis: dim for dim, axis in own.items()}
    place |= {axis: count + len(rest) + i for i, axis in enumerate(readers)}
    index_axes = [place[axis] for axis in range(len(shape))]
    value = arrange(g, [*index_axes, *range(count, count + len(rest))], full)
    nothing = constant(0.0, g.dtype, full)
    for dim, index in enumerate(indices):
        if dim not in own:
            here = arrange(index, index_axes, full)
            target = arrange(iota(source.shape[dim]), [dim], full)
            value = here.eq(target).where(value, nothing)
    value = value.reduce(Op.ADD, len(readers))
    grow = [(0, n - s) for n, s in zip(source.shape, sizes)] + [(0, 0)] * len(rest)
    return value.pad(tuple(grow))


def _scatter(node: UOp, g: UOp) -> UOp:
    start = held(constant(0.0, g.dtype, node.src[0].shape), g.device)
    target = UOp(Op.INDEX, g.dtype, (start.reshape(node.src[0].shape), *node.src[1:]), node.arg)
    return start.after(target.store(g, arg=Op.ADD)).reshape(node.src[0].shape)
