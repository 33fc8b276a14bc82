"""What every command shares: options, messages, tables and the live view. Imports only `storage` and `sweep`.

Importing it where only the numeric core is installed says which packages are missing, and ends the command.
"""

import sys
from importlib.util import find_spec

PLATFORM = (
    "cyclopts", "rich", "tenacity", "ray", "mlflow", "optuna", "plotly", "sklearn", "scipy", "matplotlib", "jinja2",
    "yaml",
)  # fmt: skip

if missing := [package for package in PLATFORM if sys.modules.get(package) is None and find_spec(package) is None]:
    print(
        f"error: the commands need the extra 'platform', of which {', '.join(missing)} cannot be found:"
        " pip install 'bat-sweeps[platform]'",
        file=sys.stderr,
    )
    sys.exit(2)
