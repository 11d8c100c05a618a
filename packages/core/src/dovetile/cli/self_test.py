"""Whether a device really works: one small kernel, from rendering to its result.

The doctor runs this as a process of its own, because what is wrong with a compiler or a driver
may take the process down.
"""

from __future__ import annotations

import subprocess
import sys

import numpy as np

from dovetile import dtypes
from dovetile.errors import DeviceError, DovetileError
from dovetile.ir.uop import UOp, toposort
from dovetile.lower.linear import LinearKernel
from dovetile.runtime import Buffer, Device, get_device

_COUNT = 1000
_SECONDS = 60.0


def run_apart(name: str) -> str | None:
    """None where the device of that name computes rightly, else what is wrong."""
    command = [sys.executable, "-m", "dovetile.cli.self_test", name]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return f"its self-test was not done after {_SECONDS:.0f} s"
    if result.returncode == 0:
        return None
    lines = result.stderr.strip().splitlines()
    cause = lines[-1] if lines else "without a word"
    if result.returncode < 0:
        return f"its self-test was killed by signal {-result.returncode}: {cause}"
    return f"its self-test failed: {cause}"


def check(device: Device) -> None:
    """Compute ``2 * x + 1`` on the device, past all caches. Raises DeviceError, CompileError..."""
    loop = UOp.range(_COUNT, id=0)
    source = UOp.buffer(_COUNT, dtypes.int32, slot=1)
    target = UOp.buffer(_COUNT, dtypes.int32, slot=0)
    effect = target.index(loop).store(source.index(loop).load() * 2 + 1).end(loop)
    kernel = LinearKernel.of("self_test", toposort(UOp.sink(effect)))
    binary = device.compiler.compile(device.renderer.render(kernel))
    program = device.load(binary, kernel.name)
    numbers = np.arange(_COUNT, dtype=np.int32)
    output = Buffer(device, numbers.nbytes, dtypes.int32)
    device.queue.launch(program, (output, Buffer.from_numpy(device, numbers)))
    device.synchronize()
    wrong = int((output.to_numpy() != numbers * 2 + 1).sum())
    if wrong:
        raise DeviceError(f"[self-test] {wrong} of {_COUNT} results of {device.name} are wrong")


def main() -> int:
    try:
        check(get_device(sys.argv[1]))
    except DovetileError as error:
        # On one line, which the doctor quotes.
        print(" ".join(str(error).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
