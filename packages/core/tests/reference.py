"""The meaning of tensor-level graphs, spelled out in NumPy: the oracle of the other tests."""

from __future__ import annotations

import numpy as np

from dovetile import dtypes
from dovetile.ir.ops import Op
from dovetile.ir.uop import UOp

_HALF = ("float16", "bfloat16")


def evaluate(root: UOp, bindings: dict[UOp, np.ndarray] | None = None) -> np.ndarray:
    """The value of `root`. bindings: BUFFER -> flat array; writes change these arrays."""
    return evaluate_all([root], {} if bindings is None else bindings)[0]


def evaluate_all(roots: list[UOp], bindings: dict[UOp, np.ndarray]) -> list[np.ndarray]:
    """The values of several nodes, whose common parts (and writes) are computed once.

    A write gives its AFTER a new array, so nodes that read the state before still see it.
    """
    done: dict[UOp, np.ndarray | None] = {}
    stack = list(roots)
    with np.errstate(all="ignore"):
        while stack:
            node = stack[-1]
            if node in done:
                stack.pop()
                continue
            # The target of a STORE is only an address: what counts is the memory below it.
            sources = node.src
            missing = [s for s in sources if s not in done]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            done[node] = None if node.op is Op.STORE else _value(node, done, bindings)
    final = {}
    for node, array in done.items():
        if node.op is Op.AFTER and len(node.src) > 1:
            base = node
            while base.op is Op.AFTER:
                base = base.src[0]
            if base.op is Op.BUFFER:
                final[base] = array  # nodes are done sources first: the last state stays
    results = [np.array(done[root]) for root in roots]
    for base, array in final.items():
        bindings[base] = array
    return results


def _value(node: UOp, done: dict, bindings: dict) -> np.ndarray:
    op, arg = node.op, node.arg
    source = [done[s] for s in node.src]
    kind = np.dtype(np.int64) if node.dtype is dtypes.index else dtypes.to_numpy(node.dtype)
    if op is Op.CONST:
        return np.asarray(arg, kind)
    if op is Op.BUFFER:
        if node not in bindings:
            bindings[node] = np.zeros(arg.size, kind)
        return bindings[node]
    if op is Op.IOTA:
        return np.arange(arg)
    if op is Op.AFTER:
        array = source[0]
        for effect in node.src[1:]:
            assert effect.op is Op.STORE, effect.op
            array = _stored(effect, node.src[0], array, done)
        return array
    if op in (Op.COPY, Op.STAGE):
        return source[0]
    if op is Op.INDEX:
        indices = source[1:]
        for index, size in zip(indices, source[0].shape):
            if index.size and (index.min() < 0 or index.max() >= size):
                raise IndexError(arg or "an index that was to be proved in bounds is not")
        return source[0][tuple(indices)]
    moved = _moved(node, source)
    if moved is not None:
        return moved
    if op is Op.REDUCE:
        return _reduced(source[0], arg[0], arg[1], kind)
    result = np.asarray(_elementwise(node, source, kind))
    return result if result.dtype == kind else result.astype(kind)


def _moved(node: UOp, source: list) -> np.ndarray | None:
    op, arg = node.op, node.arg
    if op is Op.RESHAPE:
        return source[0].reshape(arg)
    if op is Op.PERMUTE:
        return source[0].transpose(arg)
    if op is Op.EXPAND:
        wide = source[0].reshape(source[0].shape + (1,) * len(arg))
        return np.broadcast_to(wide, source[0].shape + arg)
    if op is Op.PAD:
        return np.pad(source[0], arg) if arg else source[0]
    if op is Op.SHRINK:
        return source[0][tuple(slice(a, b) for a, b in arg)]
    if op is Op.FLIP:
        return np.flip(source[0], arg)
    return None


