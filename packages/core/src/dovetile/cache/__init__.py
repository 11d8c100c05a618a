"""What one process has worked out, kept on disk for the next.

Namespaces in use: ``kernel`` (compiled programs), ``schedule`` (kernel graphs of whole schedules)
and ``beam`` (Opts found by search). A key must name everything the entry depends on: the
content, the target's architecture, the compiler's fingerprint, Dovetile's version.

    >>> from dovetile import cache
    >>> cache.put("kernel", "a key", {"language": "c"}, b"machine code")
    >>> cache.get("kernel", "a key")
    ({'language': 'c'}, b'machine code')
"""

from __future__ import annotations

from dovetile import environment
from dovetile.cache.disk import DiskCache as DiskCache

_caches: dict[tuple[str, int], DiskCache] = {}


def disk_cache() -> DiskCache:
    """The cache that ``DOVETILE_CACHE_DIR`` and ``DOVETILE_CACHE_BYTES`` name."""
    settings = (environment.DOVETILE_CACHE_DIR.value, environment.DOVETILE_CACHE_BYTES.value)
    cache = _caches.get(settings)
    if cache is None:
        cache = _caches.setdefault(settings, DiskCache(*settings))
    return cache


def get(namespace: str, key: str) -> tuple[dict, bytes] | None:
    """The header and payload stored under `key`, or None."""
    return disk_cache().get(namespace, key)


def put(namespace: str, key: str, header: dict, payload: bytes) -> None:
    """Store a JSON-able `header` and raw bytes under `key`, atomically."""
    disk_cache().put(namespace, key, header, payload)
