"""Marks that show that this user wrote a setting of a folder, and not whoever packed the folder.

Some settings of a folder have effects elsewhere: the store in which a sweep is kept, the code that an evaluation
imports. They are obeyed if the user typed them, or if the folder has a mark of them: a file that this user owns, with
an HMAC-SHA256 under a key that only this user can read. A folder that its own user copies or moves keeps its mark. On
another machine, for another user or in a container without that key, the mark shows nothing, and the command asks.
"""

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import stat
from collections.abc import Iterable
from pathlib import Path

from bat_core.errors import InputError
from bat_core.jsontext import read_json
from bat_core.paths import below, chosen, make_folder, open_regular, read_regular, write_atomically

CODE = "code "  # prefix of the settings that are references to code
MARKS = ".marks.json"  # hidden files are not copied to a store
KEY_BYTES = 32
LIMIT = 1 << 20  # bytes of a file of marks


def mark(folder: Path, setting: str, value: str) -> None:
    """Remember that the user chose `value` for a setting of a folder. Without a place for the key, nothing is kept."""
    with contextlib.suppress(OSError, InputError):
        known = {name: text for name, text in _marks(folder).items() if name != setting}
        content = known | {setting: _signature(_key(create=True), setting, value)}
        write_atomically(below(folder, MARKS), json.dumps(content, indent=1))


def is_marked(folder: Path, setting: str, value: str) -> bool:
    """Whether this user chose `value` for a setting of a folder."""
    try:
        given = _marks(folder).get(setting, "")
        return hmac.compare_digest(given, _signature(_key(create=False), setting, value))
    except (OSError, InputError):
        return False


def mark_code(folder: Path, identity: str, references: Iterable[str]) -> None:
    """Remember that the user named this code for what is in a folder, which `identity` tells from others."""
    for reference in sorted(references):
        mark(folder, f"{CODE}{reference}", identity)


def marked_code(folder: Path, identity: str) -> set[str]:
    """The code that this user named for what is in a folder."""
    try:
        settings = [*_marks(folder)]
    except (OSError, InputError):
        return set()
    return {name.removeprefix(CODE) for name in settings if name.startswith(CODE) and is_marked(folder, name, identity)}


def _marks(folder: Path) -> dict[str, str]:
    """The marks in a folder, if their file belongs to this user."""
    path = below(folder, MARKS)
    try:
        with open_regular(path) as file:
            if os.fstat(file.fileno()).st_uid != os.geteuid():
                return {}
        content = read_json(read_regular(path, limit=LIMIT))
    except FileNotFoundError:
        return {}
    if not isinstance(content, dict):
        return {}
    return {name: text for name, text in content.items() if isinstance(text, str) and text.isascii()}


def _signature(key: bytes, setting: str, value: str) -> str:
    return hmac.new(key, json.dumps([setting, value]).encode(), hashlib.sha256).hexdigest()


def key_file() -> Path:
    """Where this user's key is: $XDG_STATE_HOME/bat-sweeps/key, else ~/.local/state/bat-sweeps/key."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "bat-sweeps" / "key"


def _key(*, create: bool) -> bytes:
    """This user's key. Two processes that create it at once end up with the same one.

    Raises:
        OSError: there is none, or it cannot be made.
        InputError: others can read or replace it.
    """
    path = chosen(key_file())
    if create and not os.path.lexists(path):
        make_folder(chosen(path.parent))
        new = below(path.parent, f".{path.name}.{secrets.token_hex(8)}")
        write_atomically(new, secrets.token_bytes(KEY_BYTES))
        try:
            with contextlib.suppress(FileExistsError):
                os.link(new, path)
        finally:
            new.unlink()
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        key = file.read(KEY_BYTES + 1)
    if status.st_uid != os.geteuid() or stat.S_IMODE(status.st_mode) & 0o077 or len(key) != KEY_BYTES:
        raise InputError(f"{str(path)!r} is not a key that only this user can read: remove it")
    return key
