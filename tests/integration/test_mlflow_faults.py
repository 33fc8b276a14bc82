"""A tracking server that is killed, stopped, replaced, broken or slow: training goes on, MLflow agrees in the end."""

import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from bat_core.workers import Workers
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import RECORD, read_status
from sweeps.engine.sweep.spec import Report, Resources, Sweep, Trial
from sweeps.engine.sweep.trial import TrialRuntime, run_trial
from sweeps.engine.tracking import background
from sweeps.engine.tracking.background import BackgroundSync
from sweeps.engine.tracking.names import epoch_metric, headline, verdict
from tests.integration.conftest import CHEAP, TINY
from tests.integration.running import Output, Place
from tests.integration.servers import Proxy, Server

SECRET = "correct-horse-9f3b"
IDS = ("a", "b")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    server.start()
    shutil.copy(server.folder / "tracking" / "tracking.db", server.folder / "empty.db")
    yield server
    server.kill()


@pytest.fixture(scope="module")
def empty_database(server: Server) -> Path:
    """What a server begins with; made once, for it takes seconds."""
    return server.folder / "empty.db"


@pytest.fixture
def proxy(server: Server) -> Iterator[Proxy]:
    with Proxy(server).running() as proxy:
        yield proxy


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> tuple[Sweep, SweepFolder]:
    """Two trials that ran, one of which had failed before, and a figure."""
    import torch

    from bat_core.config import AttackConfig, DataConfig, TrainConfig, TrialConfig
    from bat_core.data import load_dataset
    from sweeps.engine.sweep.records import Record

    config = TrialConfig(
        data=DataConfig(train_size=64, val_size=16, test_size=16),
        model="small_cnn_4",
        train=TrainConfig(epochs=2, batch_size=32, val_steps=1, precision="float32"),
        attack=AttackConfig(steps=(1, 2), verify=0),
    )
    trials = [Trial(id=name, config=replace(config, seed=seed)) for seed, name in enumerate(IDS)]
    resources = Resources()
    sweep = Sweep(
        name="faults", command="python x", data_dir=None, pixel=5 / 255, resources=resources, trials=tuple(trials)
    )
    folder = SweepFolder(tmp_path_factory.mktemp("trained") / "faults")
    folder.create(sweep)
    Record(folder.trial(trials[1])).append("start")
    Record(folder.trial(trials[1])).append("failed", reason="RuntimeError: out of luck")
    dataset = load_dataset("digits", train_size=64, val_size=16, test_size=16)
    for trial in trials:
        run_trial(trial, dataset, folder.trial(trial), TrialRuntime(device=torch.device("cpu"), workers=Workers()))
    (folder.path / "figure.csv").write_text("x,y\n1,2\n")
    folder.write_report(Report(files=("figure.csv",), sentence="All is well."))
    return sweep, folder


@pytest.fixture
def sweep(trained: tuple[Sweep, SweepFolder], tmp_path: Path) -> tuple[Sweep, SweepFolder]:
    """The same trials in a folder and a sweep of their own."""
    shutil.copytree(trained[1].path, tmp_path / "faults")
    folder = SweepFolder(tmp_path / "faults")
    own = Sweep(
        name="faults",
        command=trained[0].command,
        data_dir=None,
        pixel=trained[0].pixel,
        resources=trained[0].resources,
        trials=trained[0].trials,
    )
    return replace(own, created=trained[0].created), folder


