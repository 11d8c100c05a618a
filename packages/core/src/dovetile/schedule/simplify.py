"""Rewrites of the tensor graph before it is cut into kernels."""

from __future__ import annotations

from dovetile.ir.identity import identity
from dovetile.ir.ops import MOVEMENT, Op
from dovetile.ir.pattern import Pat, RuleSet
from dovetile.ir.rewrite import rewrite
from dovetile.ir.symbolic import simplify_constants
from dovetile.ir.symbolic.movement import simplify_movement
from dovetile.ir.uop import UOp, consumers, toposort
from dovetile.plugins.specs import Capabilities
from dovetile.schedule.few_channels import with_runs_of_taps
from dovetile.schedule.long_sums import split_long_sums
from dovetile.schedule.winograd import with_fewer_products

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
        sink = with_runs_of_taps(with_fewer_products(sink, target), target)
    return split_long_sums(sink, target)


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
