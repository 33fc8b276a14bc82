"""A real browser, headless, where this machine has one: what a page shows once its scripts have run."""

import html
import re
import shutil
import subprocess
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
SCRIPTS = 20_000  # milliseconds of the page's own clock that its scripts may take; no one waits for them


def find() -> str:
    """The browser's path. Without one, the test is skipped."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    return found


def content(url: str, home: Path) -> str:
    """A page's HTML as its scripts leave it.

    Args:
        home: a folder for the browser's own files.
    """
    flags = [
        *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"),
        *(f"--user-data-dir={home}", f"--virtual-time-budget={SCRIPTS}", "--window-size=1600,1400"),
    ]
    command = [find(), *flags, "--dump-dom", url]
    return subprocess.run(command, capture_output=True, text=True, timeout=180, check=True).stdout


def words(page: str) -> str:
    """The text of a page's HTML, in its order, without tags; pictures are shown as [picture ADDRESS]."""
    without = re.sub(r"(?s)<(script|style)\b.*?</\1>", " ", page)
    pictures = re.sub(r'<img\b[^>]*\bsrc="([^"]*)"[^>]*>', r" [picture \1] ", without)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", pictures)).split())
