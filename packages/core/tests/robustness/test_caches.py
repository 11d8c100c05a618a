"""A cache on disk that is damaged, full, forbidden or shared: the answer stays right."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from dovetile.cache.disk import DiskCache, _decode, _encode

PROGRAM = """
import numpy as np
from dovetile import Tensor, counters
x = np.arange(60, dtype=np.float32).reshape(12, 5) / 60
result = ((Tensor(x) @ Tensor(x).mT).exp().sum(0) + 1).log().numpy()
np.testing.assert_allclose(result, np.log(np.exp(x @ x.T).sum(0) + 1), rtol=1e-5)
print(counters().compiled, counters().from_cache)
"""
ROOT = hasattr(os, "geteuid") and os.geteuid() == 0


def counts(result: subprocess.CompletedProcess[str]) -> tuple[int, int]:
    """(kernels compiled, kernels found in the cache)."""
    assert result.returncode == 0, result.stderr
    compiled, found = result.stdout.split()
    return int(compiled), int(found)


def entries(cache: Path, namespace: str) -> list[Path]:
    found = [Path(e.path) for e in DiskCache(str(cache), 1 << 30).entries()
             if e.namespace == namespace]  # fmt: skip
    assert found
    return found


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A cache that the program has filled, and how many kernels were compiled for it."""
    folder = tmp_path_factory.mktemp("filled")
    environment = {**os.environ, "DOVETILE_CACHE_DIR": str(folder)}
    command = [sys.executable, "-c", PROGRAM]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    return folder, counts(result)[0]


@pytest.fixture
def before(filled: tuple[Path, int], cache: Path) -> int:
    """The number of kernels that lie in this test's cache."""
    shutil.copytree(filled[0], cache)
    return filled[1]


def test_the_second_process_compiles_nothing(python):
    compiled, _ = counts(python(PROGRAM))
    assert compiled > 0
    assert counts(python(PROGRAM)) == (0, compiled)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "a bit": lambda data: data[:-9] + bytes([data[-9] ^ 4]) + data[-8:],
    "another version": lambda data: data.replace(b"dovetile cache 1", b"dovetile cache 9"),
    "noise": lambda data: bytes(range(256)) * 20,
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("namespace", ["kernel", "schedule"])
def test_damaged_files_are_made_again(python, cache, before, namespace, damage):
    for path in entries(cache, namespace):
        path.write_bytes(DAMAGE[damage](path.read_bytes()))
    compiled, found = counts(python(PROGRAM))
    assert (compiled, found) == ((before, 0) if namespace == "kernel" else (0, before))
    assert counts(python(PROGRAM)) == (0, before)


def rewrite(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Another payload in a file that is otherwise whole."""
    key, header, payload = _decode(path.read_bytes())
    path.write_bytes(_encode(key, header, change(payload)))


def changed(payload: bytes, **values: object) -> bytes:
    return json.dumps({**json.loads(payload), **values}).encode()


PLANS: dict[str, Callable[[bytes], bytes]] = {
    "no JSON": lambda payload: b"\xff\x00 no JSON",
    "truncated JSON": lambda payload: payload[: len(payload) // 2],
    "a list": lambda payload: b"[]",
    "a number": lambda payload: b"7",
    "another version": lambda payload: changed(payload, version=999),
    "a program that is not there": lambda payload: changed(
        payload, programs=[[d, n, "0" * 64] for d, n, _ in json.loads(payload)["programs"]]
    ),
    "steps cut short": lambda payload: changed(payload, steps=[["CPU"]]),
    "an unknown device": lambda payload: changed(
        payload, programs=[["QUUX", n, k] for _, n, k in json.loads(payload)["programs"]]
    ),
}


@pytest.mark.parametrize("damage", PLANS)
def test_plans_that_make_no_sense_are_made_again(python, cache, before, damage):
    for path in entries(cache, "schedule"):
        rewrite(path, PLANS[damage])
    counts(python(PROGRAM))


@pytest.mark.parametrize("binary", [b"", b"\x7fELF", b"\x7fELF" + bytes(500)])
def test_binaries_that_cannot_be_loaded_are_compiled_again(python, cache, before, binary):
    for path in entries(cache, "kernel"):
        rewrite(path, lambda payload: binary)
    assert counts(python(PROGRAM))[0] == before
    assert counts(python(PROGRAM)) == (0, before)


def test_processes_share_a_cold_cache(cache, tmp_path):
    environment = {**os.environ, "DOVETILE_CACHE_DIR": str(cache)}
    processes = [
        subprocess.Popen([sys.executable, "-c", PROGRAM], env=environment, cwd=tmp_path,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]  # fmt: skip
    for process in processes:
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    assert not list(cache.rglob("*.tmp"))


def test_a_disk_that_takes_nothing_costs_the_cache_and_one_warning(python, cache):
    def full() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (16, 16))

    result = python(PROGRAM, full, PYTHONDONTWRITEBYTECODE="1")
    assert counts(result)[0] > 0
    assert result.stderr.count("DovetileWarning: [cache]") == 1
    assert not [p for p in cache.rglob("*") if p.is_file()]


def test_a_folder_that_is_a_file_costs_the_cache_and_one_warning(python, cache):
    cache.write_text("I am a file")
    result = python(PROGRAM)
    assert counts(result)[0] > 0
    assert result.stderr.count("DovetileWarning: [cache]") == 1


@pytest.mark.skipif(ROOT, reason="root may write everywhere")
def test_a_folder_that_is_not_writable_costs_the_cache_and_one_warning(python, cache):
    cache.mkdir(mode=0o500)
    result = python(PROGRAM)
    assert counts(result)[0] > 0
    assert result.stderr.count("DovetileWarning: [cache]") == 1
