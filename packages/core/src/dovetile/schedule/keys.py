"""Names for graphs that are the same in every process."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import fields, is_dataclass
from pathlib import Path

from dovetile.ir.uop import UOp, toposort

_STAGES = ("ir", "schedule", "optimize", "lower", "render")


@functools.cache
def code_fingerprint() -> str:
    """A hexadecimal SHA-256 of the code of the stages that make plans.

    A plan on disk is as old as the code that made it: another release, or an edited source, must
    not run it. A few milliseconds, once in a process.
    """
    package = Path(__file__).parent.parent
    files = sorted(path for stage in _STAGES for path in package.joinpath(stage).rglob("*.py"))
    content = hashlib.sha256()
    for path in files:
        content.update(path.read_bytes())
    return content.hexdigest()


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
