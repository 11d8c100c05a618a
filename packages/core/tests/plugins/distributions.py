"""Writes small but real distributions into a folder, so that tests go through entry points."""

from __future__ import annotations

import textwrap
from importlib.metadata import EntryPoint, distributions
from pathlib import Path

HEADER = """
from dovetile.plugins import *
DOVETILE_PLUGIN_API = PLUGIN_API

class Device:
    def __init__(self, selection):
        self.name, self.selection = selection.name, selection

def device(name, compilers=("ONE", "TWO"), reasons={}, count=1, opener=Device, **more):
    return DeviceSpec(
        name,
        probe=lambda: ProbeResult(count, None if count else "there is none in this machine"),
        open=opener,
        compilers=tuple(compiler(name, c, reasons.get(c)) for c in compilers),
        **more,
    )

def compiler(device, name, reason=None, **more):
    more.setdefault("renderer", lambda capabilities: None)
    return CompilerSpec(name, device, "text", lambda capabilities: None,
                        available=lambda: reason, **more)
"""


def write(
    folder: Path, name: str, source: str, *, version: str = "1.0", header: bool = True
) -> str:
    """A distribution ``dovetile-NAME`` with one module and one entry point, NAME."""
    module = f"plugin_{folder.name}_{name}".replace("-", "_")
    text = (HEADER if header else "") + textwrap.dedent(source)
    (folder / f"{module}.py").write_text(text, encoding="utf-8")
    info = folder / f"dovetile_{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: dovetile-{name}\nVersion: {version}\n", encoding="utf-8"
    )
    (info / "entry_points.txt").write_text(f"[dovetile]\n{name} = {module}\n", encoding="utf-8")
    return module


def found(folder: Path) -> list[EntryPoint]:
    """The entry points of all distributions in the folder."""
    return [
        entry
        for distribution in distributions(path=[str(folder)])
        for entry in distribution.entry_points
    ]
