"""Tokens in a second of a language model of the size of Llama 3.2 1B: ours against PyTorch's.

A step is one captured list of launches (a CUDA graph for PyTorch), batch 1, bfloat16, late in a
text of 1024 tokens. Both read the same random weights; the first scores are compared with those of
PyTorch in float32.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import ml_dtypes
import torch
from models.decode import Decoder, Sizes

from dovetile import Tensor, counters, jit
from dovetile.runtime import get_device

_POSITION = 1000


def _theirs(sizes: Sizes) -> Decoder:
    torch.manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        values = torch.randn(shape, device="cuda", dtype=torch.bfloat16)
        return values * shape[-1] ** -0.5

    weights = {
        name: random(*shape) if len(shape) == 2 else [random(*shape[1:]) for _ in range(shape[0])]
        for name, shape in sizes.shapes().items()
    }
    caches = [
        [random(sizes.context, sizes.keys, sizes.head) for _ in range(sizes.layers)]
        for _ in range(2)
    ]
    rotations = torch.tensor(sizes.rotations(), device="cuda")
    positions = torch.arange(sizes.context, device="cuda")
    return Decoder(sizes, weights, rotations, positions, *caches)


def _as(model: Decoder, change: Callable[[torch.Tensor], Any]) -> Decoder:
    def each(value: Any) -> Any:
        return [change(x) for x in value] if isinstance(value, list) else change(value)

    return Decoder(
        model.sizes,
        {name: each(value) for name, value in model.weights.items()},
        each(model.rotations),
        each(model.positions),
        each(model.keys),
        each(model.values),
    )


def _ours(x: torch.Tensor) -> Tensor:
    if x.dtype == torch.bfloat16:
        return Tensor(x.view(torch.int16).cpu().numpy().view(ml_dtypes.bfloat16)).realize()
    return Tensor(x.cpu().numpy()).realize()


def measure(turn: Callable[..., float], compiled: bool) -> None:
    """Prints the line of this row. `turn(run, wait)` gives the seconds of one run."""
    theirs = _theirs(Sizes())
    ours = _as(theirs, _ours)
    exact = _as(theirs, lambda x: x.clone().float() if x.is_floating_point() else x)
    inputs = [torch.tensor([n], device="cuda") for n in (42, _POSITION)]
    mine = [_ours(x) for x in inputs]
    expected = exact.step(*inputs).double().cpu()
    usual = _error(theirs.step(*inputs), expected)
    del exact
    step = jit(ours.step)
    before, start = counters(), time.perf_counter()
    scores = step(*mine).float().numpy()
    first, made = time.perf_counter() - start, counters() - before
    error = _error(torch.tensor(scores), expected)
    if not error < 1.5 * usual:
        raise SystemExit(f"llama: our error is {error:.1e}, PyTorch's {usual:.1e}")
    for _ in range(3):
        step(*mine)
    device = get_device()
    runs = [(lambda: step(*mine), device.synchronize), _graph(theirs.step, inputs)]
    if compiled:
        runs.append(_compiled(theirs.step, inputs))
    times = [min(turn(*run) for _ in range(5)) for run in runs]
    (captured,) = step.captures
    ratios = "  ".join(f"{other / times[0]:5.2f}" for other in times[1:])
    print(
        f"llama: {1 / times[0]:.0f} tokens/s, {captured.kernels} kernels, first step after "
        f"{first:.2f} s ({made.compiled} kernels compiled, {made.from_cache} from the cache), "
        f"error {error:.1e} ({usual:.1e}); of PyTorch: {ratios}",
        flush=True,
    )


def _error(scores: torch.Tensor, expected: torch.Tensor) -> float:
    return float((scores.double().cpu() - expected).norm() / expected.norm())


def _graph(step: Callable[..., torch.Tensor], inputs: list[torch.Tensor]) -> tuple[Any, Any]:
    side = torch.cuda.Stream()
    with torch.cuda.stream(side), torch.no_grad():
        for _ in range(3):
            step(*inputs)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph), torch.no_grad():
        kept = step(*inputs)
    return lambda: (graph.replay(), kept) and None, torch.cuda.synchronize


def _compiled(step: Callable[..., torch.Tensor], inputs: list[torch.Tensor]) -> tuple[Any, Any]:
    fast = torch.compile(step, mode="reduce-overhead")
    with torch.no_grad():
        for _ in range(4):
            fast(*inputs)

    def run() -> None:
        with torch.no_grad():
            fast(*inputs)

    return run, torch.cuda.synchronize
