"""Kernels on a GPU: ours against PyTorch's, in the same process, in alternating turns.

    python benchmarks/gpu.py [ROW ...]      rows by the beginning of their names; all by default

Both sides do an operation on a few different inputs, as one captured list of launches (a CUDA graph
for PyTorch), so that neither the host nor the second cache is measured. A line has the time of one
operation, the rate, its share of the ceiling that was measured first (a copy, or PyTorch's largest
matrix product), and how many times as fast as PyTorch (and, with --compile, as `torch.compile`) we
are. Results are compared before anything is timed. Needs PyTorch with CUDA and a GPU for Dovetile.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import decode
import resnet
import torch
import torch.nn.attention

from dovetile import Tensor, dtypes, jit
from dovetile.environment import context
from dovetile.runtime import get_device

Operation = Callable[..., Any]
_TURNS = 7
_SECONDS = 0.02  # of a turn


@dataclass(frozen=True)
class Row:
    """One operation. work: of one, in bytes, or operations."""

    name: str
    dtype: str
    shapes: tuple[tuple[int, ...], ...]
    work: float
    unit: str
    ours: Operation
    theirs: Operation
    tolerance: float = 1e-2
    precision: str = "highest"
    """Of float32 products, in PyTorch's words and ours."""

    @property
    def inputs(self) -> int:
        """How many different ones: enough that a list takes longer than its launch by the host."""
        smallest = 1e9 if self.unit == "GB/s" else 1e12
        return 2 if self.work > smallest else 16


def rows() -> list[Row]:
    n = 8192
    functional = torch.nn.functional
    found = [
        Row("add", "float32", ((n, n),), 8 * n * n, "GB/s", lambda a: a + 1, lambda a: a + 1),
        Row("gelu", "bfloat16", ((n, n),), 4 * n * n, "GB/s",
            lambda a: (a * 2 + 1).gelu("tanh"),
            lambda a: functional.gelu(a * 2 + 1, approximate="tanh")),
        Row("erf-gelu", "bfloat16", ((n, n),), 4 * n * n, "GB/s",
            lambda a: a.gelu(), functional.gelu),
        Row("softmax", "float32", ((n, n),), 8 * n * n, "GB/s",
            lambda a: a.softmax(-1), lambda a: a.softmax(-1)),
        Row("softmax-1024", "float32", ((8 * n, 1024),), 8 * 8 * n * 1024, "GB/s",
            lambda a: a.softmax(-1), lambda a: a.softmax(-1)),
        Row("layernorm", "bfloat16", ((n, n),), 4 * n * n, "GB/s",
            lambda a: a.layer_norm((n,)), lambda a: functional.layer_norm(a, (n,))),
        Row("rmsnorm", "bfloat16", ((n, n),), 4 * n * n, "GB/s",
            lambda a: a * ((a * a).mean(-1, keepdim=True) + 1e-5).rsqrt(),
            lambda a: functional.rms_norm(a, (n,), eps=1e-5)),
        Row("sum", "float32", ((1 << 28,),), 4 << 28, "GB/s", lambda a: a.sum(), lambda a: a.sum()),
        Row("columns", "float32", ((16384, n),), 4 * 16384 * n, "GB/s",
            lambda a: a.sum(0), lambda a: a.sum(0)),
        Row("transpose", "float32", ((n, n),), 8 * n * n, "GB/s",
            lambda a: a.transpose(0, 1).contiguous(), lambda a: a.t().contiguous()),
        Row("transpose-bfloat16", "bfloat16", ((n, n),), 4 * n * n, "GB/s",
            lambda a: a.transpose(0, 1).contiguous(), lambda a: a.t().contiguous()),
        Row("matvec", "bfloat16", ((n, n), (n,)), 2 * n * n, "GB/s",
            lambda a, b: a @ b, lambda a, b: a @ b),
    ]  # fmt: skip
    products = {
        "nn": (lambda a, b: a @ b, lambda a, b: a @ b),
        "nt": (lambda a, b: a @ b.transpose(0, 1), lambda a, b: a @ b.t()),
        "tn": (lambda a, b: a.transpose(0, 1) @ b, lambda a, b: a.t() @ b),
    }
    for dtype in ("bfloat16", "float16", "float32"):
        for size in (1024, 2048, 4096, 8192):
            for layout, (ours, theirs) in products.items():
                if layout == "nn" or size == 4096 and dtype == "bfloat16":
                    found.append(
                        Row(f"matmul-{dtype}-{size}-{layout}", dtype, ((size, size),) * 2,
                            2 * size**3, "TFLOP/s", ours, theirs)
                    )  # fmt: skip
    for heads, length in ((64, 4096), (16, 16384)):
        for width in (64, 128):
            for causal in (False, True):
                for dtype in ("bfloat16", "float16"):
                    found.append(_attention(dtype, width, causal, heads, length))
                found.append(_attention_backward(width, causal, heads, length))
    return found + narrow_products()


