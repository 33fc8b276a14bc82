"""kill -9 in the middle of an evaluation, then --resume, with a second process at the door and MLflow away."""

import json
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from sweeps.engine.evaluation.attack import EvaluationFolder
from sweeps.engine.evaluation.progress import finished_attacks
from tests.engine.evaluation.evaluations import written
from tests.integration.nets import NETS, SETTINGS
from tests.integration.running import Place, attempt, kill_tree_when


class Away(Place):
    """Where the tracking server is not to be reached."""

    @property
    def uri(self) -> str:
        return "http://127.0.0.1:9"


class Killed(NamedTuple):
    folder: Path
    whole: Path
    done: dict
    second: list[tuple[int, str]]
    code: int
    printed: str


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Killed:
    """An evaluation that was killed in the middle, while a second one tried to join it, and then resumed."""
    place = Away(tmp_path_factory.mktemp("killed"))
    (place.path / "nets.py").write_text(NETS)
    arguments = ("nets:ridge", *SETTINGS, "--eps", "10/255", "--n", "40", "--batch-size", "4", "--checks", "none")
    folder = place.path / "killed"
    process = place.start("evaluate.py", *arguments, "--output", "killed")

    def under_way() -> bool:
        return len(list(folder.glob("nets.ridge/shards/*/0*.parquet"))) > 3

    while not under_way():
        assert process.poll() is None, process.communicate()[0]
    psutil.Process(process.pid).suspend()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place.path)
        patch.setenv("MLFLOW_TRACKING_URI", place.uri)
        second = [
            attempt(patch, "evaluate.py", "--resume", "killed"),
            attempt(patch, "evaluate.py", *arguments, "--output", "killed"),
        ]
        assert attempt(patch, "evaluate.py", *arguments, "--output", "whole") == (0, "")
    kill_tree_when(process, lambda: True)
    done = written(folder)
    attacks = list(finished_attacks(EvaluationFolder(folder).load(), EvaluationFolder(folder)))
    assert 3 < len(attacks) < 30
    code, printed = place.run("evaluate.py", "--resume", "killed")
    return Killed(folder, place.path / "whole", done, second, code, printed)


def test_a_killed_evaluation_goes_on_to_the_same_end(killed: Killed) -> None:
    assert killed.code == 0, killed.printed
    for file in ("nets.ridge/verdicts.parquet", "table.csv", "table.md"):
        assert (killed.folder / file).read_bytes() == (killed.whole / file).read_bytes()
    mine, theirs = [json.loads((one / "nets.ridge/summary.json").read_text()) for one in (killed.folder, killed.whole)]
    assert mine["per_attack"] == theirs["per_attack"]
    assert mine["attacks"] == theirs["attacks"]
    assert 0 < mine["robust_acc"] < mine["clean_acc"]


def test_what_was_on_disk_before_the_kill_is_not_written_again(killed: Killed) -> None:
    whole = {path: stat for path, stat in killed.done.items() if not path.name.startswith(".")}
    assert len(whole) > 3
    now = written(killed.folder)
    assert {path: now[path] for path in whole} == whole


def test_nobody_else_works_in_the_folder_meanwhile(killed: Killed) -> None:
    (joining, joining_says), (beginning, beginning_says) = killed.second
    assert (joining, beginning) == (2, 2)
    assert "is already running" in joining_says
    assert "already contains an evaluation" in beginning_says


def test_a_server_that_is_away_costs_no_result(killed: Killed) -> None:
    lines = killed.printed.splitlines()
    (told,) = [line for line in lines if "MLflow" in line]
    assert told.startswith("MLflow did not take everything (")
    assert told.endswith(" --resume killed")
    assert (killed.folder / "table.md").exists()
    assert "Traceback" not in killed.printed


def test_going_on_warns_of_nothing(killed: Killed) -> None:
    assert "Warning" not in killed.printed
