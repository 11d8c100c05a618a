"""From an optimised kernel to a linear program that a renderer can write down.

The steps, each a module with one entry function:

    workgroups  THREAD, GROUP and LOCAL axes become launch indices; what threads exchange
    stages      STAGE becomes a buffer and the nest that fills it, or boxes that are fetched
    bounded     loops leave out terms of sums that are zero
    group_units sums of products by units of several threads
    registers   REG memory of points is each thread's own
    expand      UNROLL axes become copies, VECTOR axes lanes
    loosen      what ends in small floats need not be exact
    reductions  REDUCE becomes a loop over a REG buffer
    decompose   what the target lacks becomes what it has
    linearize   the graph becomes a list
"""

from __future__ import annotations

from collections.abc import Set
from typing import TYPE_CHECKING

from dovetile.errors import GraphError
from dovetile.ir.rewrite import rewrite
from dovetile.ir.spec import check
from dovetile.ir.uop import UOp
from dovetile.lower.bounded import bound_sums
from dovetile.lower.expand import expand
from dovetile.lower.group_units import lower_group_units, start_from_sums
from dovetile.lower.linear import LinearKernel
from dovetile.lower.linearize import linearize
from dovetile.lower.loosen import loosen
from dovetile.lower.reductions import lower_reductions
from dovetile.lower.registers import own_registers
from dovetile.lower.stages import lower_stages
from dovetile.lower.workgroups import (
    bind_parts,
    bind_threads,
    lower_combines,
    thread_strides,
    threads_of,
)

if TYPE_CHECKING:
    from dovetile.plugins import Capabilities


def lower(
    sink: UOp,
    capabilities: Capabilities,
    name: str = "kernel",
    steady: Set[int] = frozenset(),
) -> LinearKernel:
    """The program of an optimised kernel for a target.

    steady: slots of buffers that no launch writes which may still go on when this one begins.

    Raises GraphError where its panels need more LOCAL memory than the target has.
    """
    from dovetile.lower.decompose import decompositions, widen
    from dovetile.plugins.passes import run_passes

    sink = bind_parts(sink)
    threads = threads_of(thread_strides(sink))
    sink = lower_stages(sink, capabilities.vector_bytes, threads, capabilities.bulk_copies)
    sink = bound_sums(sink)
    sink = own_registers(lower_group_units(sink))
    sink = start_from_sums(expand(sink))
    sink = bind_threads(sink, thread_strides(sink, capabilities.line_bytes))
    sink = lower_reductions(loosen(sink))
    sink = lower_combines(sink, capabilities.warp)
    sink = rewrite(widen(sink, capabilities), decompositions(capabilities))
    sink = run_passes("lower", sink, capabilities)
    program = linearize(sink)
    check(program, "program", "lower")
    kernel = LinearKernel.of(name, program, frozenset(steady))
    if kernel.local_bytes > capabilities.local_bytes:
        raise GraphError(
            f"[lower] {name} holds {kernel.local_bytes} bytes in LOCAL memory; "
            f"{capabilities.architecture} has {capabilities.local_bytes}: stage fewer axes"
        )
    return kernel
