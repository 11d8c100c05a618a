"""A disk cache: one small file per entry, found by the digest of its key.

An entry is a fixed prefix (magic, lengths, checksum), a JSON header and raw bytes; there is no
pickle, so that reading a foreign or damaged file can do no harm. Files are written under a
temporary name and renamed, so that processes may share a folder without locks: a reader sees
the whole entry or none. Whatever goes wrong with the disk costs the cache, never the program.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import struct
import sys
import time
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

from dovetile import environment
from dovetile.errors import ArgumentError, DovetileWarning

_MAGIC = b"dovetile cache 1"
# Magic, bytes of the header, bytes of the payload, CRC-32 of both. The check is against damage,
# not against forgery, and a cryptographic digest would be most of the time of a read.
_PREFIX = struct.Struct("<16sIQI")
_TEMPORARY = ".tmp"
_ABANDONED_SECONDS = 3600.0
# A hit marks its entry as used, but writing the time more often than this is wasted work.
_TOUCH_SECONDS = 3600.0
# Of its own: the one of the module belongs to the user's program, which may have seeded it.
_chance = random.Random()


@dataclass(frozen=True)
class Entry:
    """A file of the cache."""

    namespace: str
    path: str
    nbytes: int
    used: float
    """When it was last read or written, in seconds since the epoch."""


class DiskCache:
    """The entries in a folder, bounded in size; the least recently used go first.

    Args:
        directory: the folder; made when the first entry is written.
        limit_bytes: bound on the sum of the files' sizes; 0 stores and finds nothing.
    """

    def __init__(self, directory: str, limit_bytes: int) -> None:
        self.directory = directory
        self.limit_bytes = limit_bytes
        # The folder is measured once per so many bytes written. The first interval has a random
        # length, so that many short processes together sweep as often as one long one.
        self._interval = max(limit_bytes // 16, 1)
        self._until_sweep = _chance.random() * self._interval
        self._warned = False
        self._writable = True

    def get(self, namespace: str, key: str) -> tuple[dict, bytes] | None:
        """The header and payload stored under `key`, or None. A damaged entry is removed."""
        if not self.limit_bytes:
            return None
        path = self._path(namespace, key)
        try:
            data, written = _read(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            self._complain("read", error)
            return None
        try:
            stored_key, header, payload = _decode(data)
        except ValueError as error:
            with contextlib.suppress(OSError):
                os.unlink(path)
            _note(f"removed a damaged entry ({error}): {path}")
            return None
        if stored_key != key:
            return None
        if time.time() - written > _TOUCH_SECONDS:
            with contextlib.suppress(OSError):
                os.utime(path)
        return header, payload

    def put(self, namespace: str, key: str, header: dict, payload: bytes) -> None:
        """Store an entry, replacing one of the same key. Never raises for the disk's sake.

        `header` must be JSON: dicts with string keys, lists, strings, numbers, booleans, None.
        """
        path = self._path(namespace, key)
        data = _encode(key, header, payload)
        if not self._writable or len(data) > self.limit_bytes:
            return
        try:
            self._write(path, data)
        except OSError as error:
            self._writable = False
            self._complain("written", error)
            return
        self._until_sweep -= len(data)
        if self._until_sweep < 0:
            self._until_sweep = self._interval
            self.sweep()

    def entries(self) -> Iterator[Entry]:
        """All entries, in no order."""
        for namespace, path, status in self._files():
            if not path.endswith(_TEMPORARY):
                yield Entry(namespace, path, status.st_size, status.st_mtime)

    def clear(self, namespace: str | None = None) -> int:
        """Remove all entries, or those of a namespace; returns how many there were."""
        entries = [e for e in self.entries() if namespace is None or e.namespace == namespace]
        if namespace is None:
            folders = list({os.path.join(self.directory, e.namespace) for e in entries})
        else:
            folders = [os.path.join(self.directory, _checked(namespace))]
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        return len(entries)

    def sweep(self) -> None:
        """Remove the least recently used entries above the bound, and abandoned temporaries."""
        kept: list[tuple[float, int, str]] = []
        for _, path, status in self._files():
            if not path.endswith(_TEMPORARY):
                kept.append((status.st_mtime, status.st_size, path))
            elif time.time() - status.st_mtime > _ABANDONED_SECONDS:
                with contextlib.suppress(OSError):
                    os.unlink(path)
        excess = sum(size for _, size, _ in kept) - self.limit_bytes
        if excess <= 0:
            return
        # Make room for an interval, so that the bound also holds until the next sweep.
        excess += self._interval
        removed = 0
        for _, size, path in sorted(kept):
            if excess <= 0:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
            excess -= size
            removed += 1
        _note(f"removed {removed} entries to stay under {self.limit_bytes} bytes")

    # -- Files -------------------------------------------------------------------------------

    def _path(self, namespace: str, key: str) -> str:
        digest = hashlib.blake2b(key.encode(), digest_size=20).hexdigest()
        return f"{self.directory}/{_checked(namespace)}/{digest[:2]}/{digest[2:]}"

    def _write(self, path: str, data: bytes) -> None:
        temporary = f"{path}.{os.getpid()}.{_chance.getrandbits(48):x}{_TEMPORARY}"
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        try:
            descriptor = os.open(temporary, flags, 0o600)
        except FileNotFoundError:
            # The cache holds machine code that we run: nobody else may write there.
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
            descriptor = os.open(temporary, flags, 0o600)
        try:
            with open(descriptor, "wb", buffering=0) as file:
                view = memoryview(data)
                while view:
                    view = view[file.write(view) :]
            os.replace(temporary, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise

    def _files(self) -> Iterator[tuple[str, str, os.stat_result]]:
        """Namespace, path and status of every file; what other processes remove is skipped."""
        for namespace in _scan(self.directory):
            for bucket in _scan(namespace.path):
                for file in _scan(bucket.path):
                    with contextlib.suppress(OSError):
                        yield namespace.name, file.path, file.stat()

    def _complain(self, what: str, error: OSError) -> None:
        if not self._warned:
            self._warned = True
            warnings.warn(
                f"[cache] {self.directory} cannot be {what} ({error.strerror}); going on without. "
                "Set DOVETILE_CACHE_DIR to another folder, or DOVETILE_CACHE_BYTES=0 for no cache",
                DovetileWarning,
                stacklevel=4,
            )


def _read(path: str) -> tuple[bytes, float]:
    """A file's bytes and the time of its last change; os.read is a third of open()'s cost."""
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
    try:
        status = os.fstat(descriptor)
        data = os.read(descriptor, status.st_size)
        while len(data) < status.st_size and (more := os.read(descriptor, status.st_size)):
            data += more
        return data, status.st_mtime
    finally:
        os.close(descriptor)


def _encode(key: str, header: dict, payload: bytes) -> bytes:
    text = json.dumps({"key": key, "header": header}, separators=(",", ":")).encode()
    checksum = zlib.crc32(payload, zlib.crc32(text))
    prefix = _PREFIX.pack(_MAGIC, len(text), len(payload), checksum)
    return b"".join((prefix, text, payload))


def _decode(data: bytes) -> tuple[str, dict, bytes]:
    """Key, header and payload. Raises ValueError where the bytes are not a whole entry."""
    if len(data) < _PREFIX.size:
        raise ValueError("truncated")
    magic, header_bytes, payload_bytes, checksum = _PREFIX.unpack_from(data)
    if magic != _MAGIC:
        raise ValueError("another format")
    if len(data) != _PREFIX.size + header_bytes + payload_bytes:
        raise ValueError("truncated")
    if zlib.crc32(memoryview(data)[_PREFIX.size :]) != checksum:
        raise ValueError("wrong checksum")
    payload_start = _PREFIX.size + header_bytes
    envelope = json.loads(data[_PREFIX.size : payload_start])
    return envelope["key"], envelope["header"], data[payload_start:]


def _checked(namespace: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9-]*", namespace):
        raise ArgumentError(
            f"[cache] namespace {namespace!r}; it must be lower-case letters, digits and hyphens"
        )
    return namespace


def _scan(path: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(path) as entries:
            return list(entries)
    except OSError:
        return []


def _note(text: str) -> None:
    if environment.DEBUG.value >= 1:
        print(f"dovetile: cache: {text}", file=sys.stderr)