def _reduced(x: np.ndarray, op: Op, count: int, kind: np.dtype) -> np.ndarray:
    axes = tuple(range(x.ndim - count, x.ndim))
    if op is Op.ADD:
        assert kind.kind != "b", "a sum of bools is no bool"
        return np.asarray(np.sum(x, axes, dtype=kind))
    if op is Op.MUL:
        return np.asarray(np.prod(x, axes, dtype=kind))
    function, start = (np.max, "minimum") if op is Op.MAX else (np.min, "maximum")
    empty = getattr(dtypes.from_numpy(kind), start)
    return np.asarray(function(x, axes, initial=np.asarray(empty, kind)))


def _stored(effect: UOp, state: UOp, array: np.ndarray, done: dict) -> np.ndarray:
    """A copy of `array` with the STORE carried out."""
    target, value = effect.src[0], done[effect.src[1]]
    chain = []
    while target is not state:
        chain.append(target)
        target = target.src[0]
    result = np.array(array)
    flat = np.arange(result.size).reshape(result.shape)  # the element each place of the view is
    indexed = None
    for link in reversed(chain):
        if link.op is Op.INDEX:
            flat = flat[tuple(_bounded(done[i], n, link.arg)
                              for i, n in zip(link.src[1:], flat.shape))]  # fmt: skip
            indexed = link
        elif not (link.op is Op.AFTER and len(link.src) == 1):
            flat = _moved(link, [flat])
    places, values = flat.reshape(-1), value.reshape(-1)
    memory = result.reshape(-1)
    if effect.arg is None:
        for place, v in zip(places, values) if indexed is not None else ():
            memory[place] = v
        if indexed is None:
            memory[places] = values
    else:
        ufunc = {Op.ADD: np.add, Op.MUL: np.multiply, Op.MAX: np.maximum, Op.MIN: np.minimum}
        ufunc[effect.arg].at(memory, places, values)
    return result


def _bounded(index: np.ndarray, size: int, fault: str | None) -> np.ndarray:
    if index.size and (index.min() < 0 or index.max() >= size):
        raise IndexError(fault)
    return index


def _wide(x: np.ndarray) -> np.ndarray:
    return x.astype(np.float32) if x.dtype.name in _HALF else x


def _elementwise(node: UOp, source: list, kind: np.dtype) -> np.ndarray:
    op = node.op
    if op is Op.CAST:
        x = source[0]
        if kind.kind in "iu" and x.dtype.kind not in "iub":
            x = np.nan_to_num(_wide(x).astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)
            return np.trunc(x).astype(np.int64).astype(kind)
        return _wide(x).astype(kind)
    if op is Op.BITCAST:
        return source[0].view(kind)
    if op is Op.WHERE:
        return np.where(source[0], source[1], source[2])
    if op in (Op.FLOORDIV, Op.FLOORMOD):
        a, b = source
        safe = np.where(b == 0, np.ones_like(b), b)
        result = a // safe if op is Op.FLOORDIV else a % safe
        return np.where(b == 0, np.zeros_like(a), result)
    a = _wide(source[0])
    if op is Op.EXP2:
        return np.exp2(a)
    if op is Op.LOG2:
        return np.log2(a)
    if op is Op.SIN:
        return np.sin(a)
    if op is Op.SQRT:
        return np.sqrt(a)
    if op is Op.TRUNC:
        return np.trunc(a)
    b = _wide(source[1])
    if op is Op.SHR and a.dtype.kind in "iu" or op is Op.SHL:
        return (np.right_shift if op is Op.SHR else np.left_shift)(a, b)
    functions = {
        Op.ADD: np.add, Op.SUB: np.subtract, Op.MUL: np.multiply, Op.DIV: np.divide,
        Op.MAX: np.maximum, Op.MIN: np.minimum, Op.LT: np.less, Op.NE: np.not_equal,
        Op.AND: np.bitwise_and, Op.OR: np.bitwise_or, Op.XOR: np.bitwise_xor,
    }  # fmt: skip
    if op is Op.MULACC:
        return a * b + _wide(source[2])
    return functions[op](a, b)
