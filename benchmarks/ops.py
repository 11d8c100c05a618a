"""Single operations against NumPy and PyTorch: matmul, an elementwise chain, softmax.

python benchmarks/ops.py [--json FILE] [matmul] [chain] [softmax]
"""

from __future__ import annotations

from collections.abc import Callable

import measure

measure.use_threads()

import numpy  # noqa: E402
import torch  # noqa: E402

from dovetile import Tensor, jit  # noqa: E402
from dovetile.runtime import get_device  # noqa: E402


def arrays(*shapes: tuple[int, ...]) -> list[numpy.ndarray]:
    generator = numpy.random.default_rng(0)
    return [generator.standard_normal(shape, dtype=numpy.float32) for shape in shapes]


def check(ours: Tensor, theirs: torch.Tensor, tolerance: float) -> None:
    """A speed is worth nothing where the result is wrong."""
    numpy.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=tolerance, atol=tolerance)


def captured(function: Callable[..., Tensor], *inputs: Tensor) -> Callable[[], Tensor]:
    """A call which runs the captured function and waits for its result."""
    step = jit(lambda *tensors: function(*tensors).realize())

    def call() -> Tensor:
        result = step(*inputs)
        get_device(result.device).synchronize()
        return result

    return call


def matmul(report: measure.Report, size: int = 1024) -> None:
    left, right = arrays((size, size), (size, size))
    tensors = Tensor(left), Tensor(right)
    theirs = torch.from_numpy(left), torch.from_numpy(right)
    ours = captured(lambda a, b: a @ b, *tensors)
    check(ours(), theirs[0] @ theirs[1], 1e-3)
    contenders = {
        "dovetile": ours,
        "numpy (OpenBLAS)": lambda: left @ right,
        "torch": lambda: theirs[0] @ theirs[1],
    }
    medians = measure.alternate(contenders)
    report.add(f"matmul {size} x {size}, float32", medians, 2 * size**3, "GFLOP/s")


def chain(report: measure.Report, count: int = 64 * 2**20) -> None:
    values = arrays((count,), (count,), (count,))
    theirs = [torch.from_numpy(value) for value in values]
    ours = captured(lambda a, b, c: (a * b + c).relu(), *(Tensor(value) for value in values))
    check(ours(), (theirs[0] * theirs[1] + theirs[2]).relu(), 1e-5)
    # PyTorch pays for fresh memory at every call; one writing into what it has is the fairer peer.
    out = torch.empty(count)

    def kept() -> None:
        torch.mul(theirs[0], theirs[1], out=out)
        torch.add(out, theirs[2], out=out)
        torch.relu_(out)

    contenders = {
        "dovetile": ours,
        "torch": lambda: (theirs[0] * theirs[1] + theirs[2]).relu(),
        "torch, in place": kept,
    }
    medians = measure.alternate(contenders)
    report.add(f"(a * b + c).relu(), {count} floats", medians, 16 * count, "GB/s")


def softmax(report: measure.Report, size: int = 4096) -> None:
    (values,) = arrays((size, size))
    theirs = torch.from_numpy(values)
    ours = captured(lambda x: x.softmax(-1), Tensor(values))
    check(ours(), theirs.softmax(-1), 1e-5)
    out = torch.empty(size, size)
    contenders = {
        "dovetile": ours,
        "torch": lambda: theirs.softmax(-1),
        "torch, in place": lambda: torch.softmax(theirs, -1, out=out),
    }
    medians = measure.alternate(contenders)
    report.add(f"softmax {size} x {size}, float32", medians, 8 * size**2, "GB/s")


BENCHMARKS = {"matmul": matmul, "chain": chain, "softmax": softmax}


def main() -> None:
    report = measure.Report(__doc__ or "")
    report.parser.add_argument("names", nargs="*", choices=[*BENCHMARKS, []])
    options = report.parser.parse_args()
    torch.set_num_threads(measure.THREADS)
    for name in options.names or BENCHMARKS:
        BENCHMARKS[name](report)
    report.write(options.json)


if __name__ == "__main__":
    main()
