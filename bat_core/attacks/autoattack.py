"""AutoAttack, part by part, in its authors' implementation (package pyautoattack)."""

import logging
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bat_core.attacks.base import ATTACKS, MAX_TARGETS, Attack, Iterate, LogitsFn, Problem
from bat_core.correctness import is_finite
from bat_core.errors import InputError, check_choice
from bat_core.norms import L2, LINF
from bat_core.rng import BatchRNG
from bat_core.threat import LpBall, lengths

PARTS = ("apgd-ce", "apgd-t", "fab-t", "square")  # the standard version, in its order
MIN_CLASSES = {**dict.fromkeys(PARTS, 2), "apgd-t": 4, "apgd-dlr": 3}  # the (targeted) DLR loss compares three (four)
LIBRARY_NORMS = {LINF: "Linf", L2: "L2"}
ROUNDING = 1e-6  # of float32, when a point's distance from its clean image is measured


@ATTACKS.register("autoattack")
@dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """One part of AutoAttack's standard version, or "apgd-dlr", which replaces "apgd-t" for 3 classes.

    The standard evaluation runs the parts in order, each on the examples that remain robust. With fewer than ten
    classes the targeted parts try every wrong class.

    Source: Croce and Hein 2020, arXiv:2003.01690; package pyautoattack, which contains their code unchanged.
    """

    takes_target: ClassVar[bool] = False

    part: str = "apgd-ce"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("attack.part", self.part, MIN_CLASSES)
        if self.restarts != 1:
            raise InputError(
                f"attack.restarts={self.restarts} must be 1: AutoAttack's standard version does not restart"
            )

    @property
    def min_classes(self) -> int:
        return MIN_CLASSES[self.part]

    @property
    def classes_rule(self) -> str:
        return f"AutoAttack's {self.part}"

    def check_available(self) -> None:
        library_attack()

    def iterates(
        self,
        logits_fn: LogitsFn,
        problem: Problem,
        rng: BatchRNG,
        active: Tensor | None,  # noqa: ARG002
    ) -> Iterator[Iterate]:
        library = library_attack()
        x, y = problem.ball.x.float().contiguous(), problem.y
        model = _LibraryModel(logits_fn, problem.ball, x)
        with torch.no_grad():
            num_classes = model(x[:1]).shape[1]
        if num_classes < self.min_classes:
            raise InputError(
                f"{self.classes_rule} needs {self.min_classes} classes, the model has {num_classes}: use"
                " get_suite(...).for_classes"
            )
        with _isolated_randomness(x.device), _silenced():
            seed = int(rng.integers(2**31 - 1, y)[0])
            attack = library(
                model, eps=self.eps, norm=LIBRARY_NORMS[self.norm], seed=seed, version="standard", device=x.device
            )
            attack.attacks_to_run = [self.part]
            targets = min(MAX_TARGETS, num_classes - 1)
            attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
            x_adv, _ = attack.run_standard_evaluation(x, y, batch_size=len(x))
        x_adv = model.with_unanswered(x_adv.detach()).to(problem.ball.x.dtype)
        yield Iterate(1, problem.rows, problem.ball.project(x_adv))


def library_attack() -> Any:
    """pyautoattack's AutoAttack.

    Raises:
        InputError: the package is not installed.
    """
    try:
        from pyautoattack import AutoAttack as Library  # noqa: PLC0415 (optional dependency)
    except ImportError as error:
        raise InputError(
            "AutoAttack needs the package pyautoattack: pip install 'bat-sweeps[autoattack]', or use suite quick"
        ) from error
    return Library


class _LibraryModel(nn.Module):
    """The model as a module on float32 images with contiguous input gradients, which the library's `.view` needs.

    The library takes any argmax for an answer. It therefore sees logits of 0 where the model's are not finite, and the
    first such image within `eps` of each clean image is kept here: the model misclassifies it.
    """

    def __init__(self, logits_fn: LogitsFn, ball: LpBall, clean: Tensor) -> None:
        super().__init__()
        self.logits_fn, self.dtype, self.clean = logits_fn, ball.x.dtype, clean
        self.eps, self.norm = ball.eps, ball.norm
        self.unanswered: dict[int, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        logits = self.logits_fn(_ContiguousGradient.apply(x).to(self.dtype)).float()
        finite = is_finite(logits.detach())
        if bool(finite.all()):
            return logits
        for point in x.detach()[~finite]:
            self._keep(point)
        return logits.masked_fill(~finite[:, None], 0.0)

    def _keep(self, point: Tensor) -> None:
        delta = self.clean - point
        distance = delta.flatten(1).abs().amax(1) if self.norm == LINF else lengths(delta)
        within = distance <= self.eps + ROUNDING
        for row in within.nonzero().flatten().tolist():
            self.unanswered.setdefault(row, point.clone())

    def with_unanswered(self, x_adv: Tensor) -> Tensor:
        """The library's result, with the kept images in it, and clean images where the library's are not finite."""
        sound = x_adv.isfinite().flatten(1).all(1)
        x_adv = torch.where(sound[:, None, None, None], x_adv, self.clean)
        for row, point in self.unanswered.items():
            x_adv[row] = point
        return x_adv


class _ContiguousGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        return gradients[0].contiguous().nan_to_num(posinf=math.inf, neginf=-math.inf)  # only NaN becomes 0


@contextmanager
def _isolated_randomness(device: torch.device) -> Iterator[None]:
    """Restore torch's global generator, which AutoAttack seeds, and the trace function, which it removes."""
    tracing = sys.gettrace()
    try:
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        sys.settrace(tracing)


@contextmanager
def _silenced() -> Iterator[None]:
    """Silence its warnings (randomised model, probabilities, zero gradients): `masking.checks` reports these."""
    logger = logging.getLogger("auto-attack")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
