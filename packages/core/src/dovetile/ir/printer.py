"""Nodes and graphs as text: a numbered listing that reads back, and compact index expressions.

>>> from dovetile.ir import UOp
>>> graph = UOp.range(4, id=0) * 2 + 1
>>> print(format_graph(graph))
0 = CONST() index 4
1 = RANGE(0) index RangeArg(id=0, kind=AxisKind.LOOP)  # r0
2 = CONST() index 2
3 = MUL(1, 2) index  # r0*2
4 = CONST() index 1
5 = ADD(3, 4) index  # r0*2 + 1
>>> parse_graph(format_graph(graph)) is graph
True
"""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Iterable
from enum import Enum
from typing import Any

from dovetile import dtypes
from dovetile.dtypes import DType
from dovetile.errors import FileFormatError
from dovetile.ir.ops import (
    ELEMENTWISE,
    AddressSpace,
    AxisKind,
    BufferArg,
    Op,
    RangeArg,
    VariableArg,
)
from dovetile.ir.uop import UOp, toposort
from dovetile.plugins.matrix_unit import GroupUnit, MatrixUnit

# -- Writing ---------------------------------------------------------------------------------------


def format_dtype(dtype: DType) -> str:
    """`float32`, or `float32x4` for a vector of 4."""
    return dtype.name if dtype.lanes == 1 else f"{dtype.name}x{dtype.lanes}"


def format_node(node: UOp) -> str:
    """One line on one node: its operation, type, argument and what its sources are."""
    sources = ", ".join(s.op.name if s.op is not Op.CONST else repr(s.arg) for s in node.src)
    argument = "" if node.arg is None else f" {node.arg!r}"
    return f"{node.op.name}({sources}) {format_dtype(node.dtype)}{argument}"


def format_graph(root: UOp | Iterable[UOp]) -> str:
    """One line per node, sources first: number = OP(sources) dtype argument  # remark.

    Remarks are the shapes of tensors and the short form of index expressions. `parse_graph` reads
    the text back.
    """
    nodes = toposort(root)
    number = {node: i for i, node in enumerate(nodes)}
    short = _expressions(nodes, _REMARK_LENGTH)
    lines = []
    for node in nodes:
        sources = ", ".join(str(number[s]) for s in node.src)
        line = f"{number[node]} = {node.op.name}({sources}) {format_dtype(node.dtype)}"
        if node.arg is not None:
            line += f" {node.arg!r}"
        remark = _remark(node, short[node][0])
        lines.append(line + (f"  # {remark}" if remark else ""))
    return "\n".join(lines)


_REMARK_LENGTH = 80


def _remark(node: UOp, short: str) -> str:
    if node.op is Op.RANGE or (node.dtype is dtypes.index and node.op in ELEMENTWISE):
        return short
    shape = node.shape
    return "x".join(map(str, shape)) if shape else ""


# -- Expressions -----------------------------------------------------------------------------------

# How tightly an operator binds, as in Python.
_INFIX = {
    Op.OR: (" | ", 1), Op.XOR: (" ^ ", 2), Op.AND: (" & ", 3), Op.LT: (" < ", 0),
    Op.NE: (" != ", 0), Op.SHL: (" << ", 4), Op.SHR: (" >> ", 4), Op.ADD: (" + ", 5),
    Op.SUB: (" - ", 5), Op.MUL: ("*", 6), Op.DIV: ("/", 6), Op.FLOORDIV: ("//", 6),
    Op.FLOORMOD: ("%", 6),
}  # fmt: skip
_TIGHTEST = 9


def expression(node: UOp, length: int = 400) -> str:
    """A compact form of an index expression or of scalar arithmetic, such as `r0*512 + r1//4`.

    Parts longer than `length` characters are cut to `...`: a graph that shares its nodes may be
    exponentially longer when written out.
    """
    return _expressions(toposort(node), length)[node][0]


def _expressions(nodes: list[UOp], length: int) -> dict[UOp, tuple[str, int]]:
    """For every node its text, and how tightly the outermost operator of the text binds."""
    known: dict[UOp, tuple[str, int]] = {}
    for node in nodes:
        text, binding = _one(node, known)
        known[node] = (text, binding) if len(text) <= length else ("...", _TIGHTEST)
    return known


