"""Dovetile against every installed peer on the CPU, on two threads; the figures go into the docs.

    python benchmarks/cpu.py [ROW ...] [--quick] [--against PEER ...] [--json FILE]

Without names, all rows. Figures of rows measured earlier are kept in the JSON file; the table
(docs/reference/cpu-speed.md) and the plot beside it show whatever is there. `--quick` measures
shortly and writes no page.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

import measure
import peak
import report
from contenders import CONTENDERS
from rows import ROWS

PAGES = Path(__file__).parents[1] / "docs" / "reference"
QUICK = {"rounds": 2, "seconds": 0.1, "starts": 1}


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--against", nargs="*", choices=list(CONTENDERS), metavar="PEER",
                        help=f"only these, of {', '.join(CONTENDERS)}")  # fmt: skip
    parser.add_argument("--quick", action="store_true", help="short turns, and no page")
    parser.add_argument("--json", type=Path, help="the file of figures, read and written")
    parser.add_argument("--lock", type=Path, help="a file to hold while timing")
    parser.add_argument("--write", action="store_true", help="the page, from the figures alone")
    parser.add_argument("--note", default="", help="what readers of the page must know")
    options = parser.parse_args()
    if unknown := [name for name in options.rows if name not in ROWS]:
        parser.error(f"there is no row {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return options


def main() -> None:
    options = parse_arguments()
    known = options.json is not None and options.json.exists()
    limits, figures = report.read(options.json.read_text()) if known else ({}, {})
    names = ["dovetile", *(options.against or [name for name in CONTENDERS if name != "dovetile"])]
    if not options.write:
        protocol = measure.Protocol(lock=options.lock, **(QUICK if options.quick else {}))
        with protocol.alone():
            limits = peak.measured()
        for name in options.rows or ROWS:
            figures[name] = measure.measure(ROWS[name], names, protocol)
            print(report.told(ROWS[name], figures[name]), flush=True)
            if options.json is not None:
                rows = {name: asdict(found) for name, found in figures.items()}
                content = json.dumps({"limits": limits, "rows": rows}, indent=1)
                measure.write_whole(options.json, content + "\n")
    if not options.quick:
        found = {name: figures[name] for name in ROWS if name in figures}
        report.write(PAGES, found, limits, options.note)


if __name__ == "__main__":
    main()
