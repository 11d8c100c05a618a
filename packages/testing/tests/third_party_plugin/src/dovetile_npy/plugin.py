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
    from dovetile_npy.compiler import PythonCompiler
    from dovetile_npy.device import NumpyDevice
    from dovetile_npy.renderer import PythonRenderer

DOVETILE_PLUGIN_API = (0, 1)


def _open(selection: Selection) -> NumpyDevice:
    from dovetile_npy.device import NumpyDevice

    return NumpyDevice(selection)


def _renderer(capabilities: Capabilities) -> PythonRenderer:
    from dovetile_npy.renderer import PythonRenderer

    return PythonRenderer()


def _compiler(capabilities: Capabilities) -> PythonCompiler:
    from dovetile_npy.compiler import PythonCompiler

    return PythonCompiler()


@hookimpl
def dovetile_devices() -> list[DeviceSpec]:
    compiler = CompilerSpec("PYTHON", "NPY", "python", compiler=_compiler, renderer=_renderer)
    return [
        DeviceSpec(
            "NPY",
            # Two of them, so that work across devices can be tried out.
            probe=lambda: ProbeResult(2),
            open=_open,
            compilers=(compiler,),
            aliases=("NUMPY",),
            # Nobody wants this device by default.
            priority=-100,
        )
    ]
