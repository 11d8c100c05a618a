"""``dovetile profile``: runs a script and prints where its time went."""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

from dovetile import profiling
from dovetile.cli.table import table
from dovetile.errors import ArgumentError
from dovetile.plugins.specs import CommandSpec
from dovetile.profiling import Profile


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kernels", type=int, default=20, help="how many kernels to list")
    parser.add_argument("script", type=Path, help="a Python file, run as the main module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="what the script is given")


def _run(arguments: argparse.Namespace) -> int:
    script: Path = arguments.script
    if not script.is_file():
        raise ArgumentError(f"[profile] there is no file {str(script)!r}; give a Python script")
    status = 0
    saved = sys.argv, list(sys.path)
    sys.argv = [str(script), *arguments.arguments]
    sys.path[0] = str(script.resolve().parent)
    try:
        with profiling.record() as profile:
            try:
                runpy.run_path(str(script), run_name="__main__")
            except SystemExit as leaving:
                status = _status(leaving)
    finally:
        sys.argv, sys.path[:] = saved
    print(report(profile, arguments.kernels))
    return status


def _status(leaving: SystemExit) -> int:
    """What the process would have ended with."""
    if leaving.code is None or isinstance(leaving.code, int):
        return leaving.code or 0
    print(leaving.code, file=sys.stderr)
    return 1


def report(profile: Profile, most_kernels: int) -> str:
    """The tables of stages and of kernels, the slowest kernels first."""
    return f"{_stages(profile)}\n\n{_kernels(profile, most_kernels)}"


def _stages(profile: Profile) -> str:
    rows = []
    rest = profile.elapsed
    for (name, elsewhere), entry in profile.stages.items():
        if not elsewhere:
            rest -= entry.seconds
        share = "in threads" if elsewhere else f"{entry.seconds / profile.elapsed:.1%}"
        times = (f"{entry.seconds:.3f} s", f"{entry.processor:.3f} s")
        rows.append((name, entry.calls, *times, share))
    rows.append(("the script itself", "", f"{rest:.3f} s", "", f"{rest / profile.elapsed:.1%}"))
    rows.append(("all", "", f"{profile.elapsed:.3f} s", "", ""))
    return table(("stage", "calls", "time", "thread time", "share"), rows)


def _kernels(profile: Profile, most: int) -> str:
    kernels = [(name, k) for name, k in profile.kernels.items() if k.launches and k.seconds > 0]
    kernels.sort(key=lambda item: -item[1].seconds)
    total = sum(k.seconds for _, k in kernels)
    rows = []
    for name, k in kernels[:most]:
        mean = k.seconds / k.launches
        rows.append(
            (
                name, k.launches, f"{k.seconds * 1e3:.3f} ms", f"{k.seconds / total:.1%}",
                f"{k.nbytes / 1e6:.3f} MB", f"{k.operations / 1e6:.3f} M",
                f"{k.nbytes / mean / 1e9:.1f} GB/s", f"{k.operations / mean / 1e9:.1f} GFLOP/s",
                k.label,
            )
        )  # fmt: skip
    left = kernels[most:]
    if left:
        seconds = sum(k.seconds for _, k in left)
        launches = sum(k.launches for _, k in left)
        rest = (f"{seconds * 1e3:.3f} ms", f"{seconds / total:.1%}", *[""] * 4)
        rows.append((f"{len(left)} others", launches, *rest, ""))
    launches = sum(k.launches for _, k in kernels)
    rows.append((f"{len(kernels)} kernels", launches, f"{total * 1e3:.3f} ms", *[""] * 6))
    header = (
        "kernel", "launches", "time", "share", "bytes a launch", "operations", "bandwidth", "rate",
        "loops",
    )  # fmt: skip
    return table(header, rows)


COMMAND = CommandSpec("profile", "run a script and print where its time went", _run, _configure)
