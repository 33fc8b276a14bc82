"""From attacks to per-example verdicts. A verdict is always a float32 forward pass, whatever the search precision."""

import itertools
from collections.abc import Callable, Iterator
from typing import TypeAlias, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from bat_core.attack_run import AttackRun
from bat_core.attacks.cycles import ALL_AT_ONCE, Passes
from bat_core.config import AttackConfig
from bat_core.correctness import NO_ANSWER, is_correct, predicted_class
from bat_core.data import Images, to_unit
from bat_core.data.base import as_labels
from bat_core.device import is_out_of_memory, to_device
from bat_core.forward import autocast, channels_last, eval_without_tf32, resolve_precision
from bat_core.repeatable import why_no_cycles
from bat_core.suites import Entry, Suite, trajectories
from bat_core.unit_box import in_unit_box
from bat_core.verdicts import SKIPPED, Outcome, Verdicts

BATCH = 200
MAX_POOLED = 10  # batches whose images are attacked side by side
POOL_BYTES = 2**25  # of float32 images

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
    cycles: bool = True,
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
        cycles: let images whose PGD search repeats itself leave it. The verdicts are the same; False runs every step.
    Returns:
        Verdicts on the N examples, sorted by row.
    Raises:
        ValueError: no images, images outside [0, 1], or labels of another form.
    Source: paper, section 5 (evaluation); Figure 1.
    """
    batches = evaluate_batches(
        model,
        images,
        labels,
        attack=attack,
        rows=rows,
        seed=seed,
        precision=precision,
        batch_size=batch_size,
        cycles=cycles,
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
    cycles: bool = True,
) -> Iterator[Verdicts]:
    """Like `evaluate`, but yield the verdicts of each batch. Several batches are attacked side by side."""
    if len(images) == 0:
        raise ValueError("evaluate: images is empty: give at least one image")
    labels = as_labels(labels, len(images))
    suite = trajectories(attack) if isinstance(attack, AttackConfig) else attack
    size = batch_size or (attack.batch_size if isinstance(attack, AttackConfig) else BATCH)
    evaluator = Evaluator(model, seed=seed, precision=precision, batch_size=size, cycles=cycles)
    rows = torch.arange(len(images)) if rows is None else rows
    for positions in torch.arange(len(images)).split(pooled(size, images)):
        batch = images[positions]
        verdicts = evaluator.extend(evaluator.clean(batch, labels[positions], rows[positions]), batch, suite)
        yield from (verdicts.take(part.numpy()) for part in torch.arange(len(positions)).split(size))


def pooled(batch_size: int, images: Images) -> int:
    """How many images to attack side by side: whole batches of `batch_size` that take little memory.

    A search that few images of a batch go on with then fills its passes from several batches.
    """
    one = images[:1]
    bytes_each = 4 * one[0].numel()
    return batch_size * max(1, min(MAX_POOLED, POOL_BYTES // (bytes_each * batch_size)))


class Evaluator:
    """Attacks and evaluates one model, one batch at a time.

    `seed` determines the random starts. `precision` is the precision of the search. At most `batch_size` images go
    through the network at once (default: all that are given), and at most `max_chunk`. A batch that does not fit into
    memory is halved, and so are later ones; `halvings` counts how often. `cycles` lets images whose search repeats
    itself leave it, if the model allows it. `heartbeat` is called at every step of an attack.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        seed: int = 0,
        precision: str = "float32",
        max_chunk: int | None = None,
        batch_size: int | None = None,
        cycles: bool = True,
        heartbeat: Callable[[], None] = lambda: None,
    ) -> None:
        self.model, self.seed, self._heartbeat = model, seed, heartbeat
        tensors = [*model.parameters(), *model.buffers()]
        self.device = tensors[0].device if tensors else torch.device("cpu")
        self.precision = resolve_precision(precision, self.device)
        self.halvings = 0
        self.num_classes: int | None = None  # known after `clean`
        self._cycles, self._tried = cycles, False
        self._cycle_problem: str | None = None  # known once it was tried
        self._batch_size = batch_size
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
        correct, predicted = np.empty(len(images), dtype=np.bool_), np.empty(len(images), dtype=np.int64)

        def classify_part(part: slice) -> None:
            answers = self._classify(images[part], labels[part]).cpu().numpy()
            correct[part], predicted[part] = answers[:, 0].astype(np.bool_), answers[:, 1]

        for first in range(0, len(images), size := self._batch_size or len(images)):
            self._in_chunks(slice(first, min(first + size, len(images))), classify_part)
        return Verdicts(
            rows=rows.numpy(),
            labels=labels.cpu().numpy(),
            clean_correct=correct,
            outcomes={},
            clean_predicted=predicted,
        )

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
        predicted = np.full(len(verdicts), NO_ANSWER)
        labels, rows = torch.tensor(verdicts.labels), torch.tensor(verdicts.rows)  # arrays from Parquet are read-only
        clean = torch.tensor(verdicts.clean_correct)

        def attack_part(part: slice) -> None:
            chosen = torch.from_numpy(attacked[part])
            x, y, known = (to_device(some[chosen], self.device) for some in (images, labels, clean))
            x = to_unit(in_unit_box(x))
            with eval_without_tf32(self.model):
                passes = self._passes(entry, x, exact_only=save is not None)
                run = AttackRun(self, entry, x, y, known, rows[chosen], keep=save is not None, passes=passes)
                run.run()
            broken_at[attacked[part]], predicted[attacked[part]], final[attacked[part]] = run.results()
            if save is not None:
                assert run.x_adv is not None
                save(entry.name, rows[chosen], run.x_adv.cpu())

        if entry.attack.pools:
            self._in_chunks(slice(0, len(attacked)), attack_part, split=False)
        else:
            for part in self._batches(attacked, len(verdicts)):
                self._in_chunks(part, attack_part)
        return Outcome(broken_at=broken_at, steps=entry.steps, final=final, predicted=predicted)

    def answers(self, x: Tensor, y: Tensor, passes: Passes) -> tuple[Tensor, Tensor]:
        """(M,) whether the points x (M, C, H, W) are classified correctly in float32, and (M,) their classes."""
        logits = passes.logits(self.logits, x)
        return is_correct(logits, y), predicted_class(logits)

    def cycle_problem(self, images: Images) -> str | None:
        """Why searches on the model run every step, as `images` (B, C, H, W) show; None if they need not."""

        def try_part(part: slice) -> None:
            if not self._tried:
                with eval_without_tf32(self.model):
                    x = to_unit(in_unit_box(to_device(images[part], self.device)))
                    self._cycle_problem = why_no_cycles(self.search_logits, x)
                self._tried = True

        self._in_chunks(slice(0, len(images)), try_part)
        return self._cycle_problem

    def heartbeat(self) -> None:
        """Say that the attack goes on."""
        self._heartbeat()

    def search_logits(self, x: Tensor) -> Tensor:
        """The model's logits in the precision of the search."""
        with autocast(x.device, self.precision):
            return self.logits(x)

    def _passes(self, entry: Entry, x: Tensor, *, exact_only: bool) -> Passes:
        """How the images x of one attack go through the network. Tries once whether the model allows cycles."""
        if not entry.attack.pools:
            return ALL_AT_ONCE
        size = self._pass_size(len(x))
        wanted = self._cycles and entry.attack.may_repeat and not (exact_only and self.precision != torch.float32)
        return Passes(batch=size, cycles=wanted and self.cycle_problem(x[:size]) is None)

    def _pass_size(self, count: int) -> int:
        return min(self._max_chunk or count, self._batch_size or count)

    def _batches(self, attacked: npt.NDArray[np.int64], count: int) -> Iterator[slice]:
        """The slices of `attacked` that belong to each batch of the `count` images."""
        size = self._batch_size or max(count, 1)
        bounds = np.searchsorted(attacked, np.arange(0, count + size, size))
        return (slice(int(first), int(last)) for first, last in itertools.pairwise(bounds))

    @torch.no_grad()
    def _classify(self, images: Tensor, labels: Tensor) -> Tensor:
        """(B, 2): whether each image is classified correctly, and its predicted class."""
        x, y = to_unit(in_unit_box(to_device(images, self.device))), to_device(labels, self.device)
        with eval_without_tf32(self.model):
            logits = self.logits(x)
            self.num_classes = logits.shape[1]
            return torch.stack([is_correct(logits, y).long(), predicted_class(logits)], dim=1)

    def _in_chunks(self, part: slice, run: Callable[[slice], None], *, split: bool = True) -> None:
        """Call `run` on slices that cover `part`: on `part` if memory suffices, else on smaller ones.

        Without `split`, `run` gets `part` as a whole and passes fewer images at a time through the network.
        """
        done = part.start
        while done < part.stop:
            left = part.stop - done
            size = min(self._max_chunk or left, left) if split else self._pass_size(left)
            taken = size if split else left
            try:
                run(slice(done, done + taken))
            except (MemoryError, RuntimeError) as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
                self._max_chunk, self.halvings = size // 2, self.halvings + 1
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()
            else:
                done += taken
