"""Tables in Markdown."""

from collections.abc import Iterable, Sequence


def pipe_table(head: Sequence[str], rows: Iterable[Sequence[str]], *, words: Iterable[str] | None = None) -> str:
    """A table; columns that are not `words` are set flush right. None stands for all."""
    left = set(head if words is None else words)
    rule = ["---" if name in left else "---:" for name in head]
    return "\n".join([_line(head), _line(rule), *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"
