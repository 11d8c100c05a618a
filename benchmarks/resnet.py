"""ResNet-50 forward on a GPU, with its batch normalisations: ours against PyTorch's.

A call is one captured list of launches (a CUDA graph for PyTorch, whose images and weights have
their channels last). PyTorch's own defaults hold for convolutions in float32: they are rounded to
TF32 there, and ours are with MATMUL_PRECISION=high. Results are compared with those of PyTorch in
exact float32 before anything is timed.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from models.framework import Framework
from models.resnet import resnet50

import dovetile_nn
from dovetile import Tensor, jit, no_grad
from dovetile.environment import context
from dovetile.runtime import get_device

BATCHES, DTYPES = (1, 64), ("float16", "float32")
_OPERATIONS = 2 * 4.089e9  # of an image


def measure(turn: Callable[..., float], compiled: bool, name: str) -> None:
    """Prints a line for each batch and type. `turn(run, wait)` gives the seconds of one run.
    name: the beginning of the names of those that are wanted, such as resnet-64."""
    for batch in BATCHES:
        for dtype in DTYPES:
            row = f"resnet-{batch}-{dtype}"
            if row.startswith(name):
                with context(MATMUL_PRECISION="high" if dtype == "float32" else "highest"):
                    _row(row, batch, dtype, turn, compiled)


def _row(row: str, batch: int, dtype: str, turn: Callable[..., float], compiled: bool) -> None:
    torch.manual_seed(0)
    kind = getattr(torch, dtype)
    exact = resnet50(_framework(torch.nn), folded=False).cuda().eval()
    _fill(exact)
    images = torch.randn(batch, 3, 224, 224, device="cuda").to(kind)
    with torch.no_grad():
        torch.backends.cudnn.allow_tf32 = False
        expected = exact(images.float()).double().cpu()
        torch.backends.cudnn.allow_tf32 = True
    theirs = exact.to(kind).to(memory_format=torch.channels_last)
    model = resnet50(_framework(dovetile_nn), folded=False).eval()
    layers = dict(model.named_modules())
    for name, value in theirs.state_dict().items():
        layer, _, attribute = name.rpartition(".")
        setattr(layers[layer], attribute, _ours(value))
    mine = _ours(images)

    @jit
    def forward(images: Tensor) -> Tensor:
        with no_grad():
            return model(images)

    start = time.perf_counter()
    results = forward(mine).float().numpy()
    first = time.perf_counter() - start
    error = _error(torch.tensor(results), expected)
    placed = images.to(memory_format=torch.channels_last)
    with torch.no_grad():
        usual = _error(theirs(placed), expected)
    if not error < 2 * usual + 1e-5:
        raise SystemExit(f"{row}: our error is {error:.1e}, PyTorch's {usual:.1e}")
    for _ in range(3):
        forward(mine)
    device = get_device()
    runs: list[tuple[Any, Any]] = [(lambda: forward(mine), device.synchronize)]
    runs.append((_graph(theirs, placed), torch.cuda.synchronize))
    if compiled:
        runs.append((_compiled(theirs, placed), torch.cuda.synchronize))
    times = [min(found) for found in zip(*[[turn(*run) for run in runs] for _ in range(5)])]
    (captured,) = forward.captures
    ratios = "  ".join(f"{other / times[0]:5.2f}" for other in times[1:])
    print(
        f"{row:20s} {times[0] * 1e6:9.1f} us {batch * _OPERATIONS / times[0] / 1e12:6.1f} TFLOP/s, "
        f"{captured.kernels} kernels, first call after {first:.1f} s, error {error:.1e} "
        f"({usual:.1e}); of PyTorch: {ratios}",
        flush=True,
    )


def _framework(nn: Any) -> Framework:
    """The network needs nothing but layers."""
    return Framework(nn, ones=lambda size: None, attention=lambda *_: None)


def _fill(model: torch.nn.Module) -> None:
    """Statistics that are not those of a new network, so that all of them matter."""
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.1, 0.1)
            layer.running_var.uniform_(0.5, 1.5)
            torch.nn.init.uniform_(layer.weight, 0.5, 1.0)


def _ours(x: torch.Tensor) -> Tensor:
    return Tensor(x.detach().contiguous().cpu().numpy()).realize()


def _error(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double().cpu() - expected).norm() / expected.norm())


def _graph(model: Any, images: torch.Tensor) -> Callable[[], None]:
    side = torch.cuda.Stream()
    with torch.cuda.stream(side), torch.no_grad():
        for _ in range(3):
            model(images)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.no_grad():
        kept = model(images)
    return lambda: (graph.replay(), kept) and None


def _compiled(model: Any, images: torch.Tensor) -> Callable[[], None]:
    fast = torch.compile(model, mode="reduce-overhead")

    def run() -> None:
        with torch.no_grad():
            fast(images)

    for _ in range(4):
        run()
    return run
