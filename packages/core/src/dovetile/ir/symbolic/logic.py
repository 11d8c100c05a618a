"""Chains of conditions on indices, and values simplified under a condition known to hold."""

from __future__ import annotations

from dovetile import dtypes
from dovetile.ir.ops import Op
from dovetile.ir.pattern import Pat, RuleSet
from dovetile.ir.rewrite import rewrite, substitute
from dovetile.ir.symbolic.constants import simplify_constants
from dovetile.ir.symbolic.integer import less_than, simplify_index
from dovetile.ir.symbolic.linear import (
    Linear,
    Terms,
    add,
    from_linear,
    linear_bounds,
    linear_form,
    scale,
)
from dovetile.ir.uop import UOp, toposort

# -- Clauses ---------------------------------------------------------------------------------------


def negate(condition: UOp) -> UOp:
    """not condition, without a double negation."""
    if condition.op is Op.XOR and condition.src[1].constant is True:
        return condition.src[0]
    return condition.logical_not()


def clauses(condition: UOp, op: Op = Op.AND) -> list[UOp]:
    """The operands of nested ANDs (or ORs), in order, each once."""
    found: dict[UOp, None] = {}
    stack = [condition]
    while stack:
        node = stack.pop()
        if node.op is op:
            stack.extend(reversed(node.src))
        else:
            found[node] = None
    return list(found)


class _Fact:
    """least <= sum of terms <= greatest, as the clauses of a condition say."""

    def __init__(self, terms: Terms) -> None:
        self.terms = terms
        self.known = linear_bounds(terms)
        self.least, self.greatest = self.known

    def clauses(self, bounds: tuple[int, int]) -> list[UOp]:
        """The conditions that `bounds` of the sum do not imply."""
        total = from_linear(self.terms, 0, next(iter(self.terms)))
        found = []
        if self.least > bounds[0]:
            found.append(less_than(total, total.const_like(self.least)).logical_not())
        if self.greatest < bounds[1]:
            found.append(less_than(total, total.const_like(self.greatest + 1)))
        return found


def _comparison(clause: UOp) -> tuple[Linear, bool] | None:
    """(s, negated) of a clause  s < 0  or  not s < 0  on scalar indices."""
    negated = clause.op is Op.XOR and clause.src[1].constant is True
    node = clause.src[0] if negated else clause
    if node.op is not Op.LT or node.src[0].dtype is not dtypes.index:
        return None
    form = add(linear_form(node.src[0]), linear_form(node.src[1]), -1)
    return (form, negated) if form[0] else None


def _facts(conditions: list[UOp]) -> tuple[dict[frozenset, _Fact], list[UOp]]:
    """What the comparisons among the conditions say of each sum, and the other conditions."""
    facts: dict[frozenset, _Fact] = {}
    others: list[UOp] = []
    for clause in conditions:
        comparison = _comparison(clause)
        if comparison is None:
            others.append(clause)
            continue
        (terms, constant), negated = comparison
        # s < b, or s >= b
        bound = -constant
        mirrored = frozenset((t, -a) for t, a in terms.items())
        if mirrored in facts:
            terms, bound, negated = scale((terms, 0), -1)[0], 1 - bound, not negated
        fact = facts.setdefault(frozenset(terms.items()), _Fact(terms))
        if negated:
            fact.least = max(fact.least, bound)
        else:
            fact.greatest = min(fact.greatest, bound - 1)
    return facts, others


def _conjunction(conditions: list[UOp], like: UOp) -> list[UOp]:
    """The conditions without those that others imply; [false] where they contradict."""
    facts, others = _facts(conditions)
    false = like.const_like(False)
    if any(negate(clause) in others for clause in others):
        return [false]
    single = {
        next(iter(f.terms)): f
        for f in facts.values()
        if len(f.terms) == 1 and next(iter(f.terms.values())) == 1
    }
    kept: list[UOp] = []
    for fact in facts.values():
        bounds = fact.known
        if len(fact.terms) > 1:  # what the conditions on single terms already say of the sum
            bounds = _narrowed(fact.terms, single)
        if max(fact.least, bounds[0]) > min(fact.greatest, bounds[1]):
            return [false]
        kept += fact.clauses(bounds)
    # Clauses that survive keep their place; what was merged goes behind them.
    stay = [c for c in conditions if c in others or c in kept]
    return stay + [c for c in kept if c not in stay]


def _narrowed(terms: Terms, single: dict[UOp, _Fact]) -> tuple[int, int]:
    low = high = 0
    for term, a in terms.items():
        fact = single.get(term)
        least, greatest = (fact.least, fact.greatest) if fact else term.bounds
        corners = (int(a * least), int(a * greatest))
        low, high = low + min(corners), high + max(corners)
    return low, high


# Longer chains than this are left alone, so that the work stays linear.
_MOST_CLAUSES = 32


def _simplify_chain(node: UOp) -> UOp | None:
    """AND and OR chains; an OR is the negation of the AND of the negated clauses."""
    op = node.op
    conditions = clauses(node, op)
    if len(conditions) > _MOST_CLAUSES:
        return None
    if op is Op.AND:
        kept = _conjunction(conditions, node)
    else:
        kept = [negate(c) for c in _conjunction([negate(c) for c in conditions], node)]
    if not kept:
        return node.const_like(op is Op.AND)
    result = kept[0]
    for clause in kept[1:]:
        result = result.alu(op, clause)
    return result


