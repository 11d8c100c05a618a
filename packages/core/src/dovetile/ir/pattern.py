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
import itertools
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


# -- Compilation -----------------------------------------------------------------------------------

# Lines of a matching function: ("if", condition) or ("set", assignment).
_Line = tuple[str, str]


class _Code:
    """Writes the matching function of one operation.

    Variables are named by where a node stands (`node_1_0`: first source of the second source), so
    that rules which begin with the same tests have the same lines; neighbours then share them.
    """

    def __init__(self, op: Op) -> None:
        self.op = op
        self.globals: dict[str, Any] = {}
        self.names: dict[int, str] = {}
        # A tree of lines; a leaf is a list of statements.
        self.tree: list[tuple[_Line | None, list]] = []

    def constant(self, value: Any) -> str:
        name = self.names.setdefault(id(value), f"k{len(self.names)}")
        self.globals[name] = value
        return name

    def add(self, pattern: Pat, function: Callable) -> None:
        """One rule, in each order that its commutative operations allow."""
        call = self.constant(function)
        wanted = list(inspect.signature(function).parameters)
        for lines, bound in self.alternatives(pattern, "node", {}, self.op):
            arguments = ", ".join(w if w == "ctx" else bound[w] for w in wanted)
            branch = self.tree
            for line in lines:
                if not branch or branch[-1][0] != line:
                    branch.append((line, []))
                branch = branch[-1][1]
            final = [
                f"result = {call}({arguments})",
                "if result is not None and result is not node: return result",
            ]
            branch.append((None, final))

    def alternatives(
        self, pattern: Pat, at: str, bound: dict[str, str], op: Op | None = None
    ) -> Iterable[tuple[list[_Line], dict[str, str]]]:
        """(lines, bindings) for each order of sources; `op` is the operation where it is known."""
        lines = self.tests(pattern, at, op)
        if pattern.name is not None:
            if pattern.name in bound:
                lines.append(("if", f"{at} is {bound[pattern.name]}"))
            else:
                bound = {**bound, pattern.name: at}
        if pattern.src is None:
            yield lines, bound
            return
        count = len(pattern.src)
        names = [f"{at}_{i}" for i in range(count)]
        lines.append(("set", f"{at}_s = {at}.src"))
        lines.append(("if", f"len({at}_s) {'>=' if pattern.rest else '=='} {count}"))
        if pattern.rest:
            lines += [("set", f"{name} = {at}_s[{i}]") for i, name in enumerate(names)]
        elif names:
            lines.append(("set", f"{', '.join(names)}, = {at}_s"))
        orders = [names]
        ops = pattern.op_list if op is None else (op,)
        if count == 2 and not pattern.ordered and all(o in COMMUTATIVE for o in ops):
            if not _interchangeable(pattern.src[0], pattern.src[1], bound):
                orders.append(names[::-1])
        for order in orders:
            yield from self.sources(pattern.src, order, lines, bound)

    def sources(
        self, patterns: Sequence[Pat], names: list[str], lines: list[_Line], bound: dict[str, str]
    ) -> Iterable[tuple[list[_Line], dict[str, str]]]:
        if not patterns:
            yield lines, bound
            return
        for more, inner in self.alternatives(patterns[0], names[0], bound):
            yield from self.sources(patterns[1:], names[1:], lines + more, inner)

    def tests(self, pattern: Pat, at: str, op: Op | None) -> list[_Line]:
        """What the node itself must be; the cheapest and least likely first."""
        lines: list[_Line] = []
        uniform = pattern.ops is UNIFORM
        if pattern.ops is not None and op is None:
            ops = pattern.op_list
            if len(ops) == 1:
                lines.append(("if", f"{at}.op is {self.constant(ops[0])}"))
            else:
                known = pattern.ops if isinstance(pattern.ops, frozenset) else frozenset(ops)
                lines.append(("if", f"{at}.op in {self.constant(known)}"))
        if pattern.dtype is not None:
            lines.append(("if", f"{at}.dtype is {self.constant(pattern.dtype)}"))
        if pattern.kind is not None:
            lines.append(("if", f"{at}.dtype.kind in {pattern.kind!r}"))
        value = f"{at}.arg"
        if uniform:
            value = f"{at}_c"
            lines += [("set", f"{value} = {at}.constant"), ("if", f"{value} is not None")]
        if pattern.arg is not _ANY:
            lines.append(("if", f"{value} == {self.constant(pattern.arg)}"))
            if isinstance(pattern.arg, bool):  # True == 1, but is another constant
                lines.append(("if", f"{value} is {pattern.arg}"))
        return lines

    def text(self) -> str:
        lines = ["def match(node, ctx):"]
        _write(self.tree, 1, lines)
        return "\n".join([*lines, "  return None", ""])


def _interchangeable(a: Pat, b: Pat, bound: dict[str, str]) -> bool:
    """Whether either order of two sources finds the same: both take any node of one kind."""
    free = a.name not in bound and b.name not in bound and a.name != b.name
    alike = a.kind == b.kind and a.dtype is b.dtype
    return a.ops is None and b.ops is None and free and alike


def _write(tree: list[tuple[_Line | None, list]], depth: int, out: list[str]) -> None:
    margin = "  " * depth
    for line, inner in tree:
        if line is None:
            out += [margin + statement for statement in inner]
        elif line[0] == "set":
            out.append(margin + line[1])
            _write(inner, depth, out)
        else:
            out.append(f"{margin}if {line[1]}:")
            _write(inner, depth + 1, out)


Matcher = Callable[[UOp, Any], Any]


class _Matchers(dict[Op, Matcher | None]):
    """The matching function of each operation, compiled when it is first needed; None where no rule
    is about the operation."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        super().__init__()
        self.rules = rules

    def __missing__(self, op: Op) -> Matcher | None:
        code = _Code(op)
        for pattern, function in self.rules:
            if pattern.ops is None or op in pattern.op_list:
                code.add(pattern, function)
        if code.tree:
            exec(compile(code.text(), f"<rules for {op.name}>", "exec"), code.globals)
        return self.setdefault(op, code.globals.get("match"))


_final_bits = itertools.count()


class RuleSet:
    """An ordered list of rules, compiled when first used. `a + b` tries a's rules before b's.

    remember: nodes that no rule changes are marked, so that later rewrites with this very rule set
    pass over them and all that is below. For rule sets made once, whose rules depend on nothing but
    the node.
    """

    def __init__(self, rules: Iterable[Rule], name: str = "", remember: bool = False) -> None:
        self.rules = list(rules)
        self.name = name
        self.remember = remember
        self.final_bit = 1 << next(_final_bits) if remember else 0
        self.matchers = _Matchers(self.rules)

    def __add__(self, other: RuleSet) -> RuleSet:
        name = " + ".join(n for n in (self.name, other.name) if n)
        return RuleSet([*self.rules, *other.rules], name, self.remember and other.remember)

    def match(self, node: UOp, ctx: Any = None) -> Any:
        """What the first rule that applies to this very node answers, or None."""
        matcher = self.matchers[node.op]
        return None if matcher is None else matcher(node, ctx)
