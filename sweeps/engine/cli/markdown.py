"""Markdown in which nothing that a file brings along becomes a link, HTML or the structure of a table.

Names and reasons in a report may come from someone else's folder, and a report is shown by browsers and by MLflow.
"""

import re
from collections.abc import Iterable, Sequence

BREAK = "<br>"  # the only HTML that our own cells contain
SCRIPT = re.compile(r"(?i)\b(javascript|vbscript|data\s*:\s*text/html)\s*:")
OWN_LINK = re.compile(r"!?\[[^\[\]\n]*\]\([A-Za-z0-9_][\w.-]*\)")  # a figure in the same folder
TAG = re.compile(r"<(?!br>)")
LINK = re.compile(r"\](?P<after>[(\[:])")


class Markup(str):
    """A cell that is Markdown of our own. `escaped` makes the foreign parts of it harmless."""

    __slots__ = ()


def escaped(text: str) -> str:
    """A text as it is, in Markdown: no HTML, no link, no code span, no new cell."""
    return harmless(" ".join(text.split())).replace("`", "\\`").replace(BREAK, "&lt;br>").replace("|", "\\|")


def code(text: str) -> Markup:
    """A text as a code span."""
    inside = " ".join(text.split()).replace("`", "'").replace("|", "\\|")
    return Markup(f"`{SCRIPT.sub(_without_colon, inside)}`")


def pipe_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, words: Iterable[str] | None = None) -> str:
    """A Markdown table. Columns not in `words` are right-aligned; None left-aligns all columns.

    Cells are shown as the text that they are, except those that are `Markup`.
    """
    left = set(head if words is None else words)
    rule = [Markup("---" if name in left else "---:") for name in head]
    return "\n".join([_line(head), _line(rule), *map(_line, rows)])


def document(parts: Iterable[str]) -> str:
    """Paragraphs, tables and lists as one text, in which only figures beside it are links and only <br> is HTML."""
    return harmless("\n\n".join(parts)).rstrip() + "\n"


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(_one_line(cell) if isinstance(cell, Markup) else escaped(cell) for cell in cells) + " |"


def _one_line(cell: str) -> str:
    return re.sub(r"(?<!\\)\|", "\\|", " ".join(cell.split()))


def harmless(text: str) -> str:
    """A text without links, HTML and script addresses. Code spans may show `<` as `&lt;`: that harms nobody."""
    kept, done = [], 0
    for own in OWN_LINK.finditer(text):
        kept += [_inert(text[done : own.start()]), own.group()]
        done = own.end()
    return "".join([*kept, _inert(text[done:])])


def _inert(text: str) -> str:
    return LINK.sub(r"\\]\\\g<after>", SCRIPT.sub(_without_colon, TAG.sub("&lt;", text)))


def _without_colon(found: "re.Match[str]") -> str:
    return found.group().replace(":", "&#58;")
