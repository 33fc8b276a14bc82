"""A clock that jumps loses no record; code of another version is named."""

import io
import itertools
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from mlflow.tracking import MlflowClient
from rich.console import Console

import bat_core
from bat_core.errors import InputError
from sweeps.engine.cli.live_table import StatusBoard, status_table
from sweeps.engine.driver.session import warn_of_other_version
from sweeps.engine.ray_backend.trainables import check_version
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import read_events, read_status
from sweeps.engine.sweep.spec import Resources, Sweep, Trial
from sweeps.engine.sweep.trial import TrialRuntime, run_trial
from sweeps.engine.tracking.sync import SweepSync

HOUR = 3600.0


def test_a_clock_that_jumps_to_and_fro_loses_no_record(make_trial, digits, tmp_path: Path, monkeypatch) -> None:
    trial = Trial(id="jumps", config=make_trial(epochs=3))
    folder = SweepFolder(tmp_path / "sweep")
    sweep = Sweep(name="clock", command="", data_dir=None, pixel=5 / 255, resources=Resources(), trials=(trial,))
    folder.create(sweep)
    began, jumps = time.time(), itertools.cycle([0.0, 30 * 24 * HOUR, -HOUR, HOUR])
    with monkeypatch.context() as patch:
        patch.setattr("sweeps.engine.sweep.records.time.time", lambda: began + next(jumps))
        run_trial(trial, digits, folder.trial(trial), TrialRuntime(device=torch.device("cpu")))
    status = read_status(folder.trial(trial))
    assert status.phase == "finished"
    assert [event["epoch"] for event in status.epochs] == [1, 2, 3]
    times = [event["time"] for event in read_events(folder.trial(trial))]
    assert times != sorted(times)

    console = Console(file=io.StringIO())
    console.print(status_table(StatusBoard(sweep, folder), began, 1))
    uri = f"sqlite:///{tmp_path / 'tracking.db'}"
    SweepSync(sweep, folder, uri=uri).sync()
    client = MlflowClient(uri)
    (experiment,) = (one for one in client.search_experiments() if one.name.startswith("clock"))
    (run,) = client.search_runs([experiment.experiment_id], "tags.`bat.trial_id` = 'jumps'")
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "val/clean_acc")
    assert {metric.step: metric.value for metric in history} == {
        event["epoch"]: event["val_clean_acc"] for event in status.epochs
    }
    assert run.data.metrics["robust_acc_not_verified"] == status.result["robust_acc"]


def test_a_sweep_that_goes_on_with_another_version_says_so(make_trial) -> None:
    trial = Trial(id="one", config=make_trial())
    sweep = Sweep(name="old", command="", data_dir=None, pixel=5 / 255, resources=Resources(), trials=(trial,))
    said = io.StringIO()
    console = Console(file=said)
    warn_of_other_version(sweep, console)
    assert said.getvalue() == ""
    warn_of_other_version(replace(sweep, version="9.9"), console)
    assert f"started with bat-sweeps 9.9, resuming with {bat_core.__version__}" in said.getvalue()


def test_a_worker_with_another_version_of_the_package_is_named(monkeypatch) -> None:
    check_version(bat_core.__version__)
    monkeypatch.setattr("ray.util.get_node_ip_address", lambda: "10.0.0.7")
    with pytest.raises(
        InputError, match=r"node 10\.0\.0\.7 has bat-sweeps .* and the driver 9\.9: install one version"
    ):
        check_version("9.9")
