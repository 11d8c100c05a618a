"""The page that follows one expression from Tensor to kernel; every listing is printed by the code."""

from __future__ import annotations

import math
from dataclasses import dataclass

from dovetile import Tensor, dtypes
from dovetile.ir.uop import UOp
from dovetile.plugins import Capabilities
from dovetile.render.c_style import CStyleRenderer
from dovetile.schedule.explain import explain


@dataclass
class Target:
    """A device of the page's own, so that the page is the same on every machine."""

    capabilities: Capabilities
    renderer: CStyleRenderer


def example() -> tuple[Tensor, Target]:
    """(relu(a @ b + c), a target with vectors of 8 floats and one thread)."""

    def tensor(*shape: int) -> Tensor:
        return Tensor._new(UOp.buffer(math.prod(shape), dtypes.float32).reshape(shape))

    capabilities = Capabilities(architecture="example", vector_bytes=32, vector_registers=16)
    value = (tensor(4, 32) @ tensor(32, 8) + tensor(8)).relu()
    return value, Target(capabilities, CStyleRenderer(capabilities))


def page() -> str:
    """The page as Markdown."""
    value, target = example()
    explanation = explain([value.uop], target)
    (kernel,) = explanation.kernels
    return f"""# How a Tensor becomes a kernel

<!-- Written by docs/scripts/generate.py from docs/scripts/tensor_to_kernel.py. -->

One expression on its way through every stage. Each listing below is what the code itself prints; see it for
expressions of your own, on your device, with

```python
from dovetile.schedule.explain import explain

print(explain([((a @ b + c).relu()).uop]))
```

`DEBUG` prints the same while a program runs: `DEBUG=2` every launch, `3` the schedule of each kernel, `4` its source,
`5` its loops ([all levels](../reference/environment.md)). `CHECK=1` verifies the graph against the
[rules of its level](../reference/ir.md) after each stage.

Our expression is `(a @ b + c).relu()` with `a` of shape (4, 32), `b` (32, 8) and `c` (8,), in float32. The target has
vectors of 8 floats and one thread.

## 1. The graph

Calling Tensor methods only builds a graph; nothing is computed. A line is a node: number, operation, numbers of its
sources, dtype, argument, and behind `#` its shape. The product is spelled out: both operands get the axes they lack
(EXPAND appends an axis, PERMUTE puts it in place), are multiplied element by element, and the last axis is summed up.
Nothing of size 4 x 8 x 32 will ever be in memory: EXPAND is only a way to say which element is meant.

Before anything else the inputs become numbered slots (`slot=0`, ...) that know no addresses. So the next call with
other data, or another process, has the same graph, and finds the finished plan in memory or on disk.

```
{explanation.graph}
```

## 2. Simplified, placed, cut into kernels

Rewrite rules simplify the graph (here there is nothing to gain). Then `schedule/place.py` decides what to hold in
memory and what to recompute. The sum, the bias and the relu follow each other one to one, so there is
{len(explanation.kernels)} kernel: the matrix product with its epilogue.

## 3. Loops instead of shapes

Starting at the store, indices flow from users to sources (`schedule/ranges.py`). Each axis becomes a RANGE; movement
operations become arithmetic on indices and vanish; REDUCE closes the ranges that it sums over; inputs become LOADs.
`#` now shows the index expressions. Loops and buffers are numbered by appearance (`schedule/loops.py`), so equal
kernels are the same node and are compiled once.

```
{kernel.loops}
```

## 4. A schedule is a list of Opts

The optimiser (`optimize/`) looks at the loops and at the target's `Capabilities`, and writes a short list of moves:

```
{kernel.opts}
```

Applied in order they give the same computation with other loops. Kinds of axes say what they have become: VECTOR axes
will be lanes, UNROLL axes copies, THREAD axes are divided among workers.

```
{kernel.optimized}
```

## 5. Lowered to a program

`lower/` turns vector axes into vector operations and the reduction into a loop over an accumulator, which is an
ordinary buffer in registers (`AddressSpace.REG`): stored to before the loop, loaded and stored in it, loaded after it.
What the target lacks is decomposed. The result is a list in the order of execution:

```
{kernel.program}
```

## 6. Source

A renderer (`render/`) writes the program down, here in C; the default compiler of the CPU gets LLVM IR instead. The
device's compiler makes machine code of it, which is kept in the disk cache under the hash of the source.

```c
{kernel.source}
```

At run time, a plan is left: this kernel, on which buffers, after which other. A queue launches it.
"""
