"""Runnable sweeps, one file per sweep. Their machinery is in `sweeps.engine`.

Python puts the folder of the script that it runs first on the import path. There, `evaluate`, `search` and other names
of users' modules and of libraries would mean the scripts of this folder, so it is taken off.
"""

import os
import sys

_here = os.path.realpath(os.path.dirname(__file__))  # noqa: PTH120 (runs before everything else, in every process)
sys.path[:] = [entry for entry in sys.path if not entry or os.path.realpath(entry) != _here]
