"""Where the shared libraries and tools of NVIDIA's wheels are.

Wheels of CUDA 13 share one folder, ``nvidia/cu13``; each of CUDA 12 has one of its own. A library
that no wheel brought may be the system's, of an installed toolkit.
"""

from __future__ import annotations

import ctypes
import os
from functools import cache
from importlib import util
from pathlib import Path

from dovetile.errors import CompileError

LIBRARIES = {
    "nvrtc": ("libnvrtc.so", "cuda_nvrtc", "nvidia-cuda-nvrtc"),
    "nvJitLink": ("libnvJitLink.so", "nvjitlink", "nvidia-nvjitlink"),
}
"""By name: the file, the folder of its wheel for CUDA 12, the wheel for CUDA 13."""
MAJORS = (13, 12)
"""Versions of CUDA whose libraries are known, in order of preference."""


def _folders() -> list[Path]:
    """The folders called ``nvidia`` that wheels share."""
    spec = util.find_spec("nvidia")
    places = spec.submodule_search_locations if spec is not None else None
    return [Path(place) for place in places or ()]


@cache
def find(name: str) -> tuple[str, int] | None:
    """(path, major version of CUDA) of a library, of its wheel or the system; None without."""
    file, folder, _ = LIBRARIES[name]
    for major in MAJORS:
        for root in _folders():
            for place in (root / f"cu{major}" / "lib", root / folder / "lib"):
                path = place / f"{file}.{major}"
                if path.is_file():
                    return str(path), major
    for major in MAJORS:
        for place in _toolkit_folders():
            path = place / f"{file}.{major}"
            if path.is_file():
                return str(path), major
    return None


def _toolkit_folders() -> list[Path]:
    roots = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    folders = [Path(root) / lib for root in roots if root for lib in ("lib64", "lib")]
    return [*folders, Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib/aarch64-linux-gnu")]


def missing(name: str) -> str | None:
    """None where a library is there, else what to install."""
    if find(name) is not None:
        return None
    file, _, wheel = LIBRARIES[name]
    return (
        f"{file} is not installed; run: pip install {wheel} (CUDA 13) or pip install {wheel}-cu12"
    )


def load(name: str) -> tuple[ctypes.CDLL, int]:
    """A library and its major version. Raises CompileError where it is missing or does not load."""
    found = find(name)
    if found is None:
        raise CompileError(f"[nv] {missing(name)}")
    try:
        return ctypes.CDLL(found[0]), found[1]
    except OSError as error:
        raise CompileError(f"[nv] {found[0]} does not load: {error}") from error


def stamp(name: str) -> str:
    """What changes with the library. Cheap: does not load it."""
    found = find(name)
    return f"{found[0]}/{os.stat(found[0]).st_mtime_ns}" if found else "missing"


@cache
def disassembler() -> str | None:
    """The path of nvdisasm, of its wheel or a toolkit."""
    for root in _folders():
        for folder in ("cu13", "cuda_nvdisasm"):
            path = root / folder / "bin" / "nvdisasm"
            if path.is_file():
                return str(path)
    for place in _toolkit_folders():
        path = place.parent / "bin" / "nvdisasm"
        if path.is_file():
            return str(path)
    return None
