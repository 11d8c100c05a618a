"""A device over a model of libcuda."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))  # for nv_kernels.py

from fake_libcuda import FakeLibrary
from nv_kernels import KERNELS, cubin_of

from dovetile.plugins import Selection
from dovetile_nv import device, plugin
from dovetile_nv.device import NvDevice
from dovetile_nv.libcuda import library
from dovetile_nv.libcuda.interface import CudaInterface


@pytest.fixture
def binary() -> bytes:
    return cubin_of(KERNELS)


@pytest.fixture
def libcuda(monkeypatch: pytest.MonkeyPatch) -> FakeLibrary:
    fake = FakeLibrary()
    monkeypatch.setattr(library, "library", lambda: fake)
    return fake


@pytest.fixture
def gpu(libcuda: FakeLibrary, monkeypatch: pytest.MonkeyPatch) -> NvDevice:
    """A device whose GPU is the model's."""
    monkeypatch.setattr(device, "open_interface", CudaInterface)
    return NvDevice(Selection("NV", 0, plugin.COMPILERS[0]))
