from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import distributions

from dovetile import environment
from dovetile.plugins import PluginRegistry


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch):
    for name in environment.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    environment.reload()
    yield
    environment.reload()


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., PluginRegistry]:
    """A registry of plugins given as ``name="source"``, installed as real distributions."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(**sources: str) -> PluginRegistry:
        for name, source in sources.items():
            distributions.write(tmp_path, name, source)
        return PluginRegistry(distributions.found(tmp_path))

    return make
