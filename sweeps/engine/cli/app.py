"""Runs a command: parses options, reports errors in one sentence and sets the exit code."""

import io
import os
import re
import shlex
import sys
import traceback
from collections.abc import Callable
from typing import Any

from cyclopts import App, CycloptsError, Parameter

from bat_core.adapter.importing import FACTORY, VARIABLE, only_named
from bat_core.errors import InputError
from sweeps.engine.cli.redact import redacted
from sweeps.engine.storage.retry import FAULTS, RESUME_HINT, StorageError, reason

DEBUG = "--debug"
STREAMS = ("stdin", "stdout", "stderr")
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130  # exit codes: failure, invalid input, Ctrl-C


def command(main: Callable[[Any], int]) -> None:
    """Run `main` with the options on the command line and exit with what it returns.

    Its parameters' annotations define the options, and its docstring is the help text.
    Invalid input, or a file that cannot be used, prints one sentence and exits with code 2; a lasting storage failure
    prints one and exits with 1.
    With --debug, which every command takes, the traceback of the error comes first.
    """
    arguments, debug = _without_debug(sys.argv[1:])
    open_streams()
    app = App(
        help=main.__doc__,
        help_format="plaintext",
        help_epilogue=f"{DEBUG}: show the traceback of an error, not only its sentence.",
        version_flags=[],
        result_action="return_value",
        default_parameter=Parameter(negative=""),
    )
    app.default(main)
    try:
        with only_named(_named_code()):
            code = app(arguments, exit_on_error=False, print_error=False)
    except (InputError, CycloptsError) as error:
        _show_traceback(error, debug)
        print(f"error: {redacted(' '.join(str(error).split()))}", file=sys.stderr)
        code = BAD_INPUT
    except StorageError as error:
        _show_traceback(error, debug)
        print(f"error: {error}", file=sys.stderr)
        code = FAILED
    except OSError as error:
        storage_failed = error.errno in FAULTS
        if not storage_failed and error.filename is None:
            raise
        _show_traceback(error, debug)
        hint = f"; {RESUME_HINT}" if storage_failed else f"; {DEBUG} shows where it was used"
        print(f"error: {error.filename or 'the output folder'}: {reason(error)}{hint}", file=sys.stderr)
        code = FAILED if storage_failed else BAD_INPUT
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.exit(code or 0)


def _without_debug(arguments: list[str]) -> tuple[list[str], bool]:
    """The arguments without --debug, and whether it was among them (before a lone --)."""
    end = arguments.index("--") if "--" in arguments else len(arguments)
    options = [argument for argument in arguments[:end] if argument != DEBUG]
    return options + arguments[end:], len(options) < end


def _show_traceback(error: BaseException, debug: bool) -> None:
    if debug:
        print(redacted("".join(traceback.format_exception(error))), file=sys.stderr, end="")


def _named_code() -> list[str]:
    """The words of the command line and of BAT_SWEEPS_CODE that may be references to code: `nets:wide`."""
    words = " ".join([*sys.argv[1:], os.environ.get(VARIABLE, "")])
    return [word for word in re.split(r"[\s=,]+", words) if FACTORY.fullmatch(word)]


def open_streams() -> None:
    """Make the standard streams usable: open those that are closed, and write what an encoding lacks as "?".

    Otherwise the next file that is opened, such as a database, would take a closed stream's place and be written to
    by every process that prints.
    """
    for number, mode in enumerate("rww"):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:  # pragma: no cover (a lower one is closed as well)
                os.dup2(opened, number)
                os.close(opened)
            setattr(sys, STREAMS[number], os.fdopen(number, mode, closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def command_line() -> str:
    """The command as it was typed, without passwords, to be stored with the results."""
    return redacted(shlex.join(["python", *sys.argv]))
