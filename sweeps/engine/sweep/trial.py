"""One trial, from spec to verdicts, independent of what runs it: Ray, a test or a script."""

import contextlib
import os
import platform
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist

import bat_core
from bat_core.checkpoint import find_resume_point, load_checkpoint, save_checkpoint, save_model
from bat_core.config import TrialConfig, to_dict
from bat_core.data import Dataset
from bat_core.evaluate import Evaluator
from bat_core.fit import TrainState, fit_by_batch
from bat_core.paths import Rooted, below, make_folder, remove
from bat_core.suites import evaluation_suite
from bat_core.verdicts import Verdicts
from bat_core.workers import Workers
from sweeps.engine.storage.locks import exclusive
from sweeps.engine.storage.retry import retry_storage
from sweeps.engine.sweep.records import VERDICTS, VERIFIED, VERIFIED_SECOND, Record, read_status
from sweeps.engine.sweep.spec import Trial
from sweeps.engine.sweep.trial_evaluation import TrialEvaluation
from sweeps.engine.sweep.trial_gallery import save_gallery
from sweeps.engine.sweep.trial_sync import CHECKPOINTS, MODEL, SHARDS, TrialSync
from sweeps.engine.sweep.trial_threats import check_masking, masking_result, threat_results
from sweeps.engine.sweep.usage import UsageMeter

BOUNDED_ROLE = "search"  # of trials that may be stopped before they are verified
BATCHES_BETWEEN_CHECKS = 16  # with several workers, which must pause at the same batch: each check synchronizes them


class TrialControl:
    """Receives a heartbeat for every batch, and can request a pause. This base class does nothing."""

    def heartbeat(self) -> None:
        """Record a heartbeat."""

    def should_pause(self) -> bool:
        """Return True if the trial should checkpoint and stop."""
        return False


NO_CONTROL = TrialControl()


class Paused(Exception):  # noqa: N818 (not an error)
    """The trial has saved its state and stopped before its end."""


@dataclass(frozen=True, kw_only=True)
class TrialRuntime:
    """Where a trial runs: its device, workers and controller, and where its files are copied to.

    `sync` copies durable files to a store if the nodes share no folder. Without `cycles`, every step of PGD runs.
    """

    device: torch.device
    workers: Workers = field(default_factory=Workers.current)
    control: TrialControl = NO_CONTROL
    sync: TrialSync = field(default_factory=TrialSync)
    cycles: bool = True


def run_trial(
    trial: Trial,
    dataset: Dataset,
    folder: Rooted,
    runtime: TrialRuntime,
    *,
    report: Callable[[dict[str, float]], None] = lambda _: None,
) -> None:
    """Train, evaluate and record one trial; `report` gets each epoch's metrics. See `trial_epochs`."""
    for metrics in trial_epochs(trial, dataset, folder, runtime):
        report(metrics)


def trial_epochs(
    trial: Trial, dataset: Dataset, folder: Rooted, runtime: TrialRuntime
) -> Generator[dict[str, float], None, None]:
    """Train, evaluate and record one trial, starting from its last checkpoint if it has one.

    A finished trial is left unchanged. Every worker of a trial calls this with the same arguments; only rank 0
    writes records and checkpoints.

    Yields:
        The metrics of each epoch, once it is on disk; for a trial of a search also what bounds its verified accuracy
        (`TrialEvaluation.run`), before it is verified. If the caller stops iterating, the trial can be resumed from
        the end of that epoch.
    Raises:
        Paused: the controller requested it. The state between two batches is on disk.
        Exception: the error that stopped the trial, after it was recorded as the reason of failure.
    """
    workers, sync = runtime.workers, runtime.sync
    with _sole_writer(folder, workers):
        sync.begin(workers)
        if read_status(folder).phase == "finished":
            return
        writer = _Writer(trial.config, dataset, folder, runtime) if workers.rank == 0 else None
        try:
            resume_point = find_resume_point(below(folder, CHECKPOINTS), trial.config, runtime.device)
            state = resume_point.load(dataset, runtime.device)
            if writer:
                writer.start(state, resume_point.passed_over)
            run = _TrialRun(trial.config, dataset, folder, runtime, writer)
            state = yield from run.train(state)
            yield from run.evaluate(state, bounded=trial.role == BOUNDED_ROLE)
            if writer:
                writer.finish(state)
        except Paused:
            raise
        except Exception as error:
            if writer:
                writer.record.fail(f"{type(error).__name__}: {error}")
            raise


