"""Run the Python blocks of every page (*.md), and follow its links to files: what a page says works.

Blocks of one page share their names and a folder of their own. `<!-- not run: reason -->` before a block skips it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).parents[1]
HIDDEN = {".venv", ".git", ".pytest_cache", ".ruff_cache", "build", "node_modules"}
BLOCK = re.compile(
    r"(?P<skip><!-- not run: (?P<reason>[^\n]+?) -->\n\s*)?```python\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)

FENCED = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"""\]\(([^)\s]+)[^)]*\)|(?:src|srcset|href)=["']([^"'\s]+)""")
SCHEME = re.compile(r"[a-z]+:|#")


class Block(NamedTuple):
    """A block of a page.

    Attributes:
        line: Its first line, counted from 1.
        code: Its lines.
        reason: Why it is not run, or None.
    """

    line: int
    code: str
    reason: str | None


def pages() -> list[Path]:
    """Return the pages of the repository."""
    return sorted(
        path for path in ROOT.rglob("*.md") if not HIDDEN & set(path.relative_to(ROOT).parts)
    )


def pages_to_run() -> list[Path]:
    """Return the pages of the repository that have blocks to run."""
    return [p for p in pages() if any(block.reason is None for block in blocks(p.read_text()))]


def blocks(text: str) -> list[Block]:
    """Return the Python blocks of a page."""
    return [
        Block(text[: match.start("code")].count("\n") + 1, match["code"], match["reason"])
        for match in BLOCK.finditer(text)
    ]


def run(name: str, text: str, names: dict[str, Any]) -> None:
    """Run the blocks of a page one after another, in one namespace; errors show its lines."""
    for block in blocks(text):
        if block.reason is None:
            padding = "\n" * (block.line - 1)
            exec(compile(padding + block.code, name, "exec"), names)


@pytest.mark.filterwarnings("ignore:.* training vectors for .* are advised:UserWarning")
@pytest.mark.parametrize("page", pages_to_run(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = page.read_text()
    monkeypatch.chdir(tmp_path)
    run(str(page.relative_to(ROOT)), text, {"__name__": "page"})


def missing_targets(page: Path, text: str) -> list[str]:
    """Return the links of a page to files of the repository that do not exist."""
    targets = [
        one or other
        for one, other in LINK.findall(FENCED.sub("", text))
        if SCHEME.match(one or other) is None
    ]
    return [
        target
        for target in targets
        if not (page.parent / unquote(target).partition("#")[0]).resolve().exists()
    ]


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_to_files(page: Path) -> None:
    assert missing_targets(page, page.read_text()) == []


def test_the_guide_names_files_that_exist() -> None:
    """Paths in `code` of the contributor guide, from the root; NAME stands for a new name."""
    text = FENCED.sub("", (ROOT / ".github/CONTRIBUTING.md").read_text())
    top = ("flash_kmeans_mlx/", "kernels/", "benchmark/", "tests/", ".ci/", ".github/")
    paths = {code for code in re.findall(r"`([^`\s]+)`", text) if code.startswith(top)}
    assert len(paths) > 20
    assert [
        path for path in sorted(paths) if "NAME" not in path and not (ROOT / path).exists()
    ] == []


def test_a_missing_target_is_found() -> None:
    text = "[a](README.md#part), [b](https://no.where), [c](#part), ![d](no.png) <img src='no.svg'>"
    assert missing_targets(ROOT / "page.md", text) == ["no.png", "no.svg"]


PAGE = """
```python
a = 1
```
text
<!-- not run: slow -->
```python
a = 2
```
```bash
exit 1
```
```python
b = a + 1
```
"""


def test_blocks_share_names_and_may_be_skipped() -> None:
    assert [block.reason for block in blocks(PAGE)] == [None, "slow", None]
    names: dict[str, Any] = {}
    run("page.md", PAGE, names)
    assert names["b"] == 2


def test_an_error_shows_the_line_of_the_page() -> None:
    with pytest.raises(ZeroDivisionError) as caught:
        run("page.md", "# Title\n\n```python\na = 1\na / 0\n```\n", {})
    assert caught.traceback[-1].lineno == 4  # counted from 0
