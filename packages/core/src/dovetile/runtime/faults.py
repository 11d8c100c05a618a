"""Reports of kernels about data that only they see, such as an index out of bounds.

Each device has one word of memory. A kernel that meets a bad value writes a code there and goes on
(it reads zeros); whoever waits for the device next gets the exception.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from dovetile import dtypes
from dovetile.errors import IndexOutOfRangeError
from dovetile.runtime.buffer import Buffer
from dovetile.runtime.device import Device

_texts: dict[int, str] = {}


def fault_buffer(device: Device) -> Buffer:
    """The word of a device, zero at first."""
    if device.fault_word is None:
        word = Buffer(device, 4, dtypes.uint32)
        word.copy_in(np.zeros(1, np.uint32))
        device.fault_word = word
    return device.fault_word


def register_faults(texts: Mapping[int, str]) -> None:
    """Makes the texts of fault codes known to `check_faults`."""
    _texts.update(texts)


def check_faults(device: Device) -> None:
    """Raises IndexOutOfRangeError where a kernel that has completed reported a bad index."""
    word = device.fault_word
    if word is None:
        return
    code = int(word.to_numpy()[0])
    if code:
        word.copy_in(np.zeros(1, np.uint32))
        raise IndexOutOfRangeError(_texts.get(code, f"[index] out of bounds (code {code})"))
