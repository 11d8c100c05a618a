"""Names for graphs that are the same in every process."""

from __future__ import annotations

import hashlib
from dataclasses import fields, is_dataclass

from dovetile.ir.uop import UOp, toposort


def digest(root: UOp, *context: object) -> str:
    """A hexadecimal SHA-256 of a graph and of the printed form of `context`."""
    number: dict[UOp, int] = {}
    rows = [stable(context)]
    for node in toposort(root):
        sources = ",".join([str(number[s]) for s in node.src])
        rows.append(f"{node.op.name} {node.dtype!r} {sources} {node.arg!r}")
        number[node] = len(number)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()


def stable(value: object) -> str:
    """The printed form of plain data, the same in every process (sets are not, as they come)."""
    if is_dataclass(value):
        named = ((f.name, getattr(value, f.name)) for f in fields(value))
        return f"{type(value).__name__}({', '.join(f'{n}={stable(v)}' for n, v in named)})"
    if isinstance(value, (frozenset, set)):
        return "{" + ", ".join(sorted(stable(v) for v in value)) + "}"
    if isinstance(value, (tuple, list)):
        return "(" + ", ".join(stable(v) for v in value) + ")"
    return repr(value)
