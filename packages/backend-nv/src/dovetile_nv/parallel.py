"""Several kernels compiled at a time: the compilers let other threads run while they work."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence


def compile_all(compile_one: Callable[[str], bytes], sources: Sequence[str]) -> list[bytes]:
    """What `compile_one` makes of each source, in order."""
    affinity = getattr(os, "sched_getaffinity", None)
    workers = min(len(sources), len(affinity(0)) if affinity else os.cpu_count() or 1)
    if workers < 2:
        return [compile_one(source) for source in sources]
    from concurrent.futures import ThreadPoolExecutor  # slow to import, and rarely needed

    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(compile_one, sources))