@pytest.fixture
def mirrored(sweep: tuple[Sweep, SweepFolder], monkeypatch: pytest.MonkeyPatch) -> "Mirrored":
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    return Mirrored(*sweep, monkeypatch)


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error, and all that it says it came of: before it, or (as urllib3's) in its arguments."""
    while error is not None:
        yield error
        yield from (one for one in error.args if isinstance(one, BaseException))
        error = error.__cause__ or error.__context__


class Mirrored:
    """A sweep whose records grow before our eyes, and what MLflow has of it."""

    def __init__(self, sweep: Sweep, folder: SweepFolder, patch: pytest.MonkeyPatch) -> None:
        self.sweep, self.folder, self.patch = sweep, folder, patch
        self.records = {name: (folder.path / "trials" / name / RECORD).read_bytes() for name in IDS}
        self.errors: list[Exception] = []
        said = background.describe_error
        patch.setattr(background, "describe_error", lambda error: self.errors.append(error) or said(error))

    def mirroring(self, uri: str) -> BackgroundSync:
        self.patch.setenv("MLFLOW_TRACKING_URI", uri)
        return BackgroundSync(self.sweep, self.folder)

    def failed_by(self, kind: type[OSError]) -> bool:
        """Whether the last error was, or came of, one of that kind, whatever it says of itself."""
        *_, error = self.errors
        return any(isinstance(one, kind) for one in causes(error))

    def upto(self, *lines: int) -> None:
        """Let so many lines of each record be written, and the rest not yet."""
        for name, count in zip(IDS, lines, strict=True):
            kept = self.records[name].splitlines(keepends=True)[:count]
            (self.folder.path / "trials" / name / RECORD).write_bytes(b"".join(kept))

    def whole(self) -> None:
        self.upto(*(len(record.splitlines()) for record in self.records.values()))

    def expected(self) -> dict[str, object]:
        """What MLflow must have, from the records alone."""
        wanted: dict[str, object] = {"(parent)": ("FINISHED", ["figure.csv", "settings.json"], "All is well.")}
        for trial in self.sweep.trials:
            status = read_status(self.folder.trial(trial))
            assert status.result
            epochs = {
                (epoch_metric(name, trial.config), event["epoch"], event[name], int(event["time"] * 1000))
                for event in status.epochs
                for name in ("train_loss", "val_clean_acc", "lr")
            }
            at = int(status.result["time"] * 1000)
            results = {(name, 0, value, at) for name, value in headline(status.result).items()}
            wanted[trial.id] = ("FINISHED", sorted(epochs | results), verdict(status.result), str(trial.config.seed))
        return wanted

    def found(self, uri: str) -> dict[str, object]:
        """What MLflow has of what `expected` speaks of; a run or a metric that stands there twice fails."""
        client = MlflowClient(uri)
        everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = client.search_runs(everywhere, f"tags.`bat.sweep_id` = '{self.sweep.id}'")
        assert len({run.data.tags["bat.trial_id"] for run in runs}) == len(runs), "a run stands there twice"
        (parent,) = [run for run in runs if run.data.tags["bat.trial_id"] == "(parent)"]
        has: dict[str, object] = {}
        for run in runs:
            tags, run_id = run.data.tags, run.info.run_id
            files = sorted(file.path for file in client.list_artifacts(run_id))
            if run is parent:
                has["(parent)"] = (run.info.status, files, tags["mlflow.note.content"].splitlines()[0])
                continue
            assert tags["mlflow.parentRunId"] == parent.info.run_id
            assert "bat.reason" not in tags
            assert {"verdicts.parquet", "curves.png"} <= set(files)
            assert len(run.outputs.model_outputs) == 1
            names = ("train/loss", "train/lr", "val/clean_acc", "clean_acc", "pgd_acc", "robust_acc_not_verified")
            values = [
                (name, one.step, one.value, one.timestamp)
                for name in names
                for one in client.get_metric_history(run_id, name)
            ]
            has[tags["bat.trial_id"]] = (
                run.info.status,
                sorted(values),
                tags["bat.verdict"],
                run.data.params["seed"],
            )
        return has

    def run(self, client: MlflowClient, trial_id: str) -> Run:
        everywhere = [experiment.experiment_id for experiment in client.search_experiments()]
        query = f"tags.`bat.sweep_id` = '{self.sweep.id}' and tags.`bat.trial_id` = '{trial_id}'"
        (found,) = client.search_runs(everywhere, query)
        return found

    def assert_agrees(self, uri: str) -> None:
        assert self.found(uri) == self.expected()


def test_the_oracle_sees_a_run_and_a_metric_that_stand_there_twice(mirrored: Mirrored, server: Server) -> None:
    assert mirrored.mirroring(server.uri).once() is None
    mirrored.assert_agrees(server.uri)
    client = MlflowClient(server.uri)
    run = mirrored.run(client, "a")
    client.log_metric(run.info.run_id, "train/loss", 1.0, step=1)
    with pytest.raises(AssertionError):
        mirrored.assert_agrees(server.uri)
    client.create_run(run.info.experiment_id, tags=run.data.tags)
    with pytest.raises(AssertionError, match="a run stands there twice"):
        mirrored.found(server.uri)


@pytest.mark.parametrize("on", ["", "log-batch", "mlflow-artifacts", "logged-models"])
def test_a_server_that_answers_500(mirrored: Mirrored, proxy: Proxy, on: str) -> None:
    mirroring = mirrored.mirroring(proxy.uri)
    mirrored.upto(2, 3)
    if on:
        assert mirroring.once() is None
    proxy.spoil("refuse", on)
    mirrored.whole()
    trouble = mirroring.once()
    assert trouble
    assert "\n" not in trouble
    assert proxy.spoilt.is_set()
    proxy.mend()
    assert mirroring.once() is None
    mirrored.assert_agrees(proxy.uri)


@pytest.mark.parametrize(
    ("fault", "on"),
    [
        pytest.param("hold", "runs/create", marks=pytest.mark.slow),
        pytest.param("late", "runs/create"),
        pytest.param("hold", "log-batch", marks=pytest.mark.slow),
        pytest.param("late", "logged-models", marks=pytest.mark.slow),
    ],
)
def test_a_request_whose_answer_comes_too_late(mirrored: Mirrored, proxy: Proxy, on: str, fault: str) -> None:
    """The client takes it for lost and sends it again; the server does it, before or after that."""
    mirrored.patch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    mirroring = mirrored.mirroring(proxy.uri)
    proxy.spoil(fault, on)
    assert mirroring.once()
    assert mirrored.failed_by(TimeoutError)
    proxy.mend()
    assert mirroring.once() is None
    proxy.release()
    assert proxy.passed.wait(60)
    assert mirrored.mirroring(proxy.uri).once() is None  # as `python sweeps/mirror.py` does
    mirrored.assert_agrees(proxy.uri)


def test_a_slow_server_does_not_hold_up_the_end(mirrored: Mirrored, proxy: Proxy) -> None:
    mirroring = mirrored.mirroring(proxy.uri)
    proxy.spoil("slow", delay=0.5)
    assert mirroring.once(patience=1) == "it was not done within 1 s"
    assert proxy.spoilt.is_set()
    proxy.mend()
    assert mirroring.once() is None
    mirrored.assert_agrees(proxy.uri)


def test_damaged_files_of_one_trial_keep_nothing_else_back(mirrored: Mirrored, server: Server) -> None:
    """A line of the record of "a" is lost, and so are the verdicts of "b"."""
    lines = mirrored.records["a"].splitlines(keepends=True)
    record = mirrored.folder.path / "trials" / "a" / RECORD
    record.write_bytes(b"".join([lines[0], b"\0" * 200 + b"\n", *lines[2:]]))
    verdicts = mirrored.folder.path / "trials" / "b" / "verdicts.parquet"
    sound = verdicts.read_bytes()
    verdicts.write_bytes(sound[:-20])
    mirroring = mirrored.mirroring(server.uri)
    trouble = mirroring.once() or ""
    assert "/trials/b/verdicts.parquet' is not a complete" in trouble
    client = MlflowClient(server.uri)
    run, other = (mirrored.run(client, trial_id) for trial_id in IDS)
    assert run.info.status == "FINISHED"
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")] == [2]
    assert [metric.step for metric in client.get_metric_history(other.info.run_id, "train/loss")] == [1, 2]
    verdicts.write_bytes(sound)
    mirrored.whole()
    assert mirroring.once() is None
    mirrored.assert_agrees(server.uri)


def test_a_server_that_is_killed_and_comes_back_as_it_was_or_empty(
    mirrored: Mirrored, empty_database: Path, tmp_path: Path
) -> None:
    """In the middle of a sweep, behind the same address, under the eyes of the same process."""
    server = Server(tmp_path)
    for name in ("tracking", "another"):
        (tmp_path / name).mkdir()
        shutil.copy(empty_database, tmp_path / name / "tracking.db")
    try:
        mirrored.upto(3, 0)
        mirroring = mirrored.mirroring(server.uri)
        assert mirroring.once()  # it is not there yet
        assert mirrored.failed_by(ConnectionError)
        server.start()
        assert mirroring.once() is None
        server.kill()
        mirrored.upto(4, 3)
        assert mirroring.once()
        assert mirrored.failed_by(ConnectionError)
        server.start()
        mirrored.whole()
        assert mirroring.once() is None
        mirrored.assert_agrees(server.uri)
        server.kill()
        server.start("another")
        foreign = MlflowClient(server.uri).create_experiment("another's, of the number that ours had")
        assert mirroring.once() is None  # nothing is new in the records, and all of it to this server
        mirrored.assert_agrees(server.uri)
        assert MlflowClient(server.uri).search_runs([foreign]) == []
    finally:
        server.kill()


@dataclass(frozen=True)
class Guarded(Place):
    """A working folder whose tracking server needs a password."""

    tracking: str

    @property
    def uri(self) -> str:
        return self.tracking


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_runs_while_the_server_is_stopped_and_shows_no_password(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From its beginning to its end no request is answered; then the records are mirrored."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    place = Guarded(tmp_path, server.uri.replace("http://", f"http://bat:{SECRET}@"))
    arguments = (*TINY, *CHEAP, "--eps-x", "20/255", "--seeds", "0", "1", "--reference", "none", "--output", "out")
    server.signal(signal.SIGSTOP)
    try:
        code, printed = place.run("eps_budget.py", *arguments)
        assert code == 0, printed
        output = Output(SweepFolder(tmp_path / "out"))
        assert {status.phase for status in output.statuses().values()} == {"finished"}
        said = [line for line in printed.splitlines() if line.startswith("MLflow did not take everything")]
        assert len(said) == 1
        assert said[0].endswith("sweeps/mirror.py out")
    finally:
        server.signal(signal.SIGCONT)
    code, again = place.again("mirror.py", "out")
    assert code == 0, again
    client = MlflowClient(server.uri)
    experiment = client.get_experiment_by_name("eps_budget-out")
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.data.tags["bat.trial_id"] for run in runs) == ["(parent)", "eps4-seed0", "eps4-seed1"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert SECRET not in printed + again
    assert f"MLflow: http://***@127.0.0.1:{server.port}," in printed
    files = [path for path in (*(tmp_path / "out").rglob("*"), *server.folder.rglob("*")) if path.is_file()]
    assert len(files) > 10
    assert [path for path in files if SECRET.encode() in path.read_bytes()] == []
