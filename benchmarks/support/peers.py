"""Attacks of other libraries, called as in user code."""

import importlib
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import eagerpy as ep
import foolbox
import torch
from foolbox.attacks.carlini_wagner import best_other_classes
from pyautoattack import AutoAttack
from pyautoattack.autopgd_base import APGDAttack
from torch import Tensor, nn

from bat_core.correctness import is_correct
from bat_core.forward import frozen

logging.getLogger("auto-attack").setLevel(logging.ERROR)

PARTS = ("apgd-ce", "apgd-t")
MAX_TARGETS = 9


class LinfMarginPGD(foolbox.attacks.LinfPGD):  # type: ignore[misc]
    """An L-infinity attack on the margin (CW) loss, which foolbox lacks, by the hook that foolbox provides."""

    def get_loss_fn(self, model: foolbox.Model, labels: ep.Tensor) -> Callable[[ep.Tensor], ep.Tensor]:
        def margin(inputs: ep.Tensor) -> ep.Tensor:
            logits, rows = model(inputs), range(len(inputs))
            return (logits[rows, best_other_classes(logits, labels)] - logits[rows, labels]).sum()

        return margin


FOOLBOX = {"ce": foolbox.attacks.LinfPGD, "cw": LinfMarginPGD, "ce in l2": foolbox.attacks.L2PGD}
LIBRARY_NORMS = {"linf": "Linf", "l2": "L2"}


def foolbox_pgd(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    step_size: float,
    num_steps: int,
    loss: str = "ce",
    freeze: bool = False,
    start: Tensor | None = None,
) -> Tensor:
    """(B,) bool: whether foolbox judges the last iterate of its PGD as classified correctly.

    foolbox also computes gradients of the weights unless the user freezes them. `start` replaces its random start.
    """
    with frozen(model) if freeze else nullcontext():
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
        attack = FOOLBOX[loss](abs_stepsize=step_size, steps=num_steps, random_start=True)
        if start is not None:
            attack.get_random_start = lambda *_: ep.astensor(start)
        _, _, success = attack(wrapped, x, y, epsilons=eps)
    model.zero_grad(set_to_none=True)
    return ~success


def torchattacks() -> Any:
    """The package torchattacks if it can be imported, else None."""
    try:
        return importlib.import_module("torchattacks")
    except ImportError:
        return None


def torchattacks_pgd(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, step_size: float, num_steps: int) -> Tensor:
    """(B, C, H, W): the last iterate of torchattacks' PGD on cross-entropy."""
    return torchattacks().PGD(model, eps=eps, alpha=step_size, steps=num_steps, random_start=True)(x, y)


def apgd(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, num_steps: int) -> Tensor:
    """(B, C, H, W): APGD-CE of AutoAttack's own code, `num_steps` + 1 gradients on correctly classified images."""
    attack = APGDAttack(model, n_iter=num_steps, norm="Linf", eps=eps, seed=0, loss="ce", device=x.device)
    with own_randomness():
        return attack.perturb(x, y)


def apgd_from(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, start: Tensor, norm: str = "linf") -> Tensor:
    """(B,) bool: what remains correctly classified under APGD-CE of AutoAttack's own code, from a given start."""
    with torch.no_grad():
        correct = is_correct(model(x), y)
    attack = APGDAttack(model, n_iter=100, norm=LIBRARY_NORMS[norm], eps=eps, seed=0, loss="ce", device=x.device)
    attack.init_hyperparam(x)
    _, holds, _, _ = attack.attack_single_run(x[correct], y[correct], x_init=start[correct])
    correct[correct.clone()] = holds.bool()
    return correct


def autoattack(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float,
    part: str,
    seed: int,
    batch_size: int,
    norm: str = "linf",
) -> Tensor:
    """(B,) bool: what remains correctly classified under one part of AutoAttack's standard version, run alone."""
    with own_randomness():
        attack = AutoAttack(model, norm=LIBRARY_NORMS[norm], eps=eps, seed=seed, version="standard", device=x.device)
        attack.attacks_to_run = [part]
        with torch.no_grad():
            targets = min(MAX_TARGETS, model(x[:1]).shape[1] - 1)
        attack.apgd_targeted.n_target_classes = targets
        _, y_adv = attack.run_standard_evaluation(x, y, batch_size=batch_size)
    return y_adv == y


@contextmanager
def own_randomness(seed: int | None = None) -> Iterator[None]:
    """Restore torch's global generator, from which these libraries draw."""
    with torch.random.fork_rng():
        if seed is not None:
            torch.manual_seed(seed)
        yield
