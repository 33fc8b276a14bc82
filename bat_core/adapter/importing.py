"""Import and call a user's own code; whatever it raises becomes one sentence with its file and line."""

import contextlib
import importlib
import os
import re
import sys
import traceback
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from bat_core.errors import InputError

VARIABLE = "BAT_SWEEPS_CODE"  # references that files may name, separated by commas
imported: set[str] = set()  # the top-level modules of all objects that were imported; they go to Ray's workers
references: set[str] = set()  # package.module:name of each of them
_allowed: set[str] | None = None  # the references that may be imported; None: all, as the user's own script says
FACTORY = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<factory>[A-Za-z_]\w*)")


@contextlib.contextmanager
def only_named(names: Iterable[str]) -> Iterator[None]:
    """During the body, import only code that the user named: `names`, and what `allow` adds.

    A file may name code too, such as a model's config.json, and may be a stranger's.
    """
    global _allowed  # noqa: PLW0603
    previous, _allowed = _allowed, set(names)
    try:
        yield
    finally:
        _allowed = previous


def allow(names: Iterable[str]) -> None:
    """Let these references be imported: a file shows that the user named them."""
    if _allowed is not None:
        _allowed.update(names)


@contextlib.contextmanager
def user_code(what: str) -> Iterator[None]:
    """Turn any exception of the block into an InputError: `what`, the exception's words, its file and line.

    InputError, KeyboardInterrupt and running out of memory pass unchanged: they have their own treatment.

    Raises:
        InputError: the block raised an exception.
    """
    try:
        yield
    except (InputError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise InputError(f"{what}: {describe(error)}") from error


def describe(error: BaseException) -> str:
    """The type, first 300 characters and place of an exception: "KeyError: 'wrn' (nets.py, line 12)"."""
    said = " ".join(str(error).split())[:300]
    frames = traceback.extract_tb(error.__traceback__)
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}{': ' if said else ''}{said}{place}"


def import_object(reference: str, *, what: str) -> Any:
    """The object that `package.module:name` refers to. The working folder is added to the import path first.

    Args:
        what: the subject of the error message, such as "model 'nets:wide'".
    Raises:
        InputError: the reference is malformed, the module cannot be imported or has no such name.
    """
    match = FACTORY.fullmatch(reference)
    if match is None:
        raise InputError(f"{what}: write it as package.module:factory")
    if _allowed is not None and reference not in _allowed:
        raise InputError(
            f"{what}: {reference} is code that a file names, and nothing shows that you named it: if you trust this"
            f" code, set {VARIABLE}={reference}"
        )
    if (here := os.getcwd()) not in sys.path:  # noqa: PTH109 (sys.path holds strings)
        sys.path.insert(0, here)
    top = match["module"].partition(".")[0]
    try:
        with user_code(f"{what}: module {match['module']!r} cannot be imported"):
            try:
                module = importlib.import_module(match["module"])
            except ModuleNotFoundError as error:
                if error.name != top:
                    raise
                raise InputError(
                    f"{what}: module {match['module']!r} cannot be imported: there is no {top!r} in {here!r}, on"
                    " PYTHONPATH or among the installed packages; run the command in the folder that has it, or put"
                    " that folder on PYTHONPATH"
                ) from error
        imported.add(top)
        references.add(reference)
        return getattr(module, match["factory"])
    except AttributeError:
        raise InputError(f"{what}: module {match['module']!r} has no {match['factory']!r}") from None
