"""One trial in this process: what it leaves, and what it makes of what an earlier attempt left."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bat_core.checkpoint import load_model
from bat_core.data import Dataset
from bat_core.verdicts import Verdicts
from sweeps.engine.records import RECORD, VERDICTS, VERIFIED, read_events, read_status
from sweeps.engine.sweep import Trial
from sweeps.engine.trial import run_trial

CPU = torch.device("cpu")


class Killed(BaseException):
    """Stands in for a signal: no handler of exceptions sees it."""


def run(trial: Trial, digits: Dataset, folder: Path, *, killed_after: int | None = None) -> None:
    seen = []

    def report(metrics: dict[str, float]) -> None:
        seen.append(metrics)
        if len(seen) == killed_after:
            raise Killed

    run_trial(trial, digits, folder, device=CPU, report=report)


def test_a_trial_leaves_records_verdicts_and_a_model(make_trial, digits, tmp_path):
    trial = Trial(id="one", config=make_trial(epochs=2))
    run(trial, digits, tmp_path)
    events = [event["event"] for event in read_events(tmp_path)]
    assert events[:4] == ["start", "epoch", "epoch", "attack"]
    assert events[-1] == "finished"
    verdicts, verified = Verdicts.read(tmp_path / VERDICTS), Verdicts.read(tmp_path / VERIFIED)
    status = read_status(tmp_path)
    assert status.result["pgd_acc"] == verdicts.robust_acc
    assert status.result["robust_acc"] == verified.robust_acc
    assert list(verified.outcomes) == ["ce", "cw", "apgd-ce", "apgd-t"]
    assert (status.result["suite"], status.result["robust_n"]) == ("PGD-3+quick", len(verified))
    assert len(verdicts) == len(digits.test)
    assert load_model(tmp_path)[1] == trial.config
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"record.jsonl", "verdicts.parquet", "model", ".lock"}


def test_a_finished_trial_is_left_as_it_is(make_trial, digits, tmp_path):
    trial = Trial(id="one", config=make_trial(epochs=1))
    run(trial, digits, tmp_path)
    before = (tmp_path / RECORD).read_bytes()
    run(trial, digits, tmp_path)
    assert (tmp_path / RECORD).read_bytes() == before


def test_a_killed_trial_goes_on_and_ends_as_if_it_had_not_been(make_trial, digits, tmp_path):
    trial = Trial(id="one", config=make_trial(epochs=3))
    run(trial, digits, tmp_path / "whole")
    with pytest.raises(Killed):
        run(trial, digits, tmp_path / "killed", killed_after=2)
    run(trial, digits, tmp_path / "killed")
    status = read_status(tmp_path / "killed")
    assert status.attempts == 2
    assert [epoch["epoch"] for epoch in status.epochs] == [1, 2, 3]
    for name in ("model/model.safetensors", "verdicts.parquet"):
        assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


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
