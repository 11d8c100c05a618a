"""Contractions that are computed again by every kernel that needs them, block by block.

The scores of attention, and the gradients by its weights, are many values, each of them a short sum
of products: where matrix units do these, a sum takes less time than to write its result and to read
it. So nothing of that size is held. It is enough that all who need these values are sums along one
of their axes: contractions, which a loop over blocks suits, and reductions of rows, whose results
are few and held.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

from dovetile.ir.ops import ELEMENTWISE, MOVEMENT, Op
from dovetile.ir.uop import UOp, toposort
from dovetile.plugins.matrix_unit import GroupUnit
from dovetile.plugins.specs import Capabilities

# Between a value and the sum of products that it is a factor of.
PATH = MOVEMENT | {Op.CAST, Op.INDEX, Op.MUL}
# Products in a sum that is short.
_SHORT = 256


@dataclass(frozen=True)
class Blockwise:
    """Values that are computed again.

    contractions: what they are made of. values: these and all made of them, of the same size.
    sums: contractions that they are factors in. rows: other reductions of them.
    """

    contractions: frozenset[UOp]
    values: frozenset[UOp]
    sums: frozenset[UOp]
    rows: frozenset[UOp]

    def joined(self, other: Blockwise) -> Blockwise:
        return Blockwise(*(getattr(self, f.name) | getattr(other, f.name) for f in fields(self)))

    @property
    def reductions(self) -> set[UOp]:
        """Those that the values are made of, the last ones."""
        cone = toposort(self.values, lambda n: n.op is not Op.REDUCE)
        return {n for n in cone if n.op is Op.REDUCE}

    @property
    def users(self) -> frozenset[UOp]:
        """Whose loops compute the values again."""
        return self.sums | self.rows


def blockwise(
    contractions: Mapping[UOp, UOp], users: Mapping[UOp, list[UOp]], target: Capabilities
) -> list[Blockwise]:
    """All that are better computed again than held, no two of which share values.

    contractions: with the products that they sum up.
    """
    found: list[tuple[frozenset[UOp], Blockwise | None]] = []
    for node, product in contractions.items():
        if not _suits(node, product, target):
            continue
        reached, mine = _made_of(node, contractions, users)
        for both in [f for f in found if not reached.isdisjoint(f[0])]:
            found.remove(both)
            reached |= both[0]
            mine = None if mine is None or both[1] is None else mine.joined(both[1])
        found.append((reached, mine))
    several = [f for _, f in found if f is not None and len(f.sums) > 1]
    return [f for f in several if _apart(f)]


def _suits(node: UOp, product: UOp, target: Capabilities) -> bool:
    """Whether a unit whose results other products can go on with does these."""
    types = tuple(_narrow(s) for s in product.src)
    units = [u for u in target.matrix_units if isinstance(u, GroupUnit) and u.holds]
    return node.src[0].size // node.size <= _SHORT and any((u.a, u.b) == types for u in units)


def _narrow(operand: UOp) -> str:
    """The narrowest type that an operand has had since it was computed."""
    best = operand.dtype
    while operand.op in PATH and operand.op is not Op.MUL:
        operand = operand.src[0]
        best = min(best, operand.dtype, key=lambda d: d.itemsize)
    return best.name


def _made_of(
    node: UOp, contractions: Mapping[UOp, UOp], users: Mapping[UOp, list[UOp]]
) -> tuple[frozenset[UOp], Blockwise | None]:
    """(a contraction and the values of its size made of it, what these are used for: None where
    somebody needs them as such)."""
    values, others, waiting = {node: None}, dict[UOp, None](), [node]
    while waiting:
        for user in users[waiting.pop()]:
            moves = user.op in ELEMENTWISE or user.op in (Op.RESHAPE, Op.PERMUTE)
            if user in values or not (moves and user.size == node.size):
                others[user] = None
            else:
                values[user] = None
                waiting.append(user)
    reached = frozenset(values)
    sums, rows = set[UOp](), set[UOp]()
    waiting = [u for u in others if u not in values]
    while waiting:
        user = waiting.pop()
        if user in contractions:
            sums.add(user)
        elif user.op is Op.REDUCE and user.src[0] in values:
            rows.add(user)
        elif user.op in PATH:
            waiting += users[user]
        else:
            return reached, None
    return reached, Blockwise(frozenset((node,)), reached, frozenset(sums), frozenset(rows))


def _apart(found: Blockwise) -> bool:
    """Whether all other reductions that the values are made of have results of fewer elements."""
    least = min(n.size for n in found.contractions)
    others = found.reductions - found.contractions
    return found.contractions.isdisjoint(found.sums) and all(n.size < least for n in others)