@dataclass(frozen=True)
class _TrialRun:
    """One attempt at a trial, in one worker."""

    config: TrialConfig
    dataset: Dataset
    folder: Rooted
    runtime: TrialRuntime
    writer: "_Writer | None"

    def train(self, state: TrainState | None) -> Generator[dict[str, float], None, TrainState]:
        """Train, and return the state to evaluate: the last epoch, or the last one before training collapsed."""
        stop_on_collapse = self.config.train.on_collapse == "stop"
        if stop_on_collapse and state is not None and read_status(self.folder).collapsed is not None:
            return state
        for event in fit_by_batch(
            self.config, self.dataset, state=state, device=self.runtime.device, workers=self.runtime.workers
        ):
            if isinstance(event, TrainState):
                self._after_batch(event)
                continue
            lost = event.collapsed and stop_on_collapse
            if self.writer:
                self.writer.epoch(event.state, collapsed=event.collapsed, keep=not lost)
            yield event.metrics()
            if lost:
                sound = load_checkpoint(below(self.folder, CHECKPOINTS), self.config, self.dataset, self.runtime.device)
                assert sound is not None, "a collapse follows a better epoch, which has a checkpoint"
                return sound
            state = event.state
        assert state is not None
        return state

    def _after_batch(self, state: TrainState) -> None:
        self.runtime.control.heartbeat()
        assert state.partial is not None
        check = self.runtime.workers.size == 1 or state.partial.batches % BATCHES_BETWEEN_CHECKS == 0
        if check and self.runtime.workers.any(self.runtime.control.should_pause(), self.runtime.device):
            state.gather(self.runtime.workers)
            if self.writer:
                self.writer.pause(state)
            raise Paused

    def evaluate(self, state: TrainState, *, bounded: bool) -> Generator[dict[str, float], None, None]:
        """Evaluate this worker's share of the images. `_Writer.finish` joins the shares."""
        workers, control = self.runtime.workers, self.runtime.control

        def after_part(done: int, of: int) -> None:
            if self.writer:
                self.writer.record.append("attack", done=done, of=of)
            if done and workers.size == 1 and control.should_pause():
                raise Paused

        evaluator = Evaluator(
            state.model,
            seed=self.config.seed,
            precision=self.config.train.precision,
            batch_size=self.config.attack.batch_size,
            cycles=self.runtime.cycles,
            heartbeat=control.heartbeat,
        )
        evaluation = TrialEvaluation(
            attack=self.config.attack,
            part=self.dataset.part(self.config.attack.split),
            evaluator=evaluator,
            workers=workers,
            device=self.runtime.device,
            after_part=after_part,
        )
        shares = yield from evaluation.run(bounded=bounded)
        retry_storage(lambda: _write_shards(self.folder, shares, workers), f"{SHARDS} cannot be written", self.folder)
        self.runtime.sync.push_shards(_shard(self.folder, name, workers.rank, workers.size) for name in shares)
        if workers.size > 1:
            dist.barrier()


def _write_shards(folder: Rooted, shares: Mapping[str, Verdicts], workers: Workers) -> None:
    make_folder(below(folder, SHARDS), parents=False)
    for name, verdicts in shares.items():
        verdicts.write(_shard(folder, name, workers.rank, workers.size))


def _shard(folder: Rooted, name: str, rank: int, size: int) -> Rooted:
    return below(folder, SHARDS, f"{rank}-of-{size}-{name}")


