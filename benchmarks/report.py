"""Tells figures: lines for the terminal, a Markdown page and a plot for the docs."""

from __future__ import annotations

import json
import platform
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

from contenders import CONTENDERS, THREADS
from measure import Figures, write_whole
from rows import ROWS, Row, Target

_PAGE = "cpu-speed"
_IMPOSSIBLE = 1.05  # of a measured limit
_SCALES = {"ms": 1e3, "us": 1e6, "s": 1.0}


def read(text: str) -> tuple[dict[str, float], dict[str, Figures]]:
    """(the machine's limits, the figures by row) of a JSON file, but for rows that are no more."""
    content = json.loads(text)
    rows = {name: Figures(**found) for name, found in content["rows"].items() if name in ROWS}
    return content["limits"], rows


def amount(row: Row, seconds: float) -> str:
    """A contender's figure in the row's unit."""
    value = row.work / seconds if row.work else seconds * _SCALES[row.unit]
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def wanted(target: Target, row: Row) -> str:
    """The target in words."""
    words = []
    if target.of_limit is not None:
        words.append(f"{target.of_limit:.0%} of the limit")
    if target.of_peer is not None:
        peer = "the best" if target.peer == "best" else target.peer
        words.append(f"{target.of_peer:g} of {peer}")
    if target.seconds is not None:
        words.append(f"{target.seconds * _SCALES[row.unit]:g} {row.unit}")
    if target.rate is not None:
        words.append(f"{target.rate:g} {row.unit}")
    return ", ".join(words)


def best_peer(figures: Figures) -> str | None:
    """The fastest of those measured beside us."""
    peers = {name: value for name, value in figures.seconds.items() if name != "dovetile"}
    return min(peers, key=peers.__getitem__) if peers else None


def told(row: Row, figures: Figures) -> str:
    """The row as lines of text."""
    lines = [f"{row.name}: {row.title} ({row.unit})"]
    ours = figures.seconds.get("dovetile")
    for name, seconds in figures.seconds.items():
        against = f"  ours is {seconds / ours:.2f} x as fast" if ours and name != "dovetile" else ""
        share = ""
        if figures.limit:
            share = f"  {row.work / seconds / figures.limit:4.0%} of {figures.limit:.1f}"
        difference = figures.difference.get(name)
        close = f"  error {difference:.0e}" if difference is not None else ""
        memory = figures.nbytes.get(name, 0) >> 20
        lines.append(
            f"  {name:24s} {amount(row, seconds):>8s}{share}{against}{close}  {memory} MiB"
        )
    lines += [f"  {name:24s} {reason}" for name, reason in figures.absent.items()]
    return "\n".join(lines)


def _with_memory(found: dict[str, Figures]) -> list[tuple[Row, Figures]]:
    """All rows, each that tells its memory followed by a row of that (in MiB, as if seconds)."""
    result = []
    for name, figures in found.items():
        row = ROWS[name]
        result.append((row, figures))
        if row.memory is not None and figures.nbytes:
            title = f"{row.title}, peak memory"
            memory = replace(row, title=title, work=0.0, unit="MiB", target=row.memory, limit=())
            sizes = {peer: float(nbytes) for peer, nbytes in figures.nbytes.items()}
            result.append((memory, Figures(seconds=sizes)))
    return result


_SCALES["MiB"] = 2.0**-20


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _versions() -> str:
    names = ("numpy", "torch", "jax", "onnxruntime", "llvmlite")
    packages = [name for name in names if name == "llvmlite" or CONTENDERS[name].installed]
    return ", ".join(f"{name} {version(name)}" for name in packages)


def _lines(rows: list[list[str]]) -> str:
    return "".join(f"| {' | '.join(cells)} |\n" for cells in rows)


