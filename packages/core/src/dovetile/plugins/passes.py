"""Running the rewrite passes that plugins add to the stages of the compiler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dovetile.errors import DovetileError, PluginError
from dovetile.ir.uop import UOp
from dovetile.plugins.loader import registry
from dovetile.plugins.specs import STAGES

if TYPE_CHECKING:
    from dovetile.plugins.specs import Capabilities


def run_passes(stage: str, graph: UOp, capabilities: Capabilities) -> UOp:
    """`graph` after the passes of plugins that belong to a stage and want this target.

    Raises PluginError, which names the plugin, where a pass fails or returns no graph.
    """
    for spec in registry().passes(stage, capabilities):
        owner = registry().owner("pass", spec.name).owner
        try:
            changed = spec.load()(graph, capabilities)
        except DovetileError:
            raise
        except Exception as error:
            raise PluginError(
                f"[{stage}] the pass {spec.name} of {owner} failed: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(changed, UOp):
            raise PluginError(
                f"[{stage}] the pass {spec.name} of {owner} returned {type(changed).__name__}; "
                "it must return the graph"
            )
        graph = changed
    return graph


def passes_key(capabilities: Capabilities) -> tuple[str, ...]:
    """Names the passes that a target gets, as a part of the keys of what was compiled with them."""
    return tuple(
        f"{stage}/{spec.name}/{registry().owner('pass', spec.name).owner}"
        for stage in STAGES
        for spec in registry().passes(stage, capabilities)
    )
