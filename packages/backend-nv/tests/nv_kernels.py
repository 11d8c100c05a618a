"""Kernels in CUDA C++ for tests of the runtime."""

from __future__ import annotations

from functools import cache

import pytest

from dovetile_nv import cuda_compiler
from dovetile_nv.capabilities import architecture_of, capabilities_of

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
# For a real GPU: takes time, writes where there is nothing, stops itself.
DEVICE_KERNELS = f"""{KERNELS}
extern "C" __global__ void spin(float* x, long long cycles) {{
  long long start = clock64();
  while (clock64() - start < cycles);
  if (threadIdx.x == 0) x[0] = 1;
}}
extern "C" __global__ void wild(float* x, float* nowhere) {{ nowhere[threadIdx.x] = 1; }}
extern "C" __global__ void trapped(float* x, long long value) {{ if (value) __trap(); }}
"""


@cache
def cubin_of(source: str, architecture: str = "sm_90a") -> bytes:
    """The machine code of CUDA C++; skips the test where there is no compiler."""
    reason = cuda_compiler.available()
    if reason is not None:
        pytest.skip(reason)
    row = capabilities_of(architecture_of(architecture))
    return cuda_compiler.CudaCompiler(row).compile(source)
