"""What no committed file may hold."""

import re
import subprocess

import pytest

from tests.contract.imports import ROOT


def committed():
    """Files that git tracks, and those that it would."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=False
    )
    if listed.returncode:
        pytest.skip("this is no git checkout")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name and (ROOT / name).is_file()]


HOMES = "|".join(["work", "home", "root", "Users"])
CLOUD_LOGIN = "home/ubuntu/"  # what the cluster file's example has on any machine
MACHINE_PATH = re.compile(rf"(?<![\w.$}}~/<-])/(?!{CLOUD_LOGIN})(?:{HOMES})/\w[^\s'\"`]*|\b[A-Z]:\\\\?Users\b")


def test_no_committed_text_holds_a_path_of_a_machine():
    found = []
    for path in committed():
        content = path.read_bytes()
        if b"\0" in content:
            continue
        text = content.decode("utf-8", errors="replace")
        found += [f"{path.relative_to(ROOT)}: {match[0]}" for match in MACHINE_PATH.finditer(text)]
    assert found == []
