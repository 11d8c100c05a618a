"""``dovetile doctor``: which plugins are there, which devices are usable, and why not."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Callable

from dovetile import __version__, environment
from dovetile.cli.table import quantity, table
from dovetile.errors import DovetileError
from dovetile.plugins.loader import PluginRegistry
from dovetile.plugins.selection import DeviceManager, availability, manager
from dovetile.plugins.specs import PLUGIN_API, CommandSpec, CompilerSpec, DeviceSpec, describe

SelfTest = Callable[[str], str | None]


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-v", "--verbose", action="store_true", help="also tracebacks and capabilities"
    )


def _run(arguments: argparse.Namespace) -> int:
    # Here, for it needs what no other command does.
    from dovetile.cli.self_test import run_apart

    return 0 if report(manager(), arguments.verbose, run_apart) else 1


def report(devices: DeviceManager, verbose: bool, self_test: SelfTest) -> bool:
    """Print all that is known; returns whether the default device is usable.

    Args:
        self_test: given ``DEVICE:COMPILER``, returns None or what is wrong with it.
    """
    print(f"Dovetile {__version__}, plugin API {'.'.join(map(str, PLUGIN_API))}, ", end="")
    print(f"Python {platform.python_version()}, {sys.platform} {platform.machine()}")
    _print_plugins(devices.plugins, verbose)
    _print_devices(devices, verbose, self_test)
    _print_cache()
    return _print_default(devices)


def _print_plugins(plugins: PluginRegistry, verbose: bool) -> None:
    print("\nPlugins")
    records = plugins.load().records
    if not records:
        print("  none; install a backend: pip install dovetile-backend-NAME")
        return
    rows = [
        (
            f"  {record.name}",
            f"{record.distribution} {record.version}",
            ".".join(map(str, record.api)) if record.api else "-",
            record.state.value,
            record.error or ", ".join(record.provides) or "nothing",
        )
        for record in records
    ]
    print(table(("  name", "distribution", "API", "state", "provides / why not"), rows))
    for record in records:
        if verbose and record.details:
            print(f"\n{record.owner}:\n{record.details.rstrip()}")


def _print_devices(devices: DeviceManager, verbose: bool, self_test: SelfTest) -> None:
    print("\nDevices, in the order of choice")
    specs = devices.plugins.devices()
    if not specs:
        print("  none")
    for spec in specs:
        problem = problem_of(devices, spec)
        names = " ".join((spec.name, *(f"({alias})" for alias in spec.aliases)))
        note = devices.probe(spec).reason
        usable = f"usable, {note}" if note else "usable"
        print(f"  {names}: " + (f"not usable: {problem}" if problem else usable))
        owner = devices.plugins.owner("device", spec.name)
        print(f"    from {owner.owner}, priority {spec.priority}")
        for compiler in devices.plugins.compilers(spec.name):
            state = _state_of(compiler, None if problem else self_test)
            print(f"    compiler {compiler.name} ({compiler.language}): {state}")
        if verbose and not problem:
            for field, text in describe(devices.open(spec.name).capabilities).items():
                print(f"    {field}: {text}")


def _state_of(compiler: CompilerSpec, self_test: SelfTest | None) -> str:
    reason = availability(compiler)
    if reason is not None:
        return f"not available: {reason}"
    if self_test is None:
        return "available"
    problem = self_test(f"{compiler.device}:{compiler.name}")
    return "works" if problem is None else f"BROKEN: {problem}"


def problem_of(devices: DeviceManager, spec: DeviceSpec) -> str | None:
    """None where the device opens, else why not."""
    try:
        devices.open(spec.name)
    except DovetileError as error:
        return str(error)
    return None


def _print_cache() -> None:
    directory = environment.DOVETILE_CACHE_DIR.value
    limit = environment.DOVETILE_CACHE_BYTES.value
    print("\nDisk cache")
    print(f"  {directory}, at most {quantity(limit)}" if limit else "  off: DOVETILE_CACHE_BYTES=0")


def _print_default(devices: DeviceManager) -> bool:
    chosen = environment.DEV.value
    print("\nDefault device" + (f" (DEV={chosen})" if chosen else ""))
    try:
        print(f"  {devices.default_name()}")
    except DovetileError as error:
        print(f"  none: {error}")
        return False
    return True


COMMAND = CommandSpec(
    "doctor", "show plugins and devices, and why they are not usable", _run, _configure
)
