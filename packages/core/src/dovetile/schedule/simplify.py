"""Rewrites of the tensor graph before it is cut into kernels."""

from __future__ import annotations

import math

from dovetile.ir.identity import identity
from dovetile.ir.ops import MOVEMENT, Op
from dovetile.ir.pattern import Pat, RuleSet
from dovetile.ir.rewrite import rewrite
from dovetile.ir.symbolic import simplify_constants
from dovetile.ir.symbolic.movement import simplify_movement
from dovetile.ir.uop import UOp, consumers, toposort
from dovetile.plugins.specs import Capabilities
from dovetile.schedule.place import storage
from dovetile.schedule.winograd import with_fewer_products

# A sum over more elements than this per output, with few outputs, is done in parts.
_LONG_SUM = 1 << 14
_FEW_OUTPUTS = 1 << 18
_PART = 1 << 12
_MOVES = MOVEMENT - {Op.EXPAND}


def _sum_of_nothing(node: UOp) -> UOp | None:
    """A reduction of no elements is a constant; loops that never run would still be compiled."""
    empty = 0 in node.src[0].shape and 0 not in node.shape
    return node.const_like(identity(node.arg[0], node.dtype)) if empty else None


def _move_below(move: UOp, inner: UOp) -> UOp | None:
    """A movement of a sum's result becomes one of its terms, so that an outer sum can join it."""
    op, arg = move.op, move.arg
    kind, count = inner.arg
    x = inner.src[0]
    rest = x.shape[len(x.shape) - count :]
    kept = len(x.shape) - count
    if op is Op.PERMUTE:
        moved = x.permute((*arg, *range(kept, kept + count)))
    elif op is Op.RESHAPE:
        moved = x.reshape((*arg, *rest))
    elif op is Op.PAD and kind is Op.ADD:
        moved = x.pad((*arg, *((0, 0),) * count))
    elif op is Op.SHRINK:
        moved = x.shrink((*arg, *((0, n) for n in rest)))
    elif op is Op.FLIP:
        moved = x.flip(arg)
    elif op is Op.INDEX:
        moved = UOp(Op.INDEX, x.dtype, (x, *move.src[1:]), move.arg)
    else:
        return None
    return moved.reduce(kind, count)


def _sum_of_sum(outer: UOp) -> UOp | None:
    """sum(move(sum(x))) -> sum(move'(x)): one loop nest instead of a large intermediate.

    Only where the movement repeats nothing: each inner sum is read about once. Without a movement
    it may be any two reductions of one kind.
    """
    chain, inner = _moved(outer.src[0])
    if inner.op is not Op.REDUCE or inner.arg[0] is not outer.arg[0]:
        return None
    if outer.arg[0] is Op.MUL or chain and outer.arg[0] is not Op.ADD:
        return None
    if outer.src[0].size > 4 * inner.size:
        return None
    moved = _moves_below(chain, inner)
    return moved and moved.src[0].reduce(outer.arg[0], outer.arg[1] + moved.arg[1])


def _part_of_sum(shrink: UOp) -> UOp | None:
    """shrink(move(sum(x))) -> sum(shrink'(move'(x))): what is cut off is not computed. So the
    gradient of a convolution by its input leaves out the padding."""
    chain, inner = _moved(shrink)
    return _moves_below(chain, inner) if inner.op is Op.REDUCE else None


def _moved(node: UOp) -> tuple[list[UOp], UOp]:
    """(the movements of a value, outermost first, the value)."""
    chain = []
    while node.op in _MOVES or node.op is Op.INDEX:
        chain.append(node)
        node = node.src[0]
    return chain, node


def _moves_below(chain: list[UOp], inner: UOp) -> UOp | None:
    """The reduction with all these movements of its result below it; None where one cannot be."""
    for move in reversed(chain):
        moved = _move_below(move, inner)
        if moved is None:
            return None
        inner = moved
    return inner


def _long_sum(node: UOp) -> UOp | None:
    """A long sum with few results becomes partial sums, then a sum of those: parts can run in
    parallel, and each stays in the caches."""
    op, count = node.arg
    x = node.src[0]
    kept, axes = x.shape[: len(x.shape) - count], x.shape[len(x.shape) - count :]
    total = math.prod(axes)
    outputs = max(node.size, 1)
    if op is not Op.ADD or total < _LONG_SUM or outputs > _FEW_OUTPUTS:
        return None
    parts, first = 1, axes[0]
    if outputs <= 16:
        wanted = 64
    elif _is_contraction(x):
        wanted = -(-total // _PART)
    else:
        wanted = math.isqrt(total)  # the shorter both sums, the less is rounded away
    for candidate in range(2, first + 1):
        if first % candidate == 0:
            parts = candidate
            if candidate >= wanted:
                break
    if parts < 2 or parts * outputs > x.size // 8:
        return None
    split = x.reshape((*kept, parts, first // parts, *axes[1:]))
    partial = split.reduce(op, count)
    order = (len(kept), *range(len(kept)))
    back = (*range(1, len(kept) + 1), 0)
    return partial.permute(order).stage().permute(back).reduce(op, 1)


def _is_contraction(x: UOp) -> bool:
    """Whether these are products of values that are each used several times."""
    while x.op in (Op.RESHAPE, Op.PERMUTE, Op.CAST):
        x = x.src[0]
    return x.op is Op.MUL and all(2 * storage(s).size <= x.size for s in x.src)


_empty_sums = RuleSet([(Pat(Op.REDUCE, name="node"), _sum_of_nothing)], "empty sums")


def simplify_tensors(sink: UOp, target: Capabilities | None = None) -> UOp:
    """The same values from a graph with fewer and better placed operations.

    target: where known, what is faster there is done, too.
    """
    rules = simplify_constants + simplify_movement + _empty_sums
    sink = rewrite(sink, rules)
    joined = _join_sums(sink)
    if joined is not sink:
        sink = rewrite(joined, rules)
    if target is not None:
        sink = with_fewer_products(sink, target)
    return _split_long_sums(sink)


def _join_sums(sink: UOp) -> UOp:
    """Sums of sums become one, and parts of sums sums, where nobody else needs the inner: who does
    has it computed, and summing its results costs less than summing all its terms again."""
    nodes = toposort(sink)
    users = consumers(nodes)
    done: dict[UOp, UOp] = {}
    for node in nodes:
        changed = node.with_sources(tuple([done[s] for s in node.src]))
        if node.op is Op.REDUCE and _alone(node.src[0], users):
            changed = _sum_of_sum(changed) or changed
        elif node.op is Op.SHRINK and _alone(node.src[0], users):
            changed = _part_of_sum(changed) or changed
        done[node] = changed
    return done[sink]


def _alone(node: UOp, users: dict[UOp, list[UOp]]) -> bool:
    """Whether this is a moved reduction that has a single user all the way."""
    while len(users[node]) == 1:
        if node.op is Op.REDUCE:
            return True
        if node.op not in _MOVES and node.op is not Op.INDEX:
            return False
        node = node.src[0]
    return False


def _split_long_sums(sink: UOp) -> UOp:
    # In one pass over the graph, and not as a rule: the parts are sums again.
    done: dict[UOp, UOp] = {}
    for node in toposort(sink):
        changed = node.with_sources(tuple([done[s] for s in node.src]))
        split = _long_sum(changed) if node.op is Op.REDUCE else None
        done[node] = changed if split is None else split
    return done[sink]
