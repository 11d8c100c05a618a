"""Rewrite rules as data: a pattern, and a function that builds the replacement.

    x, c = Pat.var("x"), Pat.const("c")
    rules = RuleSet([
        (x + 0, lambda x: x),
        (Pat(Op.CAST, (x,), name="cast"), drop_same_cast),
    ])

A rule's function names its parameters like the pattern's names (and may ask for `ctx`); it returns
the replacement, or None to decline. Patterns are compiled once, per operation of their root, to
Python code that tests the cheapest facts first.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from dovetile.dtypes import DType, Scalar
from dovetile.ir.ops import COMMUTATIVE, Op
from dovetile.ir.uop import UOp

_ANY = object()
# What a value that is one number everywhere can look like; see UOp.constant.
UNIFORM = frozenset({Op.CONST, Op.VECTOR, Op.EXPAND})
# What a rule answers is a UOp or None; the specs, which are rules too, answer otherwise.
Rule = tuple["Pat", Callable[..., Any]]


@dataclass(frozen=True, eq=False)
class Pat:
    """What a node must look like.

    ops: the allowed operations, None for any. src: patterns for the sources in order (any order of
    two for a commutative op); None for anything; with `rest` true, further sources may follow.
    kind: letters of allowed dtype kinds. Equal names must bind the same node.
    """

    ops: tuple[Op, ...] | Op | frozenset[Op] | None = None
    src: tuple[Pat, ...] | None = None
    name: str | None = None
    arg: Any = field(default=_ANY)
    dtype: DType | None = None
    kind: str | None = None
    rest: bool = False
    ordered: bool = False

    @staticmethod
    def var(name: str | None = None, dtype: DType | None = None, kind: str | None = None) -> Pat:
        """Anything (of that dtype or kind), bound to `name`."""
        return Pat(name=name, dtype=dtype, kind=kind)

    @staticmethod
    def const(
        name: str | None = None, value: Any = _ANY, dtype: DType | None = None,
        kind: str | None = None,
    ) -> Pat:  # fmt: skip
        """A constant (of that value)."""
        return Pat(Op.CONST, (), name, value, dtype, kind)

    @staticmethod
    def constant(
        name: str | None = None, value: Any = _ANY, dtype: DType | None = None,
        kind: str | None = None,
    ) -> Pat:  # fmt: skip
        """A value that is one number everywhere (`UOp.constant`): a CONST, also repeated in lanes
        or expanded to a shape."""
        return Pat(UNIFORM, None, name, value, dtype, kind)

    def named(self, name: str) -> Pat:
        """The same pattern, its node bound to `name`."""
        return Pat(
            self.ops, self.src, name, self.arg, self.dtype, self.kind, self.rest, self.ordered
        )

    def _binary(self, op: Op, other: Pat | Scalar) -> Pat:
        other = other if isinstance(other, Pat) else Pat.const(value=other)
        return Pat(op, (self, other))

    def __add__(self, other: Pat | Scalar) -> Pat:
        return self._binary(Op.ADD, other)

    def __mul__(self, other: Pat | Scalar) -> Pat:
        return self._binary(Op.MUL, other)

    def __truediv__(self, other: Pat | Scalar) -> Pat:
        return self._binary(Op.DIV, other)

    def __floordiv__(self, other: Pat | Scalar) -> Pat:
        return self._binary(Op.FLOORDIV, other)

    def __mod__(self, other: Pat | Scalar) -> Pat:
        return self._binary(Op.FLOORMOD, other)

    def __and__(self, other: Pat | Scalar) -> Pat:
        return self._binary(Op.AND, other)

    def __or__(self, other: Pat | Scalar) -> Pat:
        return self._binary(Op.OR, other)

    def __xor__(self, other: Pat | Scalar) -> Pat:
        return self._binary(Op.XOR, other)

    def __lt__(self, other: Pat | Scalar) -> Pat:
        return self._binary(Op.LT, other)

    def ne(self, other: Pat | Scalar) -> Pat:
        return self._binary(Op.NE, other)

    def max(self, other: Pat | Scalar) -> Pat:
        return self._binary(Op.MAX, other)

    def min(self, other: Pat | Scalar) -> Pat:
        return self._binary(Op.MIN, other)

    def where(self, then: Pat | Scalar, otherwise: Pat | Scalar) -> Pat:
        """self is the condition."""
        branches = (p if isinstance(p, Pat) else Pat.const(value=p) for p in (then, otherwise))
        return Pat(Op.WHERE, (self, *branches))

    @property
    def op_list(self) -> tuple[Op, ...]:
        if self.ops is None:
            return tuple(Op)
        return (self.ops,) if isinstance(self.ops, Op) else tuple(self.ops)


class _Code:
    """Writes one matching function: nested tests, the innermost line tries the rule."""

    def __init__(self) -> None:
        self.globals: dict[str, Any] = {}
        self.counter = 0

    def constant(self, value: Any) -> str:
        for name, known in self.globals.items():
            if known is value:
                return name
        name = f"k{len(self.globals)}"
        self.globals[name] = value
        return name

    def fresh(self) -> str:
        self.counter += 1
        return f"n{self.counter}"

    def conditions(self, pattern: Pat, variable: str, bound: dict[str, str]) -> Iterable[tuple]:
        """Alternatives: (list of lines, bindings); a line is ('if', text) or ('set', text)."""
        tests: list[tuple[str, str]] = []
        if pattern.ops is not None:
            ops = pattern.op_list
            if pattern.ops is UNIFORM:
                number = self.fresh()
                tests.append(("if", f"{variable}.op in {self.constant(UNIFORM)}"))
                tests.append(("set", f"{number} = {variable}.constant"))
                tests.append(("if", f"{number} is not None"))
                if pattern.arg is not _ANY:
                    tests.append(("if", f"{number} == {self.constant(pattern.arg)}"))
            elif len(ops) == 1:
                tests.append(("if", f"{variable}.op is {self.constant(ops[0])}"))
            else:
                tests.append(("if", f"{variable}.op in {self.constant(frozenset(ops))}"))
        if pattern.dtype is not None:
            tests.append(("if", f"{variable}.dtype is {self.constant(pattern.dtype)}"))
        if pattern.kind is not None:
            tests.append(("if", f"{variable}.dtype.kind in {pattern.kind!r}"))
        if pattern.arg is not _ANY and pattern.ops is not UNIFORM:
            tests.append(("if", f"{variable}.arg == {self.constant(pattern.arg)}"))
            if isinstance(pattern.arg, bool):  # True == 1, but is another constant
                tests.append(("if", f"{variable}.arg is {pattern.arg}"))
        if pattern.name is not None:
            if pattern.name in bound:
                tests.append(("if", f"{variable} is {bound[pattern.name]}"))
            else:
                bound = {**bound, pattern.name: variable}
        if not pattern.src:
            yield tests, bound
            return
        count = len(pattern.src)
        sources = self.fresh()
        tests.append(("set", f"{sources} = {variable}.src"))
        tests.append(("if", f"len({sources}) {'>=' if pattern.rest else '=='} {count}"))
        names = [self.fresh() for _ in range(count)]
        for i, name in enumerate(names):
            tests.append(("set", f"{name} = {sources}[{i}]"))
        orders = [names]
        commutative = all(op in COMMUTATIVE for op in pattern.op_list)
        if count == 2 and commutative and not pattern.ordered:
            first, second = pattern.src
            plain = first.ops is None and second.ops is None and first.name not in bound
            if not (plain and second.name not in bound and first.kind == second.kind
                    and first.dtype is second.dtype):  # fmt: skip
                orders.append(names[::-1])
        for order in orders:
            yield from self._sources(pattern.src, order, tests, bound)

    def _sources(
        self, patterns: Sequence[Pat], names: list[str], tests: list, bound: dict[str, str]
    ) -> Iterable[tuple]:
        if not patterns:
            yield tests, bound
            return
        # Constants first: they fail fastest and bind nothing others wait for.
        for lines, inner in self.conditions(patterns[0], names[0], bound):
            yield from self._sources(patterns[1:], names[1:], tests + lines, inner)


def _emit(lines: list[tuple[str, str]], final: list[str]) -> list[str]:
    out, depth = [], 1
    for kind, text in lines:
        if kind == "set":
            out.append("  " * depth + text)
        else:
            out.append("  " * depth + f"if {text}:")
            depth += 1
    return out + ["  " * depth + f for f in final]


class RuleSet:
    """An ordered list of rules, compiled when first used. `a + b` tries a's rules before b's."""

    def __init__(self, rules: Iterable[Rule], name: str = "") -> None:
        self.rules = list(rules)
        self.name = name
        self._table: dict[Op, Callable[[UOp, Any], Any]] | None = None

    def __add__(self, other: RuleSet) -> RuleSet:
        return RuleSet([*self.rules, *other.rules], self.name or other.name)

    @property
    def table(self) -> dict[Op, Callable[[UOp, Any], Any]]:
        """The compiled matcher of every operation that any rule's root allows."""
        if self._table is None:
            by_op: dict[Op, list[Rule]] = {}
            for pattern, function in self.rules:
                for op in pattern.op_list:
                    by_op.setdefault(op, []).append((pattern, function))
            # Ops with the same list of rules (rules on any op) share one function.
            shared: dict[tuple[int, ...], Callable] = {}
            self._table = {}
            for op, rules in by_op.items():
                key = tuple(id(p) for p, _ in rules)
                if key not in shared:
                    shared[key] = _compile(rules)
                self._table[op] = shared[key]
        return self._table

    def rewrite(self, node: UOp, ctx: Any = None) -> UOp | None:
        """The first replacement any rule gives for this very node, or None."""
        matcher = self.table.get(node.op)
        return None if matcher is None else matcher(node, ctx)


def _compile(rules: list[Rule]) -> Callable[[UOp, Any], Any]:
    code = _Code()
    body: list[str] = []
    for pattern, function in rules:
        wanted = list(inspect.signature(function).parameters)
        call = code.constant(function)
        for lines, bound in code.conditions(pattern, "node", {}):
            arguments = ", ".join(f"{w}=ctx" if w == "ctx" else f"{w}={bound[w]}" for w in wanted)
            body += _emit(
                lines,
                [
                    f"result = {call}({arguments})",
                    "if result is not None and result is not node: return result",
                ],
            )
    text = "def match(node, ctx):\n" + "\n".join(body or ["  pass"]) + "\n  return None\n"
    exec(compile(text, "<rules>", "exec"), code.globals)
    return code.globals["match"]
