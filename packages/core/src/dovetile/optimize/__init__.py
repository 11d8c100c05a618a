"""The kernel optimiser: a short list of Opts per kernel, by heuristics or by search."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dovetile.ir.uop import UOp
from dovetile.optimize.heuristic import heuristic
from dovetile.optimize.opts import apply_opts

if TYPE_CHECKING:
    from dovetile.plugins import Capabilities


def optimize(kernel: UOp, capabilities: Capabilities, name: str = "kernel") -> UOp:
    """The kernel under the Opts that suit the target best, as far as we know."""
    from dovetile.schedule import debug

    opts = heuristic(kernel, capabilities)
    debug.opts(name, opts)
    return apply_opts(kernel, opts)
