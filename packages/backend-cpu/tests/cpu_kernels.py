"""Hand-written kernels in both languages, and helpers to run them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

import numpy as np

from dovetile import dtypes
from dovetile.runtime import Buffer, Device, Program, compile_programs

SIGNATURE = "(ptr %buffers, ptr %scalars, i64 %part, ptr %scratch)"

LLVM = f"""
; b[0] += scalar
define i32 @add {SIGNATURE} {{
  %b = load ptr, ptr %buffers
  %old = load i64, ptr %b
  %k = load i64, ptr %scalars
  %new = add i64 %old, %k
  store i64 %new, ptr %b
  ret i32 0
}}
; b[0] = b[0] * 3 + 1: its repetitions do not commute with those of `add`
define i32 @mix {SIGNATURE} {{
  %b = load ptr, ptr %buffers
  %old = load i64, ptr %b
  %three = mul i64 %old, 3
  %new = add i64 %three, 1
  store i64 %new, ptr %b
  ret i32 0
}}
; out[part] = in[part] + part
define i32 @parts {SIGNATURE} {{
  %out = load ptr, ptr %buffers
  %in.slot = getelementptr ptr, ptr %buffers, i64 1
  %in = load ptr, ptr %in.slot
  %from = getelementptr i64, ptr %in, i64 %part
  %to = getelementptr i64, ptr %out, i64 %part
  %old = load i64, ptr %from
  %new = add i64 %old, %part
  store i64 %new, ptr %to
  ret i32 0
}}
; out[part] = the address of this worker's scratch
define i32 @scratch {SIGNATURE} {{
  %out = load ptr, ptr %buffers
  %to = getelementptr i64, ptr %out, i64 %part
  %address = ptrtoint ptr %scratch to i64
  store i64 %part, ptr %scratch
  store i64 %address, ptr %to
  ret i32 0
}}
; turns in a loop `scalar` times: takes as many nanoseconds, roughly
define i32 @spin {SIGNATURE} {{
entry:
  %turns = load i64, ptr %scalars
  br label %loop
loop:
  %i = phi i64 [ 0, %entry ], [ %next, %loop ]
  %kept = call i64 asm sideeffect "", "=r,0"(i64 %i)
  %next = add i64 %kept, 1
  %more = icmp ult i64 %next, %turns
  br i1 %more, label %loop, label %done
done:
  ret i32 0
}}
; returns the scalar as its status
define i32 @fail {SIGNATURE} {{
  %k = load i64, ptr %scalars
  %status = trunc i64 %k to i32
  ret i32 %status
}}
"""


def programs(device: Device, *names: str) -> list[Program]:
    """The kernels of `LLVM`, compiled for the device."""
    return compile_programs(device, [(name, LLVM) for name in names])


def integers(device: Device, values: Sequence[int] | np.ndarray) -> Buffer:
    """A buffer of int64."""
    return Buffer.from_numpy(device, np.array(values, np.int64))


def zeros(device: Device, count: int) -> Buffer:
    return integers(device, np.zeros(count, np.int64))


def read(buffer: Buffer) -> list[int]:
    assert buffer.dtype is dtypes.int64
    return buffer.to_numpy().tolist()


def run_python(
    code: str, timeout: float = 60, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that finds this module."""
    path = os.pathsep.join([os.path.dirname(__file__), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": path, **environment},
    )
