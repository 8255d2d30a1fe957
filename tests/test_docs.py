"""Run the Python blocks of every page (*.md): what a page says works.

Blocks of one page share their names and a folder of their own. `<!-- not run: reason -->` before a block skips it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
HIDDEN = {".venv", ".git", ".pytest_cache", ".ruff_cache", "build", "node_modules"}
BLOCK = re.compile(
    r"(?P<skip><!-- not run: (?P<reason>[^\n]+?) -->\n\s*)?```python\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


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
    """Return the pages of the repository that have blocks to run."""
    found = sorted(
        path for path in ROOT.rglob("*.md") if not HIDDEN & set(path.relative_to(ROOT).parts)
    )
    return [p for p in found if any(block.reason is None for block in blocks(p.read_text()))]


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
@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_the_blocks_of_a_page_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = page.read_text()
    monkeypatch.chdir(tmp_path)
    run(str(page.relative_to(ROOT)), text, {"__name__": "page"})


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
