"""The training loop: generators that yield after each batch or epoch and leave everything else to the caller."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import torch
from torch import Tensor, nn

from bat_core.attacks import PGD, fgsm
from bat_core.collapse import CollapseDetector
from bat_core.config import TrialConfig
from bat_core.correctness import is_correct, is_finite
from bat_core.data import Augmentation, Crops, Dataset, Split, to_unit
from bat_core.device import to_device
from bat_core.divergence import check_answers, check_loss, check_weights
from bat_core.errors import InputError
from bat_core.forward import (
    autocast,
    compiled,
    eval_without_tf32,
    evaluation_mode,
    frozen,
    resolve_compile,
    resolve_layout,
    resolve_precision,
)
from bat_core.models import build_model
from bat_core.optimizer import sgd
from bat_core.recipes import Recipe, get_recipe
from bat_core.rng import BatchRNG, PerExampleRNG, named_generator, named_seed
from bat_core.schedule import update_rate
from bat_core.unit_box import async_checks
from bat_core.workers import Workers

VAL_BATCH = 500


@dataclass
class PartialEpoch:
    """The state of an unfinished epoch after `batches` batches.

    `totals` (3,) float64 are this worker's summed loss, correct images and seen images; `generator` is the epoch's
    source of randomness.
    """

    batches: int
    totals: Tensor
    generator: torch.Generator


@dataclass
class TrainState:
    """The state that training resumes from: the model, the optimiser and the number of finished epochs.

    Random state is stored only within an epoch (`partial`), because every epoch has its own named seed. `metrics`
    are those of the last epoch; `collapse_detector` remembers the most robust epoch so far.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    epoch: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    collapse_detector: CollapseDetector = field(default_factory=CollapseDetector)
    partial: PartialEpoch | None = None

    def gather(self, workers: Workers) -> None:
        """Combine the partial epochs of all workers, so that rank 0 can save the state for all of them.

        This also averages the batch norm statistics of the workers, as at the end of an epoch.
        """
        assert self.partial is not None
        workers.average_buffers(self.model)
        self.partial.totals = workers.sum(self.partial.totals)


@dataclass(frozen=True, kw_only=True)
class EpochReport:
    """One finished epoch. Accuracies are in [0, 1]; `val_*` are measured on validation images.

    `train_acc` is the running accuracy on the adversarial training images. `val_robust_acc` is the accuracy under
    PGD at the evaluation's budget, `val_one_step_acc` under FGSM at the recipe's budget. `collapsed` marks
    catastrophic overfitting in this epoch. `state` is live: save it before requesting the next report.
    """

    epoch: int
    lr: float
    train_loss: float
    train_acc: float
    val_clean_acc: float
    val_robust_acc: float
    val_one_step_acc: float
    seconds: float
    state: TrainState
    collapsed: bool = False

    def metrics(self) -> dict[str, float]:
        """All metrics by name."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name not in {"state", "collapsed"}}


def initial_state(config: TrialConfig, dataset: Dataset, device: torch.device) -> TrainState:
    """A model and its optimiser before the first epoch, from the trial's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(named_seed(config.seed, "init"))
        model = build_model(config.model, num_classes=dataset.num_classes, image_shape=dataset.image_shape)
    layout = resolve_layout(config.train.channels_last)
    model.to(device, memory_format=layout)  # type: ignore[call-overload]
    return TrainState(model, sgd(config.train, model, device))


def fit(
    config: TrialConfig,
    dataset: Dataset,
    *,
    state: TrainState | None = None,
    device: torch.device | str = "cpu",
    workers: Workers = Workers(),
) -> Iterator[EpochReport]:
    """Train a model by the trial's recipe.

    Args:
        dataset: fits the train split and measures on the val split; the test split is not used.
        state: the state to resume from; None starts from scratch. On a CPU, a resumed run equals an uninterrupted
            one bit for bit.
        workers: the processes that share the global batch; each calls fit with the same arguments.
    Yields:
        A report after each epoch from state.epoch + 1 to config.train.epochs.
    Raises:
        ValueError: the batch size is not a multiple of the number of workers, or exceeds the number of images; there
            are no images to validate on, or images outside [0, 1].
        FloatingPointError: the loss, a weight or a buffer is not finite, or no validation image has finite logits.
    """
    for report in fit_by_batch(config, dataset, state=state, device=device, workers=workers):
        if isinstance(report, EpochReport):
            yield report


