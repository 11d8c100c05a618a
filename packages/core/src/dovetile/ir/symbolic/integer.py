"""Integer algebra on index expressions, which never overflow: sums, products, floor division,
remainders, minima, maxima and comparisons.

The functions are constructors: from canonical operands they build the canonical node, so a node
that is canonical already comes back as itself. The rules at the end call them.
"""

from __future__ import annotations

from collections.abc import Iterable

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.ir.ops import COMPARISON, Op
from dovetile.ir.pattern import Pat, RuleSet
from dovetile.ir.symbolic.linear import (
    Linear,
    Terms,
    add,
    common_divisor,
    compare,
    from_linear,
    in_order,
    linear_bounds,
    linear_form,
    scale,
)
from dovetile.ir.uop import UOp

# -- Sums ------------------------------------------------------------------------------------------


def simplify_sum(node: UOp) -> UOp:
    """Terms merged, quotients and remainders of one expression joined, in order, constant last."""
    form = linear_form(node)
    if len(form[0]) > 1 and any(t.op is Op.FLOORMOD for t in form[0]):
        form = _join(form)
    return from_linear(*form, node)


def _join(form: Linear) -> Linear:
    """Undoes the splitting of an expression y by a constant d:  (y // d) * d + y % d = y,
    and where the quotient is taken modulo e:  ((y // d) % e) * d + y % d = y % (d * e)."""
    joined: Linear | None = form
    while joined is not None:
        form, joined = joined, None
        for term in form[0]:
            if term.op is Op.FLOORMOD and (joined := _join_remainder(form, term)) is not None:
                break
    return form


def _join_remainder(form: Linear, remainder: UOp) -> Linear | None:
    terms = form[0]
    y, divisor = remainder.src[0], remainder.src[1].constant
    if divisor is None:
        return None
    a, d = terms[remainder], int(divisor)
    quotient = floor_divide(y, d)
    parts, constant = linear_form(quotient)
    if parts and all(terms.get(t) == a * d * c for t, c in parts.items()):
        form = add(form, ({remainder: 1}, 0), -a)
        form = add(form, (parts, constant), -a * d)
        return add(form, linear_form(y), a)
    for other, coefficient in terms.items():
        if coefficient == a * d and other.op is Op.FLOORMOD and other.src[0] is quotient:
            e = other.src[1].constant
            if e is not None:
                form = add(form, ({remainder: 1, other: d}, 0), -a)
                return add(form, linear_form(floor_remainder(y, d * int(e))), a)
    return None


# -- Products --------------------------------------------------------------------------------------

# A product of sums is multiplied out while that gives no more terms than this.
_MOST_PRODUCTS = 16


def simplify_product(node: UOp) -> UOp:
    """Constants times products of ordered factors; sums multiplied out."""
    x, y = node.src
    (left, a), (right, b) = linear_form(x), linear_form(y)
    if not left or not right:
        return simplify_sum(node)
    if (len(left) + bool(a)) * (len(right) + bool(b)) > _MOST_PRODUCTS:
        return node if compare(x, y) <= 0 else y * x
    total = add(scale((left, 0), b), scale((right, 0), a))
    for s, c in left.items():
        for t, d in right.items():
            total = add(total, ({_monomial(s, t): 1}, 0), c * d)
    return from_linear(total[0], a * b, node)


def _monomial(x: UOp, y: UOp) -> UOp:
    first, *others = in_order([*_factors(x), *_factors(y)])
    for factor in others:
        first = first * factor
    return first


def _factors(node: UOp) -> list[UOp]:
    factors: list[UOp] = []
    while node.op is Op.MUL:
        factors.append(node.src[1])
        node = node.src[0]
    return [node, *factors]


# -- Floor division and remainder ------------------------------------------------------------------


def floor_divide(x: UOp, divisor: int) -> UOp:
    """x // divisor, for divisor > 0."""
    return from_linear(*_quotient(linear_form(x), divisor, x), x)


def floor_remainder(x: UOp, divisor: int) -> UOp:
    """x % divisor, for divisor > 0."""
    return from_linear(*_remainder(linear_form(x), divisor, x), x)


