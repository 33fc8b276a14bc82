"""A study that is opened again after a kill, wherever the kill came: the records are the truth."""

import dataclasses
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bat_core.errors import InputError
from search_spaces.narrowing import narrow
from sweeps.engine.search.study import STUDY, TRIAL
from tests.engine.search.trials import LINE, SPACE, Lab, search_of

ENDS = ["finished", "masked", "stopped", "failed"]
STATES = {"finished": "COMPLETE", "masked": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL"}


def end(lab, trial, how):
    if how in {"finished", "masked"}:
        lab.finish(trial, 0.9, 0.5, verdict="masked" if how == "masked" else "clear")
    else:
        lab.end(trial, how)


def run(lab, study, *ends):
    """Proposes a trial for each end, ends it so, and tells the study; "running" is begun and goes on."""
    trials = []
    for how in ends:
        trials.append(study.propose())
        if how == "running":
            lab.begin(trials[-1])
        else:
            end(lab, trials[-1], how)
            study.settle(trials[-1])
    return trials


def known(study):
    """All that the study knows of its trials."""
    return [
        (trial.number, trial.state.name, trial.values, trial.params, trial.constraints, trial.user_attrs)
        for trial in study.study.trials
    ]


def states(study):
    """The state of each trial that has a folder, by its id; a trial that is there twice is an error."""
    found = {}
    mine = {trial.id for trial in study.trials()}
    for trial in study.study.trials:
        name = trial.user_attrs.get(TRIAL)
        if name in mine and not (trial.state.name == "FAIL" and "failed" not in trial.user_attrs):
            assert name not in found, f"{name} is there twice"
            found[name] = trial.state.name
    return found


def test_nothing_is_told_twice(tmp_path):
    lab = Lab(tmp_path)
    study = lab.open()
    run(lab, study, *ENDS, "running")
    before = known(study)
    for _ in range(3):
        again = lab.open()
        assert known(again) == before
        assert again.trials() == study.trials()


def test_what_is_unfinished_is_listed_and_can_be_gone_on_with(tmp_path):
    lab = Lab(tmp_path)
    trials = run(lab, lab.open(), "finished", "running", "stopped", "running")
    study = lab.open()
    waiting = study.propose()
    again = lab.open()
    assert [trial.id for trial in again.unfinished()] == [trials[1].id, trials[3].id, waiting.id]
    end(lab, trials[1], "finished")
    again.settle(trials[1])
    assert [trial.id for trial in again.unfinished()] == [trials[3].id, waiting.id]
    assert again.study.trials[1].values == [0.9, 0.5]
    assert again.study.trials[1].user_attrs[TRIAL] == trials[1].id


@pytest.mark.parametrize("how", ENDS)
def test_an_end_that_was_not_told_is_told(tmp_path, how):
    lab = Lab(tmp_path)
    told, untold = run(lab, lab.open(), how, "running")
    end(lab, untold, how)
    again = lab.open()
    assert states(again) == {told.id: STATES[how], untold.id: STATES[how]}
    first, second = again.study.trials
    assert (first.values, first.constraints) == (second.values, second.constraints)
    assert again.unfinished() == []


def test_a_proposal_that_never_became_a_trial_is_forgotten(tmp_path):
    lab = Lab(tmp_path)
    study = lab.open()
    run(lab, study, "finished", "finished")
    study.study.ask()  # killed before it had a name
    nameless = lab.open()
    assert [trial.state.name for trial in nameless.study.trials] == ["COMPLETE", "COMPLETE", "FAIL"]
    nameless.study.ask().set_user_attr(TRIAL, "trial-002")  # killed before it had a folder
    again = lab.open()
    assert [trial.state.name for trial in again.study.trials] == ["COMPLETE", "COMPLETE", "FAIL", "FAIL"]
    assert len(again.trials()) == 2
    assert again.unfinished() == []
    assert again.propose().id == "trial-002"
    assert states(lab.open()) == {"trial-000": "COMPLETE", "trial-001": "COMPLETE", "trial-002": "RUNNING"}


def test_all_proposals_that_never_became_trials_are_forgotten(tmp_path):
    lab = Lab(tmp_path)
    study = lab.open()
    for _ in range(3):
        study.study.ask()
    assert [trial.state.name for trial in lab.open().study.trials[:3]] == ["FAIL"] * 3
    assert lab.open().trials() == []


def test_the_papers_point_comes_first_even_if_the_first_proposal_was_lost(tmp_path):
    lab = Lab(tmp_path)
    lab.open().study.ask()
    again = lab.open()
    assert again.propose().point == lab.search.space.default_point()
    assert again.propose().point != lab.search.space.default_point()


def test_the_papers_point_comes_first_even_if_the_kill_came_before_it_was_asked_for(tmp_path):
    Lab(tmp_path / "whole").open()
    lines = (tmp_path / "whole" / STUDY).read_bytes().splitlines(keepends=True)
    assert len(lines) > 2
    for kept in range(len(lines)):
        shutil.copytree(tmp_path / "whole", tmp_path / str(kept))
        (tmp_path / str(kept) / STUDY).write_bytes(b"".join(lines[:kept]))
        study = Lab(tmp_path / str(kept)).open()
        assert study.propose().point == SPACE.default_point(), f"{kept} lines"
        assert study.propose().point != SPACE.default_point(), f"{kept} lines"


def test_a_study_that_is_lost_is_made_again_from_the_records(tmp_path):
    lab = Lab(tmp_path)
    study = lab.open()
    trials = run(lab, study, *ENDS, "running")
    before = states(study)
    for file in tmp_path.glob("*study*"):
        file.unlink()
    again = lab.open()
    assert states(again) == before
    assert again.trials() == trials
    assert [trial.id for trial in again.unfinished()] == [trials[-1].id]
    by_name = {trial.user_attrs.get(TRIAL): trial for trial in again.study.trials}
    for old in study.study.trials:
        new = by_name[old.user_attrs[TRIAL]]
        assert (new.params, new.values, new.constraints) == (old.params, old.values, old.constraints)
        assert new.distributions == old.distributions
    end(lab, trials[-1], "finished")
    again.settle(trials[-1])
    assert states(lab.open())[trials[-1].id] == "COMPLETE"


def test_after_a_loss_no_point_is_proposed_again(tmp_path):
    lab = Lab(tmp_path)
    trials = run(lab, lab.open(), *["finished"] * 3)
    (tmp_path / STUDY).unlink()
    points = [trial.point for trial in [*trials, *run(lab, lab.open(), *["finished"] * 3)]]
    assert all(one not in points[:at] for at, one in enumerate(points))


def test_after_a_loss_no_point_is_proposed_again_though_a_proposal_was_lost_before(tmp_path):
    lab = Lab(tmp_path, search_of(LINE))
    study = lab.open()
    trials = run(lab, study, "finished")
    study.study.ask()
    trials += run(lab, lab.open(), "finished")
    (tmp_path / STUDY).unlink()
    assert lab.open().propose().point not in [trial.point for trial in trials]


def test_a_point_that_was_drawn_and_lost_does_not_come_again(tmp_path):
    lab = Lab(tmp_path, search_of(LINE))
    run(lab, lab.open(), "finished", "finished")
    study = lab.open()
    (tmp_path / "trials" / "trial-002").touch()  # where its folder should be
    with pytest.raises(InputError, match="is not a folder"):
        study.propose()
    (tmp_path / "trials" / "trial-002").unlink()
    again = lab.open()
    lost = again.study.trials[2]
    assert lost.state.name == "FAIL"
    assert again.propose().point["lr"] != lost.params["lr"]


def test_a_torn_last_line_is_passed_over(tmp_path):
    lab = Lab(tmp_path)
    study = lab.open()
    run(lab, study, "finished", "running")
    before = known(study)
    for torn in (b'{"op_code":', b"\x00\x00", b'{"op_code":4,"worker_id":"x"}'):
        with (tmp_path / STUDY).open("ab") as file:
            file.write(torn)
        assert known(lab.open()) == before
    study = lab.open()
    run(lab, study, "finished")
    assert list(states(lab.open()).values()) == ["COMPLETE", "RUNNING", "COMPLETE"]


def test_wherever_the_journal_ends_the_study_follows_the_records(tmp_path):
    """Cut after every line, and within it: whatever was said of a trial last is said again, once."""
    lab = Lab(tmp_path / "whole", search_of(LINE))
    study = lab.open()
    trials = run(lab, study, *ENDS, "running")
    expected = states(study)
    content = (tmp_path / "whole" / STUDY).read_bytes()
    ends = [at + 1 for at, byte in enumerate(content) if byte == ord("\n")]
    for number, cut in enumerate([*ends, *(at - 9 for at in ends[::4])]):
        shutil.copytree(tmp_path / "whole", tmp_path / str(number))
        (tmp_path / str(number) / STUDY).write_bytes(content[:cut])
        copy = Lab(tmp_path / str(number), lab.search)
        again = copy.open()
        assert states(again) == expected, f"cut at {cut}"
        assert [trial.id for trial in again.unfinished()] == [trials[-1].id]
        running = [trial.user_attrs[TRIAL] for trial in again.study.trials if trial.state.name == "RUNNING"]
        assert running == [trials[-1].id], f"cut at {cut}"
        if again.study.trials[0].state.name != "WAITING":  # that the paper's point was asked for is known
            assert again.propose().point not in [trial.point for trial in trials], f"cut at {cut}"
        end(copy, trials[-1], "finished")
        again.settle(trials[-1])


@pytest.mark.parametrize("pattern", [(1,) * 7, (2, 3, 2), (0, 1, 0, 0, 4), (7,)])
@pytest.mark.parametrize("space", [LINE, SPACE], ids=["line", "bat+schedule"])
def test_no_point_comes_twice_across_restarts(tmp_path, space, pattern):
    lab = Lab(tmp_path, search_of(space, seed=3))
    for count in pattern:
        study, before = lab.open(), [trial.point for trial in lab.open().trials()]
        new = [trial.point for trial in run(lab, study, *["finished"] * count)]
        assert all(one not in [*before, *new[:at]] for at, one in enumerate(new))
    assert len(lab.open().trials()) == sum(pattern)


@pytest.mark.parametrize(
    "space",
    [LINE, narrow(SPACE, fixed=["beta=9"]), narrow(SPACE, ranges=["eps=10/255:80/255"])],
    ids=["another", "fixed", "range"],
)
def test_a_file_of_another_space_is_refused(tmp_path, space):
    lab = Lab(tmp_path)
    run(lab, lab.open(), "finished")
    content = (tmp_path / STUDY).read_bytes()
    with pytest.raises(InputError) as caught:
        lab.open(space=space)
    said = str(caught.value)
    assert said.startswith(repr(str(tmp_path / STUDY)))
    assert "was written by a search of another space: choose another --output" in said
    assert lab.open(space=dataclasses.replace(SPACE, description="the same")).trials() == lab.open().trials()
    assert (tmp_path / STUDY).read_bytes()[: len(content)] == content


KILLED = """
import os, sys
from pathlib import Path
from tests.engine.search.trials import Lab
lab = Lab(Path(sys.argv[1]))
study = lab.open()
study.propose()
lock = study.study._storage._backend._lock
assert lock.acquire()
os.kill(os.getpid(), 9)
"""


def test_a_process_that_was_killed_with_the_files_lock_holds_up_nobody(tmp_path):
    root = Path(__file__).resolve().parents[3]
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], cwd=root, check=False)
    assert done.returncode == -9
    assert not list(tmp_path.glob(f"{STUDY}.*"))  # Optuna's own lock would lie there, and be waited for
    study = Lab(tmp_path).open()
    assert [trial.id for trial in study.unfinished()] == ["trial-000"]
    assert study.propose().id == "trial-001"
