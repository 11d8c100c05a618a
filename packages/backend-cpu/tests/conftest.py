from __future__ import annotations

import sys
from pathlib import Path

import pytest

from dovetile.plugins import open_device
from dovetile_cpu.device import CpuDevice

sys.path.insert(0, str(Path(__file__).parent))  # for cpu_kernels.py


@pytest.fixture(scope="session", autouse=True)
def cache_directory(tmp_path_factory: pytest.TempPathFactory):
    """A cache of our own, for this process and those that tests start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOVETILE_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def device(cache_directory: None) -> CpuDevice:
    device = open_device("CPU")
    assert isinstance(device, CpuDevice)
    return device
