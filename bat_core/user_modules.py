"""The modules of users that are in use in this process: which files they are, and what they contain."""

import hashlib
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

from bat_core.adapter.importing import imported

OURS = {"bat_core", "search_spaces", "sweeps"}
INSTALLED = {"site-packages", "dist-packages"}


def user_files() -> dict[str, Path]:
    """The file or folder of each top-level module of the user that this process has imported, by the module's name.

    These are the modules that `package.module:factory` named, and those beside them. Installed packages and Python's
    own are not among them.
    """
    named = {name: path for name in sorted(imported) if (path := _place(name))}
    roots = {path.parent for path in named.values()}
    beside = {name: path for name in _top_level() if (path := _place(name)) and path.parent in roots}
    return dict(sorted((named | beside).items()))


def import_roots() -> list[Path]:
    """The folders from which the user's modules were imported."""
    return list(dict.fromkeys(path.parent for path in user_files().values()))


def source_digests() -> dict[str, str]:
    """The SHA-256, in 16 hexadecimal digits, of the Python source of each of `user_files()`."""
    return {name: _digest(path) for name, path in user_files().items()}


def changed_modules(then: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The modules that are in both of two `source_digests()`, and differ."""
    return sorted(name for name in then.keys() & now.keys() if then[name] != now[name])


def _top_level() -> set[str]:
    return {name.partition(".")[0] for name in [*sys.modules]} - {"__main__"}  # a copy: other threads import too


def _place(name: str) -> Path | None:
    """The file or folder of a top-level module; None if it is installed, built in, or ours."""
    module = sys.modules.get(name)
    if module is None or name in OURS or name in sys.stdlib_module_names:
        return None
    path = _path(module)
    if path is None or not path.exists() or INSTALLED & set(path.parts):
        return None
    return None if path.is_relative_to(sysconfig.get_path("stdlib")) else path


def _path(module: ModuleType) -> Path | None:
    folders = list(getattr(module, "__path__", []))
    found = folders[0] if folders else getattr(module, "__file__", None)
    return Path(found).resolve() if isinstance(found, str) and found else None


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
        digest.update(file.relative_to(path.parent).as_posix().encode() + b"\0")
        digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]
