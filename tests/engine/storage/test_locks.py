"""A lock ends with the process that took it, and not with the processes that this one forked."""

import subprocess
import sys

LEFT_BY_A_CHILD = """
import os
import sys
from pathlib import Path
from sweeps.engine.storage.locks import exclusive

lock = Path(sys.argv[1])
(runs, running), (ended, end) = os.pipe(), os.pipe()
with exclusive(lock):
    if os.fork() == 0:
        os.close(end)
        os.write(running, b".")
        os.read(ended, 1)  # until the parent has ended
        os._exit(0)
    os.read(runs, 1)
with exclusive(lock, wait=False):
    print("free")
"""


def test_a_forked_process_does_not_keep_its_parents_lock(tmp_path):
    command = [sys.executable, "-c", LEFT_BY_A_CHILD, str(tmp_path / "lock")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("free\n", "")
