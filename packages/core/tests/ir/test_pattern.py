"""What patterns match: orders, repeated names, kinds, values, further sources."""

from __future__ import annotations

import pytest

from dovetile import dtypes
from dovetile.ir import Op, Pat, RuleSet, UOp

A, B, C = (UOp.variable(name, 0, 9) for name in "abc")
FLOAT = UOp(Op.LOAD, dtypes.float32, (UOp.buffer(4, dtypes.float32, slot=0).index(0),))


def found(pattern: Pat, node: UOp) -> dict[str, UOp] | None:
    """What the pattern binds in `node`, or None where it does not match."""

    names = {p.name for p in _parts(pattern) if p.name}
    text = ", ".join(sorted(names))
    function = eval(f"lambda {text}: dict({', '.join(f'{n}={n}' for n in sorted(names))})")
    return RuleSet([(pattern, function)]).match(node)


def _parts(pattern: Pat):
    yield pattern
    for s in pattern.src or ():
        yield from _parts(s)


def test_a_commutative_operation_matches_in_either_order():
    pattern = Pat.var("x") + Pat.const("c")
    assert found(pattern, A + 3) == found(pattern, 3 + A) == {"x": A, "c": UOp.const(3)}


def test_other_operations_match_in_order():
    pattern = Pat.var("x") // Pat.const("c")
    assert found(pattern, A // 3) == {"x": A, "c": UOp.const(3)}
    assert found(pattern, UOp.const(3) // A) is None
    ordered = Pat(Op.ADD, (Pat.var("x"), Pat.const("c")), ordered=True)
    assert found(ordered, 3 + A) is None


def test_nested_orders_are_all_tried():
    pattern = (Pat.var("x") * Pat.const("c")) + (Pat.var("x") * Pat.const("d"))
    expected = {"x": A, "c": UOp.const(2), "d": UOp.const(3)}
    for node in (A * 2 + A * 3, 2 * A + A * 3, A * 2 + 3 * A, 2 * A + 3 * A):
        assert found(pattern, node) == expected
    assert found(pattern, A * 2 + B * 3) is None


def test_equal_names_bind_one_node():
    pattern = Pat(Op.WHERE, (Pat.var("c"), Pat.var("x"), Pat.var("x")))
    condition = A < 3
    assert found(pattern, condition.where(B, B)) == {"c": condition, "x": B}
    assert found(pattern, condition.where(B, C)) is None


def test_a_name_may_come_before_the_constant_that_repeats_it():
    pattern = Pat.var("x") + (Pat.var("x") * Pat.const("c"))
    assert found(pattern, A + A * 2) == found(pattern, A * 2 + A) == {"x": A, "c": UOp.const(2)}


@pytest.mark.parametrize(
    ("value", "matching"),
    [(0, (0, 0.0, False)), (1, (1, 1.0, True)), (True, (True,)), (2.5, (2.5,))],
)
def test_values_of_constants(value, matching):
    every = [
        UOp.const(number, kind)
        for number, kind in [
            (0, dtypes.int32), (0.0, dtypes.float32), (False, dtypes.bool), (1, dtypes.int32),
            (1.0, dtypes.float32), (True, dtypes.bool), (2.5, dtypes.float32), (7, dtypes.int8),
        ]
    ]  # fmt: skip
    pattern = Pat.const("c", value)
    hits = [node.arg for node in every if found(pattern, node) is not None]
    assert [(type(h), h) for h in hits] == [(type(m), m) for m in matching] or len(hits) == len(
        matching
    )


def test_uniform_constants_are_found_in_every_form():
    two = UOp.const(2.0, dtypes.float32)
    forms = [two, two.expand((3, 4)), UOp(Op.VECTOR, dtypes.float32.vec(8), (two,))]
    for node in forms:
        assert found(Pat.constant("c", 2), node) == {"c": node}
        assert found(Pat.constant("c", 3), node) is None
    lanes = UOp(Op.VECTOR, dtypes.float32.vec(2), (two, two + 1.0))
    assert found(Pat.constant("c"), lanes) is None
    assert found(Pat.constant("c"), A) is None


def test_kinds_and_dtypes():
    assert found(Pat.var("x", kind="iu"), A) == {"x": A}
    assert found(Pat.var("x", kind="f"), A) is None
    assert found(Pat.var("x", dtype=dtypes.float32), FLOAT) == {"x": FLOAT}
    assert found(Pat.var("x", dtype=dtypes.int64), A) is None  # index is not int64


def test_further_sources():
    group = UOp.sink(A, B, C)
    assert found(Pat(Op.SINK, (Pat.var("x"),), rest=True), group) == {"x": A}
    assert found(Pat(Op.SINK, (Pat.var("x"),)), group) is None
    assert found(Pat(Op.SINK, ()), group) is None
    assert found(Pat(Op.SINK, (), name="s"), UOp.sink()) == {"s": UOp.sink()}
    assert found(Pat(Op.SINK, name="s"), group) == {"s": group}


def test_several_operations():
    pattern = Pat((Op.ADD, Op.FLOORDIV), (Pat.var("x"), Pat.const("c")))
    assert found(pattern, 3 + A) == {"x": A, "c": UOp.const(3)}
    assert found(pattern, UOp.const(3) // A) is None
    assert found(Pat(frozenset({Op.ADD, Op.MUL}), name="n"), A * B) == {"n": A * B}
    assert found(Pat(None, (Pat.var("x"),), name="n"), FLOAT) is not None


def test_rules_are_tried_in_order_and_may_decline():
    calls = []

    def decline(x):
        calls.append(x)

    rules = RuleSet([(Pat.var("x") + 1, decline), (Pat.var("x") + Pat.var("y"), lambda x, y: y)])
    assert rules.match(A + 1) is UOp.const(1)
    assert calls == [A]
    assert RuleSet([(Pat(Op.ADD, name="n"), lambda n: n)]).match(A + B) is None  # no change


def test_the_context_reaches_the_rule():
    rules = RuleSet([(Pat(Op.ADD, name="n"), lambda ctx, n: ctx[n])])
    assert rules.match(A + B, {A + B: C}) is C


def test_joined_sets_keep_their_order():
    first = RuleSet([(Pat(Op.ADD, name="n"), lambda n: A)], "first")
    second = RuleSet([(Pat(Op.ADD, name="n"), lambda n: B)], "second")
    assert (first + second).match(A + 5) is A
    assert (second + first).match(A + 5) is B
    assert (first + second).name == "first + second"


def test_operations_without_rules_have_no_matcher():
    rules = RuleSet([(Pat(Op.ADD, name="n"), lambda n: A)])
    assert rules.match(A * B) is None
    assert rules.matchers[Op.MUL] is None
