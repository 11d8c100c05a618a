"""What is measured: each row of the table, its limit on this machine and its target."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MILLION = 2**20


@dataclass(frozen=True)
class Target:
    """What a row must reach; a field that is not set asks for nothing.

    Args:
        of_peer: our speed divided by the peer's, at least.
        peer: its name, or "best" of those measured.
        of_limit: our rate divided by the limit measured in the same run, at least.
        seconds: of one call, at most.
        rate: in the row's unit, at least.
    """

    of_peer: float | None = None
    peer: str = "best"
    of_limit: float | None = None
    seconds: float | None = None
    rate: float | None = None

    def met(self, figures: dict[str, float], limit: float | None, work: float) -> bool:
        """Whether `figures` (seconds a call, ours under "dovetile") reach it."""
        ours = figures["dovetile"]
        peers = {name: value for name, value in figures.items() if name != "dovetile"}
        wanted = []
        if self.of_peer is not None and peers:
            rival = min(peers.values()) if self.peer == "best" else peers.get(self.peer)
            wanted.append(rival is None or rival / ours >= self.of_peer)
        if self.of_limit is not None and limit is not None:
            wanted.append(work / ours / limit >= self.of_limit)
        if self.seconds is not None:
            wanted.append(ours <= self.seconds)
        if self.rate is not None:
            wanted.append(work / ours >= self.rate)
        return all(wanted)


@dataclass(frozen=True)
class Row:
    """One measured piece of work.

    Args:
        name: by which the command line chooses it.
        title: what the table calls it.
        case: the function of each `cases` module which builds it, called with `size`.
        work: done by one call, in `unit` per second; 0: only the time is told.
        limit: arguments of `peak.Limit`, where this machine has a measurable one.
        target: in the issue's words.
        tolerance: largest difference from float64, relative to the largest value.
        contenders: names of those that take part; empty: all that have the case.
        start: "cold" or "warm": a new process's first call, with empty or filled disk caches.
        memory: whether the peak memory of the processes makes a row too.
        large: whether the contenders' processes must not exist at the same time.
    """

    name: str
    title: str
    case: str
    size: dict[str, Any] = field(default_factory=dict)
    work: float = 0.0
    unit: str = "ms"
    limit: tuple[Any, ...] = ()
    target: Target = Target()
    tolerance: float = 1e-5
    contenders: tuple[str, ...] = ()
    start: str = ""
    memory: Target | None = None
    large: bool = False


def _matmul(size: int) -> Row:
    target = Target(of_peer=0.97, of_limit=0.92)
    plain = ("numpy", "torch", "jax")
    return Row(f"matmul-{size}", f"matmul {size}", "matmul", {"size": size}, 2e-9 * size**3,
               "GFLOP/s", ("fma", 2 * size**3), target, contenders=plain)  # fmt: skip


def _bytes(name: str, title: str, case: str, size: dict[str, Any], reads: int, writes: int,
           elements: int, of_peer: float) -> Row:  # fmt: skip
    """A row whose limit is memory: it reads and writes arrays of `elements` float32."""
    nbytes = 4 * elements * (reads + writes)
    limit = ("memory", nbytes, reads, writes)
    target = Target(of_peer=of_peer)
    return Row(name, title, case, size, nbytes / 1e9, "GB/s", limit, target)


def _start(case: str, title: str, size: dict[str, Any], cold: float, warm: float) -> list[Row]:
    peers = ("torch", "torch.compile", "onnxruntime", "jax")
    return [
        Row(
            f"{case}-{start}",
            f"{title}, {start} start",
            case,
            size,
            unit="s",
            start=start,
            target=Target(seconds=seconds),
            contenders=peers,
            tolerance=1e-3,
        )  # fmt: skip
        for start, seconds in (("cold", cold), ("warm", warm))
    ]


_GPT = {"layers": 6, "width": 384, "context": 256, "batch": 16}
_ATTENTION = 8 * 2 * 64 * 4096**2  # operations: two products, of which half is not needed
_DECODED = 4 * 109_510_656  # bytes of the parameters, but for the table of embeddings

_ALL = [
    *(_matmul(size) for size in (512, 1024, 2048, 4096)),
    Row("matmul-bf16", "bfloat16 matmul 2048", "matmul", {"size": 2048, "dtype": "bfloat16"},
        2e-9 * 2048**3, "GFLOP/s", ("bfloat16", 2 * 2048**3),
        Target(of_peer=0.9, peer="torch"), 2e-2, ("torch", "jax")),
    _bytes("matvec", "matrix-vector 4096", "matvec", {"size": 4096}, 1, 0, 4096**2, 1.0),
    Row("decode", "decode, 134M parameters", "decode", {}, 1.0, "tokens/s",
        ("memory", _DECODED, 1, 0), target=Target(rate=75.0), tolerance=1e-4),
    _bytes("chain", "(a * b + c).relu() of 64M", "chain", {"count": 64 * MILLION}, 3, 1,
           64 * MILLION, 1.0),
    _bytes("sum", "sum of 64M", "sum", {"count": 64 * MILLION}, 1, 0, 64 * MILLION, 1.0),
    _bytes("softmax", "softmax 4096 x 4096", "softmax", {"size": 4096}, 1, 1, 4096**2, 1.1),
    _bytes("layernorm", "layernorm 4096 x 4096", "layernorm", {"size": 4096}, 1, 1, 4096**2, 1.1),
    Row("resnet50-1", "ResNet-50, batch 1", "resnet50", {"batch": 1}, tolerance=1e-4,
        target=Target(of_peer=1.0, peer="onnxruntime")),
    Row("resnet50-8", "ResNet-50, batch 8", "resnet50", {"batch": 8}, tolerance=1e-4,
        target=Target(of_peer=1.0, peer="onnxruntime")),
    Row("resnet50-norm", "ResNet-50 with its batch norms, batch 1", "resnet50",
        {"batch": 1, "folded": False}, tolerance=1e-4,
        target=Target(of_peer=1.0, peer="onnxruntime")),
    Row("mnist", "MNIST training step, batch 512", "mnist", {"batch": 512}, tolerance=1e-3,
        target=Target(seconds=0.140), large=True),
    Row("gpt", "GPT training step", "gpt", _GPT, tolerance=1e-3, target=Target(seconds=1.2),
        memory=Target(of_peer=1.0, peer="torch"), large=True),
    Row("attention", "causal attention, 8 x 64, 4096 tokens", "attention",
        {"heads": 8, "width": 64, "length": 4096}, 1e-9 * _ATTENTION, "GFLOP/s",
        ("fma", _ATTENTION), Target(of_peer=1.2, peer="torch")),
    Row("small-matmuls", "100 dependent 16 x 16 matmuls", "small_matmuls", {"count": 100},
        unit="us", target=Target(seconds=60e-6), tolerance=1e-4),
    Row("eager-add", "eager a + b of 16 floats", "eager_add", {"count": 16}, unit="us",
        target=Target(seconds=30e-6)),
    *_start("mnist", "MNIST training step", {"batch": 512}, 4.0, 0.7),
    *_start("resnet50", "ResNet-50", {"batch": 1}, 3.0, 0.5),
    *_start("gpt", "GPT step", _GPT, 6.0, 1.0),
]  # fmt: skip

ROWS = {row.name: row for row in _ALL}
