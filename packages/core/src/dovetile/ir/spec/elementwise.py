"""The forms of constants and arithmetic, which are the same at every level.

A rule of a spec answers True (legal) or a text that says what is wrong and what would be right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.ir.ops import COMPARISON, Op
from dovetile.ir.pattern import Pat, RuleSet
from dovetile.ir.uop import UOp

Verdict = bool | str
Check = Callable[[UOp], Verdict]


def form(ops: Op | Iterable[Op], check: Check) -> tuple[Pat, Check]:
    """The rule that `check` decides on every node of these operations."""
    return (Pat(ops if isinstance(ops, Op) else tuple(ops), name="node"), check)


def named(types: Iterable[DType]) -> str:
    """The types in words, for messages."""
    return "(" + ", ".join(repr(t).removeprefix("dtypes.") for t in types) + ")"


def _constant(node: UOp) -> Verdict:
    if node.src:
        return f"{len(node.src)} sources; a constant has none"
    kind = {"b": bool, "f": float, "u": int, "i": int}.get(node.dtype.kind)
    if type(node.arg) is not kind:
        return f"arg {node.arg!r} is no value of {node.dtype!r}"
    value = node.dtype.convert(node.arg)
    if value != node.arg and node.arg == node.arg:
        return f"arg {node.arg!r}; {node.dtype!r} holds {value!r} instead (UOp.const converts)"
    return True


def _arithmetic(count: int, kinds: str, arg: str | None = None) -> Check:
    """`count` operands of the node's own type, of one of these kinds; `arg` or none."""
    wanted = f"{count} of the node's type, of kind {' or '.join(kinds)}"
    allowed = "no arg" if arg is None else f"{arg!r} or no arg"

    def check(node: UOp) -> Verdict:
        dtype = node.dtype
        if len(node.src) != count or node.arg not in (None, arg):
            return f"{len(node.src)} sources, arg {node.arg!r}; right are {wanted}, and {allowed}"
        for s in node.src:
            if s.dtype is not dtype:
                return f"sources {named(s.dtype for s in node.src)} for {dtype!r}; {wanted}"
        return True if dtype.kind in kinds else f"type {dtype!r}; right are {wanted}"

    return check


def _comparison(node: UOp) -> Verdict:
    if len(node.src) != 2 or node.src[0].dtype is not node.src[1].dtype:
        return f"sources {named(s.dtype for s in node.src)}; right are two of one type"
    right = dtypes.bool_.vec(node.src[0].dtype.lanes)
    if node.src[0].dtype.kind == "v" or node.arg is not None:
        return "sources without a value; right are numbers, and no arg"
    return True if node.dtype is right else f"type {node.dtype!r}; right is {right!r}"


def _where(node: UOp) -> Verdict:
    if len(node.src) != 3 or node.arg is not None:
        return f"{len(node.src)} sources, arg {node.arg!r}; right are (bool, x, y), and no arg"
    condition, x, y = (s.dtype for s in node.src)
    fits = x is node.dtype and y is node.dtype and x.kind != "v"
    if not fits or condition is not dtypes.bool_.vec(x.lanes):
        return f"sources {named((condition, x, y))}; right are (bool, x, y), as many lanes each"
    return True


def _conversion(node: UOp) -> Verdict:
    if len(node.src) != 1 or node.arg is not None:
        return f"{len(node.src)} sources, arg {node.arg!r}; right is one, and no arg"
    start, end = node.src[0].dtype, node.dtype
    if "v" in (start.kind, end.kind) or start.lanes != end.lanes:
        return f"{start!r} to {end!r}; right are values of as many lanes"
    if node.op is Op.BITCAST and start.itemsize != end.itemsize:
        return f"{start!r} to {end!r}; right are types of one size"
    return True


_FORMS = [
    form(Op.CONST, _constant),
    form((Op.CAST, Op.BITCAST), _conversion),
    form((Op.EXP2, Op.LOG2, Op.SIN, Op.SQRT, Op.TRUNC), _arithmetic(1, "f")),
    form((Op.ADD, Op.MUL, Op.MAX, Op.MIN), _arithmetic(2, "buif")),
    form(Op.DIV, _arithmetic(2, "f")),
    form((Op.FLOORDIV, Op.FLOORMOD), _arithmetic(2, "ui")),
    form((Op.AND, Op.OR, Op.XOR), _arithmetic(2, "bui")),
    form((Op.SHL, Op.SHR), _arithmetic(2, "ui")),
    form(COMPARISON, _comparison),
    form(Op.WHERE, _where),
]
elementwise = RuleSet(_FORMS, "elementwise")
# What only the program level has.
program_elementwise = RuleSet(
    [
        form(Op.SUB, _arithmetic(2, "uif")),
        form(Op.MULACC, _arithmetic(3, "uif")),
        form(Op.DIV, _arithmetic(2, "f", "approximate")),
        form(Op.EXP2, _arithmetic(1, "f", "approximate")),
    ],
    "program_elementwise",
)
