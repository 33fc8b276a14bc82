"""What a page consists of, and how it becomes HTML: by jinja2 with escaping on, without a network or foreign code."""

import base64
import functools
import hashlib
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol

import jinja2
from markupsafe import Markup

from bat_core.masking.flags import status_in_words
from sweeps.engine.cli.app import PROGRAM
from sweeps.engine.cli.config_file import FILE as CONFIG
from sweeps.engine.cli.redact import redacted
from sweeps.engine.cli.text import percent, percent_range
from sweeps.engine.pages.charts import Chart

PAGE = "report.html"
UNVERIFIED_COLUMNS = ("not verified", "95 % of it")
ROBUST_COLUMNS = ("robust, verified", "95 %", *UNVERIFIED_COLUMNS)


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, what it is sorted by (None: by its text), and a CSS class such as "masked"."""

    text: str
    sort: float | None = None
    look: str = ""


NONE = Cell("-")  # no value


def robust_cells(robust: float, interval: tuple[float, float], *, verified: bool) -> list[Cell]:
    """The cells below ROBUST_COLUMNS. An accuracy that no verifying suite has seen has columns of its own."""
    none, look = [NONE, NONE], "" if verified else "unverified"
    found = [Cell(percent(robust), robust, look), Cell(percent_range(*interval), interval[0], look)]
    return [*found, *none] if verified else [*none, *found]


def verdict_cell(masking_status: str, robust: float) -> Cell:
    """The cell of a masking status, given the robust accuracy that it is about."""
    said = status_in_words(masking_status, robust)
    return Cell(said, look=masking_status if said == masking_status else "")


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table whose columns can be sorted. Cells that are plain texts are words, left-aligned."""

    kind: ClassVar[str] = "table"
    heading: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    note: str = ""

    def without_empty(self, names: Sequence[str]) -> "Table":
        """The table without those of the named columns that have no value in any row."""
        return self._without({
            at for at, name in enumerate(self.columns)
            if name in names and all(row[at] == NONE for row in self.rows)
        })  # fmt: skip

    def without_common(self, names: Sequence[str]) -> "Table":
        """The table without those of the named columns that say the same in all of several rows; the note says it."""
        if len(self.rows) < 2:
            return self
        common = {
            at: first if isinstance(first, str) else first.text for at, first in enumerate(self.rows[0])
            if self.columns[at] in names and all(row[at] == first for row in self.rows)
        }  # fmt: skip
        said = ", ".join(f"{self.columns[at]} {text}" for at, text in common.items() if text != NONE.text)
        note = f"The same for all: {said}. {self.note}" if said else self.note
        return replace(self._without(set(common)), note=note)

    def _without(self, dropped: Container[int]) -> "Table":
        kept = [at for at in range(len(self.columns)) if at not in dropped]
        rows = [[row[at] for at in kept] for row in self.rows]
        return replace(self, columns=[self.columns[at] for at in kept], rows=rows)


@dataclass(frozen=True, kw_only=True)
class Heat:
    """A matrix of shares in [0, 1], each with the text that its cell shows; None for an empty cell."""

    kind: ClassVar[str] = "heat"
    heading: str
    corner: str
    columns: Sequence[str]
    rows: Sequence[tuple[str, Sequence[tuple[float, str] | None]]]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Names and values."""

    kind: ClassVar[str] = "facts"
    heading: str
    pairs: Sequence[tuple[str, str]]
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Commands(Facts):
    """Commands to paste, each with what it does."""

    kind: ClassVar[str] = "commands"


def commands(name: str, started: str, others: Sequence[tuple[str, str]] = ()) -> Commands:
    """The commands that repeat what a page shows and go on with it, for the folder that has the page.

    Args:
        name: the command as `bat-sweeps` knows it.  started: the command line that was typed.  others: more of them.
    """
    pairs = [
        ("as it was started", started),
        ("repeat", f"{PROGRAM} {name} --config {CONFIG}"),
        ("go on, if it was interrupted", f"{PROGRAM} {name} --resume ."),
    ]
    return Commands(heading="Go on", pairs=[*pairs, *others], note="To be run in the folder that this page is in.")


@dataclass(frozen=True, kw_only=True)
class Notes:
    """Paragraphs."""

    kind: ClassVar[str] = "notes"
    heading: str
    note: str


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A PNG picture of a few pixels, shown enlarged, with a caption. `alt` describes it."""

    png: bytes
    alt: str
    caption: str = ""

    @property
    def address(self) -> str:
        """The picture itself, as an address."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Rows of pictures, each row with a title."""

    kind: ClassVar[str] = "pictures"
    heading: str
    rows: Sequence[tuple[str, Sequence[Picture]]]
    note: str = ""


class Section(Protocol):
    """A part of a page: one of the classes above, or a chart."""

    @property
    def heading(self) -> str:
        """Its heading."""


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page: its title, what was asked, the answer in two sentences, and its sections."""

    title: str
    question: str
    answer: str
    sections: Sequence[Section | Chart]
    version: str


def render(page: Page) -> str:
    """The page as HTML. It needs no other file. Equal pages give equal text, and passwords in texts are hidden."""
    script = _source("page.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    template = _environment().get_template("page.html")
    style = Markup(_source("page.css"))  # noqa: S704 (a file of our own)
    return template.render(page=page, script=Markup(script), style=style, digest=digest)  # noqa: S704


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.PackageLoader("sweeps.engine.pages"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_without_passwords,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _without_passwords(value: Any) -> Any:
    return redacted(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _source(name: str) -> str:
    """A file of our own that goes into every page as it is."""
    loader = _environment().loader
    assert loader is not None
    return loader.get_source(_environment(), name)[0]
