"""Every stage of the way from a graph to source text, printed: to learn from, and for the docs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from dovetile.ir.ops import Op
from dovetile.ir.printer import format_graph, format_node
from dovetile.ir.rewrite import substitute
from dovetile.ir.uop import UOp, toposort
from dovetile.lower import lower
from dovetile.optimize.heuristic import heuristic
from dovetile.optimize.opts import apply_opts
from dovetile.plugins.specs import Capabilities
from dovetile.runtime.compile import Renderer
from dovetile.schedule.loops import canonical
from dovetile.schedule.make import schedule
from dovetile.schedule.realization import normalize
from dovetile.schedule.simplify import simplify_tensors


class Target(Protocol):
    """What must be known of a device to compile for it; a Device is one."""

    capabilities: Capabilities
    renderer: Renderer


@dataclass(frozen=True)
class KernelListing:
    """The stages of one kernel.

    loops: its values under loops, in canonical form. opts: the schedule, a list of Opts.
    optimized: the loops after these. program: operations in order of execution. source: what the
    compiler gets.
    """

    loops: str
    opts: str
    optimized: str
    program: str
    source: str


@dataclass(frozen=True)
class Explanation:
    """The stages of a graph: as it was built, simplified, and its kernels in order."""

    graph: str
    simplified: str
    kernels: tuple[KernelListing, ...]

    def __str__(self) -> str:
        parts = [f"-- graph\n{self.graph}", f"-- simplified\n{self.simplified}"]
        for number, kernel in enumerate(self.kernels):
            for stage in ("loops", "opts", "optimized", "program", "source"):
                parts.append(f"-- kernel {number}: {stage}\n{getattr(kernel, stage)}")
        return "\n\n".join(parts)


def explain(roots: Sequence[UOp], target: Target | None = None) -> Explanation:
    """What becomes of tensor-level values that are computed together; nothing is run.

    target: by default the default device.

        >>> from dovetile import Tensor
        >>> from dovetile.schedule.explain import explain
        >>> print(explain([(Tensor([1.0, 2.0]) + 1).uop]))  # doctest: +ELLIPSIS
        -- graph
        ...
    """
    if target is None:
        from dovetile.runtime import get_device

        target = get_device()
    sink = normalize(roots)
    sink = _without_device(sink)
    devices: Any = {"": target}
    kernels, _, _ = schedule(sink, devices, "")
    listings = [_listing(k.ast, target, i) for i, k in enumerate(kernels) if k.ast is not None]
    simplified = simplify_tensors(sink, target.capabilities)
    return Explanation(format_graph(sink), format_graph(simplified), tuple(listings))


def _without_device(sink: UOp) -> UOp:
    """The graph with all BUFFERs on the default device, the one that is explained."""
    buffers = [n for n in toposort(sink) if n.op is Op.BUFFER]
    return substitute(sink, {b: b.replace(arg=b.arg._replace(device=None)) for b in buffers})


def _listing(ast: UOp, target: Target, number: int) -> KernelListing:
    kernel, _ = canonical(ast)
    opts = heuristic(kernel, target.capabilities)
    optimized = apply_opts(kernel, opts)
    linear = lower(optimized, target.capabilities, f"kernel_{number}")
    return KernelListing(
        format_graph(kernel),
        "\n".join(map(repr, opts)) or "(none)",
        format_graph(optimized),
        _program(linear.uops),
        target.renderer.render(linear).strip(),
    )


def _program(uops: Sequence[UOp]) -> str:
    """The list, indented by loops."""
    lines, depth = [], 0
    for node in uops:
        depth -= node.op is Op.END
        lines.append("    " * depth + format_node(node))
        depth += node.op is Op.RANGE
    return "\n".join(lines)
