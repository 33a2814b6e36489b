"""Write the list of modules in docs/structure.md, each with the first paragraph of its docstring.

python scripts/structure.py            # rewrites the page
python scripts/structure.py --check    # exits with 1 if the page is out of date
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "structure.md"
BEGIN = "<!-- modules: written by scripts/structure.py -->"
#: In the order of the data.
FOLDERS = (
    "documents",
    "modeling",
    "attention",
    "memory",
    "decoding",
    "readers",
    "cluster",
    "training",
    "engine",
    "chat",
    "evaluation",
    "server",
    "cli",
)


def lines() -> list[str]:
    """The list, folder by folder."""
    package = ROOT / "focusdoc"
    found: list[str] = []
    for folder in ("", *FOLDERS):
        found += ["", f"### {folder}/" if folder else "### focusdoc/", ""]
        for path in sorted((package / folder).glob("*.py")):
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
            if docstring and path.name != "__init__.py":
                first = " ".join(docstring.split("\n\n")[0].split())
                found.append(f"- `{path.name}`: {first}")
    return found


def page() -> str:
    """The page with the current list."""
    head = PAGE.read_text(encoding="utf-8").partition(BEGIN)[0]
    return "\n".join([head + BEGIN, *lines(), ""])


if __name__ == "__main__":
    written = page()
    if "--check" in sys.argv and written != PAGE.read_text(encoding="utf-8"):
        sys.exit("docs/structure.md is out of date; run: python scripts/structure.py")
    PAGE.write_text(written, encoding="utf-8")
