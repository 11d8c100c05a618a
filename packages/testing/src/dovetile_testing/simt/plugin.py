"""What the entry point names. Nothing heavy is imported before a device is opened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dovetile.plugins import (
    Capabilities,
    CompilerSpec,
    DeviceSpec,
    ProbeResult,
    Selection,
    hookimpl,
)

if TYPE_CHECKING:
    from dovetile.runtime import Compiler, Device, Renderer

DOVETILE_PLUGIN_API = (0, 1)


def _open(selection: Selection) -> Device:
    from dovetile_testing.simt.device import SimtDevice

    return SimtDevice(selection)


def _renderer(capabilities: Capabilities) -> Renderer:
    from dovetile_testing.simt.renderer import PythonRenderer

    return PythonRenderer(capabilities)


def _compiler(capabilities: Capabilities) -> Compiler:
    from dovetile_testing.simt.compiler import PythonCompiler

    return PythonCompiler()


@hookimpl
def dovetile_devices() -> list[DeviceSpec]:
    return [
        DeviceSpec(
            "SIMT",
            # Two of them, so that work across devices can be tried out.
            probe=lambda: ProbeResult(2),
            open=_open,
            compilers=(CompilerSpec("PYTHON", "SIMT", "python", _compiler, _renderer),),
            # Only who asks for it wants it.
            priority=-1000,
        )
    ]
