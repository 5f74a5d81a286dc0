"""The pages of the documentation, as the tests beside this file read them."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]

PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "experiments").glob("*/README.md")),
]
PYTHON = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
BASH = re.compile(r"^```bash\n(.*?)^```", re.DOTALL | re.MULTILINE)
FENCE = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"(?<!`)`([^`\n]+)`(?!`)")
TABLE = re.compile(r"<!-- results: .*?<!-- end -->", re.DOTALL)


def name_of(page: Path) -> str:
    """The page as people call it."""
    return str(page.relative_to(ROOT))


def text_of(page: Path) -> str:
    """The page without the tables that are made from results."""
    return TABLE.sub("", page.read_text(encoding="utf-8"))


def inline_code(page: Path) -> list[str]:
    """What stands between backticks in the page's sentences."""
    return INLINE.findall(FENCE.sub("", text_of(page)))
