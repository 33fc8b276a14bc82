"""Cases that people reported elsewhere, as scripts in the folder that BAT_SWEEPS_CASES names.

Each makes what it needs, runs the project's own commands and ends with 0 where the behaviour is right. Their commands
run in forks of one warm process.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.warm import client

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("BAT_SWEEPS_CASES", "no-cases"))
KINDS = "dmp"  # data, models, Python; those of the environment and of sweeps start Ray or need processes of their own
OTHERWISE = {  # decided otherwise here
    "m01_tuple_output": "wants a refusal of (logits, ...); models that return a tuple are attacked, and it is said",
    "d15_two_classes_sweep": "starts Ray: tests/integration/test_few_classes_sweep.py",
}
SCRIPTS = [one for one in sorted(FOLDER.glob(f"[{KINDS}][0-9]*.py")) if one.stem not in OTHERWISE]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return client(tmp_path_factory.mktemp("warm"))


@pytest.mark.skipif(not SCRIPTS, reason="BAT_SWEEPS_CASES names no folder with cases")
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_a_reported_case(script: Path, python: Path, tmp_path: Path) -> None:
    environment = os.environ | {"PY": str(python), "REPO": str(ROOT), "CASES_TMP": str(tmp_path), "KEEP": "1"}
    ended = subprocess.run(
        [sys.executable, script], env=environment, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
