"""The kernel optimiser: a short list of Opts per kernel, by heuristics or by search."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dovetile import environment
from dovetile.ir.uop import UOp
from dovetile.optimize.bounds_check import require_in_bounds
from dovetile.optimize.heuristic import heuristic
from dovetile.optimize.opts import apply_opts

if TYPE_CHECKING:
    from dovetile.plugins import Capabilities
    from dovetile.runtime import Device


def optimize(
    kernel: UOp, capabilities: Capabilities, name: str = "kernel", device: Device | None = None
) -> UOp:
    """The kernel under the Opts that suit the target best, as far as we know.

    device: where ``BEAM`` asks for a search, the device on which candidates are measured; without
    one the heuristics decide alone.
    """
    from dovetile.schedule import debug

    opts = heuristic(kernel, capabilities)
    width = environment.BEAM.value
    if width and device is not None:
        from dovetile.optimize.search import search

        opts = list(search(kernel, opts, device, width, name))
    debug.opts(name, opts)
    optimized = apply_opts(kernel, opts)
    if environment.CHECK.value:
        require_in_bounds(optimized, name)
    return optimized