class _Writer:
    """Writes a trial's record, checkpoints, verdicts and model."""

    def __init__(self, config: TrialConfig, dataset: Dataset, folder: Rooted, runtime: TrialRuntime) -> None:
        self.config, self.dataset, self.folder, self.runtime = config, dataset, folder, runtime
        self.workers, self.sync = runtime.workers, runtime.sync
        self.record = Record(folder, self.sync.push_record)
        self.meter = UsageMeter(runtime.device)

    def start(self, state: TrainState | None, passed_over: Mapping[str, str]) -> None:
        """Record the start of an attempt, and an epoch that has a checkpoint but no record line.

        What an attempt that was killed at its very end left is removed: this one may be stopped before it ends.
        """
        with contextlib.suppress(OSError):
            for name in (MODEL, VERDICTS, VERIFIED, VERIFIED_SECOND):
                remove(below(self.folder, name))
        device = self.runtime.device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"
        self.record.append(
            "start",
            hash=self.config.hash,
            config=to_dict(self.config),
            from_epoch=state.epoch if state else 0,
            from_batch=state.partial.batches if state and state.partial else 0,
            device=name,
            threads=torch.get_num_threads(),
            workers=self.workers.size,
            pid=os.getpid(),
            versions={"bat_sweeps": bat_core.__version__, "torch": torch.__version__},
            **({"passed_over": dict(passed_over)} if passed_over else {}),
        )
        recorded = {0} | {event["epoch"] for event in read_status(self.folder).epochs}
        if state and state.epoch not in recorded:
            self.record.append("epoch", **{**state.metrics, "epoch": state.epoch})

    def epoch(self, state: TrainState, *, collapsed: bool, keep: bool) -> None:
        """Save the checkpoint, then record the epoch: a recorded epoch never runs again."""
        if keep:
            self.save(state)
        extra = {"collapsed": True} if collapsed else {}
        self.record.append("epoch", **state.metrics, **self.meter.read(), **extra)

    def pause(self, state: TrainState) -> None:
        """Save the state between two batches."""
        assert state.partial is not None
        self.save(state)
        self.record.append("paused", epoch=state.epoch, batch=state.partial.batches)

    def save(self, state: TrainState) -> None:
        """Save a checkpoint, retrying failing storage."""
        folder = below(self.folder, CHECKPOINTS)
        retry_storage(
            lambda: save_checkpoint(folder, state, self.config, self.dataset),
            "the checkpoint cannot be written",
            folder,
        )
        self.sync.push_checkpoints()

    def finish(self, state: TrainState) -> None:
        """Join the shards, check for gradient masking, save the model, record the end, then delete the checkpoints."""
        self.sync.pull_shards()
        curves, verified, second = (self._joined(name) for name in (VERDICTS, VERIFIED, VERIFIED_SECOND))
        assert curves is not None
        headline = curves if verified is None else verified
        masking = masking_result(
            check_masking(state.model, self.dataset.val, self.config.attack, seed=self.config.seed)
        )
        suite = evaluation_suite(self.config.attack).for_classes(self.dataset.num_classes)
        model = below(self.folder, MODEL)
        retry_storage(
            lambda: save_model(model, state, self.config, self.dataset), "the model cannot be written", self.folder
        )
        with contextlib.suppress(OSError):  # a picture that cannot be written costs nobody a trial
            save_gallery(self.folder, self._evaluator(state), self.config, self.dataset, curves)
        self.sync.push_results()
        self.record.append(
            "finished",
            n=len(curves),
            split=self.config.attack.split,
            clean_acc=curves.clean_acc,
            pgd_acc=curves.robust_acc,
            robust_acc=headline.robust_acc,
            robust_n=len(headline),
            suite=suite.label_for(masking["verdict"]),
            **masking,
            epoch=state.epoch,
            **self._threats(verified, second, masking["verdict"]),
        )
        with contextlib.suppress(OSError):  # leftover files do not matter: the trial is recorded as finished
            remove(below(self.folder, SHARDS))
            remove(below(self.folder, CHECKPOINTS))
            self.sync.clean_up()

    def _threats(self, verified: Verdicts | None, second: Verdicts | None, masking_status: str) -> dict[str, Any]:
        """What the record says of a trial that is verified in two norms; nothing of others."""
        if verified is None or second is None:
            return {}
        attack, classes = self.config.attack, self.dataset.num_classes
        found = threat_results(attack, verified, second, num_classes=classes, masking_status=masking_status)
        return {"threats": found}

    def _evaluator(self, state: TrainState) -> Evaluator:
        runtime = self.runtime
        heartbeat = runtime.control.heartbeat
        return Evaluator(state.model, seed=self.config.seed, cycles=runtime.cycles, heartbeat=heartbeat)

    def _joined(self, name: str) -> Verdicts | None:
        shards = [_shard(self.folder, name, rank, self.workers.size) for rank in range(self.workers.size)]
        found = [Verdicts.read(shard) for shard in shards if shard.exists()]
        if not found:
            return None
        verdicts = Verdicts.concat(found)
        retry_storage(lambda: verdicts.write(below(self.folder, name)), f"{name} cannot be written", self.folder)
        return verdicts


@contextlib.contextmanager
def _sole_writer(folder: Rooted, workers: Workers) -> Iterator[None]:
    """Lock the trial's folder: a worker of a killed sweep may still be running."""
    if workers.rank > 0:
        yield
        return
    with exclusive(below(folder, ".lock")):
        yield
