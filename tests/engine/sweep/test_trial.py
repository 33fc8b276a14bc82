"""One trial in this process: what it leaves, and what it makes of what an earlier attempt left."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bat_core.fit
from bat_core.checkpoint import load_model
from bat_core.config import TrialConfig
from bat_core.data import Dataset, Split
from bat_core.fit import fit
from bat_core.suites import evaluation_suite
from bat_core.verdicts import Verdicts
from sweeps.engine.sweep.records import RECORD, VERDICTS, VERIFIED, read_events, read_status
from sweeps.engine.sweep.spec import Trial
from sweeps.engine.sweep.trial import Paused, TrialControl, TrialRuntime, run_trial, trial_epochs
from sweeps.engine.sweep.trial_evaluation import BOUND, CLEAN

CPU = torch.device("cpu")


class Killed(BaseException):
    """Stands in for a signal: no handler of exceptions sees it."""


def verifying(config: TrialConfig, count: int, **attack: Any) -> TrialConfig:
    return replace(config, attack=replace(config.attack, verify=count, **attack))


def run(trial: Trial, digits: Dataset, folder: Path, *, killed_after: int | None = None) -> None:
    seen = []

    def report(metrics: dict[str, float]) -> None:
        seen.append(metrics)
        if len(seen) == killed_after:
            raise Killed

    run_trial(trial, digits, folder, TrialRuntime(device=CPU), report=report)


def test_a_trial_leaves_records_verdicts_and_a_model(make_trial, digits, tmp_path):
    trial = Trial(id="one", config=make_trial(epochs=2, verify=10))
    run(trial, digits, tmp_path)
    events = [event["event"] for event in read_events(tmp_path)]
    assert events[:4] == ["start", "epoch", "epoch", "attack"]
    assert events[-1] == "finished"
    verdicts, verified = Verdicts.read(tmp_path / VERDICTS), Verdicts.read(tmp_path / VERIFIED)
    status = read_status(tmp_path)
    assert status.result["pgd_acc"] == verdicts.robust_acc
    assert status.result["robust_acc"] == verified.robust_acc
    assert list(verified.outcomes) == ["ce", "cw", "apgd-ce", "apgd-t"]
    assert status.result["suite"] == evaluation_suite(trial.config.attack).label_for(status.result["verdict"])
    assert status.result["robust_n"] == len(verified) == 10
    assert len(verdicts) == len(digits.test)
    assert load_model(tmp_path)[1] == trial.config
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"record.jsonl", "verdicts.parquet", "verified.parquet", "gallery.png", "model", ".lock"}


def test_what_a_killed_attempt_left_at_its_end_is_gone_when_the_next_one_is_stopped(make_trial, digits, tmp_path):
    trial = Trial(id="one", config=make_trial(epochs=2, verify=10))
    run(trial, digits, tmp_path)
    lines = (tmp_path / RECORD).read_bytes().splitlines(keepends=True)
    (tmp_path / RECORD).write_bytes(b"".join(lines[:-1]))  # killed between its model and its last line
    with pytest.raises(Killed):
        run(trial, digits, tmp_path, killed_after=1)
    assert not {"model", VERDICTS, VERIFIED} & {path.name for path in tmp_path.iterdir()}


def test_a_finished_trial_is_left_as_it_is(make_trial, digits, tmp_path):
    trial = Trial(id="one", config=make_trial(epochs=1))
    run(trial, digits, tmp_path)
    before = (tmp_path / RECORD).read_bytes()
    run(trial, digits, tmp_path)
    assert (tmp_path / RECORD).read_bytes() == before


def test_a_killed_trial_goes_on_and_ends_as_if_it_had_not_been(make_trial, digits, tmp_path):
    trial = Trial(id="one", config=make_trial(epochs=3, verify=10))
    run(trial, digits, tmp_path / "whole")
    with pytest.raises(Killed):
        run(trial, digits, tmp_path / "killed", killed_after=2)
    run(trial, digits, tmp_path / "killed")
    status = read_status(tmp_path / "killed")
    assert status.attempts == 2
    assert [epoch["epoch"] for epoch in status.epochs] == [1, 2, 3]
    for name in ("model/model.safetensors", VERDICTS, VERIFIED):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


class PauseAfter(TrialControl):
    """Wants a pause once so many batches are done."""

    def __init__(self, batches: int) -> None:
        self.batches = batches

    def heartbeat(self) -> None:
        self.batches -= 1

    def should_pause(self) -> bool:
        return self.batches <= 0


@pytest.mark.parametrize("batches", [2, 4, 7, 10])  # of two epochs of four, then attacks on two batches of images
def test_a_paused_trial_goes_on_from_its_batch_and_ends_as_if_it_had_not_been(batches, make_trial, digits, tmp_path):
    trial = Trial(id="one", config=make_trial(epochs=2))
    run(trial, digits, tmp_path / "whole")
    with pytest.raises(Paused):
        run_trial(trial, digits, tmp_path / "paused", TrialRuntime(device=CPU, control=PauseAfter(batches)))
    status = read_status(tmp_path / "paused")
    if batches < 9:
        assert (status.phase, len(status.epochs)) == ("paused", (batches - 1) // 4)
        assert status.reason == f"after {(batches - 1) % 4 + 1} batches of epoch {(batches - 1) // 4 + 1}"
    run(trial, digits, tmp_path / "paused")
    *_, start = (event for event in read_events(tmp_path / "paused") if event["event"] == "start")
    assert (start["from_epoch"], start["from_batch"]) == (
        ((batches - 1) // 4, (batches - 1) % 4 + 1) if batches < 9 else (2, 0)
    )
    assert [event["epoch"] for event in read_status(tmp_path / "paused").epochs] == [1, 2]
    for name in ("model/model.safetensors", VERDICTS):
        assert (tmp_path / "paused" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_an_epoch_whose_checkpoint_outlived_its_line_is_recorded_not_run_again(make_trial, digits, tmp_path):
    trial = Trial(id="one", config=make_trial(epochs=2))
    with pytest.raises(Killed):
        run(trial, digits, tmp_path, killed_after=1)
    record = tmp_path / RECORD
    lines = record.read_text().splitlines(keepends=True)
    assert '"event": "epoch"' in lines[-1]
    record.write_text("".join(lines[:-1]))
    run(trial, digits, tmp_path)
    starts = [event["from_epoch"] for event in read_events(tmp_path) if event["event"] == "start"]
    assert starts == [0, 1]
    assert [epoch["epoch"] for epoch in read_status(tmp_path).epochs] == [1, 2]


def test_a_damaged_checkpoint_is_named_in_the_record_and_the_one_before_used(make_trial, digits, tmp_path):
    trial = Trial(id="one", config=make_trial(epochs=3))
    run(trial, digits, tmp_path / "whole")
    with pytest.raises(Killed):
        run(trial, digits, tmp_path / "killed", killed_after=2)
    (tmp_path / "killed" / "checkpoints" / "epoch_0002" / "optimizer.safetensors").write_bytes(b"")
    run(trial, digits, tmp_path / "killed")
    status = read_status(tmp_path / "killed")
    assert list(status.passed_over) == ["epoch_0002"]
    assert "optimizer.safetensors is damaged" in status.passed_over["epoch_0002"]
    assert [epoch["epoch"] for epoch in status.epochs] == [1, 2, 3]
    starts = [event for event in read_events(tmp_path / "killed") if event["event"] == "start"]
    assert [event["from_epoch"] for event in starts] == [0, 1]
    weights = "model/model.safetensors"
    assert (tmp_path / "killed" / weights).read_bytes() == (tmp_path / "whole" / weights).read_bytes()


def test_a_failure_is_recorded_with_its_reason_and_the_next_attempt_starts_clean(make_trial, digits, tmp_path):
    config = make_trial(epochs=1)
    hopeless = replace(config, train=replace(config.train, lr=1e30))
    with pytest.raises(FloatingPointError):
        run(Trial(id="one", config=hopeless), digits, tmp_path)
    status = read_status(tmp_path)
    assert status.phase == "failed"
    assert status.reason.startswith("FloatingPointError: the training loss is")
    run(Trial(id="one", config=config), digits, tmp_path)
    assert read_status(tmp_path).phase == "finished"


def test_a_trial_that_is_not_verified_says_so_and_shows_what_its_own_curves_left(make_trial, digits, tmp_path):
    run(Trial(id="one", config=make_trial(epochs=1)), digits, tmp_path)
    result, verdicts = read_status(tmp_path).result, Verdicts.read(tmp_path / VERDICTS)
    assert result["suite"] == "PGD-3, not verified"
    assert result["robust_acc"] == result["pgd_acc"] == verdicts.robust_acc
    assert result["robust_n"] == result["n"] == len(digits.test)
    assert not (tmp_path / VERIFIED).exists()


def test_the_first_images_are_verified_and_the_headline_is_theirs(make_trial, digits, tmp_path):
    count = 20  # within a batch of 32
    config = verifying(make_trial(batch_size=16), count, steps=(1, 2), step_size=1 / 255)
    run(Trial(id="one", config=config), digits, tmp_path)
    result = read_status(tmp_path).result
    verdicts, verified = Verdicts.read(tmp_path / VERDICTS), Verdicts.read(tmp_path / VERIFIED)
    assert sorted(verified.rows) == sorted(digits.test.rows[:count].tolist())
    assert result["suite"].startswith("PGD-2+quick")
    assert (result["n"], result["robust_n"]) == (len(digits.test), count)
    assert result["robust_acc"] == verified.robust_acc
    assert result["pgd_acc"] == verdicts.robust_acc
    same = verdicts.take(np.flatnonzero(np.isin(verdicts.rows, verified.rows)))
    for loss in ("ce", "cw"):  # the same trajectories, not attacked anew
        np.testing.assert_array_equal(same.outcomes[loss].broken_at, verified.outcomes[loss].broken_at)
    assert verified.robust_acc < same.robust_acc  # the verifying suite found more


def test_a_trial_of_a_search_says_what_bounds_it_before_it_is_verified(make_trial, digits, tmp_path):
    config = verifying(make_trial(batch_size=16), 20, steps=(1, 2), step_size=1 / 255)
    trial, runtime = Trial(id="one", config=config, role="search"), TrialRuntime(device=CPU)
    epochs = trial_epochs(trial, digits, tmp_path / "left", runtime)
    *_, said = (next(epochs) for _ in range(config.train.epochs + 1))
    epochs.close()
    status = read_status(tmp_path / "left")
    assert (status.phase, status.attack["done"], status.attack["of"]) == (
        "attacking", len(digits.test), len(digits.test) + 20,
    )  # fmt: skip
    for _ in trial_epochs(trial, digits, tmp_path / "left", runtime):
        pass
    run(Trial(id="one", config=config), digits, tmp_path / "whole")
    result, whole = (read_status(tmp_path / name).result for name in ("left", "whole"))
    verdicts, verified = Verdicts.read(tmp_path / "left" / VERDICTS), Verdicts.read(tmp_path / "left" / VERIFIED)
    same = verdicts.take(np.flatnonzero(np.isin(verdicts.rows, verified.rows)))
    assert said == {CLEAN: result["clean_acc"], BOUND: same.robust_acc}
    assert result["robust_acc"] < said[BOUND]
    assert result["robust_acc"] == whole["robust_acc"]
    for name in (VERDICTS, VERIFIED):
        assert (tmp_path / "left" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_trial_records_what_the_checks_found(make_trial, digits, tmp_path):
    run(Trial(id="one", config=make_trial(epochs=1)), digits, tmp_path)
    result = read_status(tmp_path).result
    assert result["verdict"] == result["findings"]["verdict"]
    assert result["flags"] == [flag["name"] for flag in result["findings"]["flags"]]
    assert result["findings"]["depth"] == "cheap"
    assert result["findings"]["evidence"]["n"] == len(digits.val)  # test is not looked at to judge the test


COLLAPSING = [(0.8, 0.5, 0.5), (0.8, 0.6, 0.5), (0.9, 0.0, 0.9), (0.9, 0.0, 0.9), (0.9, 0.0, 0.9)]
SOUND, LOST = 2, 3  # the last epoch before the collapse, and the one that is lost to it


@pytest.fixture
def collapsing(make_trial, monkeypatch):
    """A trial of five epochs in whose third, validation says, the model collapses."""
    monkeypatch.setattr(bat_core.fit._Trainer, "_validate", lambda self, epoch: COLLAPSING[epoch - 1])

    def make(on_collapse="stop", recipe="FGSM", **settings):
        config = make_trial(recipe, epochs=len(COLLAPSING), on_collapse=on_collapse, **settings)
        return Trial(id="one", config=verifying(config, 0))

    return make


def weights_after(trial, digits, epochs):
    reports = fit(trial.config, digits)
    for _ in range(epochs):
        state = next(reports).state
    return state.model.state_dict()


def assert_holds(folder, weights):
    model, _ = load_model(folder)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, weights[name].contiguous()), name


def test_a_collapsed_trial_stops_and_keeps_the_model_of_the_epoch_before(collapsing, digits, tmp_path):
    trial = collapsing()
    run(trial, digits, tmp_path)
    status = read_status(tmp_path)
    assert [epoch["epoch"] for epoch in status.epochs] == [1, 2, LOST]
    assert [epoch.get("collapsed", False) for epoch in status.epochs] == [False, False, True]
    assert (status.phase, status.collapsed, status.result["epoch"]) == ("finished", LOST, SOUND)
    assert_holds(tmp_path, weights_after(trial, digits, SOUND))


@pytest.mark.parametrize("killed_after", [SOUND, LOST])
def test_a_collapsed_trial_that_was_killed_does_not_train_on(collapsing, digits, tmp_path, killed_after):
    trial = collapsing()
    run(trial, digits, tmp_path / "whole")
    with pytest.raises(Killed):
        run(trial, digits, tmp_path / "killed", killed_after=killed_after)
    run(trial, digits, tmp_path / "killed")
    status = read_status(tmp_path / "killed")
    assert (status.attempts, status.collapsed, status.result["epoch"]) == (2, LOST, SOUND)
    assert [epoch["epoch"] for epoch in status.epochs] == [1, 2, LOST]
    for name in ("model/model.safetensors", VERDICTS):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_collapsed_trial_may_be_told_to_go_on(collapsing, digits, tmp_path):
    trial = collapsing("go_on")
    run(trial, digits, tmp_path)
    status = read_status(tmp_path)
    assert [epoch["epoch"] for epoch in status.epochs] == [1, 2, 3, 4, 5]
    assert (status.collapsed, status.result["epoch"]) == (LOST, 5)
    assert_holds(tmp_path, weights_after(trial, digits, 5))


def test_a_model_that_is_not_defended_does_not_collapse(collapsing, digits, tmp_path):
    run(collapsing(recipe="Undefended", params={}), digits, tmp_path)
    status = read_status(tmp_path)
    assert (len(status.epochs), status.collapsed, status.result["epoch"]) == (5, None, 5)


@pytest.mark.parametrize(
    ("num_classes", "attacks"), [(2, ["apgd-ce", "apgd-cw"]), (3, ["apgd-ce", "apgd-dlr", "apgd-t-cw"])]
)
def test_a_trial_on_few_classes_is_verified_and_says_by_what(make_trial, digits, tmp_path, num_classes, attacks):
    def fewer(part: Split) -> Split:
        return Split(part.images, part.labels % num_classes, part.rows)

    names = digits.class_names[:num_classes]
    images = replace(
        digits, train=fewer(digits.train), val=fewer(digits.val), test=fewer(digits.test), class_names=names
    )
    run(Trial(id="one", config=make_trial(epochs=1, verify=10)), images, tmp_path)
    verified, result = Verdicts.read(tmp_path / VERIFIED), read_status(tmp_path).result
    assert list(verified.outcomes) == ["ce", "cw", *attacks]
    assert result["suite"].startswith(f"PGD-3+quick for {num_classes} classes")
    assert result["robust_acc"] == verified.robust_acc


def test_a_trial_whose_weights_the_last_update_destroyed_has_failed(make_trial, digits, tmp_path):
    trial = Trial(id="one", config=make_trial("Undefended", params={}, epochs=1, batch_size=128, lr=1e37,
                                              schedule="multi_step"))  # fmt: skip
    with pytest.raises(FloatingPointError, match="training has diverged"):
        run(trial, digits, tmp_path)
    status = read_status(tmp_path)
    assert (status.phase, status.epochs) == ("failed", ())
    assert "training has diverged: lower lr or eps" in status.reason
