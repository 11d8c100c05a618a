"""The CLANG compiler: C to an object file, by the clang that is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache

from dovetile.errors import CompileError
from dovetile_cpu import host

_VERSIONS = range(30, 10, -1)
_OPTIONS = (
    "-c -x c -std=c11 -O2 -fPIC -ffreestanding -fno-math-errno -ffp-contract=on "
    "-fno-vectorize -fno-slp-vectorize -fno-unroll-loops -fno-asynchronous-unwind-tables "
    "-fno-stack-protector -fno-ident -fvisibility=hidden -nostdlib -w"
).split()


def find() -> str | None:
    """Path of clang: ``clang``, else the newest ``clang-N``."""
    for name in ("clang", *(f"clang-{version}" for version in _VERSIONS)):
        path = shutil.which(name)
        if path:
            return path
    return None


def available() -> str | None:
    """None where clang is installed, else what to install."""
    if find() is None:
        return (
            "no clang in PATH; install it (Debian, Ubuntu: apt-get install clang; Fedora: "
            "dnf install clang; macOS: xcode-select --install), or use the LLVM compiler"
        )
    return None


@cache
def _version(path: str, modified: int) -> str:
    try:
        result = subprocess.run(
            [path, "--version"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise CompileError(f"[clang] {path} does not run: {error}") from error
    return result.stdout.strip().splitlines()[0]


class ClangCompiler:
    """Compiles C for this machine's processor, each source in a process of its own."""

    language = "c"

    def __init__(self) -> None:
        target = f"--target={host.machine().replace('arm64', 'aarch64')}-unknown-none-elf"
        tuning = "-mcpu=native" if host.machine() in ("aarch64", "arm64") else "-march=native"
        self._options = (*_OPTIONS, target, tuning)
        if host.machine() == "x86_64":
            # Kernels say themselves how wide vectors are; clang would halve the widest ones.
            self._options += (f"-mprefer-vector-width={8 * host.capabilities().vector_bytes}",)
        if host.machine() == "arm64":
            self._options += ("-ffixed-x18",)  # macOS keeps this register for itself

    def available(self) -> str | None:
        """None where it can be used, else what to install."""
        return available()

    def fingerprint(self) -> str:
        """Changes whenever the same source may give other code."""
        path = self._path()
        # Asking clang takes tens of milliseconds; its file's date changes with its version.
        modified = os.stat(path).st_mtime_ns
        return f"clang/{path}/{modified}/{host.fingerprint()}/{' '.join(self._options)}"

    def version(self) -> str:
        """What clang says of itself."""
        path = self._path()
        return _version(path, os.stat(path).st_mtime_ns)

    def _path(self) -> str:
        path = find()
        if path is None:
            raise CompileError(f"[clang] {available()}")
        return path

    def compile(self, source: str) -> bytes:
        """The object file of a C source. Raises CompileError with clang's message."""
        command = [self._path(), *self._options, "-o", "-", "-"]
        try:
            result = subprocess.run(command, input=source.encode(), capture_output=True)
        except OSError as error:
            raise CompileError(f"[clang] {command[0]} does not run: {error}") from error
        if result.returncode != 0:
            message = result.stderr.decode(errors="replace").strip()
            raise CompileError(f"[clang] exit status {result.returncode}:\n{message}")
        return result.stdout

    def compile_many(self, sources: Sequence[str]) -> list[bytes]:
        """The object file of each source, in order, as many at a time as there are threads."""
        if len(sources) < 2:
            return [self.compile(source) for source in sources]
        from concurrent.futures import ThreadPoolExecutor  # slow to import, and rarely needed

        with ThreadPoolExecutor(host.threads()) as pool:
            return list(pool.map(self.compile, sources))
