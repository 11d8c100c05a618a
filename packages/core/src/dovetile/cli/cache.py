"""``dovetile cache``: what the disk cache holds, and a way to empty it."""

from __future__ import annotations

import argparse
from collections import defaultdict

from dovetile import environment
from dovetile.cache import DiskCache
from dovetile.cli.table import quantity, table
from dovetile.plugins.specs import CommandSpec


def _configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("action", nargs="?", choices=("show", "clear"), default="show")
    parser.add_argument("namespace", nargs="?", help="only this part, for example kernel")


def _run(arguments: argparse.Namespace) -> int:
    limit = environment.DOVETILE_CACHE_BYTES.value
    cache = DiskCache(environment.DOVETILE_CACHE_DIR.value, limit)
    if arguments.action == "clear":
        print(f"removed {cache.clear(arguments.namespace)} entries from {cache.directory}")
        return 0
    sizes: dict[str, list[int]] = defaultdict(list)
    for entry in cache.entries():
        if arguments.namespace in (None, entry.namespace):
            sizes[entry.namespace].append(entry.nbytes)
    print(f"{cache.directory} (at most {quantity(limit)})")
    rows = [(name, len(sizes[name]), quantity(sum(sizes[name]))) for name in sorted(sizes)]
    everything = [size for part in sizes.values() for size in part]
    rows.append(("total", len(everything), quantity(sum(everything))))
    print(table(("namespace", "entries", "size"), rows))
    return 0


COMMAND = CommandSpec("cache", "show or clear the disk cache", _run, _configure)
