"""The evaluation of a trained trial: PGD on all images, then the verifying suite on some; each worker has a share."""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from bat_core.config import AttackConfig
from bat_core.data import Split
from bat_core.evaluate import Evaluator, pooled
from bat_core.suites import Suite, second_verification, trajectories, verification
from bat_core.verdicts import Verdicts
from bat_core.workers import Workers
from sweeps.engine.sweep.records import VERDICTS, VERIFIED, VERIFIED_SECOND

CLEAN, BOUND = "final_clean_acc", "robust_bound"  # of what is yielded between PGD and the verifying suite


@dataclass(frozen=True, kw_only=True)
class TrialEvaluation:
    """The attacks on this worker's share of `part`, a trial's images.

    `after_part(done, of)` is called as parts of the images have been attacked: how many, over all workers.
    """

    attack: AttackConfig
    part: Split
    evaluator: Evaluator
    workers: Workers
    device: torch.device
    after_part: Callable[[int, int], None]

    def run(self, *, bounded: bool) -> Generator[dict[str, float], None, dict[str, Verdicts]]:
        """Attack by PGD, then by the verifying suite, if the trial has one, then in the second norm, if it has one.

        With `bounded`, the accuracies after PGD are yielded in between: CLEAN on all images, and BOUND on those that
        the verifying suite attacks. The worst case over more attacks on the same images is at most BOUND.

        Returns:
            The verdicts by the name of their file.
        """
        mine = self.workers.share(torch.arange(len(self.part)))
        chunks = mine.split(pooled(self.attack.batch_size, self.part.images))
        verifying = verification(self.attack)
        to_verify = min(self.attack.verify, len(self.part)) if verifying else 0
        second = second_verification(self.attack)
        limits = (len(self.part), to_verify, to_verify if second else 0)
        progress = _Progress(self.after_part, limits, self.workers.size)
        curves = []
        for batch in self.part.batches(chunks):
            verdicts = self.evaluator.clean(batch.images, batch.labels, batch.rows)
            curves.append(self.evaluator.extend(verdicts, batch.images, trajectories(self.attack)))
            progress.add(0, len(batch))
        if not verifying:
            return {VERDICTS: Verdicts.concat(curves)}
        first = [positions < to_verify for positions in chunks]
        begun = [verdicts.take(kept.nonzero()[:, 0].numpy()) for verdicts, kept in zip(curves, first, strict=True)]
        chosen = [at[kept] for at, kept in zip(chunks, first, strict=True)]
        if bounded:
            yield self._bound(curves, begun, to_verify)
        parts = zip(begun, chosen, strict=True)
        found = {VERDICTS: curves, VERIFIED: list(self._verified(verifying, parts, partial(progress.add, 1)))}
        if second:
            clean = zip((verdicts.without_outcomes() for verdicts in begun), chosen, strict=True)
            found[VERIFIED_SECOND] = list(self._verified(second, clean, partial(progress.add, 2)))
        return {name: Verdicts.concat(parts) for name, parts in found.items() if parts}

    def _verified(
        self, suite: Suite, parts: Iterable[tuple[Verdicts, Tensor]], done: Callable[[int], None]
    ) -> Iterator[Verdicts]:
        """Extend the verdicts of the parts with an image to verify, which are those at the positions of each."""
        kept = [(verdicts, at) for verdicts, at in parts if len(at)]
        for (verdicts, _), batch in zip(kept, self.part.batches([at for _, at in kept]), strict=True):
            yield self.evaluator.extend(verdicts, batch.images, suite)
            done(len(batch))

    def _bound(self, curves: Sequence[Verdicts], begun: Sequence[Verdicts], to_verify: int) -> dict[str, float]:
        counts = [
            sum(int(verdicts.clean_correct.sum()) for verdicts in curves),
            sum(int(verdicts.robust_correct.sum()) for verdicts in begun),
        ]
        clean, robust = self.workers.sum(torch.tensor(counts, device=self.device)).tolist()
        return {CLEAN: clean / len(self.part), BOUND: robust / to_verify}


class _Progress:
    """How many images were attacked by PGD and by each verifying suite, estimated from this worker's share."""

    def __init__(self, report: Callable[[int, int], None], limits: tuple[int, ...], workers: int) -> None:
        self._report, self._limits, self._workers = report, limits, workers
        self._done = [0] * len(limits)
        self._report(0, sum(limits))

    def add(self, stage: int, attacked: int) -> None:
        """So many more images were attacked: by PGD (stage 0), or by a verifying suite."""
        self._done[stage] += attacked
        limited = (min(done * self._workers, of) for done, of in zip(self._done, self._limits, strict=True))
        self._report(sum(limited), sum(self._limits))
