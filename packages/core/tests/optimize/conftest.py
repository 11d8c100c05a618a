from __future__ import annotations

import pytest

from dovetile.errors import DeviceError
from dovetile.runtime import Device, get_device


@pytest.fixture(scope="session")
def device(checked: None) -> Device:
    """The default device; tests that need one are skipped where no backend is installed."""
    try:
        return get_device()
    except DeviceError as error:
        pytest.skip(str(error))
