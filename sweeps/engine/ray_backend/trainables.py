"""Trials as Ray runs them: in Tune's own process, or in several workers of Ray Train."""

from collections.abc import Generator
from typing import Any

import ray
import torch
from ray import train, tune
from ray.train import TrainingFailedError
from ray.train.torch import TorchConfig, TorchTrainer, get_device
from ray.train.torch.config import _TorchBackend
from ray.tune.integration.ray_train import TuneReportCallback

import bat_core
from bat_core.data import Dataset
from bat_core.device import has_lost_context
from bat_core.errors import InputError
from bat_core.workers import Workers
from sweeps.engine.ray_backend.control import RayTrialControl, save_before_exit
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import read_status
from sweeps.engine.sweep.spec import Resources, Sweep, Trial
from sweeps.engine.sweep.trial import Paused, TrialRuntime, run_trial, trial_epochs

TRIAL_RETRIES = 5  # after a process or node died; a trial that failed by itself is not retried
PERMANENT_ERRORS = (FloatingPointError, InputError, torch.OutOfMemoryError)  # errors that a retry would repeat
FAILURE = "failure"  # the metric that tells Tune why a trial failed by itself


class TrialTrainable(tune.Trainable):  # type: ignore[misc]
    """A trial in Tune's own process, one epoch per step. The process is reused for the next trial.

    Ray retries a trial if its process or node died, or if it paused because its node is leaving. A trial that failed
    by itself has the failure in its record, and Ray treats it as done. After an error of CUDA, a process cannot use
    its GPU again, so the process ends.
    """

    _started: bool

    def setup(
        self, config: dict[str, str], *, sweep: Sweep, folder: SweepFolder, dataset: Dataset, version: str, cycles: bool
    ) -> None:
        self._sweep, self._folder, self._dataset, self._version = sweep, folder, dataset, version
        self._cycles = cycles
        torch.set_num_threads(sweep.resources.cpus_per_worker)
        self._device = torch.device("cuda" if sweep.resources.gpus_per_worker else "cpu")
        self._in_step = False
        save_before_exit(lambda: self._in_step)
        self._begin(config)

    def step(self) -> dict[str, Any]:
        if self._control.abandoned() or (not self._started and self._control.stop_requested()):
            return {"done": True}
        self._started = self._in_step = True
        try:
            return next(self._epochs, None) or {"done": True}
        except Paused:
            if not self._control.stop_requested():
                raise
        except Exception as error:
            if has_lost_context(error):  # Ray ends a process that raises: the next trial gets another one
                self._control.abandon()
                raise
            return {"done": True, FAILURE: root_cause(error)}
        finally:
            self._in_step = False
        return {"done": True}

    def reset_config(self, new_config: dict[str, str]) -> bool:
        self._epochs.close()
        self._begin(new_config)
        return True

    def cleanup(self) -> None:
        self._epochs.close()

    def _begin(self, config: dict[str, str]) -> None:
        trial = self._folder.find(self._sweep, config["trial"])
        self._control = RayTrialControl(self._sweep.id, trial.id)
        self._epochs, self._started = self._run(trial), False

    def _run(self, trial: Trial) -> Generator[dict[str, float], None, None]:
        check_version(self._version)
        home = self._folder.home(trial, self._sweep, 0)
        yield from trial_epochs(
            trial,
            self._dataset,
            home,
            TrialRuntime(
                device=self._device,
                workers=Workers(),
                control=self._control,
                sync=self._folder.trial_sync(trial, home),
                cycles=self._cycles,
            ),
        )


def check_version(drivers: str) -> None:
    """Check that this process runs the same version as the driver.

    Raises:
        InputError: the versions differ.
    """
    mine = bat_core.__version__
    if mine != drivers:
        raise InputError(
            f"node {ray.util.get_node_ip_address()} has bat-sweeps {mine} and the driver {drivers}: install one version"
        )


def run_with_train(trial: Trial, shared: Any, folder: SweepFolder, sweep: Sweep, *, version: str, cycles: bool) -> None:
    """Run a trial on several Ray Train workers. Ray Train replaces workers that die."""
    resources = sweep.resources

    def worker() -> None:
        torch.set_num_threads(resources.cpus_per_worker)
        control = RayTrialControl(sweep.id, trial.id)
        if control.abandoned() or control.stop_requested():
            return
        workers = Workers.current()
        try:
            check_version(version)
            home = folder.home(trial, sweep, workers.rank)
            run_trial(
                trial,
                ray.get(shared),
                home,
                TrialRuntime(
                    device=get_device(),
                    workers=workers,
                    control=control,
                    sync=folder.trial_sync(trial, home),
                    cycles=cycles,
                ),
                report=train.report,
            )
        except Paused:
            if not control.stop_requested():
                raise
        except PERMANENT_ERRORS as error:
            control.abandon()
            folder.refresh(trial)
            if read_status(folder.trial(trial)).reason != root_cause(error):
                folder.append_event(trial, "failed", reason=root_cause(error))
            raise

    needs: dict[str, float] = {"CPU": resources.cpus_per_worker}
    if resources.gpus_per_worker:
        needs["GPU"] = resources.gpus_per_worker
    trainer = TorchTrainer(
        worker,
        torch_config=_SavingTorchConfig(backend=communication_backend(resources)),
        scaling_config=train.ScalingConfig(
            num_workers=resources.num_workers,
            use_gpu=bool(resources.gpus_per_worker),
            resources_per_worker=needs,
        ),
        run_config=train.RunConfig(
            name=f"{trial.id}-{sweep.id}",
            storage_path=str(folder.ray(sweep).resolve()),
            callbacks=[TuneReportCallback()],
            failure_config=train.FailureConfig(max_failures=TRIAL_RETRIES, controller_failure_limit=TRIAL_RETRIES),
        ),
    )
    try:
        trainer.fit()
    except TrainingFailedError as error:  # after Train's own retries
        tune.report({FAILURE: root_cause(error)})


def communication_backend(resources: Resources) -> str:
    """torch's backend for the workers of a trial. NCCL refuses two workers on one GPU, so a shared GPU needs gloo."""
    return "nccl" if resources.gpus_per_worker >= 1 else "gloo"


class _SavingBackend(_TorchBackend):  # type: ignore[misc]
    """Torch's process group, in processes that save their state on SIGTERM."""

    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        super().on_start(worker_group, backend_config)
        worker_group.execute(save_before_exit, lambda: True)


class _SavingTorchConfig(TorchConfig):  # type: ignore[misc]
    """Connects the workers of a trial."""

    @property
    def backend_cls(self) -> type:
        return _SavingBackend


def root_cause(error: BaseException) -> str:
    """The trial's own error, without Ray's wrappers, as "type: message"."""
    failures = getattr(error, "worker_failures", None)
    cause = next(iter(failures.values())) if failures else getattr(error, "cause", None) or error
    return f"{type(cause).__name__}: {cause}" if cause is error else root_cause(cause)
