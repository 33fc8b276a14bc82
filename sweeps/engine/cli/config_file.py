"""--config: options from a YAML or TOML file, and the file that a run writes so that it can be repeated."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

import bat_core
from bat_core.errors import InputError
from bat_core.paths import read_regular
from sweeps.engine.cli.given import Options
from sweeps.engine.cli.redact import redacted

FLAG = "--config"
FILE = "config.yaml"
MAX_BYTES = 1 << 20
ONE_RUNS = {"output", "resume", "storage_path"}  # a run that repeats another has places of its own
NAME_MODELS = {"transfer_from"}
SCALARS = (str, int, float, bool)


def take_config(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """The arguments without --config, and the file that it names (before a lone --).

    Raises:
        InputError: it is given twice or without a file.
    """
    end = arguments.index("--") if "--" in arguments else len(arguments)
    left, found, words = [], [], iter(arguments[:end])
    for word in words:
        if word == FLAG:
            found.append(next(words, ""))
        elif word.startswith(f"{FLAG}="):
            found.append(word.partition("=")[2])
        else:
            left.append(word)
    if len(found) > 1 or "" in found:
        raise InputError(f"{FLAG} names one file: write {FLAG} FILE once")
    return [*left, *arguments[end:]], Path(found[0]) if found else None


def read_config(path: Path) -> dict[str, Any]:
    """The options in a file, by their names on the command line without dashes in front: data-dir, set.

    Raises:
        InputError: the file cannot be read, or has something else than options with a value or a list of values.
    """
    try:
        text = read_regular(path, limit=MAX_BYTES).decode()
        content = tomllib.loads(text) if path.suffix == ".toml" else yaml.safe_load(text)
    except OSError as error:
        raise InputError(f"{FLAG} {str(path)!r} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        said = " ".join(str(error).split())
        raise InputError(f"{FLAG} {str(path)!r} is not valid {_language(path)}: {said}") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise InputError(f"{FLAG} {str(path)!r} must have options such as `epochs: 20`, one a line")
    return {_name(key, path): _value(key, value, path) for key, value in content.items() if value is not None}


def repeating_config(options: Options, models: Sequence[str] = (), *, command: str) -> str:
    """The text of a config file that repeats a run: the options that were given; all others as comments.

    Args:
        models: the MODELs that the command names.  command: the command line, for the first line.
    """
    given = {option: value for option in options.given if (value := getattr(options, option)) is not None}
    chosen: dict[str, object] = {"models": [*map(_from_anywhere, models)]} if models else {}
    for name, value in given.items():
        named = tuple(map(_from_anywhere, value)) if name in NAME_MODELS else value
        chosen |= {} if name in ONE_RUNS else {_key(options, name): _plain(named)}
    others = [option.name for option in fields(options) if option.name not in {*given, *ONE_RUNS}]
    lines = [
        f"# bat-sweeps {bat_core.__version__}: {command}",
        f"# The same command with {FLAG} and this file repeats it.",
    ]
    body = yaml.safe_dump(chosen, sort_keys=False, allow_unicode=True, width=10_000) if chosen else ""
    comments = [f"# {_dumped(_key(options, name), getattr(options, name))}" for name in others]
    return redacted("\n".join([*lines, *body.splitlines(), "# Left at their defaults:", *comments]) + "\n")


def _language(path: Path) -> str:
    return "TOML" if path.suffix == ".toml" else "YAML"


def _name(key: object, path: Path) -> str:
    if not isinstance(key, str):
        raise InputError(f"{FLAG} {str(path)!r}: {key!r} is not the name of an option")
    return key.removeprefix("--").replace("_", "-")


def _value(key: str, value: object, path: Path) -> object:
    """A flag as it is; all other values as the words that a command line would have."""
    if isinstance(value, bool):
        return value
    several = value if isinstance(value, list) else [value]
    if not all(isinstance(one, SCALARS) and not isinstance(one, bool) for one in several):
        raise InputError(f"{FLAG} {str(path)!r}: {key} must be a value or a list of values")
    words = [str(one) for one in several]
    return words if isinstance(value, list) else words[0]


def _key(options: Options, name: str) -> str:
    return options.flag(name).removeprefix("--")


def _from_anywhere(model: str) -> str:
    """A MODEL as it can be named in any folder: an absolute path, if it is that of a file or folder."""
    return str(Path(model).resolve()) if Path(model).exists() else model


def _plain(value: object) -> object:
    if isinstance(value, Path):
        return str(value.resolve())
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, tuple) else value


def _dumped(key: str, value: object) -> str:
    written = yaml.safe_dump(_plain(value), default_flow_style=True, width=10_000)
    return f"{key}: {written.removesuffix('...' + chr(10)).strip()}"
