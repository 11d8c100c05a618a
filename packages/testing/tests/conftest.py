from __future__ import annotations

import functools
import os
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

THIRD_PARTY = Path(__file__).parent / "third_party_plugin"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def third_party(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder where the third-party distribution is installed: its wheel, unpacked."""
    folder = tmp_path_factory.mktemp("wheel")
    build = f"from hatchling.build import build_wheel; build_wheel({str(folder)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=THIRD_PARTY, check=True)
    (wheel,) = folder.glob("*.whl")
    installed = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(installed)
    return installed


def _install(folder: Path, name: str, source: str) -> None:
    """Installs a distribution of one module into a folder."""
    (folder / f"plugin_{name}.py").write_text(textwrap.dedent(source), encoding="utf-8")
    info = folder / f"dovetile_{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: dovetile-{name}\nVersion: 1.0\n", encoding="utf-8"
    )
    (info / "entry_points.txt").write_text(
        f"[dovetile]\n{name} = plugin_{name}\n", encoding="utf-8"
    )


def _start(
    *arguments: str, folders: list[Path], cwd: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Runs ``python ARGUMENTS`` in a process that finds the distributions in some folders."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(map(str, folders)),
        "DOVETILE_CACHE_DIR": str(cwd / "cache"),
        **variables,
    }
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment,
        timeout=600,
    )


@pytest.fixture
def distribution(tmp_path: Path) -> Callable[[str, str], Path]:
    """Installs a distribution of one module into a folder of this test; returns the folder."""
    folder = tmp_path / "site"
    folder.mkdir()

    def into_folder(name: str, source: str) -> Path:
        _install(folder, name, source)
        return folder

    return into_folder


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs ``python ARGUMENTS`` in the folder of this test."""
    return functools.partial(_start, cwd=tmp_path)


@pytest.fixture(scope="session")
def together() -> Run:
    """Installs several distributions into a folder and runs ``python ARGUMENTS`` with them."""

    def run_with(
        folder: Path, sources: dict[str, str], arguments: list[str], *others: Path
    ) -> subprocess.CompletedProcess[str]:
        for name, source in sources.items():
            _install(folder, name, source)
        return _start(*arguments, folders=[folder, *others], cwd=folder)

    return run_with
