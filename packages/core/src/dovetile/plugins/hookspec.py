"""The hooks a plugin may implement.

A plugin is a module named by an entry point of the group ``dovetile``:

.. code-block:: toml

    [project.entry-points.dovetile]
    abacus = "dovetile_abacus.plugin"

.. code-block:: python

    from dovetile.plugins import DeviceSpec, hookimpl

    DOVETILE_PLUGIN_API = (0, 1)  # the plugin API this module was written for

    @hookimpl
    def dovetile_devices():
        return [DeviceSpec("ABACUS", probe=..., open=..., compilers=(...,))]

All hooks are optional, take no arguments and return a list of frozen specs. They are called once,
when the plugins are first needed, and never on a rewrite or launch path. Importing the module
and calling its hooks must be cheap: heavy imports belong inside the callables of the specs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import pluggy

from dovetile.plugins.specs import (
    CollectiveSpec,
    CommandSpec,
    CompilerSpec,
    DeviceSpec,
    DTypeSpec,
    ImporterSpec,
    PassSpec,
    RendererSpec,
)

PROJECT = "dovetile"
"""The entry-point group, and pluggy's project name."""

_Function = TypeVar("_Function", bound=Callable)

hookspec = pluggy.HookspecMarker(PROJECT)
_hookimpl = pluggy.HookimplMarker(PROJECT)


def hookimpl(function: _Function) -> _Function:
    """Mark a function of a plugin as the implementation of the hook of its name."""
    return _hookimpl(function)


# --------------------------------------------------------------------------------------------
# Devices
# --------------------------------------------------------------------------------------------


@hookspec
def dovetile_devices() -> Sequence[DeviceSpec]:  # type: ignore[empty-body]
    """Devices that this plugin brings, each with its own compilers."""


@hookspec
def dovetile_compilers() -> Sequence[CompilerSpec]:  # type: ignore[empty-body]
    """Compilers for devices of other plugins; they come after the device's own."""


@hookspec
def dovetile_renderers() -> Sequence[RendererSpec]:  # type: ignore[empty-body]
    """Renderers for languages whose compilers bring none."""


@hookspec
def dovetile_collectives() -> Sequence[CollectiveSpec]:  # type: ignore[empty-body]
    """Transports for collective operations between devices."""


# --------------------------------------------------------------------------------------------
# Compilation
# --------------------------------------------------------------------------------------------


@hookspec
def dovetile_passes() -> Sequence[PassSpec]:  # type: ignore[empty-body]
    """Rewrite passes, each anchored to a stage."""


@hookspec
def dovetile_dtypes() -> Sequence[DTypeSpec]:  # type: ignore[empty-body]
    """Element types beyond the standard ones."""


# --------------------------------------------------------------------------------------------
# Tools
# --------------------------------------------------------------------------------------------


@hookspec
def dovetile_importers() -> Sequence[ImporterSpec]:  # type: ignore[empty-body]
    """Readers of file formats."""


@hookspec
def dovetile_commands() -> Sequence[CommandSpec]:  # type: ignore[empty-body]
    """Subcommands of ``dovetile``."""


HOOKS: dict[str, type] = {
    "dovetile_devices": DeviceSpec,
    "dovetile_compilers": CompilerSpec,
    "dovetile_renderers": RendererSpec,
    "dovetile_collectives": CollectiveSpec,
    "dovetile_passes": PassSpec,
    "dovetile_dtypes": DTypeSpec,
    "dovetile_importers": ImporterSpec,
    "dovetile_commands": CommandSpec,
}
"""What each hook returns a list of."""
