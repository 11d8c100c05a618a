"""Every check of the repository as a nox session; `nox --list` prints them."""

from __future__ import annotations

import re
from pathlib import Path

import nox

nox.needs_version = ">=2024.10"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.sessions = ["lint", "typing", "tests"]

ROOT = Path(__file__).parent
PYTHONS = ["3.10", "3.11", "3.12", "3.13"]
GROUPS = nox.project.load_toml(ROOT / "pyproject.toml")
PROJECTS = {
    path.parent.name: nox.project.load_toml(path)
    for path in sorted(ROOT.glob("packages/*/pyproject.toml"))
}
FOLDERS = {project["project"]["name"]: folder for folder, project in PROJECTS.items()}

# A program that needs every package to work, small enough to run after each install.
TINY_RUN = """
from dovetile import Tensor
from dovetile_nn import Linear
from dovetile_optim import SGD
layer = Linear(3, 2)
optimizer = SGD(layer.parameters(), lr=0.1)
loss = layer(Tensor([[1.0, 2.0, 3.0]])).square().sum()
loss.backward()
optimizer.step()
print("loss", loss.item())
"""


def distribution_name(requirement: str) -> str:
    """The name a PEP 508 requirement begins with."""
    return re.split(r"[^A-Za-z0-9._-]", requirement.strip(), maxsplit=1)[0].lower()


def test_group(folder: str) -> list[str]:
    """What the package at `folder` declares that its tests need beyond itself."""
    return list(nox.project.dependency_groups(PROJECTS[folder], "test"))


def with_siblings(requirements: list[str]) -> list[str]:
    """The folders of this repository which `requirements` name, and those they need in turn."""
    folders: list[str] = []
    waiting = [distribution_name(requirement) for requirement in requirements]
    while waiting:
        folder = FOLDERS.get(waiting.pop())
        if folder is not None and folder not in folders:
            folders.append(folder)
            dependencies = PROJECTS[folder]["project"].get("dependencies", [])
            waiting += [distribution_name(requirement) for requirement in dependencies]
    return folders


def from_tree(folders: list[str]) -> list[str]:
    """Arguments that make pip install these packages from the tree."""
    return [f"./packages/{folder}" for folder in folders]


def install_for_tests(session: nox.Session, folder: str, *options: str) -> None:
    """Install the package with what it declares and its test group; nothing else."""
    wanted = [PROJECTS[folder]["project"]["name"], *test_group(folder)]
    siblings = with_siblings(wanted)
    outside = [entry for entry in test_group(folder) if distribution_name(entry) not in FOLDERS]
    session.install(*options, *from_tree(siblings), *outside)


def run_tests(session: nox.Session, folder: str) -> None:
    session.run("python", "-m", "pytest", f"packages/{folder}/tests", *session.posargs)


@nox.session
def demo(session: nox.Session) -> None:
    """Install from the tree and train the demo network."""
    demo_folders = ["core", "backend-cpu", "nn", "optim"]
    session.install(*from_tree(demo_folders), *nox.project.dependency_groups(GROUPS, "demo"))
    session.run("python", "examples/demo.py", *session.posargs)


@nox.session(python=PYTHONS)
@nox.parametrize("package", list(PROJECTS))
def tests(session: nox.Session, package: str) -> None:
    """One package's tests, with only what that package declares."""
    install_for_tests(session, package)
    run_tests(session, package)


@nox.session(python=PYTHONS[0])
@nox.parametrize("package", list(PROJECTS))
def minimums(session: nox.Session, package: str) -> None:
    """One package's tests, with the lowest version it declares of every dependency."""
    lowest: dict[str, str] = {}
    for folder in with_siblings([PROJECTS[package]["project"]["name"]]):
        for requirement in PROJECTS[folder]["project"].get("dependencies", []):
            bound = re.fullmatch(r"([A-Za-z0-9._-]+)>=([0-9.]+)(?:,.*)?", requirement)
            if bound is not None:
                lowest[bound[1].lower()] = bound[2]
    constraints = Path(session.create_tmp()) / "lowest.txt"
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in lowest.items()))
    install_for_tests(session, package, "--constraint", str(constraints))
    run_tests(session, package)


@nox.session
def typing(session: nox.Session) -> None:
    """Pyright over the sources."""
    session.install(*from_tree(list(PROJECTS)))
    session.install(*nox.project.dependency_groups(GROUPS, "typing", "demo"), "nox")
    session.run("pyright", "--pythonpath", str(Path(session.virtualenv.bin) / "python"))


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff's rules and its formatting."""
    session.install(*nox.project.dependency_groups(GROUPS, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; check its links and that generated pages are up to date."""
    session.install(*from_tree(["core", "backend-cpu", "nn", "optim"]))
    session.install(*nox.project.dependency_groups(GROUPS, "docs"), "pytest>=8.0")
    session.run("python", "-m", "pytest", "docs/tests")
    session.run("zensical", "build", "--strict")


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks, or those named after `--`; each prints ratios."""
    bench_folders = ["core", "backend-cpu", "nn", "optim"]
    session.install(*from_tree(bench_folders), *nox.project.dependency_groups(GROUPS, "bench"))
    names = session.posargs or ["import_time", "replay", "cpu"]
    for name in names:
        # The table in the docs is written by a long run, on a machine with nothing else to do.
        short = ["--quick"] if name == "cpu" else []
        session.run("python", f"benchmarks/{name}.py", *short)


@nox.session
def build(session: nox.Session) -> None:
    """Build wheels, install those and not the tree, import every package, run a small program."""
    session.install(*nox.project.dependency_groups(GROUPS, "build"))
    wheels = Path(session.create_tmp()).resolve() / "wheels"
    for old in wheels.glob("*.whl"):
        old.unlink()
    for folder in PROJECTS:
        session.run(
            "python", "-m", "build", "--wheel", "--outdir", str(wheels), f"packages/{folder}"
        )
    session.install(*(str(wheel) for wheel in sorted(wheels.glob("*.whl"))))
    # From outside the tree, so that nothing can be imported from it by accident.
    session.chdir(session.create_tmp())
    for folder in PROJECTS:
        (source,) = (ROOT / "packages" / folder / "src").glob("dovetile*")
        session.run("python", "-c", f"import {source.name}")
    session.run("python", "-c", TINY_RUN)
