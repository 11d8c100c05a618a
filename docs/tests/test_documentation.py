"""The documentation is true: examples run, links lead somewhere, generated pages are new."""

from __future__ import annotations

import doctest
from pathlib import Path

import check_links
import generate
import pytest

DOCS = Path(__file__).parents[1]


@pytest.mark.parametrize("name", list(generate.PAGES))
def test_generated_pages_are_up_to_date(name: str) -> None:
    assert (DOCS / name).read_text(encoding="utf-8") == generate.PAGES[name]()


def test_links() -> None:
    problems = [
        problem for path in check_links.markdown_files() for problem in check_links.problems(path)
    ]
    assert problems == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[there](other.md#a-heading)", []),
        ("[away](https://example.org)", []),
        ("`[code](none.md)`", []),
        ("[gone](none.md)", ["page.md: none.md does not exist"]),
        ("[no](other.md#nothing)", ["page.md: other.md#nothing has no such heading"]),
    ],
)
def test_link_checker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, expected: list[str]
) -> None:
    monkeypatch.setattr(check_links, "ROOT", tmp_path)
    (tmp_path / "other.md").write_text("# A `heading`!\n\n## A heading\n")
    page = tmp_path / "page.md"
    page.write_text(text)
    assert check_links.problems(page) == expected


@pytest.mark.parametrize("name", ["tutorial/first-steps.md", "how-to/find-out-why-it-is-slow.md"])
def test_examples_run(name: str) -> None:
    results = doctest.testfile(
        str(DOCS / name),
        module_relative=False,
        optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL,
        encoding="utf-8",
    )
    assert results.attempted >= 5
    assert results.failed == 0
