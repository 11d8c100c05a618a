"""From an optimised kernel to a linear program that a renderer can write down.

The steps, each a module with one entry function:

    parts       the THREAD axis becomes a launch index
    stages      STAGE becomes a buffer and the nest that fills it
    expand      UNROLL axes become copies, VECTOR axes lanes
    reductions  REDUCE becomes a loop over a REG buffer
    decompose   what the target lacks becomes what it has
    linearize   the graph becomes a list
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dovetile.errors import GraphError
from dovetile.ir.ops import AxisKind, Op
from dovetile.ir.rewrite import rewrite
from dovetile.ir.spec import check
from dovetile.ir.uop import UOp, nodes_of
from dovetile.lower.expand import expand
from dovetile.lower.linear import LinearKernel
from dovetile.lower.linearize import linearize
from dovetile.lower.reductions import lower_reductions
from dovetile.lower.stages import lower_stages

if TYPE_CHECKING:
    from dovetile.plugins import Capabilities


def bind_parts(sink: UOp) -> UOp:
    """THREAD ranges become the launch index `part`; at most one exists."""
    from dovetile.optimize.opts import replace_axes

    threads = [n for n in nodes_of(sink) if n.op is Op.RANGE and n.arg.kind is AxisKind.THREAD]
    if not threads:
        return sink
    special = {r: UOp(Op.SPECIAL, r.dtype, r.src, "part") for r in threads}
    return replace_axes(sink, special, dict.fromkeys(threads, ()))


def lower(sink: UOp, capabilities: Capabilities, name: str = "kernel") -> LinearKernel:
    """The program of an optimised kernel for a target.

    Raises GraphError where its panels need more LOCAL memory than the target has.
    """
    from dovetile.lower.decompose import decompositions
    from dovetile.plugins.passes import run_passes

    sink = bind_parts(sink)
    sink = lower_stages(sink, capabilities.vector_bytes)
    sink = expand(sink)
    sink = lower_reductions(sink)
    sink = rewrite(sink, decompositions(capabilities))
    sink = run_passes("lower", sink, capabilities)
    program = linearize(sink)
    check(program, "program", "lower")
    kernel = LinearKernel.of(name, program)
    if kernel.local_bytes > capabilities.local_bytes:
        raise GraphError(
            f"[lower] {name} holds {kernel.local_bytes} bytes in LOCAL memory; "
            f"{capabilities.architecture} has {capabilities.local_bytes}: stage fewer axes"
        )
    return kernel