simplify_logic = RuleSet(
    [(Pat((Op.AND, Op.OR), name="node", dtype=dtypes.bool_), _simplify_chain)],
    "simplify_logic",
    remember=True,
)
symbolic = simplify_constants + simplify_index + simplify_logic


# -- Values under a gate ---------------------------------------------------------------------------


def simplify_gate(value: UOp, gate: UOp) -> UOp:
    """A form of `value` that equals it wherever `gate` holds, and may differ elsewhere.

    The bounds that the gate puts on sums of loop counters are taken as the bounds of those sums:
    under 0 <= r - 3 < 8 the index (r - 3) % 8 is r - 3.
    """
    conditions = clauses(gate)
    facts, others = _facts(conditions)
    value = _simplify_with(value, {c: c.const_like(True) for c in others})
    inside = set(toposort(value))
    narrow: dict[UOp, UOp] = {}
    back: dict[UOp, UOp] = {}
    for number, fact in enumerate(facts.values()):
        ((term, a), *rest) = fact.terms.items()
        if not rest and a == 1 and term in inside and fact.least <= fact.greatest:
            narrow[term] = _stand_in(number, fact)
            if not narrow[term].is_const:  # a constant stays, and others of its value are not meant
                back[narrow[term]] = term
    if narrow:
        value = _simplify_with(_simplify_with(value, narrow), back)
    for number, fact in enumerate(facts.values()):
        if len(fact.terms) > 1 and fact.least <= fact.greatest:
            value = _assume_sum(value, fact, number)
    return value


def _stand_in(number: int, fact: _Fact) -> UOp:
    """A variable with the bounds of the fact, in place of what the fact speaks of."""
    if fact.least == fact.greatest:
        return UOp.const(fact.least)
    return UOp.variable(f"<gate {number}>", fact.least, fact.greatest)


def _assume_sum(value: UOp, fact: _Fact, number: int) -> UOp:
    """`value` with one term written as the sum, of which the bounds are known, less the others."""
    inside = set(toposort(value))
    for term, a in fact.terms.items():
        if abs(a) != 1 or term not in inside:
            continue
        others = ({t: b for t, b in fact.terms.items() if t is not term}, 0)
        name = UOp.variable(f"<gate {number}>", fact.least, fact.greatest)
        written = scale(add(({name: 1}, 0), others, -1), a)
        changed = _simplify_with(value, {term: from_linear(*written, term)})
        total = from_linear(fact.terms, 0, term)
        changed = _simplify_with(changed, {name: total})
        if changed is not value and _cost(changed) < _cost(value):
            return changed
    return value


def _simplify_with(value: UOp, replacements: dict[UOp, UOp]) -> UOp:
    replaced = substitute(value, replacements)
    return value if replaced is value else rewrite(replaced, symbolic)


_COSTLY = (Op.FLOORDIV, Op.FLOORMOD)


def _cost(node: UOp) -> int:
    return sum(8 if n.op in _COSTLY else 1 for n in toposort(node))


# -- Gates of memory access ------------------------------------------------------------------------


def _without_nothing(node: UOp) -> UOp | None:
    """Effects without those that do nothing (an empty GROUP)."""
    kept = tuple(s for s in node.src if not (s.op is Op.GROUP and not s.src))
    return None if len(kept) == len(node.src) else node.replace(src=kept)


def _ended_nothing(node: UOp) -> UOp | None:
    effect = node.src[0]
    return effect if effect.op is Op.GROUP and not effect.src else None


def _after_nothing(node: UOp) -> UOp | None:
    changed = _without_nothing(node)
    return changed.src[0] if changed is not None and len(changed.src) == 1 else changed


_address = Pat(Op.INDEX, name="address")


def _constant_gate(value: bool) -> Pat:
    return Pat.constant(value=value, kind="b")


fold_gates = RuleSet(
    [
        (
            Pat(Op.LOAD, (_address, Pat.var(), _constant_gate(True)), name="load"),
            lambda load, address: load.replace(src=(address,)),
        ),
        (
            Pat(Op.LOAD, (_address, Pat.var("alternative"), _constant_gate(False))),
            lambda alternative: alternative,
        ),
        (
            Pat(Op.STORE, (_address, Pat.var("x"), _constant_gate(True)), name="store"),
            lambda store, address, x: store.replace(src=(address, x)),
        ),
        (
            Pat(Op.STORE, (_address, Pat.var(), _constant_gate(False))),
            lambda: UOp(Op.GROUP, dtypes.void),
        ),
        (Pat(Op.END, name="node"), _ended_nothing),
        (Pat((Op.GROUP, Op.SINK), name="node"), _without_nothing),
        (Pat(Op.AFTER, name="node"), _after_nothing),
    ],
    "fold_gates",
    remember=True,
)


def _position_under_gate(node: UOp, buffer: UOp, position: UOp, gate: UOp) -> UOp | None:
    better = simplify_gate(position, gate)
    if better is position:
        return None
    return node.replace(src=(node.src[0].replace(src=(buffer, better)), *node.src[1:]))


_place = Pat(Op.INDEX, (Pat.var("buffer"), Pat.var("position", dtype=dtypes.index)))
simplify_gates = RuleSet(
    [
        (
            Pat((Op.LOAD, Op.STORE), (_place, Pat.var(), Pat.var("gate")), name="node"),
            _position_under_gate,
        )
    ],
    "simplify_gates",
)
