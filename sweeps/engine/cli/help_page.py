"""How --help looks: what is specific to a command first, shared options by name, no line longer than the terminal."""

import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console

HELP_ALL = "--help-all"
WIDEST_NAME = 26
WIDEST_LINE = 100
EXAMPLE = "python sweeps/"


@dataclass(frozen=True)
class HelpPage:
    """Formats the help of one command; cyclopts calls it for each of its panels.

    `common` names options that are described after the specific ones, `shared` those of each group that only
    --help-all describes. `everything` is whether it was given.
    """

    common: Sequence[str] = ()
    shared: Mapping[str, Sequence[str]] = field(default_factory=dict)
    everything: bool = False

    def __call__(self, console: Console, options: Any, panel: Any) -> None:  # noqa: ARG002
        """Print one panel: the options in groups. The panel with --help and --version is left out."""
        if panel.format == "parameter":
            _print(console, self._lines(panel.entries, _width(console)))

    def render_usage(self, console: Console, options: Any, usage: Any) -> None:  # noqa: ARG002
        """Print the usage line."""
        said = " ".join(_plain(usage).split())
        _print(console, [said if said.startswith("Usage") else f"Usage: {said}"])

    def render_description(self, console: Console, options: Any, description: Any) -> None:  # noqa: ARG002
        """Print the description, whose lines are filled up to the width."""
        _print(console, _filled(_plain(description), _width(console)))

    def _lines(self, entries: Sequence[Any], width: int) -> Iterator[str]:
        grouped = {name: title for title, names in self.shared.items() for name in names}
        groups: dict[str, list[Any]] = {"Options": [], "Common options": []}
        for entry in entries:
            if entry.positional_label and not _plain(entry.description).strip():
                continue  # the description above says what it is
            name = entry.positive_names[0].removeprefix("--").replace("-", "_") if entry.positive_names else ""
            title = "Common options" if name in self.common else grouped.get(name, "Options")
            groups.setdefault(title, []).append(entry)
        for title, members in groups.items():
            if not members:
                continue
            yield ""
            if title in self.shared and not self.everything:
                yield from _named(title, members, width)
                continue
            yield f"{title}:"
            for entry in members:
                yield from _described(entry, width)


def _print(console: Console, lines: Iterable[str]) -> None:
    for line in lines:
        console.print(line, soft_wrap=True, highlight=False, markup=False, emoji=False)


def _width(console: Console) -> int:
    return min(console.width, WIDEST_LINE)


def epilogue(everything: bool, *, shared: bool) -> str:
    """The last lines of a help page."""
    more = "" if everything or not shared else f"{HELP_ALL} describes every option. "
    return (
        f"{more}--config FILE reads options from a YAML or TOML file; those on the command line win. --debug shows the"
        " traceback of an error, not only its sentence. --version prints the version."
    )


def examples(document: str | None, name: str) -> str:
    """The examples in a script's docstring, with the command's name in place of the script's."""
    lines = [line for line in (document or "").splitlines() if line.startswith(EXAMPLE)]
    shown = [re.sub(r" {2,}#", "  #", re.sub(r"^python \S+", lambda _: name, line)) for line in lines]
    return "\n".join(["For example:", *(f"  {line}" for line in shown)]) if shown else ""


def _named(title: str, entries: Sequence[Any], width: int) -> list[str]:
    words = " ".join(_names(entry)[0] for entry in entries)
    return textwrap.wrap(f"{title}: {words}", width, subsequent_indent="  ", break_on_hyphens=False)


def _names(entry: Any) -> list[str]:
    """The names by which an option is given: --no-NAME for what is on by default."""
    return [*(entry.negative_names if str(entry.default) == "True" else entry.positive_names)]


def _described(entry: Any, width: int) -> Iterator[str]:
    labels = [entry.positional_label] if entry.positional_label else _names(entry)
    name = "  " + ", ".join([*labels, *entry.positive_shorts]) + (f" {entry.metavar}" if entry.metavar else "")
    said = " ".join(_plain(entry.description).split())
    if entry.default not in (None, "", "True", "False", "()", "None") and "Default:" not in said:
        said = f"{said} [default: {_shown(str(entry.default))}]"
    if not said:
        yield name
        return
    left = min(WIDEST_NAME, width // 3)
    lines = textwrap.wrap(said, width - left, break_on_hyphens=False) or [""]
    if len(name) > left - 2:
        yield name
    else:
        yield f"{name:<{left}}{lines.pop(0)}"
    yield from (" " * left + line for line in lines)


def _shown(default: str) -> str:
    """A default as it is typed: 0 1 2 for (0, 1, 2)."""
    return " ".join(re.findall(r"[^\s,()'\"]+", default)) if default.startswith("(") else default


def _filled(text: str, width: int) -> Iterator[str]:
    """Paragraphs filled up to a width. Indented lines and headings of examples stay as they are."""
    for paragraph in re.split(r"\n\s*\n", text.strip()):
        yield ""
        if any(line.startswith(" ") for line in paragraph.splitlines()):
            yield from paragraph.splitlines()
        else:
            yield from textwrap.wrap(" ".join(paragraph.split()), width, break_on_hyphens=False)


def _plain(text: Any) -> str:
    """What rich would print of a text, without styles and in one line for each of its own."""
    if text is None or isinstance(text, str):
        return text or ""
    console = Console(width=10_000, no_color=True, highlight=False, emoji=False, force_terminal=False)
    with console.capture() as printed:
        console.print(text, end="")
    return "\n".join(line.rstrip() for line in printed.get().splitlines())
