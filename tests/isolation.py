"""What tests take from the machine they run on: nothing that its users or administrators have set.

`isolate` is applied to pytest's own process, and every process that a test starts has it from there; `shell` says
the same to a login shell, which inherits nothing.
"""

import os
import time
from collections.abc import MutableMapping
from pathlib import Path

KEPT = {  # what the tests themselves are told by
    "BAT_SWEEPS_DATA",
    "BAT_SWEEPS_PAPER",
    "BAT_SWEEPS_CASES",
    "BAT_SWEEPS_MODELS",
    "BAT_SWEEPS_ALL_MODELS",
    "BAT_SWEEPS_KILLS",
    "BAT_SWEEPS_FOLDERS",
}
UNSET = ("PIP_", "UV_", "GIT_", "SSH_", "RAY_", "MLFLOW_", "OPTUNA_", "BAT_SWEEPS_", "AWS_", "LC_", "MPL")
SET = {
    "PIP_CONFIG_FILE": os.devnull,  # no configuration file at all is read then
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    "UV_NO_CONFIG": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_SYSTEM": os.devnull,
    "GIT_CONFIG_COUNT": "1",  # a checkout may be another user's, as in a container
    "GIT_CONFIG_KEY_0": "safe.directory",
    "GIT_CONFIG_VALUE_0": "*",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "AWS_CONFIG_FILE": os.devnull,
    "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    "AWS_EC2_METADATA_DISABLED": "true",
    "MPLBACKEND": "Agg",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",  # `uv run pytest` is no reason for Ray to start its workers by uv
}
ALSO_UNSET = (
    *("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CLICOLOR_FORCE", "TTY_COMPATIBLE"),
    *("PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONPYCACHEPREFIX"),
)


def isolate(environment: MutableMapping[str, str], home: Path) -> None:
    """Take the machine's and its user's settings out of an environment; `home` is what is left of a home."""
    for name in [*environment]:
        if name not in KEPT and (name.startswith(UNSET) or name in ALSO_UNSET):
            del environment[name]
    environment.update(SET, HOME=str(home), XDG_CONFIG_HOME=str(home / ".config"), XDG_CACHE_HOME=str(home / ".cache"))
    environment["XDG_STATE_HOME"] = str(home / ".local" / "state")
    environment.setdefault("OMP_NUM_THREADS", "1")  # of networks as small as these, more threads are slower
    time.tzset()


def shell(**more: str) -> str:
    """The same for a bash of another machine, whose home is its own; `more` are further variables."""
    prefixes = " ".join(f"${{!{prefix}@}}" for prefix in UNSET)
    values = " ".join(f"{name}='{value}'" for name, value in (SET | more).items())
    return f"unset {prefixes} {' '.join(ALSO_UNSET)}\nexport {values}\n"
