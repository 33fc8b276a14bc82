"""One trial from spec to verdicts. Knows nothing of who runs it: Ray, a test or a script."""

import contextlib
import platform
import shutil
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

import bat_core
from bat_core.checkpoint import load_checkpoint, save_checkpoint, save_model
from bat_core.checks import examine
from bat_core.config import TrialConfig, to_dict
from bat_core.data import Dataset, Split
from bat_core.evaluate import Judge
from bat_core.fit import TrainState, fit
from bat_core.suites import suite_of, trajectories, verification
from bat_core.verdicts import Verdicts
from bat_core.workers import Workers
from sweeps.engine.records import VERDICTS, VERIFIED, Record, exclusive, read_status
from sweeps.engine.sweep import Trial

CHECKPOINTS = "checkpoints"
MODEL = "model"
SHARDS = "shards"

Report = Callable[[dict[str, float]], None]


def run_trial(
    trial: Trial,
    dataset: Dataset,
    folder: Path,
    *,
    device: torch.device,
    workers: Workers | None = None,
    report: Report = lambda _: None,
) -> None:
    """Train, evaluate and record one trial; `report` gets each epoch's metrics. See `trial_epochs`."""
    for metrics in trial_epochs(trial, dataset, folder, device=device, workers=workers):
        report(metrics)


def trial_epochs(
    trial: Trial, dataset: Dataset, folder: Path, *, device: torch.device, workers: Workers | None = None
) -> Generator[dict[str, float], None, None]:
    """Train, evaluate and record one trial, going on from its last checkpoint if it has one.

    A finished trial is left as it is. Every worker of a trial calls this with the same arguments;
    rank 0 alone writes records and checkpoints.

    Yields:
        The metrics of each epoch, once it is on disk. Whoever asks for no more of them leaves a trial
        that can be gone on with.
    Raises:
        Exception: whatever stopped the trial, after it was recorded as failed with its reason.
    """
    workers = workers or Workers.current()
    with _sole_writer(folder, workers):
        if read_status(folder).phase == "finished":
            return
        writer = _Writer(trial.config, dataset, folder, workers) if workers.rank == 0 else None
        try:
            state = load_checkpoint(folder / CHECKPOINTS, trial.config, dataset, device)
            if writer:
                writer.start(device, state)
            state = yield from _train(trial.config, dataset, folder, state, device, workers, writer)
            _evaluate(trial.config, dataset.part(trial.config.attack.split), folder, state, workers, writer)
            if writer:
                writer.finish(state)
        except Exception as error:
            if writer:
                writer.record.append("failed", reason=f"{type(error).__name__}: {error}")
            raise


def _train(
    config: TrialConfig,
    dataset: Dataset,
    folder: Path,
    state: TrainState | None,
    device: torch.device,
    workers: Workers,
    writer: "_Writer | None",
) -> Generator[dict[str, float], None, TrainState]:
    """The model to judge: the last epoch's, or the one before training collapsed."""
    keep_sound = config.train.on_collapse == "stop"
    if keep_sound and state is not None and read_status(folder).collapsed is not None:
        return state
    for epoch in fit(config, dataset, state=state, device=device, workers=workers):
        lost = epoch.collapsed and keep_sound
        if writer:
            writer.epoch(epoch.state, collapsed=epoch.collapsed, keep=not lost)
        yield epoch.metrics()
        if lost:
            sound = load_checkpoint(folder / CHECKPOINTS, config, dataset, device)
            assert sound is not None, "a collapse needs an epoch that was better, and its checkpoint"
            return sound
        state = epoch.state
    assert state is not None
    return state


