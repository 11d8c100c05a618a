"""A kernel, loaded and ready to be launched."""

from __future__ import annotations

from abc import ABC
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dovetile.runtime.device import Device


class Program(ABC):
    """Machine code of one kernel on one device. Made by `Device.load`."""

    device: Device
    name: str
    """The kernel's name: its function in the binary, and what errors call it."""
