"""Runs a command: parses options, reports errors in one sentence and sets the exit code."""

import functools
import inspect
import io
import os
import re
import shlex
import shutil
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cyclopts import App, CycloptsError, Parameter
from cyclopts.config import Dict

import bat_core
from bat_core.adapter.importing import FACTORY, VARIABLE, only_named
from bat_core.errors import InputError
from sweeps.engine.cli.config_file import read_config, take_config
from sweeps.engine.cli.given import options_of
from sweeps.engine.cli.help_page import HELP_ALL, HelpPage, epilogue, examples
from sweeps.engine.cli.redact import redacted
from sweeps.engine.storage.files import pasted, unquoted
from sweeps.engine.storage.retry import FAULTS, RESUME_HINT, StorageError, reason

DEBUG = "--debug"
MODELS = "models"  # of a config file: the MODELs that a command names
PROGRAM = "bat-sweeps"
STREAMS = ("stdin", "stdout", "stderr")
FAILED, BAD_INPUT, INTERRUPTED = 1, 2, 130  # exit codes: failure, invalid input, Ctrl-C


def command(main: Callable[..., int], arguments: Sequence[str] | None = None, *, name: str = "") -> None:
    """Run `main` with the options on the command line and exit with what it returns.

    Its parameters' annotations define the options, and its docstring is the help text.
    Invalid input, or a file that cannot be used, prints one sentence and exits with code 2; a lasting storage failure
    prints one and exits with 1.
    With --debug, which every command takes, the traceback of the error comes first.

    Args:
        arguments: the command line after the command's name. Default: that of this process.
        name: the command's name in its help. Default: the script's.
    """
    arguments, debug = _without_debug(list(sys.argv[1:] if arguments is None else arguments))
    open_streams()
    try:
        with only_named(_named_code()):
            words, config = take_config(arguments)
            app = application(main, name=name, config=config, everything=HELP_ALL in words)
            words = ["--help" if word == HELP_ALL else word for word in words]
            code = app(words, exit_on_error=False, print_error=False)
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


def application(
    main: Callable[..., int], *, name: str = "", config: Path | None = None, everything: bool = False
) -> App:
    """The parser of a command's options.

    Args:
        config: a file with options, which those on the command line precede.
        everything: whether --help describes all options.
    """
    options, given = options_of(main), read_config(config) if config else {}
    module = sys.modules.get(main.__module__)
    script = name or f"python {sys.argv[0] if sys.argv[0].endswith('.py') else f'-m {main.__module__}'}"
    app = App(
        name=[name] if name else None,
        help="\n\n".join(filter(None, [inspect.cleandoc(main.__doc__ or ""), examples(module.__doc__, script)])),
        help_format="plaintext",
        help_formatter=HelpPage(
            common=options.common if options else (),
            shared=options.shared if options else {},
            everything=everything,
        ),
        help_epilogue=epilogue(everything, shared=bool(options and options.shared)),
        version=f"{PROGRAM} {bat_core.__version__}",
        version_flags=["--version"],
        result_action="return_value",
        default_parameter=Parameter(negative=""),
    )
    app.default(_with_models(main, given))
    app.config = [Dict(given, source=str(config), use_commands_as_keys=False)] if config else []
    return app


def _with_models(main: Callable[..., int], config: dict[str, Any]) -> Callable[..., int]:
    """`main`, called with the MODELs of the config file, which are taken out of it, if the command line has none."""
    several = any(one.kind is one.VAR_POSITIONAL for one in inspect.signature(main).parameters.values())
    if not several or MODELS not in config:
        return main
    listed = config.pop(MODELS)
    named = [listed] if isinstance(listed, str) else listed

    @functools.wraps(main)
    def called(*models: Any, **options: Any) -> int:
        return main(*(models or named), **options)

    return called


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
    program = [PROGRAM] if Path(sys.argv[0]).name == PROGRAM else ["python", sys.argv[0]]
    return redacted(shlex.join([*program, *sys.argv[1:]]))


def resume_command(folder: Path) -> str:
    """The whole command that goes on with the results in `folder`, to be pasted: this one, with --resume."""
    return f"{shlex.join(_program())} --resume {pasted(folder)}"


def _program() -> list[str]:
    """The words that start this command again: bat-sweeps with the command's name, or Python and the script."""
    script, *rest = sys.argv
    if Path(script).name != PROGRAM:
        return [unquoted(Path(sys.executable)), unquoted(Path(script))]
    named = rest[:2] if rest[:1] == ["table"] else rest[:1]
    return [PROGRAM if shutil.which(PROGRAM) else unquoted(Path(script)), *named]
