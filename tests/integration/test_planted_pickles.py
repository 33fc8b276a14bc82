"""A sweep in whose folders pickles lie by the names of Ray's files: it is resumed, and none of them is loaded."""

import pickle
import shutil
from pathlib import Path

import pytest

from sweeps.engine.sweep.records import RECORD
from tests.integration.running import Output, Place

pytestmark = [pytest.mark.ray, pytest.mark.slow]
RAYS = ("tuner.pkl", "trainable.pkl", "searcher-state.pkl", "search_gen_state.pkl", "experiment_state-2026-01-01.json")


class Marks:
    """A pickle of it makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return Path.touch, (self.path,)


def test_what_lies_in_rays_folder_is_not_loaded(finished: tuple[Output, str], place: Place, tmp_path: Path) -> None:
    undisturbed, _ = finished
    shutil.copytree(undisturbed.folder.path, place.path / "planted")
    output = place.sweep("planted")
    evil = pickle.dumps(Marks(tmp_path / "it-ran"))
    for place_of_rays in (output.folder.ray(output.spec), output.folder.path / "ray"):
        (place_of_rays / "tune").mkdir(parents=True)
        for name in RAYS:
            (place_of_rays / "tune" / name).write_bytes(evil)
    record = output.folder.path / "trials" / "eps4-seed0" / RECORD
    whole = record.read_text().splitlines(keepends=True)
    record.write_text("".join(whole[:2]) + "\0" * 80 + "\n")  # and its record is damaged: it has to run again
    shutil.rmtree(output.folder.path / "trials" / "eps4-seed0" / "model")

    code, printed = place.run("eps_budget.py", "--resume", "planted")
    assert code == 0, printed
    assert "1 of 6 trials to run" in printed
    assert "skipped damaged record lines: 1 in trial eps4-seed0" in printed
    assert not (tmp_path / "it-ran").exists()
    assert {status.phase for status in output.statuses().values()} == {"finished"}
    assert [epoch["epoch"] for epoch in output.statuses()["eps4-seed0"].epochs] == [1, 2, 3]
    assert output.weights() == undisturbed.weights()
    assert output.file("figure_1.csv") == undisturbed.file("figure_1.csv")
    pickle.loads(evil)
    assert (tmp_path / "it-ran").exists()  # where it is let, it does run
