"""What DEBUG prints of scheduling, and the figures it gives of a kernel."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from dovetile import environment
from dovetile.ir.ops import ELEMENTWISE, Op
from dovetile.ir.uop import UOp, toposort
from dovetile.optimize.analysis import distinct_bytes, extent

if TYPE_CHECKING:
    from dovetile.optimize.opts import Opt
    from dovetile.schedule.dependencies import Kernel
    from dovetile.schedule.plan import Plan, Step


def level() -> int:
    return environment.DEBUG.value


def write(text: str) -> None:
    print(text, file=sys.stderr)


def kernels(found: Sequence[Kernel], seconds: float) -> None:
    if level() >= 2:
        write(f"schedule: {len(found)} kernels in {seconds * 1e3:.1f} ms")
    if level() >= 5:
        for kernel in found:
            from dovetile.ir.printer import format_graph

            write(format_graph(kernel.ast) if kernel.ast is not None else "copy")


def opts(name: str, chosen: Sequence[Opt]) -> None:
    if level() >= 3:
        from dovetile.optimize.opts import describe

        write(f"{name}: {describe(chosen)}")


def source(name: str, kernel: UOp, text: str) -> None:
    if level() >= 5:
        from dovetile.ir.printer import format_graph

        write(format_graph(kernel))
    if level() >= 4:
        write(text)


def plan(made: Plan, seconds: float) -> None:
    if level() >= 2:
        arenas = sum(made.arenas.values())
        moved = sum(step.nbytes for step in made.steps)
        write(
            f"plan: {len(made.steps)} launches of {len(made.programs)} kernels, which move "
            f"{moved / 1e6:.2f} MB, {arenas / 1e6:.2f} MB of temporaries, "
            f"made in {seconds * 1e3:.1f} ms"
        )


def step(ran: Step, name: str, seconds: float) -> None:
    """One launch: time, arithmetic and memory rates, loops, parts*threads."""
    threads = f"*{ran.threads}" if ran.threads > 1 else ""
    write(
        f"{name:24s} {seconds * 1e3:9.3f} ms {ran.operations / seconds / 1e9:8.1f} GFLOP/s "
        f"{ran.nbytes / seconds / 1e9:7.1f} GB/s  {ran.label} x{ran.parts}{threads}"
    )


@lru_cache(maxsize=2048)
def figures(kernel: UOp) -> tuple[str, int, int]:
    """(label, operations, bytes) of a canonical kernel, remembered as it mostly runs often."""
    return label(kernel), *cost(kernel)


def label(kernel: UOp) -> str:
    """The loops of a kernel in a few characters: output sizes, then reduced sizes."""
    end = kernel.src[0]
    outer = "x".join(str(r.src[0].maximum) for r in end.src[1:]) if end.op is Op.END else ""
    inner = [
        "+".join(str(r.src[0].maximum) for r in n.src[1:])
        for n in toposort(kernel)
        if n.op is Op.REDUCE
    ]
    return f"[{outer or 1}]" + "".join(f" {n}" for n in dict.fromkeys(inner))


def cost(kernel: UOp) -> tuple[int, int]:
    """(arithmetic operations on floats, bytes of distinct memory touched) of a kernel."""
    operations, nodes = 0, toposort(kernel)
    for node in nodes:
        if node.op in ELEMENTWISE and node.dtype.is_float and node.op is not Op.WHERE:
            operations += extent(node.ranges)
        elif node.op is Op.REDUCE and node.dtype.is_float:
            operations += extent(node.src[0].ranges)
    return operations, distinct_bytes(nodes)
