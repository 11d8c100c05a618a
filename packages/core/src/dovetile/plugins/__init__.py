"""The door through which devices, compilers and everything else join the core.

Plugin authors need only this module; docs/how-to/write-a-backend.md is their guide.
Its names load at first use, so that importing Dovetile does not pay for the plugin machinery.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dovetile.plugins.hookspec import hookimpl as hookimpl
    from dovetile.plugins.loader import PluginRecord as PluginRecord
    from dovetile.plugins.loader import PluginRegistry as PluginRegistry
    from dovetile.plugins.loader import registry as registry
    from dovetile.plugins.selection import default_device_name as default_device_name
    from dovetile.plugins.selection import open_device as open_device
    from dovetile.plugins.specs import PLUGIN_API as PLUGIN_API
    from dovetile.plugins.specs import Capabilities as Capabilities
    from dovetile.plugins.specs import CollectiveSpec as CollectiveSpec
    from dovetile.plugins.specs import CommandSpec as CommandSpec
    from dovetile.plugins.specs import CompilerSpec as CompilerSpec
    from dovetile.plugins.specs import DeviceSpec as DeviceSpec
    from dovetile.plugins.specs import DTypeSpec as DTypeSpec
    from dovetile.plugins.specs import ImporterSpec as ImporterSpec
    from dovetile.plugins.specs import MatrixUnit as MatrixUnit
    from dovetile.plugins.specs import PassSpec as PassSpec
    from dovetile.plugins.specs import ProbeResult as ProbeResult
    from dovetile.plugins.specs import RendererSpec as RendererSpec
    from dovetile.plugins.specs import Selection as Selection

_MODULES = {
    "hookimpl": "hookspec",
    "PluginRecord": "loader",
    "PluginRegistry": "loader",
    "registry": "loader",
    "default_device_name": "selection",
    "open_device": "selection",
}
_SPECS = (
    "PLUGIN_API Capabilities CollectiveSpec CommandSpec CompilerSpec DeviceSpec DTypeSpec "
    "ImporterSpec MatrixUnit PassSpec ProbeResult RendererSpec Selection"
).split()

__all__ = [*_MODULES, *_SPECS]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> object:
    module = "specs" if name in _SPECS else _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    globals()[name] = value
    return value
