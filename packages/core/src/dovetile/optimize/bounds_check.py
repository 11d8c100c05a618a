"""A proof, before a kernel runs, that it touches no memory outside of its buffers.

An Opt that cuts an axis into blocks changes every index; a mistake there overwrites memory that is
not the kernel's, and shows up far from its cause. So each address is bounded from above and below,
over all points of all loops, and compared with the size of its buffer.
"""

from __future__ import annotations

from dovetile.errors import GraphError
from dovetile.ir.ops import Op
from dovetile.ir.symbolic import linear_form
from dovetile.ir.symbolic.linear import Terms, add
from dovetile.ir.uop import UOp, toposort


def prove(kernel: UOp) -> str | None:
    """None where every access without a gate lies in its BUFFER, else the first that may not.

    kernel: at loop level, before or after Opts. A gated access only happens where its gate holds,
    and the gate is what keeps it in bounds. "May not" means that no proof was found.
    """
    for node in toposort(kernel):
        gated = {Op.LOAD: 3, Op.STORE: 3}.get(node.op)
        if gated is None or len(node.src) >= gated or node.src[0].op is not Op.INDEX:
            continue
        address = node.src[0]
        buffer = address.src[0]
        while buffer.op is not Op.BUFFER:
            buffer = buffer.src[0]
        low, high = index_bounds(address.src[1])
        if low < 0 or high >= buffer.arg.size:
            return (
                f"{node.op.name} of elements {low} to {high} of buffer {buffer.arg.slot}, which "
                f"has {buffer.arg.size}"
            )
    return None


def require_in_bounds(kernel: UOp, name: str) -> None:
    """Raises GraphError where `prove` finds an access that may leave its buffer."""
    reason = prove(kernel)
    if reason is not None:
        raise GraphError(f"[optimize] {name}: {reason}; every access must stay in its buffer")


def index_bounds(index: UOp) -> tuple[int, int]:
    """Inclusive bounds of an index over all points of its loops.

    Tighter than `UOp.bounds`: a loop may be as long as another loop's counter allows, as in the
    last, shorter block of a split axis.
    """
    terms, constant = linear_form(index)
    low, _ = linear_form(index * -1)
    return -_greatest(low, -constant), _greatest(terms, constant)


def _greatest(terms: Terms, constant: int) -> int:
    """The greatest value of a sum, or a bound above it."""
    apart = constant + sum(c * _extreme(term, c > 0) for term, c in terms.items())
    # Loops first: what their lengths subtract may be the very MIN that stands beside them.
    for term, factor in sorted(terms.items(), key=lambda item: item[0].op is not Op.RANGE):
        # r < min(a, b) gives two bounds, r <= a - 1 and r <= b - 1; either may be the one that
        # fits the other terms. So do both sides of a MIN, such as the length of a block of a block.
        if factor > 0 and term.op is Op.RANGE and not term.src[0].is_const:
            limits = [add(linear_form(limit), ({}, -1)) for limit in _minima(term.src[0])]
        elif factor > 0 and term.op is Op.MIN and term.ranges:
            limits = [linear_form(side) for side in term.src]
        else:
            continue
        rest = {t: c for t, c in terms.items() if t is not term}
        together = min(_greatest(*add((rest, constant), limit, factor)) for limit in limits)
        return min(apart, together)
    return apart


def _extreme(term: UOp, greatest: bool) -> int:
    """A bound of one term: of a quotient, from the tighter ones of what is divided."""
    bounds = (int(term.minimum), int(term.maximum))
    if term.op is Op.FLOORDIV and term.src[1].is_const and term.src[1].arg > 0:
        low, high = (bound // term.src[1].arg for bound in index_bounds(term.src[0]))
        bounds = (max(bounds[0], low), min(bounds[1], high))
    return bounds[greatest]


def _minima(value: UOp) -> list[UOp]:
    """Values of which this length is the minimum (itself, where it is no MIN)."""
    if value.op is Op.MAX and any(s.is_const and s.arg <= 0 for s in value.src):
        # Where the constant is the greater one the loop is empty, and there are no points.
        return [m for s in value.src if not s.is_const for m in _minima(s)]
    if value.op is not Op.MIN:
        return [value]
    return [*_minima(value.src[0]), *_minima(value.src[1])]
