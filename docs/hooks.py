"""For the site: links to files beside docs/ lead to the repository, after a check that the files are there."""

import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/bat-sweeps/bat-sweeps/blob/main"
OUTSIDE = re.compile(r"\]\(\.\./([\w./-]+)((?:#[\w-]+)?)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    """A page's Markdown with links that work outside the repository."""
    return OUTSIDE.sub(_absolute, markdown)


def _absolute(link: "re.Match[str]") -> str:
    if not (ROOT / link[1]).exists():
        raise FileNotFoundError(f"docs link to {link[1]}, which does not exist")
    return f"]({REPOSITORY}/{link[1]}{link[2]})"
