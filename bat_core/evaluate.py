"""From attacks to per-example verdicts. A verdict is always a float32 forward pass, whatever the search precision."""

from collections.abc import Callable, Iterator
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bat_core.attacks import Iterate
from bat_core.config import AttackConfig
from bat_core.correctness import is_correct
from bat_core.data import Images, to_unit
from bat_core.data.base import as_labels
from bat_core.device import is_out_of_memory, to_device
from bat_core.forward import autocast, channels_last, eval_without_tf32, resolve_precision
from bat_core.rng import PerExampleRNG
from bat_core.suites import Entry, Suite, trajectories
from bat_core.threat import in_unit_box
from bat_core.verdicts import SKIPPED, UNBROKEN, Outcome, Verdicts

BATCH = 200

SaveAdversarial: TypeAlias = Callable[[str, Tensor, Tensor], None]


def evaluate(
    model: nn.Module,
    images: Images,
    labels: Tensor,
    *,
    attack: AttackConfig | Suite = AttackConfig(),
    rows: Tensor | None = None,
    seed: int = 0,
    precision: str = "float32",
    batch_size: int | None = None,
) -> Verdicts:
    """Attack every image and classify every point that an attack visits, in float32.

    Each attack starts from the clean image. Its random start depends only on (seed, attack, row): batch size,
    order and sharding do not change it. The exception is AutoAttack, which draws once per batch.

    Args:
        model: (B, C, H, W) in [0, 1] -> (B, K); attacked on its own device, in evaluation mode.
        images: (N, C, H, W) uint8, or float in [0, 1] (outside by rounding: clamped), or in files.
        labels: (N,) integers of any type.
        attack: a suite, or the budget, steps and losses of a trial's own PGD trajectories.
        rows: (N,) identifiers of the examples; default 0 ... N-1.
        precision: "float32" | "bfloat16" | "auto", for the search only. The points of a bfloat16 search are
            classified again in float32 at every listed step, and at other steps where the search saw a
            misclassification.
        batch_size: images per batch; halved repeatedly if memory runs out.
    Returns:
        Verdicts on the N examples, sorted by row.
    Raises:
        ValueError: no images, images outside [0, 1], or labels of another form.
    Source: paper, section 5 (evaluation); Figure 1.
    """
    batches = evaluate_batches(
        model, images, labels, attack=attack, rows=rows, seed=seed, precision=precision, batch_size=batch_size
    )
    return Verdicts.concat(list(batches))


def evaluate_batches(
    model: nn.Module,
    images: Images,
    labels: Tensor,
    *,
    attack: AttackConfig | Suite = AttackConfig(),
    rows: Tensor | None = None,
    seed: int = 0,
    precision: str = "float32",
    batch_size: int | None = None,
) -> Iterator[Verdicts]:
    """Like `evaluate`, but yield the verdicts of each batch when it is done."""
    if len(images) == 0:
        raise ValueError("evaluate: images is empty: give at least one image")
    labels = as_labels(labels, len(images))
    suite = trajectories(attack) if isinstance(attack, AttackConfig) else attack
    size = batch_size or (attack.batch_size if isinstance(attack, AttackConfig) else BATCH)
    evaluator = Evaluator(model, seed=seed, precision=precision)
    rows = torch.arange(len(images)) if rows is None else rows
    for positions in torch.arange(len(images)).split(size):
        batch = images[positions]
        verdicts = evaluator.extend(evaluator.clean(batch, labels[positions], rows[positions]), batch, suite)
        yield verdicts


