"""A device over a model of the driver, and kernels for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dovetile.plugins import Selection
from dovetile_nv import device, plugin
from dovetile_nv.device import NvDevice
from dovetile_nv.raw.card import Process
from dovetile_nv.raw.interface import RawInterface

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))  # for nv_kernels.py

from fake_driver import FakeDriver
from nv_kernels import KERNELS, cubin_of


@pytest.fixture
def binary() -> bytes:
    return cubin_of(KERNELS)


@pytest.fixture
def driver() -> Iterator[FakeDriver]:
    driver = FakeDriver()
    yield driver
    driver.stop()


@pytest.fixture
def gpu(driver: FakeDriver, monkeypatch: pytest.MonkeyPatch) -> NvDevice:
    """A device whose GPU is the model's."""
    monkeypatch.setattr(
        device, "open_interface", lambda index: RawInterface(Process(driver), index)
    )
    return NvDevice(Selection("NV", 0, plugin.COMPILERS[0]))
