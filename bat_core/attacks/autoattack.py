"""AutoAttack, part by part, in its authors' implementation (package pyautoattack)."""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bat_core.attacks.base import ATTACKS, MAX_TARGETS, Attack, Iterate, LogitsFn, Problem
from bat_core.errors import InputError, check_choice
from bat_core.rng import BatchRNG

PARTS = ("apgd-ce", "apgd-t", "fab-t", "square")  # the standard version, in its order
MIN_CLASSES = 4  # the targeted DLR loss compares four logits


@ATTACKS.register("autoattack")
@dataclass(frozen=True, kw_only=True)
class AutoAttack(Attack):
    """One part of AutoAttack's standard version for L-infinity.

    The standard evaluation runs the parts in order, each on the examples that remain robust. With fewer than ten
    classes the targeted parts try every wrong class.

    Source: Croce and Hein 2020, arXiv:2003.01690; package pyautoattack, which contains their code unchanged.
    """

    takes_target: ClassVar[bool] = False

    part: str = "apgd-ce"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("attack.part", self.part, PARTS)
        if self.restarts != 1:
            raise InputError(
                f"attack.restarts={self.restarts} must be 1: AutoAttack's standard version does not restart"
            )

    def iterates(
        self,
        logits_fn: LogitsFn,
        problem: Problem,
        rng: BatchRNG,
        active: Tensor | None,  # noqa: ARG002
    ) -> Iterator[Iterate]:
        library = library_attack()
        x, y = problem.ball.x.float().contiguous(), problem.y
        model = _LibraryModel(logits_fn, problem.ball.x.dtype)
        with torch.no_grad():
            num_classes = model(x[:1]).shape[1]
        if num_classes < MIN_CLASSES:
            raise InputError(
                f"AutoAttack needs {MIN_CLASSES} or more classes, the model has {num_classes}: use --suite paper"
            )
        with _isolated_randomness(x.device), _silenced():
            seed = int(rng.integers(2**31 - 1, y)[0])
            attack = library(model, eps=self.eps, norm="Linf", seed=seed, version="standard", device=x.device)
            attack.attacks_to_run = [self.part]
            targets = min(MAX_TARGETS, num_classes - 1)
            attack.apgd_targeted.n_target_classes = attack.fab.n_target_classes = targets
            x_adv, _ = attack.run_standard_evaluation(x, y, batch_size=len(x))
        yield Iterate(1, problem.rows, problem.ball.project(x_adv.detach().to(problem.ball.x.dtype)))


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
    """The model as a module on float32 images with contiguous input gradients, which the library's `.view` needs."""

    def __init__(self, logits_fn: LogitsFn, dtype: torch.dtype) -> None:
        super().__init__()
        self.logits_fn, self.dtype = logits_fn, dtype

    def forward(self, x: Tensor) -> Tensor:
        return self.logits_fn(_ContiguousGradient.apply(x).to(self.dtype)).float()


class _ContiguousGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:  # noqa: ARG004
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:  # noqa: ARG004
        return gradients[0].contiguous()


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