def _evaluate(
    config: TrialConfig, part: Split, folder: Path, state: TrainState, workers: Workers, writer: "_Writer | None"
) -> None:
    """Each worker judges its share of the images; `_Writer.finish` joins the shares."""
    mine = workers.share(torch.arange(len(part)))
    curves, verified = trajectories(config.attack), verification(config.attack)
    judge = Judge(state.model, seed=config.seed, precision=config.train.precision)
    parts: dict[str, list[Verdicts]] = {VERDICTS: [], VERIFIED: []}
    done = 0
    if writer:
        writer.record.append("attack", done=0, of=len(part))
    chunks = mine.split(config.attack.batch_size)
    for positions, batch in zip(chunks, part.batches(chunks), strict=True):
        verdicts = judge.extend(judge.clean(batch.images, batch.labels, batch.rows), batch.images, curves)
        parts[VERDICTS].append(verdicts)
        chosen = np.flatnonzero(positions.numpy() < config.attack.verify)
        if verified and len(chosen):
            parts[VERIFIED].append(
                judge.extend(verdicts.take(chosen), batch.images[torch.from_numpy(chosen)], verified)
            )
        done += len(positions)
        if writer:
            writer.record.append("attack", done=min(done * workers.size, len(part)), of=len(part))
    (folder / SHARDS).mkdir(exist_ok=True)
    for name, share in parts.items():
        if share:
            Verdicts.concat(share).write(_shard(folder, name, workers.rank, workers.size))
    if workers.size > 1:
        dist.barrier()


def _shard(folder: Path, name: str, rank: int, size: int) -> Path:
    return folder / SHARDS / f"{rank}-of-{size}-{name}"


class _Writer:
    """Writes what a trial leaves behind."""

    def __init__(self, config: TrialConfig, dataset: Dataset, folder: Path, workers: Workers) -> None:
        self.config, self.dataset, self.folder, self.workers = config, dataset, folder, workers
        self.record = Record(folder)

    def start(self, device: torch.device, state: TrainState | None) -> None:
        """A new attempt begins. An epoch whose checkpoint outlived its record line is recorded now."""
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"
        self.record.append(
            "start",
            hash=self.config.hash,
            config=to_dict(self.config),
            from_epoch=state.epoch if state else 0,
            device=name,
            threads=torch.get_num_threads(),
            workers=self.workers.size,
            versions={"bat_sweeps": bat_core.__version__, "torch": torch.__version__},
        )
        recorded = {event["epoch"] for event in read_status(self.folder).epochs}
        if state and state.epoch not in recorded:
            self.record.append("epoch", **state.metrics)

    def epoch(self, state: TrainState, *, collapsed: bool, keep: bool) -> None:
        """The checkpoint comes first: a recorded epoch is one that will not be run again."""
        if keep:
            save_checkpoint(self.folder / CHECKPOINTS, state, self.config, self.dataset)
        self.record.append("epoch", **state.metrics, **({"collapsed": True} if collapsed else {}))

    def finish(self, state: TrainState) -> None:
        """Join the shards, look for red flags, keep the model, drop the checkpoints; the last line makes it true."""
        curves, verified = self._joined(VERDICTS), self._joined(VERIFIED)
        assert curves is not None
        headline = curves if verified is None else verified
        findings = examine(
            state.model,
            self.dataset.val.images,
            self.dataset.val.labels,
            eps=self.config.attack.eps,
            depth="cheap",
            seed=self.config.seed,
        )
        save_model(self.folder / MODEL, state, self.config, self.dataset)
        self.record.append(
            "finished",
            n=len(curves),
            split=self.config.attack.split,
            clean_acc=curves.clean_acc,
            pgd_acc=curves.robust_acc,
            robust_acc=headline.robust_acc,
            robust_n=len(headline),
            suite=suite_of(self.config.attack).label_for(findings.verdict),
            verdict=findings.verdict,
            flags=[flag.name for flag in findings.flags],
            findings=to_dict(findings),
            epoch=state.epoch,
        )
        shutil.rmtree(self.folder / SHARDS)
        shutil.rmtree(self.folder / CHECKPOINTS)

    def _joined(self, name: str) -> Verdicts | None:
        shards = [_shard(self.folder, name, rank, self.workers.size) for rank in range(self.workers.size)]
        found = [Verdicts.read(shard) for shard in shards if shard.exists()]
        if not found:
            return None
        verdicts = Verdicts.concat(found)
        verdicts.write(self.folder / name)
        return verdicts


@contextlib.contextmanager
def _sole_writer(folder: Path, workers: Workers) -> Iterator[None]:
    """One process at a time writes into a trial's folder, also when a killed sweep's worker lingers."""
    if workers.rank > 0:
        yield
        return
    with exclusive(folder / ".lock"):
        yield
