"""Import and call a user's own code; whatever it raises becomes one sentence with its file and line."""

import contextlib
import importlib
import os
import re
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bat_core.errors import InputError

imported: set[str] = set()  # the top-level modules of all objects that were imported; they go to Ray's workers
FACTORY = re.compile(r"(?P<module>[A-Za-z_][\w.]*):(?P<factory>[A-Za-z_]\w*)")


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
        return getattr(module, match["factory"])
    except AttributeError:
        raise InputError(f"{what}: module {match['module']!r} has no {match['factory']!r}") from None