def fit_by_batch(
    config: TrialConfig,
    dataset: Dataset,
    *,
    state: TrainState | None = None,
    device: torch.device | str = "cpu",
    workers: Workers = Workers(),
) -> Iterator[EpochReport | TrainState]:
    """Like `fit`, but also yield the live state after each batch. Training can resume from any of these states."""
    device = torch.device(device)
    state = state or initial_state(config, dataset, device)
    trainer = _Trainer(config, dataset, state, device, workers)
    for epoch in range(state.epoch + 1, config.train.epochs + 1):
        yield from trainer.run_epoch(epoch)


class _Trainer:
    def __init__(
        self, config: TrialConfig, dataset: Dataset, state: TrainState, device: torch.device, workers: Workers
    ) -> None:
        self.config, self.state, self.device, self.workers = config, state, device, workers
        self.recipe: Recipe = get_recipe(config.recipe.name, **config.recipe.params)
        self.augmentation: Augmentation = dataset.augmentation
        dataset.check_trainable()
        # Labels of images in files stay beside them: positions on the CPU would wait for a GPU.
        train = dataset.train.in_unit_box()
        self.train = train.to(device) if isinstance(train.images, Tensor) else train
        self.val = dataset.val
        # Images in files are large. A batch as large as that of an update is known to fit into memory.
        self.val_batch = (
            VAL_BATCH if isinstance(dataset.val.images, Tensor) else config.train.batch_size // workers.size
        )
        self.batches = batches_per_epoch(config, len(dataset.train), workers)
        self.precision = resolve_precision(config.train.precision, device)
        self.layout = resolve_layout(config.train.channels_last)
        self.compiled = resolve_compile(config.train.compile)
        self.attack_model = compiled(state.model, self.compiled)
        self.update_model = compiled(workers.wrap(state.model), self.compiled)
        if state.partial and workers.rank > 0:
            state.partial.totals.zero_()  # rank 0 has the totals of all workers

    def run_epoch(self, epoch: int) -> Iterator[EpochReport | TrainState]:
        started = time.perf_counter()
        self.state.model.train()
        partial = self.state.partial = self.state.partial or self._begin(epoch)
        rng = BatchRNG(partial.generator, self.workers.rank, self.workers.size)
        for batch, (images, y) in enumerate(self._share_batches(epoch, partial.batches), partial.batches):
            for group in self.state.optimizer.param_groups:
                group["lr"] = self._learning_rate(epoch, batch)
            partial.totals += self._update(images, y, rng)
            partial.batches += 1
            yield self.state
        self.workers.average_buffers(self.state.model)
        loss, correct, count = self.workers.sum(partial.totals).tolist()
        check_loss(loss / count, epoch)
        check_weights(self.state.model, epoch)
        clean, robust, one_step = self._validate(epoch)
        self.state.epoch, self.state.partial = epoch, None
        report = EpochReport(
            epoch=epoch,
            lr=self._learning_rate(epoch, self.batches - 1),
            train_loss=loss / count,
            train_acc=correct / count,
            val_clean_acc=clean,
            val_robust_acc=robust,
            val_one_step_acc=one_step,
            seconds=time.perf_counter() - started,
            state=self.state,
            collapsed=self.recipe.attack is not None and self.state.collapse_detector.collapsed(robust, one_step),
        )
        self.state.metrics = report.metrics()
        self.state.collapse_detector = self.state.collapse_detector.updated(robust, one_step)
        yield report

    def _learning_rate(self, epoch: int, batch: int) -> float:
        epochs = self.config.train.epochs
        progress = (epoch - 1 + batch / self.batches) / epochs
        return update_rate(self.config.train, progress, updates=self.batches * epochs)

    def _begin(self, epoch: int) -> PartialEpoch:
        return PartialEpoch(
            batches=0,
            totals=torch.zeros(3, dtype=torch.float64, device=self.device),
            generator=named_generator(self.config.seed, "draws", epoch, device=self.device),
        )

    def _share_batches(self, epoch: int, start: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This worker's share of each batch of the epoch, from batch `start` on."""
        seed, size = self.config.seed, self.config.train.batch_size
        order = torch.randperm(len(self.train), generator=named_generator(seed, "order", epoch))
        images, labels = self.train.images, self.train.labels
        if isinstance(images, Tensor):  # images and labels are on the device
            order = to_device(order, self.device)
        shares = [self.workers.share(batch) for batch in order.split(size)[start : self.batches]]
        if isinstance(images, Tensor):
            yield from ((images[share], labels[share]) for share in shares)
            return
        for part in self.train.batches(shares, crops=Crops(seed, epoch)):
            yield to_device(part.images[:], self.device), to_device(part.labels, self.device)

    def _update(self, images: Tensor, y: Tensor, rng: BatchRNG) -> Tensor:
        if self.compiled:
            torch.compiler.cudagraph_mark_step_begin()  # lets CUDA graphs reuse the memory of the last step
        x = to_unit(self.augmentation(images, rng)).contiguous(memory_format=self.layout)
        x_adv, label = self._craft(x, y, rng)
        self.state.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, self.precision):
            losses, logits = self.recipe.loss(self.update_model, x, x_adv, label)
        losses.mean().backward()
        self.state.optimizer.step()
        correct = is_correct(logits.detach(), y).sum()
        return torch.stack([losses.detach().sum(), correct, torch.full_like(correct, len(y))]).double()

    def _craft(self, x: Tensor, y: Tensor, rng: BatchRNG) -> tuple[Tensor, Tensor]:
        model = self.state.model
        without_weights = frozen(model) if self.compiled else contextlib.nullcontext()
        with evaluation_mode(model), without_weights, autocast(self.device, self.precision), async_checks():
            return self.recipe.craft(self.attack_model, x, y, rng)

    def _validate(self, epoch: int) -> tuple[float, float, float]:
        """Accuracy on validation images: clean, under PGD and under one step."""
        mine = self.workers.share(torch.arange(len(self.val)))
        counts = torch.zeros(5, dtype=torch.float64, device=self.device)
        with eval_without_tf32(self.state.model):
            for part in self.val.batches(mine.split(self.val_batch)):
                counts += self._validate_batch(part, epoch)
        clean, robust, one_step, answered, count = self.workers.sum(counts).tolist()
        check_answers(answered, epoch)
        return clean / count, robust / count, one_step / count

    def _validate_batch(self, part: Split, epoch: int) -> Tensor:
        attack, model = self.config.attack, self.state.model
        x, y = to_unit(to_device(part.images[:], self.device)), to_device(part.labels, self.device)
        rng = PerExampleRNG(seed=self.config.seed, names=("val", epoch), indices=part.rows.tolist())
        own = self.recipe.attack or attack
        with autocast(self.device, self.precision):
            steps = self.config.train.val_steps
            many = PGD(eps=attack.eps, norm=attack.norm, step_size=attack.step_size, num_steps=steps)(
                model, x, y, generator=rng
            )
            one = fgsm(model, x, y, eps=own.eps, norm=own.norm)
        with torch.no_grad():
            logits = model(x)
            clean = is_correct(logits, y)
            robust = clean & is_correct(model(many), y)
            one_step = is_correct(model(one), y)
        counted = [part.sum() for part in (clean, robust, one_step, is_finite(logits), torch.ones_like(clean))]
        return torch.stack(counted).double()


def batches_per_epoch(config: TrialConfig, train_size: int, workers: Workers = Workers()) -> int:
    """The number of full global batches per epoch. Remaining images are skipped; they differ from epoch to epoch.

    Raises:
        ValueError: the batch size is not a multiple of the number of workers, or exceeds the number of images.
    """
    size = config.train.batch_size
    if size % workers.size:
        raise InputError(f"train.batch_size={size} must be a multiple of the number of workers, {workers.size}")
    if train_size < size:
        raise InputError(f"train.batch_size={size} is larger than the {train_size} training images")
    return train_size // size
