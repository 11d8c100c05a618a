"""Whether the raw queue can be used on this machine."""

from __future__ import annotations

import os

from dovetile.errors import DovetileError
from dovetile_nv.raw.driver_abi import DRIVER_VERSION
from dovetile_nv.raw.system import System

_FILES = ("/dev/nvidiactl", "/dev/nvidia-uvm")
_VERSION = "/sys/module/nvidia/version"


def problem(system: System | None = None) -> str | None:
    """None where it can be used, else why not."""
    system = system or System()
    for path in _FILES:
        if not os.access(path, os.R_OK | os.W_OK):
            state = "may not be opened" if os.path.exists(path) else "is not there"
            return f"{path} {state}"
    try:
        version = system.read_text(_VERSION).strip()
    except OSError as error:
        return f"the driver's version cannot be read: {error}"
    ours = DRIVER_VERSION.split(".")[0]
    if version.split(".")[0] != ours:
        return f"the driver is version {version}; the raw queue knows versions {ours}.x"
    try:
        from dovetile_nv.raw import card

        if not card.process().client.cards():
            return "the driver finds no GPU"
    except (DovetileError, OSError) as error:
        return str(error)
    return None