def narrow_products() -> list[Row]:
    """Products whose operands have few digits, both with their sums contiguous; of TF32 the other
    way too, where the unit reads a copy, made once while its source stays the same."""
    one = torch.ones((), device="cuda")

    def scaled(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return torch._scaled_mm(
            a, b.t(), one, one, out_dtype=torch.bfloat16, use_fast_accum=True
        )  # fmt: skip

    kinds = {
        ("tf32", "nt"): ("float32", lambda a, b: a @ b.transpose(0, 1), lambda a, b: a @ b.t()),
        ("tf32", "nn"): ("float32", lambda a, b: a @ b, lambda a, b: a @ b),
        ("float8", "nt"): (
            "float8_e4m3fn", lambda a, b: (a.float() @ b.float().transpose(0, 1)).bfloat16(), scaled
        ),
        ("int8", "nt"): ("int8", lambda a, b: a.int() @ b.int().transpose(0, 1),
                         lambda a, b: torch._int_mm(a, b.t())),
    }  # fmt: skip
    return [
        Row(f"matmul-{name}-{size}-{layout}", dtype, ((size, size),) * 2, 2 * size**3, "TFLOP/s",
            ours, theirs, precision="high" if name == "tf32" else "highest")
        for (name, layout), (dtype, ours, theirs) in kinds.items()
        for size in (1024, 2048, 4096, 8192)
    ]  # fmt: skip


def _attention(dtype: str, width: int, causal: bool, heads: int, length: int) -> Row:
    """Attention of heads of so many queries; PyTorch's by cuDNN, where that is the faster one."""
    shape = (4, heads // 4, length, width)

    def theirs(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.CUDNN_ATTENTION):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=causal)

    return Row(
        f"attention-{dtype}-{width}-{length // 1024}k{'-causal' * causal}", dtype, (shape,) * 3,
        4 * heads * length**2 * width / (2 if causal else 1), "TFLOP/s",
        lambda q, k, v: q.scaled_dot_product_attention(k, v, is_causal=causal), theirs,
    )  # fmt: skip


def _attention_backward(width: int, causal: bool, heads: int, length: int) -> Row:
    """The gradients by queries, keys and values, and the result before them."""
    shape = (4, heads // 4, length, width)

    def ours(q: Tensor, k: Tensor, v: Tensor, upstream: Tensor) -> tuple[Tensor, ...]:
        leaves = [x.detach() for x in (q, k, v)]
        for x in leaves:
            x.requires_grad = True
        q, k, v = leaves
        found = q.scaled_dot_product_attention(k, v, is_causal=causal)
        return found.gradient(q, k, v, gradient=upstream, create_graph=False)

    def theirs(*given: torch.Tensor) -> tuple[torch.Tensor, ...]:
        *leaves, upstream = (x.detach().requires_grad_() for x in given)
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.CUDNN_ATTENTION):
            found = torch.nn.functional.scaled_dot_product_attention(*leaves, is_causal=causal)
            return torch.autograd.grad(found, leaves, upstream)

    return Row(
        f"attention-backward-{width}{'-causal' * causal}{f'-{length}' * (length > 4096)}",
        "bfloat16", (shape,) * 4, 14 * heads * length**2 * width / (2 if causal else 1),
        "TFLOP/s", ours, theirs,
    )  # fmt: skip


def measure(row: Row, compiled: bool) -> tuple[float, list[float]]:
    """Seconds of one operation: ours, and theirs in each form."""
    device = get_device()
    sets = [[_numbers(s, getattr(torch, row.dtype)) for s in row.shapes] for _ in range(row.inputs)]
    mine = [[_tensor(x, row.dtype) for x in inputs] for inputs in sets]
    groups = len(row.shapes)
    step = jit(lambda *all_: [y for x in _grouped(all_, groups) for y in _several(row.ours(*x))])
    flat = [x for inputs in mine for x in inputs]
    for _ in range(3):
        results = step(*flat)
    for found, expected in zip(results, _several(row.theirs(*sets[0]))):
        _compare(row, found, expected)

    def ours() -> None:
        step(*flat)

    runs: list[tuple[Callable[[], Any], Callable[[], Any]]] = [(ours, device.synchronize)]
    operations = [row.theirs, *([torch.compile(row.theirs)] if compiled else [])]
    runs += [(_graph(f, sets), torch.cuda.synchronize) for f in operations]
    times: list[list[float]] = [[] for _ in runs]
    for _ in range(_TURNS):
        for (run, wait), found in zip(runs, times):
            found.append(_turn(run, wait) / row.inputs)
    first, *others = (statistics.median(t) for t in times)
    return first, others


def _numbers(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    numbers = torch.randn(shape, device="cuda")
    return (numbers if dtype.is_floating_point else numbers * 30).to(dtype)


def _turn(run: Callable[[], Any], wait: Callable[[], Any]) -> float:
    """Seconds of one run, of as many as fill a turn."""
    run()
    wait()
    start = time.perf_counter()
    run()
    wait()
    count = max(3, int(_SECONDS / (time.perf_counter() - start)))
    start = time.perf_counter()
    for _ in range(count):
        run()
    wait()
    return (time.perf_counter() - start) / count


def _graph(operation: Operation, sets: Sequence[Sequence[torch.Tensor]]) -> Callable[[], None]:
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        for _ in range(3):
            for inputs in sets:
                operation(*inputs)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        kept = [operation(*inputs) for inputs in sets]
    return lambda: (graph.replay(), kept) and None


def _tensor(x: torch.Tensor, dtype: str) -> Tensor:
    return Tensor(x.float().cpu().numpy()).cast(getattr(dtypes, dtype)).contiguous().realize()


def _grouped(flat: Sequence[Tensor], count: int) -> list[Sequence[Tensor]]:
    return [flat[i : i + count] for i in range(0, len(flat), count)]


def _several(results: Any) -> tuple:
    return results if isinstance(results, tuple) else (results,)


def _compare(row: Row, mine: Tensor, theirs: torch.Tensor) -> None:
    a = torch.from_numpy(mine.cast(dtypes.float32).numpy()).double().reshape(theirs.shape)
    b = theirs.double().cpu()
    error = float((a - b).norm() / b.norm())
    if not error < row.tolerance:
        raise SystemExit(f"{row.name}: our result differs from PyTorch's by {error:.1e}")


def ceilings() -> dict[str, float]:
    """What the card reaches at best: a copy in GB/s, a bfloat16 product in TFLOP/s."""
    a = torch.randn(1 << 28, device="cuda")
    b = torch.empty_like(a)
    seconds = _turn(lambda: b.copy_(a), torch.cuda.synchronize)
    x = torch.randn(4096, 4096, device="cuda", dtype=torch.bfloat16)
    product = _turn(lambda: x @ x, torch.cuda.synchronize)
    return {"GB/s": 8 * a.numel() / seconds / 1e9, "TFLOP/s": 2 * 4096**3 / product / 1e12}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("rows", nargs="*", help="beginnings of names; all by default")
    parser.add_argument("--compile", action="store_true", help="also against torch.compile")
    arguments = parser.parse_args()
    best = ceilings()
    print(f"ceilings: {best['GB/s']:.0f} GB/s, {best['TFLOP/s']:.0f} TFLOP/s")
    if not arguments.rows or any("llama".startswith(name) for name in arguments.rows):
        decode.measure(_turn, arguments.compile)
    for name in arguments.rows or ["resnet"]:
        if name.startswith("resnet"):
            resnet.measure(_turn, arguments.compile, name)
    for row in rows():
        if arguments.rows and not row.name.startswith(tuple(arguments.rows)):
            continue
        torch.set_float32_matmul_precision(row.precision)
        with context(MATMUL_PRECISION=row.precision):
            seconds, others = measure(row, arguments.compile)
        scale = 1e9 if row.unit == "GB/s" else 1e12
        rate = row.work / seconds / scale
        ratios = "  ".join(f"{other / seconds:5.2f}" for other in others)
        print(
            f"{row.name:28s} {seconds * 1e6:9.1f} us {rate:8.1f} {row.unit:8s} "
            f"{rate / best[row.unit]:5.0%} of the ceiling; of PyTorch: {ratios}",
            flush=True,
        )


if __name__ == "__main__":
    main()