def page(found: dict[str, Figures], limits: dict[str, float], note: str = "") -> str:
    """The Markdown page; `note` comes first."""
    rows = _with_memory(found)
    summary = [["work", "unit", "dovetile", "best peer", "", "ours to theirs", "of the limit",
                "target", "met"], ["---"] * 9]  # fmt: skip
    everyone = [["work", "unit", *CONTENDERS], ["---"] * (2 + len(CONTENDERS))]
    absences = []
    for row, figures in rows:
        ours, peer = figures.seconds.get("dovetile"), best_peer(figures)
        cells = [row.title, row.unit, amount(row, ours) if ours else "-"]
        cells += [amount(row, figures.seconds[peer]), peer] if peer else ["-", ""]
        cells.append(f"{figures.seconds[peer] / ours:.2f}" if peer and ours else "-")
        share = row.work / ours / figures.limit if ours and figures.limit else None
        cells.append(f"{share:.0%}" if share is not None else "")
        met = ours is not None and row.target.met(figures.seconds, figures.limit, row.work)
        # Nobody is faster than the limit: something else ran during its turns.
        disturbed = share is not None and share > _IMPOSSIBLE
        verdict = "disturbed" if disturbed else "yes" if met else "no"
        summary.append([*cells, wanted(row.target, row), verdict])
        values = [
            amount(row, figures.seconds[name]) if name in figures.seconds else ""
            for name in CONTENDERS
        ]
        everyone.append([row.title, row.unit, *values])
        absences += [
            f"* {row.title}, {name}: {reason}\n"
            for name, reason in figures.absent.items()
            if reason not in ("no such case", "not installed")
        ]
    machine = [["limit", "measured"], ["---", "---"]]
    machine += [[name, f"{rate:.1f}"] for name, rate in limits.items()]
    without = f"\n## Without a figure\n\n{''.join(absences)}" if absences else ""
    return f"""# Speed on the CPU

Written by `python benchmarks/cpu.py`, on {_processor()}, {THREADS} threads, {platform.system()},
Python {platform.python_version()}, {_versions()}.

Each contender runs in a process of its own; they take turns, the others being stopped, and medians
are compared. All values are checked against float64. Dovetile's functions are captured, its kernels
scheduled by the heuristics alone. "Heap kept": glibc gives no memory back to the system, so that
results need no fresh pages. "Ours to theirs" is how many times as fast we are. Starts are a new
process's first call, after the imports and the making of the model; cold: with empty disk caches.
{f"{chr(10)}**{note}**{chr(10)}" if note else ""}
![How many times as fast as the best peer]({_PAGE}.svg)

{_lines(summary)}
"The best" in a target is the best peer measured. The limit of a row is measured in the same run,
between the turns: for matrix products the multiply-adds of the processor, else the time of the
memory traffic that the row cannot avoid.

## Everyone

{_lines(everyone)}
## This machine

{_lines(machine)}{without}"""


def plot(found: dict[str, Figures], path: Path) -> None:
    """Bars of how many times as fast as the best peer we are; 1 is a tie."""
    import matplotlib

    matplotlib.use("svg")
    # The same figures give the same file.
    matplotlib.rcParams["svg.hashsalt"] = "dovetile"
    from matplotlib import pyplot

    bars = []
    for row, figures in _with_memory(found):
        ours, peer = figures.seconds.get("dovetile"), best_peer(figures)
        if ours and peer:
            bars.append((row.title, figures.seconds[peer] / ours, peer))
    figure, axes = pyplot.subplots(figsize=(9, 0.34 * len(bars) + 1.2))
    ratios = [ratio for _, ratio, _ in bars]
    colours = ["#2a7f62" if ratio >= 1 else "#c2603a" for ratio in ratios]
    # Bars begin at the tie.
    axes.barh([title for title, _, _ in bars], [r - 1 for r in ratios], left=1, color=colours)
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.invert_yaxis()
    for number, (_, ratio, peer) in enumerate(bars):
        side = "left" if ratio >= 1 else "right"
        axes.annotate(f" {ratio:.2f} ({peer}) ", (ratio, number), ha=side, va="center", fontsize=7)
    axes.margins(x=0.35)
    axes.set_xlabel("times as fast as the best peer")
    figure.savefig(path, bbox_inches="tight", metadata={"Date": None})
    pyplot.close(figure)


def write(folder: Path, found: dict[str, Figures], limits: dict[str, float], note: str) -> None:
    """The page and the plot of these figures."""
    write_whole(folder / f"{_PAGE}.md", page(found, limits, note))
    plot(found, folder / f"{_PAGE}.svg")
