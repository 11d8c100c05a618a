"""The check of a graph, or of a linear program, against the spec of its level."""

from __future__ import annotations

from collections.abc import Sequence

from dovetile import environment
from dovetile.errors import ArgumentError, GraphError
from dovetile.ir.ops import Op
from dovetile.ir.pattern import RuleSet
from dovetile.ir.printer import format_node
from dovetile.ir.spec.levels import LOOP, PROGRAM, TENSOR
from dovetile.ir.uop import UOp, toposort

LEVELS: dict[str, RuleSet] = {"tensor": TENSOR, "loop": LOOP, "program": PROGRAM}


def verify(root: UOp | Sequence[UOp], level: str) -> None:
    """Checks every node of a graph, or of a list in execution order (at program level).

    level: "tensor", "loop" or "program".
    Raises GraphError that names the first node that is not legal there, what is wrong with it and
    what would be right; ArgumentError for an unknown level.
    """
    spec = LEVELS.get(level)
    if spec is None:
        raise ArgumentError(f"[verify] level {level!r}; valid are {', '.join(LEVELS)}")
    is_program = not isinstance(root, UOp)
    for node in root if is_program else toposort(root):
        verdict = spec.match(node)
        if verdict is not True:
            reason = verdict or f"the {spec.name} does not have this operation"
            raise GraphError(f"[verify] {format_node(node)} at {spec.name}: {reason}")
    if is_program:
        _verify_order(root)


def check(graph: UOp | Sequence[UOp], level: str, after: str) -> None:
    """`verify` where CHECK=1 asks for it; the error also tells `after` which pass."""
    if not environment.CHECK.value:
        return
    try:
        verify(graph, level)
    except GraphError as error:
        raise GraphError(f"{error}; found after {after}") from None


def _verify_order(program: Sequence[UOp]) -> None:
    """Sources come before users, loops nest, and a value is used in the loop that computes it."""
    open_loops: list[UOp] = []
    place: dict[UOp, UOp | None] = {}  # the innermost loop open where a node stands
    for node in program:
        if node in place:
            raise GraphError(f"[verify] {format_node(node)} stands twice in the program; once")
        for position, s in enumerate(node.src):
            if s not in place:
                raise GraphError(
                    f"[verify] {format_node(node)} stands before its source {format_node(s)}; "
                    "sources come first"
                )
            loop = place[s]
            is_value = s.dtype.kind != "v" and not (node.op is Op.AFTER and position)
            if is_value and loop is not None and loop not in open_loops:
                raise GraphError(
                    f"[verify] {format_node(node)} uses {format_node(s)} outside of "
                    f"{format_node(loop)}, in which that is computed; a value stays in its loop"
                )
        if node.op is Op.RANGE:
            open_loops.append(node)
        elif node.op is Op.END:
            if not open_loops or open_loops[-1] is not node.src[1]:
                inner = format_node(open_loops[-1]) if open_loops else "no loop"
                raise GraphError(
                    f"[verify] {format_node(node)} closes {format_node(node.src[1])}, but "
                    f"{inner} is open; loops close in the reverse order"
                )
            open_loops.pop()
        place[node] = open_loops[-1] if open_loops else None
    if open_loops:
        raise GraphError(
            f"[verify] {format_node(open_loops[-1])} is never closed; an END is needed"
        )
