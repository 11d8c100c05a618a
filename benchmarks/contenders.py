"""Who is measured: we and our peers, each in processes of its own with settings of its own."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

THREADS = 2

# glibc then never gives memory back to the system. A library that allocates its results anew
# pays for the first touch of each page otherwise, which can cost more than the work itself.
HEAP_KEPT = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(10**12),
    "MALLOC_TOP_PAD_": str(10**9),
}
_THREAD_VARIABLES = (
    "DOVETILE_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS",
)  # fmt: skip
_CACHE_VARIABLES = ("DOVETILE_CACHE_DIR", "JAX_COMPILATION_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR")


@dataclass(frozen=True)
class Contender:
    """A library used in one way: the module it needs, the module of `cases`, how it is used."""

    name: str
    package: str
    cases: str
    mode: str = "eager"
    settings: dict[str, str] = field(default_factory=dict)

    @property
    def installed(self) -> bool:
        return find_spec(self.package) is not None

    def environment(self, caches: Path | None = None) -> dict[str, str]:
        """The environment of its processes; with `caches`, all its disk caches are there."""
        threads = dict.fromkeys(_THREAD_VARIABLES, str(THREADS))
        folders = dict.fromkeys(_CACHE_VARIABLES, str(caches)) if caches is not None else {}
        return {**os.environ, **threads, **folders, **self.settings}


_AVX512 = Path("/proc/cpuinfo").exists() and " avx512f" in Path("/proc/cpuinfo").read_text()
# OpenBLAS knows processors by name, and takes a new one for one without its vectors.
_NUMPY = {"OPENBLAS_CORETYPE": "SkylakeX"} if _AVX512 else {}

_ALL = [
    Contender("dovetile", "dovetile", "dovetile_cases", "captured"),
    Contender("numpy", "numpy", "numpy_cases", settings=_NUMPY),
    Contender("torch", "torch", "torch_cases"),
    Contender("torch, heap kept", "torch", "torch_cases", settings=HEAP_KEPT),
    Contender("torch.compile", "torch", "torch_cases", "compiled"),
    Contender("torch.compile, heap kept", "torch", "torch_cases", "compiled", HEAP_KEPT),
    Contender("jax", "jax", "jax_cases", "compiled"),
    Contender("onnxruntime", "onnxruntime", "onnxruntime_cases"),
]
CONTENDERS = {contender.name: contender for contender in _ALL}
# The two that are no contenders: what the processor can do, and the values in float64.
LIMIT = Contender("limit", "llvmlite", "limit_cases")
REFERENCE = Contender("reference", "numpy", "reference_cases")
PROCESSES = {**CONTENDERS, LIMIT.name: LIMIT, REFERENCE.name: REFERENCE}