def _split(form: Linear, c: int) -> tuple[Linear, Linear]:
    """(q, r) with form = q * c + r; the coefficients of r are smaller than c (and keep their sign,
    so that a reversed index stays a reversed index), its constant lies in [0, c)."""
    quotient: Terms = {}
    rest: Terms = {}
    for term, coefficient in form[0].items():
        whole = coefficient // c if coefficient >= 0 else -(-coefficient // c)
        if whole:
            quotient[term] = whole
        if coefficient != whole * c:
            rest[term] = coefficient - whole * c
    return (quotient, form[1] // c), (rest, form[1] % c)


def _quotient(form: Linear, c: int, like: UOp) -> Linear:
    if c == 1:
        return form
    whole, (terms, constant) = _split(form, c)
    return add(whole, _quotient_of_rest(terms, constant, c, like))


def _quotient_of_rest(terms: Terms, constant: int, c: int, like: UOp) -> Linear:
    low, high = linear_bounds(terms, constant)
    if low // c == high // c:
        return ({}, low // c)
    if _leads_negative(terms):  # y // c = -((c - 1 - y) // c)
        mirrored = {t: -a for t, a in terms.items()}
        return scale(_quotient_of_rest(mirrored, c - 1 - constant, c, like), -1)
    for d in _divisors(terms, c):
        coarse, fine = _part(terms, d)
        low, high = linear_bounds(fine, constant % d)
        if low // d == high // d:  # what `fine` adds never crosses a multiple of d
            reduced = ({t: a // d for t, a in coarse.items()}, constant // d + low // d)
            return _quotient(reduced, c // d, like)
    if len(terms) == 1:
        ((term, coefficient),) = terms.items()
        inner = _constant_divisor(term)
        if coefficient == 1 and inner is not None:
            z = linear_form(term.src[0])
            if term.op is Op.FLOORDIV:  # (z // a + k) // c = (z + k * a) // (a * c)
                return _quotient(add(z, ({}, constant), inner), inner * c, like)
            if constant == 0 and inner % c == 0:  # (z % a) // c = (z // c) % (a // c)
                divided = from_linear(*_quotient(z, c, like), like)
                return _remainder(linear_form(divided), inner // c, like)
    numerator = from_linear(terms, constant, like)
    return ({numerator.alu(Op.FLOORDIV, c): 1}, 0)


def _remainder(form: Linear, c: int, like: UOp) -> Linear:
    if c == 1:
        return ({}, 0)
    _, rest = _split(form, c)
    low, high = linear_bounds(*rest)
    if low // c == high // c:
        return (rest[0], rest[1] - low // c * c)
    rest = _without_inner_remainders(rest, c)
    terms, constant = rest
    low, high = linear_bounds(terms, constant)
    if low // c == high // c:
        return (terms, constant - low // c * c)
    if _leads_negative(terms):  # y % c = c - 1 - ((c - 1 - y) % c)
        mirrored = ({t: -a for t, a in terms.items()}, c - 1 - constant)
        return add(({}, c - 1), _remainder(mirrored, c, like), -1)
    for d in _divisors(terms, c):
        coarse, fine = _part(terms, d)
        low, high = linear_bounds(fine, constant % d)
        if low // d == high // d:
            reduced = ({t: a // d for t, a in coarse.items()}, constant // d + low // d)
            small = (fine, constant % d - low // d * d)
            return add(small, _remainder(reduced, c // d, like), d)
    return ({from_linear(terms, constant, like).alu(Op.FLOORMOD, c): 1}, 0)


def _without_inner_remainders(rest: Linear, c: int) -> Linear:
    """(a * (z % m) + ...) % c = (a * z + ...) % c  where c divides a * m."""
    again = True
    while again:
        again = False
        for term, a in rest[0].items():
            inner = _constant_divisor(term)
            if term.op is Op.FLOORMOD and inner is not None and a * inner % c == 0:
                rest = add(add(rest, ({term: 1}, 0), -a), linear_form(term.src[0]), a)
                rest, again = _split(rest, c)[1], True
                break
    return rest


def _leads_negative(terms: Terms) -> bool:
    """Whether the first term has a negative coefficient. Of an expression and its mirror image only
    one is canonical."""
    return terms[in_order(terms)[0]] < 0


def _divisors(terms: Terms, c: int) -> list[int]:
    """Divisors of c that some coefficients share, the greatest first."""
    found = {common_divisor((a, c)) for a in terms.values()} - {1}
    return sorted(found, reverse=True)


def _part(terms: Terms, d: int) -> tuple[Terms, Terms]:
    """The terms whose coefficients are multiples of d, and the others."""
    coarse = {t: a for t, a in terms.items() if a % d == 0}
    return coarse, {t: a for t, a in terms.items() if a % d}


def _constant_divisor(term: UOp) -> int | None:
    if term.op not in (Op.FLOORDIV, Op.FLOORMOD):
        return None
    value = term.src[1].constant
    return int(value) if value is not None and value > 0 else None


def simplify_division(node: UOp) -> UOp | None:
    """x // c and x % c."""
    x, divisor = node.src
    value = divisor.constant
    if value is None:
        return _divide_by_symbol(node, x, divisor)
    c = int(value)
    if c == 0:
        return node.const_like(0)
    simplify = floor_divide if node.op is Op.FLOORDIV else floor_remainder
    if c > 0:
        return simplify(x, c)
    # x // -c = -x // c;  x % -c = -(-x % c)
    return simplify(-x, -c) if node.op is Op.FLOORDIV else -simplify(-x, -c)


def _divide_by_symbol(node: UOp, x: UOp, divisor: UOp) -> UOp | None:
    """(q * v + r) // v and % v where 0 <= r < v: r is the loop over v, or bounded below v's least
    value."""
    least = divisor.minimum
    if least <= 0:
        return None
    terms, constant = linear_form(x)
    quotient: Linear = ({}, 0)
    rest: Terms = {}
    for term, a in terms.items():
        factors = _factors(term)
        if divisor in factors:
            factors.remove(divisor)
            product = node.const_like(1) if not factors else factors[0]
            for factor in factors[1:]:
                product = product * factor
            quotient = add(quotient, linear_form(product), a)
        else:
            rest[term] = a
    low, high = linear_bounds(rest, constant)
    is_loop = constant == 0 and [(t.op, a, *t.src) for t, a in rest.items()] == [
        (Op.RANGE, 1, divisor)
    ]
    if not is_loop and not (0 <= low and high < least):
        return None
    if node.op is Op.FLOORDIV:
        return from_linear(*quotient, node)
    return from_linear(rest, constant, node)


# -- Minima, maxima and comparisons ----------------------------------------------------------------


def simplify_extreme(node: UOp) -> UOp:
    """MAX and MIN whose winner is known; otherwise in order, a constant last."""
    x, y = node.src
    low, high = linear_bounds(*add(linear_form(x), linear_form(y), -1))
    if low >= 0:
        return x if node.op is Op.MAX else y
    if high <= 0:
        return y if node.op is Op.MAX else x
    in_place = y.constant is not None or (x.constant is None and compare(x, y) < 0)
    return node if in_place else UOp(node.op, node.dtype, (y, x))


def less_than(x: UOp, y: UOp) -> UOp:
    """x < y, as  positive terms < other terms + constant."""
    terms, constant = add(linear_form(x), linear_form(y), -1)
    return _less(terms, -constant, x)


def _less(terms: Terms, bound: int, like: UOp) -> UOp:
    """sum(terms) < bound"""
    low, high = linear_bounds(terms)
    if high < bound or low >= bound:
        return like.alu(Op.LT, 0).const_like(high < bound)
    if _leads_negative(terms):  # -s < b  where not  s < 1 - b
        return _less({t: -a for t, a in terms.items()}, 1 - bound, like).logical_not()
    for d in sorted({abs(a) for a in terms.values()} - {1}, reverse=True):
        coarse, fine = _part(terms, d)
        low, high = linear_bounds(fine)
        limit = (bound - 1 - low) // d
        if limit == (bound - 1 - high) // d:  # d * s <= bound - 1 - fine, whatever `fine` is
            return _less({t: a // d for t, a in coarse.items()}, limit + 1, like)
    if len(terms) == 1:
        ((term, a),) = terms.items()
        inner = _constant_divisor(term)
        if a == 1 and inner is not None and term.op is Op.FLOORDIV:  # z // c < b  where  z < b * c
            z, offset = linear_form(term.src[0])
            return _less(z, bound * inner - offset, like)
    left, right = _sides(terms, bound, like)
    return left.alu(Op.LT, right)


def not_equal(x: UOp, y: UOp) -> UOp:
    """x != y, as  positive terms != other terms + constant."""
    terms, constant = add(linear_form(x), linear_form(y), -1)
    bound = -constant
    low, high = linear_bounds(terms)
    divisor = common_divisor(terms.values())
    if not low <= bound <= high or (divisor and bound % divisor):
        return x.alu(Op.LT, 0).const_like(True)
    if low == high:
        return x.alu(Op.LT, 0).const_like(False)
    if bound == low:
        return _less(terms, bound + 1, x).logical_not()
    if bound == high:
        return _less(terms, bound, x)
    sign = -1 if _leads_negative(terms) else 1
    divisor *= sign
    left, right = _sides({t: a // divisor for t, a in terms.items()}, bound // divisor, x)
    return left.alu(Op.NE, right)


def _sides(terms: Terms, bound: int, like: UOp) -> tuple[UOp, UOp]:
    left = {t: a for t, a in terms.items() if a > 0}
    right = {t: -a for t, a in terms.items() if a < 0}
    return from_linear(left, 0, like), from_linear(right, bound, like)


# -- Data integers that are really indices ---------------------------------------------------------

_LIFTED = (
    Op.ADD, Op.MUL, Op.FLOORDIV, Op.FLOORMOD, Op.MAX, Op.MIN, Op.LT, Op.NE,
)  # fmt: skip


def _fits(nodes: Iterable[UOp], dtype: DType) -> bool:
    return all(dtype.minimum <= n.minimum and n.maximum <= dtype.maximum for n in nodes)


def _lift(node: UOp) -> UOp | None:
    """Arithmetic on indices cast to a data type, done on the indices where nothing can overflow:
    positions computed with `arange` are then index expressions like any other."""
    inner: list[UOp] = []
    found = False
    for s in node.src:
        if s.op is Op.CAST and s.src[0].dtype is dtypes.index:
            found = True
            inner.append(s.src[0])
        elif s.constant is not None:
            inner.append(s)
        else:
            return None
    dtype = node.src[0].dtype
    if not found or dtype is dtypes.index:
        return None
    like = next(s for s in inner if s.dtype is dtypes.index)
    inner = [s if s.dtype is dtypes.index else like.const_like(s.constant or 0) for s in inner]
    if not _fits(inner, dtype):
        return None
    lifted = inner[0].alu(node.op, inner[1])
    if node.op in COMPARISON:
        return lifted
    return lifted.cast(dtype) if _fits([lifted], dtype) else None


def _sink_cast(cast: UOp, inner: UOp) -> UOp | None:
    """An index computed in a data type, computed as an index where nothing can overflow."""
    if inner.dtype.lanes > 1 or not _fits(inner.src, dtypes.int64):
        return None
    lifted = inner.src[0].cast(dtypes.index).alu(inner.op, inner.src[1].cast(dtypes.index))
    return lifted if _fits([lifted], inner.dtype) else None


_index = dtypes.index
simplify_index = RuleSet(
    [
        (Pat(Op.ADD, name="node", dtype=_index), simplify_sum),
        (Pat(Op.MUL, name="node", dtype=_index), simplify_product),
        (Pat((Op.FLOORDIV, Op.FLOORMOD), name="node", dtype=_index), simplify_division),
        (Pat((Op.MAX, Op.MIN), name="node", dtype=_index), simplify_extreme),
        (Pat(Op.LT, (Pat.var("x", dtype=_index), Pat.var("y"))), less_than),
        (Pat(Op.NE, (Pat.var("x", dtype=_index), Pat.var("y")), ordered=True), not_equal),
        (Pat(_LIFTED, name="node", kind="iub"), _lift),
        (
            Pat(
                Op.CAST,
                (Pat(_LIFTED[:6], (Pat.var(), Pat.var()), name="inner", kind="iu"),),
                name="cast",
                dtype=_index,
            ),
            _sink_cast,
        ),
    ],
    "simplify_index",
    remember=True,
)
