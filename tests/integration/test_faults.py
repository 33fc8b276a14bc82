"""What goes wrong with processes while a sweep runs, and what must hold: see docs/reliability.md."""

import contextlib
import os
import re
import signal
import urllib.error
import urllib.request
from collections.abc import Iterator

import psutil
import pytest
import torch
from safetensors.torch import load_file

from bat_core.data import load_dataset
from bat_core.fit import fit
from sweeps.engine.sweep.records import Event, read_events
from sweeps.engine.sweep.spec import Trial
from sweeps.engine.sweep.trial import MODEL
from tests.integration.running import Output, Place, kill_tree_when, wait_until

pytestmark = [pytest.mark.ray, pytest.mark.slow]

IMAGES = {"train_size": 1000, "val_size": 40, "test_size": 40}
LONG = (
    *("--train-size", "1000", "--test-size", "40", "--val-size", "40", "--steps", "1", "--verify", "0"),
    *("--model", "small_cnn_gn_8", "--reference", "none", "--eps-x", "40/255", "--epochs", "16"),
)
HERE = "../tests/integration/faulty_sweep.py"


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """As a trial computes on a sweep's workers."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def assert_trained_as_if_undisturbed(output: Output, trial: Trial) -> None:
    with one_thread():
        *_, last = fit(trial.config, load_dataset("digits", **IMAGES))
    found = load_file(output.folder.trial(trial) / MODEL / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in last.state.model.state_dict().items())


def events(output: Output, trial_id: str, name: str) -> list[Event]:
    return [event for event in read_events(output.folder.path / "trials" / trial_id) if event["event"] == name]


def trained(output: Output, epochs: int) -> bool:
    statuses = output.statuses()
    return bool(statuses) and all(len(status.epochs) >= epochs for status in statuses.values())


def test_ctrl_c_once_saves_what_runs_and_twice_stops_at_once(apart: Place) -> None:
    output = apart.sweep("interrupted")
    process = apart.start("eps_budget.py", *LONG, "--seeds", "0", "1", "--output", "interrupted")
    wait_until(lambda: trained(output, 2), process)
    os.killpg(process.pid, signal.SIGINT)
    printed, _ = process.communicate()
    assert process.returncode == 130, printed
    assert "stopping: saving running trials first" in printed
    paused = {trial for trial, status in output.statuses().items() if status.phase == "paused"}
    others = {status.phase for trial, status in output.statuses().items() if trial not in paused}
    assert others <= {"attacking", "finished"}, output.statuses()  # a trial that was ahead had trained by then
    assert paused
    assert re.search(r"not finished; resume with \S+ \S+\.py --resume interrupted", printed)

    process = apart.start("eps_budget.py", "--resume", "interrupted")
    wait_until(lambda: all(output.statuses()[trial].attempts == 2 for trial in paused), process)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout is not None
        seen = next(line for line in process.stdout if "stopping" in line)
        os.killpg(process.pid, signal.SIGINT)
    printed, _ = process.communicate()
    assert process.returncode == 130, seen + printed
    assert re.search(r"stopped at once; resume with \S+ \S+\.py --resume interrupted", printed)

    code, printed = apart.run("eps_budget.py", "--resume", "interrupted")
    assert code == 0, printed
    trials = {trial.id: trial for trial in output.spec.trials}
    for trial in paused:
        (first, second, *_) = events(output, trial, "start")
        (stop, *_) = events(output, trial, "paused")
        assert (second["from_epoch"], second["from_batch"]) == (stop["epoch"], stop["batch"])
        assert first["pid"] != second["pid"]
    for trial in trials:
        assert [event["epoch"] for event in events(output, trial, "epoch")] == list(range(1, 17))
    assert_trained_as_if_undisturbed(output, trials[min(paused)])


def test_a_trials_process_that_is_killed_or_told_to_end_is_replaced(apart: Place) -> None:
    output = apart.sweep("processes")
    process = apart.start("eps_budget.py", *LONG, "--seeds", "0", "1", "--output", "processes")
    wait_until(lambda: bool(output.statuses()), process)
    killed, told = output.spec.trials
    kept: dict[str, int] = {}

    def disturbed() -> bool:
        """Each trial meets its fate in the middle of its own training, whichever of the two starts first."""
        for trial, act in ((killed, psutil.Process.kill), (told, psutil.Process.terminate)):
            status = output.statuses().get(trial.id)
            if trial.id not in kept and status and len(status.epochs) >= 2:
                kept[trial.id] = len(status.epochs)
                act(psutil.Process(events(output, trial.id, "start")[0]["pid"]))
        return len(kept) == 2

    wait_until(disturbed, process)
    printed, _ = process.communicate()
    assert process.returncode == 0, printed

    _, again = events(output, killed.id, "start")
    assert again["from_epoch"] >= kept[killed.id]
    _, again = events(output, told.id, "start")
    paused = [(saved["epoch"], saved["batch"]) for saved in events(output, told.id, "paused")]
    before = len([one for one in events(output, told.id, "epoch") if one["time"] < again["time"]])
    # Between two epochs, when Tune has its result, it has nothing to save and ends at once.
    assert [(again["from_epoch"], again["from_batch"])] == (paused or [(before, 0)])
    assert before >= kept[told.id]
    for trial in (killed, told):
        assert [event["epoch"] for event in events(output, trial.id, "epoch")] == list(range(1, 17))
        assert_trained_as_if_undisturbed(output, trial)


def test_a_trial_that_goes_wrong_fails_with_its_reason_and_the_others_go_on(apart: Place) -> None:
    output = apart.sweep("faulty")
    options = ("--train-size", "256", "--val-size", "40", "--test-size", "40", "--epochs", "2", "--seeds", "0")
    process = apart.start(HERE, *options, "--stall-minutes", "0.5", "--output", "faulty")
    wait_until(lambda: len(output.statuses()) > 3 and len(output.statuses()["hang"].epochs) > 1, process)
    psutil.Process(events(output, "hang", "start")[0]["pid"]).suspend()
    printed, _ = process.communicate()
    assert process.returncode == 1, printed
    statuses = output.statuses()
    assert statuses.pop("sound").phase == "finished"
    assert {status.phase for status in statuses.values()} == {"failed"}
    assert {status.attempts for status in statuses.values()} == {1}
    assert statuses["nan"].reason.startswith("FloatingPointError: the training loss is nan in epoch 1")
    assert "is too large" in statuses["memory"].reason
    assert statuses["exception"].reason.startswith("InputError: ")
    assert statuses["hang"].reason == "hangs: no progress for 0.5 minutes; killed"
    for trial, status in statuses.items():
        assert f"failed {trial}: {status.reason[:20]}" in printed


def test_rays_dashboard_listens_on_loopback_and_asks_for_a_token(apart: Place) -> None:
    output = apart.sweep("listening")
    process = apart.start("eps_budget.py", *LONG, "--seeds", "0", "--output", "listening")
    wait_until(lambda: trained(output, 1), process)
    tree = psutil.Process(process.pid).children(recursive=True)
    (dashboard,) = (one for one in tree if any(part.endswith("dashboard/dashboard.py") for part in one.cmdline()))
    listening = [link.laddr for link in dashboard.net_connections() if link.status == psutil.CONN_LISTEN]
    ports = [address.port for address in listening if 8265 <= address.port < 8365]
    assert ports
    assert {address.ip for address in listening if address.port in ports} == {"127.0.0.1"}
    with pytest.raises(urllib.error.HTTPError, match="401"):
        urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/api/jobs/")
    kill_tree_when(process, lambda: True)