class Evaluator:
    """Attacks and evaluates one model, one batch at a time.

    `seed` determines the random starts. `precision` is the precision of the search. At most `max_chunk` images are
    attacked at once. A batch that does not fit into memory is halved, and so are later ones; `halvings` counts how
    often.
    """

    def __init__(
        self, model: nn.Module, *, seed: int = 0, precision: str = "float32", max_chunk: int | None = None
    ) -> None:
        self.model, self.seed = model, seed
        tensors = [*model.parameters(), *model.buffers()]
        self.device = tensors[0].device if tensors else torch.device("cpu")
        self.precision = resolve_precision(precision, self.device)
        self.halvings = 0
        self.num_classes: int | None = None  # known after `clean`
        self._max_chunk = max_chunk  # number of images that is known to fit
        self._channels_last = True

    def logits(self, x: Tensor) -> Tensor:
        """The model's logits, in channels-last layout unless the model's own `.view` calls fail on it."""
        if self._channels_last and x.ndim == 4:
            try:
                return cast(Tensor, self.model(channels_last(x)))
            except RuntimeError as error:
                if "stride" not in str(error):
                    raise
                self._channels_last = False
        return cast(Tensor, self.model(x))

    def clean(self, images: Images, labels: Tensor, rows: Tensor) -> Verdicts:
        """Verdicts on clean images, before any attack."""
        labels = as_labels(labels, len(images))
        correct = np.empty(len(images), dtype=np.bool_)

        def classify_part(part: slice) -> None:
            correct[part] = self._classify(images[part], labels[part]).cpu().numpy()

        self._in_chunks(len(images), classify_part)
        return Verdicts(rows=rows.numpy(), labels=labels.cpu().numpy(), clean_correct=correct, outcomes={})

    def extend(
        self, verdicts: Verdicts, images: Images, suite: Suite, *, save: SaveAdversarial | None = None
    ) -> Verdicts:
        """Extend the verdicts on `images` by those of every attack in `suite`, as it is for the model's classes."""
        for entry in suite.for_classes(self.num_classes).entries:
            verdicts = verdicts.with_outcome(entry.name, self.attack(entry, images, verdicts, save=save))
        return verdicts

    def attack(
        self, entry: Entry, images: Images, verdicts: Verdicts, *, save: SaveAdversarial | None = None
    ) -> Outcome:
        """Attack `images`, whose verdicts so far are `verdicts`, and return the outcome.

        Args:
            save: called with the attack's name, rows (M,) and adversarial images (M, C, H, W) float32: for each
                row the image that broke it, else the last one tried.
        """
        active = torch.from_numpy(verdicts.robust_after(len(verdicts.outcomes)))
        attacked = np.flatnonzero(active.numpy()) if entry.skip_broken else np.arange(len(verdicts))
        broken_at = np.where(verdicts.clean_correct, SKIPPED, 0).astype(np.int64)
        final = np.zeros((len(verdicts), len(entry.steps)), dtype=np.bool_)
        labels, rows = torch.tensor(verdicts.labels), torch.tensor(verdicts.rows)  # arrays from Parquet are read-only
        clean = torch.tensor(verdicts.clean_correct)

        def attack_part(part: slice) -> None:
            chosen = torch.from_numpy(attacked[part])
            x, y, known = (to_device(some[chosen], self.device) for some in (images, labels, clean))
            run = AttackRun(self, entry, to_unit(in_unit_box(x)), y, known, rows[chosen], keep=save is not None)
            with eval_without_tf32(self.model):
                run.run()
            broken_at[attacked[part]], final[attacked[part]] = run.results()
            if save is not None:
                assert run.x_adv is not None
                save(entry.name, rows[chosen], run.x_adv.cpu())

        self._in_chunks(len(attacked), attack_part)
        return Outcome(broken_at=broken_at, steps=entry.steps, final=final)

    @torch.no_grad()
    def _classify(self, images: Tensor, labels: Tensor) -> Tensor:
        x, y = to_unit(in_unit_box(to_device(images, self.device))), to_device(labels, self.device)
        with eval_without_tf32(self.model):
            logits = self.logits(x)
            self.num_classes = logits.shape[1]
            return is_correct(logits, y)

    def _in_chunks(self, count: int, run: Callable[[slice], None]) -> None:
        """Call `run` on slices that cover 0..count: on a single slice if memory suffices, else on smaller ones."""
        done = 0
        while done < count:
            size = min(self._max_chunk or count, count - done)
            try:
                run(slice(done, done + size))
            except (MemoryError, RuntimeError) as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
                self._max_chunk, self.halvings = size // 2, self.halvings + 1
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
            else:
                done += size


class AttackRun:
    """One attack on one batch. Every iterate is classified as it is produced."""

    def __init__(
        self, evaluator: Evaluator, entry: Entry, x: Tensor, y: Tensor, clean: Tensor, rows: Tensor, *, keep: bool
    ) -> None:
        self.evaluator, self.entry, self.x, self.y, self.rows = evaluator, entry, x, y, rows
        self.broken_at = torch.where(clean, UNBROKEN, 0)
        self.final = torch.ones(len(x), len(entry.steps), dtype=torch.bool, device=x.device)
        self.x_adv = x.clone() if keep else None

    def run(self) -> None:
        evaluator, entry = self.evaluator, self.entry
        rng = PerExampleRNG(seed=evaluator.seed, names=("evaluate", entry.name), indices=self.rows.tolist())
        active = self.broken_at == UNBROKEN if entry.skip_broken else None

        def search_logits(z: Tensor) -> Tensor:
            with autocast(z.device, evaluator.precision):
                return evaluator.logits(z)

        trajectory = entry.attack.trajectory(search_logits, self.x, self.y, generator=rng, active=active)
        for iterate in trajectory:
            correct = self._correct(iterate)
            before = self.broken_at[iterate.rows]
            broken = ~correct & self._can_break(iterate)
            self.broken_at[iterate.rows] = torch.where(broken, iterate.step, before)
            if iterate.step in entry.steps:
                self.final[iterate.rows, entry.steps.index(iterate.step)] &= correct
            if active is not None:
                active[iterate.rows] &= correct
            if self.x_adv is not None:
                recorded = (broken | (before == UNBROKEN))[:, None, None, None]
                self.x_adv[iterate.rows] = torch.where(recorded, iterate.x, self.x_adv[iterate.rows])

    def results(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """`broken_at` (B,) and `final` (B, steps) as arrays, in one copy: each copy waits for a GPU."""
        both = torch.cat([self.broken_at[:, None], self.final.long()], dim=1).cpu().numpy()
        return both[:, 0], both[:, 1:].astype(np.bool_)

    def _can_break(self, iterate: Iterate) -> Tensor:
        """(M,): whether the example has not been broken at this step or earlier."""
        before = self.broken_at[iterate.rows]
        return (before == UNBROKEN) | (before > iterate.step)

    @torch.no_grad()
    def _correct(self, iterate: Iterate) -> Tensor:
        """(M,): whether the iterate is classified correctly in float32."""
        y = self.y[iterate.rows]
        exact = self.evaluator.precision == torch.float32
        if iterate.logits is None or (iterate.step in self.entry.steps and not exact):
            return is_correct(self.evaluator.logits(iterate.x), y)
        correct = is_correct(iterate.logits, y)
        if not exact and len(seen := (self._can_break(iterate) & ~correct).nonzero().squeeze(1)):
            correct[seen] = is_correct(self.evaluator.logits(iterate.x[seen]), y[seen])
        return correct