def _one(node: UOp, known: dict[UOp, tuple[str, int]]) -> tuple[str, int]:
    def operand(source: UOp, least: int) -> str:
        text, binding = known[source]
        return text if binding >= least else f"({text})"

    op, src = node.op, node.src
    if op is Op.CONST:
        return repr(node.arg), _TIGHTEST
    if op is Op.RANGE:
        return f"r{node.arg.id}", _TIGHTEST
    if op is Op.VARIABLE:
        return node.arg.name, _TIGHTEST
    if op is Op.SPECIAL:
        return str(node.arg), _TIGHTEST
    if op is Op.BUFFER:
        return f"{node.arg.space.name.lower()}{node.arg.slot}", _TIGHTEST
    if op is Op.INDEX:
        position = ", ".join(known[s][0] for s in src[1:])
        return f"{operand(src[0], _TIGHTEST)}[{position}]", _TIGHTEST
    if op is Op.LOAD and len(src) == 1:
        return known[src[0]]
    if op is Op.CAST:
        return f"{format_dtype(node.dtype)}({known[src[0]][0]})", _TIGHTEST
    if op is Op.ADD and src[1].op is Op.MUL and src[1].src[1].constant == -1:
        return f"{operand(src[0], 5)} - {operand(src[1].src[0], 6)}", 5
    if op is Op.ADD and src[1].op is Op.CONST and src[1].arg < 0:
        return f"{operand(src[0], 5)} - {-src[1].arg}", 5
    if op is Op.XOR and src[1].constant is True:
        if src[0].op is Op.LT:
            x, y = src[0].src
            return f"{operand(x, 1)} >= {operand(y, 1)}", 0
        if src[0].op is Op.NE:
            x, y = src[0].src
            return f"{operand(x, 1)} == {operand(y, 1)}", 0
        return f"~{operand(src[0], 8)}", 8
    if op in _INFIX and len(src) == 2:
        sign, binding = _INFIX[op]
        return f"{operand(src[0], binding)}{sign}{operand(src[1], binding + 1)}", binding
    arguments = [known[s][0] for s in src]
    if node.arg is not None:
        arguments.append(repr(node.arg))
    return f"{op.name.lower()}({', '.join(arguments)})", _TIGHTEST


# -- Reading ---------------------------------------------------------------------------------------

_LINE = re.compile(r"\s*(\d+) = ([A-Z0-9]+)\(([\d, ]*)\) (\S+)(.*)")
_DTYPE = re.compile(r"(.+?)(?:x(\d+))?")
_ENUMS: dict[str, type[Enum]] = {"Op": Op, "AxisKind": AxisKind, "AddressSpace": AddressSpace}
_ARGUMENTS: dict[str, type] = {
    "BufferArg": BufferArg,
    "GroupUnit": GroupUnit,
    "MatrixUnit": MatrixUnit,
    "RangeArg": RangeArg,
    "VariableArg": VariableArg,
}
_FLOATS = {"nan": math.nan, "inf": math.inf}


def readable(kind: type) -> type:
    """Class decorator: lets `parse_graph` read arguments of this type, written as its repr."""
    _ARGUMENTS[kind.__name__] = kind
    return kind


def parse_graph(text: str) -> UOp:
    """The last node of a listing made by `format_graph`; no code in the text is run.

    Raises FileFormatError for any line that is not of the form.
    """
    nodes: dict[int, UOp] = {}
    last: UOp | None = None
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _LINE.fullmatch(line)
        if match is None:
            raise FileFormatError(
                f"[parse_graph] {line!r}; right is: number = OP(sources) dtype arg"
            )
        number, name, sources, dtype, argument = match.groups()
        try:
            src = tuple(nodes[int(s)] for s in sources.split(",") if s.strip())
            last = UOp(Op[name], parse_dtype(dtype), src, _parse_argument(argument))
        except (KeyError, ValueError, SyntaxError, TypeError) as error:
            raise FileFormatError(f"[parse_graph] {line!r}: {error!r}") from None
        nodes[int(number)] = last
    if last is None:
        raise FileFormatError("[parse_graph] the text is empty; at least one node is needed")
    return last


def parse_dtype(text: str) -> DType:
    """The inverse of `format_dtype`. Raises ValueError for an unknown name."""
    match = _DTYPE.fullmatch(text)
    found = None if match is None else _DTYPES.get(match[1])
    if match is None or found is None:
        raise ValueError(f"no dtype is called {text!r}")
    return found.vec(int(match[2])) if match[2] else found


_DTYPES = {d.name: d for d in (*dtypes.TENSOR_DTYPES, dtypes.index, dtypes.void)}


def _parse_argument(text: str) -> Any:
    bare = text.strip()
    return None if not bare or bare.startswith("#") else _literal(ast.parse(bare, mode="eval").body)


def _literal(tree: ast.expr) -> Any:
    """The value of a constant, tuple, enumeration member or one of our argument types."""
    if isinstance(tree, ast.Constant):
        return tree.value
    if isinstance(tree, ast.Tuple):
        return tuple(_literal(item) for item in tree.elts)
    if isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.USub):
        return -_literal(tree.operand)
    if isinstance(tree, ast.Name) and tree.id in _FLOATS:
        return _FLOATS[tree.id]
    if isinstance(tree, ast.Attribute) and isinstance(tree.value, ast.Name):
        if tree.value.id == "dtypes":
            return parse_dtype(tree.attr)
        return _ENUMS[tree.value.id][tree.attr]
    if isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name):
        values = {k.arg: _literal(k.value) for k in tree.keywords if k.arg is not None}
        return _ARGUMENTS[tree.func.id](*(_literal(a) for a in tree.args), **values)
    raise ValueError(f"an argument cannot be {ast.unparse(tree)}")
