"""Check every relative link and anchor of the repository's Markdown files.

python docs/scripts/check_links.py
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
OUTSIDE = re.compile(r"[a-z][a-z0-9+.-]*:")


def markdown_files() -> list[Path]:
    """Those of the repository, without hidden folders and those of built things."""
    skipped = {"build", "dist", "site", "node_modules"}
    return [
        path
        for path in sorted(ROOT.rglob("*.md"))
        if not any(part.startswith(".") or part in skipped for part in path.relative_to(ROOT).parts)
    ]


def without_code(text: str) -> str:
    """`text` without fenced and inline code, where brackets are no links."""
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as the documentation builder makes them."""
    headings = re.findall(
        r"^#+ (.*)$", without_code(path.read_text(encoding="utf-8")), re.MULTILINE
    )
    return {
        re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings
    }


def problems(path: Path) -> list[str]:
    """What is wrong with the links of one file."""
    found = []
    for link in LINK.findall(without_code(path.read_text(encoding="utf-8"))):
        if OUTSIDE.match(link):
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        if not target.exists():
            found.append(f"{path.relative_to(ROOT)}: {link} does not exist")
        elif anchor and target.suffix == ".md" and anchor not in anchors(target):
            found.append(f"{path.relative_to(ROOT)}: {link} has no such heading")
    return found


def main() -> None:
    files = markdown_files()
    found = [problem for path in files for problem in problems(path)]
    if found:
        sys.exit("\n".join(found))
    print(f"{len(files)} files, all links lead somewhere")


if __name__ == "__main__":
    main()
