"""One attack on one model: every point that a search visits is classified as it is produced."""

from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bat_core.attacks.base import Iterate
from bat_core.attacks.cycles import Passes
from bat_core.correctness import NO_ANSWER, is_correct, predicted_class
from bat_core.rng import PerExampleRNG
from bat_core.suites import Entry
from bat_core.verdicts import UNBROKEN


class Judge(Protocol):
    """A model, how searches see it, and how their points are judged."""

    seed: int
    precision: torch.dtype

    def search_logits(self, x: Tensor) -> Tensor:
        """The model's logits (B, K) in the precision of the search."""
        ...

    def answers(self, x: Tensor, y: Tensor, passes: Passes) -> tuple[Tensor, Tensor]:
        """(M,) whether the points x (M, C, H, W) are classified correctly in float32, and (M,) their classes."""
        ...

    def heartbeat(self) -> None:
        """Called at every point of a search."""
        ...


class AttackRun:
    """One attack on images x (B, C, H, W) of classes y (B,), of which `clean` (B,) were classified correctly."""

    def __init__(
        self,
        judge: Judge,
        entry: Entry,
        x: Tensor,
        y: Tensor,
        clean: Tensor,
        rows: Tensor,
        *,
        keep: bool,
        passes: Passes,
    ) -> None:
        self.judge, self.entry, self.x, self.y, self.rows = judge, entry, x, y, rows
        self.passes = passes
        self.exact = judge.precision == torch.float32
        self.broken_at = torch.where(clean, UNBROKEN, 0)
        self.final = torch.ones(len(x), len(entry.steps), dtype=torch.bool, device=x.device)
        self.predicted = torch.full_like(self.broken_at, NO_ANSWER)
        self.x_adv = x.clone() if keep else None
        self.history: History | None = None

    def run(self) -> None:
        """Run the attack's searches one after another."""
        judge, entry = self.judge, self.entry
        rng = PerExampleRNG(seed=judge.seed, names=("evaluate", entry.name), indices=self.rows.tolist())
        active = self.broken_at == UNBROKEN if entry.skip_broken else None
        trajectory = entry.attack.trajectory(
            judge.search_logits, self.x, self.y, generator=rng, active=active, passes=self.passes
        )
        for iterate in trajectory:
            judge.heartbeat()
            if self.passes.cycles and iterate.step == 0:
                self._complete()
                self.history = History(len(self.x), max(entry.steps, default=0), self.x.device)
            correct, lasting, classes = self._answers(iterate)
            before = self.broken_at[iterate.rows]
            broken = ~correct & self._can_break(iterate)
            self.broken_at[iterate.rows] = torch.where(broken, iterate.step, before)
            self.predicted[iterate.rows] = torch.where(broken, classes, self.predicted[iterate.rows])
            if iterate.step in entry.steps:
                self.final[iterate.rows, entry.steps.index(iterate.step)] &= correct
            if active is not None:
                active[iterate.rows] &= correct
            if self.x_adv is not None:
                recorded = broken | (before == UNBROKEN)
                if self.history is not None:  # the search of some ended earlier, in a cycle
                    recorded &= self.history.period[iterate.rows] == 0
                x_adv = self.x_adv[iterate.rows]
                self.x_adv[iterate.rows] = torch.where(recorded[:, None, None, None], iterate.x, x_adv)
            if self.history is not None:
                self.history.add(iterate, lasting, classes)
        self._complete()

    def results(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
        """`broken_at` (B,), `predicted` (B,) and `final` (B, steps), in one copy: each copy waits for a GPU."""
        whole = torch.cat([self.broken_at[:, None], self.predicted[:, None], self.final.long()], dim=1).cpu().numpy()
        return whole[:, 0], whole[:, 1], whole[:, 2:].astype(np.bool_)

    def _can_break(self, iterate: Iterate) -> Tensor:
        """(M,): whether the example has not been broken at this step or earlier."""
        before = self.broken_at[iterate.rows]
        return (before == UNBROKEN) | (before > iterate.step)

    @torch.no_grad()
    def _answers(self, iterate: Iterate) -> tuple[Tensor, Tensor, Tensor]:
        """(M,) twice: whether the iterate is classified correctly in float32; and (M,), its class.

        After a step of a bfloat16 search that is not read, only misclassified points are classified again. In a cycle
        the verdict may stand for those of steps that are read: the second result has it in float32 there too.
        """
        y = self.y[iterate.rows]
        if iterate.logits is None or (iterate.step in self.entry.steps and not self.exact):
            correct, classes = self.judge.answers(iterate.x, y, self.passes)
            return correct, correct, classes
        correct, classes = is_correct(iterate.logits, y), predicted_class(iterate.logits)
        if self.exact:
            return correct, correct, classes
        seen = self._can_break(iterate) & ~correct
        again = seen if iterate.cycle is None else seen | iterate.cycle.suspected
        lasting = correct.clone()
        if len(some := again.nonzero().squeeze(1)):
            lasting[some], classes[some] = self.judge.answers(iterate.x[some], y[some], self.passes)
        return torch.where(seen, lasting, correct), lasting, classes

    def _complete(self) -> None:
        """Read the steps that the last search did not run because it repeats itself."""
        if self.history is None:
            return
        for column, step in enumerate(self.entry.steps):
            known, correct, classes = self.history.at(step)
            self.final[:, column] &= ~known | correct
            if not self.exact:  # else every point of the cycle was judged when it was visited
                first = known & ~correct & ((self.broken_at == UNBROKEN) | (self.broken_at > step))
                self.broken_at = torch.where(first, step, self.broken_at)
                self.predicted = torch.where(first, classes, self.predicted)


class History:
    """Verdicts of one search on B examples at its steps, of which a cycle gives those after the last one visited."""

    def __init__(self, count: int, num_steps: int, device: torch.device) -> None:
        self.period = torch.zeros(count, dtype=torch.int64, device=device)
        self._last = torch.zeros_like(self.period)
        self._correct = torch.zeros(count, num_steps + 1, dtype=torch.bool, device=device)
        self._classes = torch.full_like(self._correct, NO_ANSWER, dtype=torch.int64)

    def add(self, iterate: Iterate, correct: Tensor, classes: Tensor) -> None:
        """Note the verdicts `correct` (M,) and the predicted classes (M,) at an iterate."""
        if iterate.step < self._correct.shape[1]:
            self._correct[iterate.rows, iterate.step] = correct
            self._classes[iterate.rows, iterate.step] = classes
        self._last[iterate.rows] = iterate.step
        if iterate.cycle is not None:
            self.period[iterate.rows] = iterate.cycle.period

    def at(self, step: int) -> tuple[Tensor, Tensor, Tensor]:
        """(B,) whether the verdict at `step` follows from a cycle, and (B,) each the verdict and class there."""
        known = (self.period > 0) & (self._last < step)
        same = self._last - (self._last - step) % self.period.clamp(min=1)
        same = same.clamp(max=self._correct.shape[1] - 1)  # matters only where the verdict is not known
        correct, classes = (kept.gather(1, same[:, None]).squeeze(1) for kept in (self._correct, self._classes))
        return known, correct, classes
