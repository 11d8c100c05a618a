"""A device over a model of the driver, and kernels for it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from dovetile_nv import cuda_compiler, device, plugin
from dovetile_nv.capabilities import architecture_of, capabilities_of
from dovetile_nv.device import NvDevice
from dovetile_nv.raw.card import Process
from dovetile_nv.raw.interface import RawInterface

from dovetile.plugins import Selection

sys.path.insert(0, str(Path(__file__).parent))

from fake_driver import FakeDriver

KERNELS = """
extern "C" __global__ void __launch_bounds__(256)
add(float* out, const float* a, const float* b, long long n) {
  int i = blockIdx.x * 256 + threadIdx.x;
  if (i < n) out[i] = a[i] + b[i];
}
extern "C" __global__ void __launch_bounds__(64)
summed(float* out, const float* a) {
  __shared__ float part[64];
  part[threadIdx.x] = a[threadIdx.x];
  __syncthreads();
  float sum = 0;
  for (int i = 0; i < 64; i++) sum += part[i];
  out[threadIdx.x] = sum;
}
extern "C" __global__ void __launch_bounds__(64)
stacked(int* out, const int* index) {
  volatile int table[200];
  for (int i = 0; i < 200; i++) table[i] = i * threadIdx.x;
  out[threadIdx.x] = table[index[threadIdx.x]];
}
__device__ int numbers[4] = {1, 2, 3, 4};
extern "C" __global__ void looked_up(int* out) { out[threadIdx.x] = numbers[threadIdx.x & 3]; }
"""


@cache
def cubin_of(source: str, architecture: str = "sm_90a") -> bytes:
    """The machine code of CUDA C++; skips the test where there is no compiler."""
    reason = cuda_compiler.available()
    if reason is not None:
        pytest.skip(reason)
    row = capabilities_of(architecture_of(architecture))
    return cuda_compiler.CudaCompiler(row).compile(source)


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
