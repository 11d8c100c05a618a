"""Names for graphs that are the same in every process."""

from __future__ import annotations

import hashlib

from dovetile.ir.uop import UOp, toposort


def digest(root: UOp, *context: object) -> str:
    """A hexadecimal SHA-256 of a graph and of the printed form of `context`."""
    number: dict[UOp, int] = {}
    rows = [repr(context)]
    for node in toposort(root):
        sources = ",".join([str(number[s]) for s in node.src])
        rows.append(f"{node.op.name} {node.dtype!r} {sources} {node.arg!r}")
        number[node] = len(number)
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()
