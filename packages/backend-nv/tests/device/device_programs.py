"""Programs that tests run in processes of their own."""

from __future__ import annotations

from pathlib import Path

# What they begin with: a device, its kernels, and buffers.
BEGIN = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
import os, time
import numpy as np
from dovetile import dtypes
from dovetile.errors import *
from dovetile.runtime import Buffer, Launch, get_device
from nv_kernels import DEVICE_KERNELS, cubin_of
gpu = get_device("NV")
load = lambda name: gpu.load(cubin_of(DEVICE_KERNELS, gpu.capabilities.architecture), name)
count = np.arange(1000, dtype=np.float32)
out, a, b = (Buffer.from_numpy(gpu, x) for x in (0 * count, count, 2 * count))

def adds():
    gpu.queue.launch(load("add"), (out, a, b), (1000,), (4,), (256,))
    assert (out.to_numpy() == 3 * count).all()
"""
