"""The packages of the repository agree with each other."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PATHS = sorted(ROOT.glob("packages/*/pyproject.toml"))
IDS = [path.parent.name for path in PATHS]
VERSION = "0.1.0"
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]

every_package = pytest.mark.parametrize("path", PATHS, ids=IDS)


def load(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))


def name_of(requirement: str) -> str:
    return re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0].lower().replace("_", "-")


@every_package
def test_version_and_metadata(path: Path) -> None:
    project = load(path)["project"]
    assert project["version"] == VERSION
    assert project["license"] == "MIT"
    assert project["requires-python"] == ">=3.10"
    for version in PYTHONS:
        assert f"Programming Language :: Python :: {version}" in project["classifiers"]
    assert (path.parent / "README.md").exists()
    assert (path.parent / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@every_package
def test_source_is_typed_and_has_no_other_version(path: Path) -> None:
    (source,) = (path.parent / "src").glob("dovetile*")
    assert (source / "py.typed").exists()
    text = (source / "__init__.py").read_text(encoding="utf-8")
    assert re.findall(r'__version__ = "(.*)"', text) in ([], [VERSION])


@every_package
def test_siblings_are_pinned_and_others_have_a_lowest_version(path: Path) -> None:
    for requirement in load(path)["project"].get("dependencies", []):
        if name_of(requirement).startswith("dovetile-"):
            assert requirement == f"{name_of(requirement)}=={VERSION}"
        else:
            assert re.fullmatch(r"[A-Za-z0-9._-]+>=[0-9.]+(,<[0-9.]+)?", requirement), requirement


@every_package
def test_one_environment_serves_all_tests(path: Path) -> None:
    """The root's test group holds whatever a package's own test group or dependencies ask for."""
    groups = load(ROOT / "pyproject.toml")["dependency-groups"]
    covered = {name_of(entry) for entry in groups["test"] if isinstance(entry, str)}
    covered |= {name_of(entry) for entry in groups["demo"]}
    for other in PATHS:
        covered |= {name_of(entry) for entry in load(other)["project"].get("dependencies", [])}
    wanted = {name_of(entry) for entry in load(path)["dependency-groups"]["test"]}
    assert {name for name in wanted - covered if not name.startswith("dovetile-")} == set()
