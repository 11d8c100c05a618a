"""Write the pages of the documentation that come from the code; `--check` only compares.

python docs/scripts/generate.py [--check]
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path

import tensor_to_kernel

from dovetile import environment, errors
from dovetile.ir import ops

DOCS = Path(__file__).parents[1]


def environment_page() -> str:
    return (
        "# Environment variables\n\n"
        "<!-- Written by docs/scripts/generate.py from dovetile.environment. -->\n\n"
        "A value that is not valid is an error which lists the valid ones. Within a program,\n"
        "`dovetile.environment.context(DEBUG=2)` sets variables for the code inside a `with`.\n"
        "`dovetile env` prints this table with the values in force.\n\n"
        f"{environment.table()}"
    )


def errors_page() -> str:
    """The hierarchy of exceptions, with the first line of each one's docstring."""
    lines = [
        "# Errors",
        "",
        "<!-- Written by docs/scripts/generate.py from dovetile.errors. -->",
        "",
        "Every exception derives from `dovetile.errors.DovetileError` and from the builtin that",
        "users of PyTorch and NumPy would catch.",
        "",
        "| class | also a | raised where |",
        "|---|---|---|",
    ]
    for name, kind in vars(errors).items():
        if not (inspect.isclass(kind) and kind.__module__ == errors.__name__):
            continue
        bases = ", ".join(f"`{base.__name__}`" for base in kind.__bases__)
        lines.append(f"| `{name}` | {bases} | {first_line(kind)} |")
    return "\n".join(lines) + "\n"


def first_line(thing: object) -> str:
    return (inspect.getdoc(thing) or "").splitlines()[0]


def ir_page() -> str:
    """The hand-written introduction, then the operations as `dovetile.ir.ops` comments them."""
    introduction = (DOCS / "scripts" / "ir_introduction.md").read_text(encoding="utf-8")
    return f"{introduction}\n{operations_table()}"


def operations_table() -> str:
    """A table for each section of the enumeration, from its comments.

    A comment on a line belongs to that operation; a block of comments above operations belongs to
    the first of them; `# -- title` begins a section.
    """
    source = inspect.getsource(ops.Op)
    parts: list[str] = []
    above: list[str] = []
    for line in source.splitlines():
        text = line.strip()
        if match := re.fullmatch(r"# -- (.*)", text):
            title = match[1][0].upper() + match[1][1:]
            parts.append(f"\n### {title}\n\n| operation | meaning |\n|---|---|\n")
            above = []
        elif text.startswith("#") and parts:
            above.append(text.lstrip("# "))
        elif match := re.fullmatch(r"([A-Z0-9_]+) = auto\(\)(?:\s+# (.*))?", text):
            meaning = " ".join([*above, match[2] or ""]).strip()
            meaning = re.sub(r"([|*<])", r"\\\1", meaning)
            parts.append(f"| `{match[1]}` | {meaning} |\n")
            above = []
        elif not text:
            above = []
    return "".join(parts)


def check_every_operation_is_there(page: str) -> None:
    missing = [op.name for op in ops.Op if f"| `{op.name}` |" not in page]
    if missing:
        raise SystemExit(f"generate.py: no line of dovetile.ir.ops was understood for {missing}")


PAGES: dict[str, Callable[[], str]] = {
    "reference/environment.md": environment_page,
    "reference/errors.md": errors_page,
    "reference/ir.md": ir_page,
    "explanation/tensor-to-kernel.md": tensor_to_kernel.page,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="fail where a page is out of date")
    options = parser.parse_args()
    outdated = []
    for name, write in PAGES.items():
        page = write()
        if name == "reference/ir.md":
            check_every_operation_is_there(page)
        path = DOCS / name
        if path.exists() and path.read_text(encoding="utf-8") == page:
            continue
        outdated.append(name)
        if not options.check:
            path.write_text(page, encoding="utf-8")
            print(f"wrote {path}")
    if options.check and outdated:
        sys.exit(f"out of date: {', '.join(outdated)}; run python docs/scripts/generate.py")


if __name__ == "__main__":
    main()
