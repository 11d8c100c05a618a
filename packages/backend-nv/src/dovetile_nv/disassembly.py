"""The machine code of a cubin in words, by NVIDIA's nvdisasm: for tests, and for whoever tunes."""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

from dovetile.errors import CompileError
from dovetile_nv import libraries

_INSTRUCTION = re.compile(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)", re.MULTILINE)


def available() -> str | None:
    """None where nvdisasm is installed, else what to install."""
    if libraries.disassembler() is None:
        return "nvdisasm is not installed; run: pip install nvidia-cuda-nvdisasm"
    return None


def disassemble(cubin: bytes) -> str:
    """nvdisasm's text. Raises CompileError where it is missing or refuses the cubin."""
    path = libraries.disassembler()
    if path is None:
        raise CompileError(f"[nv] {available()}")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(cubin)
        done = subprocess.run([path, "-c", str(file)], capture_output=True, text=True)
    if done.returncode != 0:
        raise CompileError(f"[nv] nvdisasm: {done.stderr.strip()}")
    return done.stdout


def instructions(cubin: bytes, name: str) -> list[str]:
    """The instructions of a kernel in order, with modifiers and without operands: LDG.E.128, ..."""
    _, _, text = disassemble(cubin).partition(f"\n.text.{name}:\n")
    text, _, _ = text.partition("\n\t.section\t")
    return [word for word in _INSTRUCTION.findall(text) if word != "NOP"]
