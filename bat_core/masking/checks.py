"""Measures the red flags of gradient masking: signs that an attack failed for a reason other than robustness."""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from bat_core.attacks import FGSM, PGD, Noise, Square
from bat_core.attacks.gradient import input_gradient
from bat_core.correctness import is_correct, is_finite
from bat_core.data import Images, to_unit
from bat_core.data.base import as_labels
from bat_core.device import is_out_of_memory
from bat_core.errors import check_choice
from bat_core.evaluate import Evaluator
from bat_core.forward import eval_without_tf32
from bat_core.losses import cross_entropy
from bat_core.masking.flags import DEPTHS, MIN_IMAGES, Depth, Evidence, Findings, conclude, get_check
from bat_core.norms import LARGEST_L2, LINF, Norm
from bat_core.rng import PerExampleRNG
from bat_core.suites import Entry, Suite
from bat_core.unit_box import in_unit_box
from bat_core.verdicts import Verdicts

IMAGES = 200  # the number of images that the checks use
LARGE_EPS = 0.5  # in L-inf; in L2 as far at every pixel
EOT = 8  # forward passes per averaged gradient, for randomised models


def examine(
    model: nn.Module,
    images: Images,
    labels: Tensor,
    *,
    eps: float,
    norm: Norm = LINF,
    depth: Depth = "full",
    seed: int = 0,
    precision: str = "float32",
    verified: Tensor | None = None,
) -> Findings:
    """Check a model for red flags of gradient masking.

    Args:
        model: (B, C, H, W) in [0, 1] -> (B, K).
        images: (N, C, H, W) uint8, or float in [0, 1]; the first 200 are used.  labels: (N,) int64.
        eps, norm: the budget at which the model is evaluated.
        depth: "cheap" costs about 60 gradients per image, "full" about 450 plus a black-box attack.
        verified: (N,) bool, the examples that remained robust under a verified suite, if one ran.
    Returns:
        The masking status, the raised flags and all measurements.
    """
    check_choice("checks.depth", depth, DEPTHS)
    images, labels = in_unit_box(images[:IMAGES]), as_labels(labels[:IMAGES], min(len(images), IMAGES))
    evaluator = Evaluator(model, seed=seed, precision=precision)
    large = LARGE_EPS if norm == LINF else min(LARGE_EPS * math.sqrt(images[0].numel()), LARGEST_L2)
    suite = attacks(eps, depth, norm=norm, large=large)
    verdicts = evaluator.extend(evaluator.clean(images, labels, torch.arange(len(images))), images, suite)
    climb = PGD(eps=eps, norm=norm, step_size=eps / 4, num_steps=10, random_start=False)
    measured = _measure_within_memory(evaluator, images, labels, climb)
    if measured["pass_difference"] >= get_check("random_output").suspect:
        averaged = replace(climb, random_start=True, eot=EOT)
        eot = Suite(name="eot", entries=(Entry(name="eot", attack=averaged, steps=(10,)),))
        measured["eot_acc"] = evaluator.extend(verdicts.without_outcomes(), images, eot).curve("eot", "final").item()
    if verified is not None:
        measured["verified_acc"] = float(verified[:IMAGES].double().mean())
    return conclude(_evidence(verdicts, measured), depth)


def attacks(eps: float, depth: Depth, *, norm: Norm = LINF, large: float = LARGE_EPS) -> Suite:
    """The attacks that the checks run. Their worst case is not a robust accuracy: some budgets differ from `eps`.

    The ball of radius `large` contains plain grey for every image, so no model can be robust in it.
    """
    steps = (1, 5, 10, 20) if depth == "cheap" else (1, 5, 10, 20, 50, 100)
    entries = [
        Entry(name="noise", attack=Noise(eps=eps, norm=norm, num_steps=10)),
        Entry(name="fgsm", attack=FGSM(eps=eps, norm=norm), steps=(1,)),
        Entry(name="half-fgsm", attack=FGSM(eps=eps / 2, norm=norm), steps=(1,)),
        _pgd("ce", eps, norm, loss="ce", steps=steps),
        _pgd("cw", eps, norm, loss="cw", steps=steps),
    ]
    if depth == "full":
        entries += [
            _pgd("restarts", eps, norm, loss="ce", steps=(20,), restarts=5),
            Entry(name="square", attack=Square(eps=eps, norm=norm, num_steps=1000), skip_broken=True),
            _pgd("large-ce", large, norm, loss="ce", steps=(20,)),
            _pgd("large-cw", large, norm, loss="cw", steps=(20,)),
        ]
    return Suite(name="checks", entries=tuple(entries))


def _pgd(name: str, eps: float, norm: Norm, *, loss: str, steps: tuple[int, ...], restarts: int = 1) -> Entry:
    attack = PGD(eps=eps, norm=norm, step_size=eps / 4, num_steps=steps[-1], loss=loss, restarts=restarts)
    return Entry(name=name, attack=attack, steps=steps)


def _evidence(verdicts: Verdicts, measured: Mapping[str, Any]) -> Evidence:
    def by_steps(name: str) -> dict[int, float]:
        outcome = verdicts.outcomes[name]
        return {step: float(acc) for step, acc in zip(outcome.steps, outcome.curve("final"), strict=True)}

    def robust_under(*names: str) -> Any:
        robust = verdicts.clean_correct
        for name in names:
            robust = robust & verdicts.outcomes[name].robust
        return robust

    deeper: dict[str, float] = {}
    if "square" in verdicts.outcomes:
        robust_to_white_box = robust_under("fgsm", "half-fgsm", "ce", "cw", "restarts")
        broken_by_black_box = (verdicts.outcomes["noise"].broken_at > 0) | (verdicts.outcomes["square"].broken_at >= 0)
        deeper = {
            "restarts_acc": by_steps("restarts")[20],
            "large_eps_acc": float(robust_under("large-ce", "large-cw").mean()),
            "black_box_only": float((robust_to_white_box & broken_by_black_box).mean()),
        }
    return Evidence(
        n=len(verdicts),
        clean_acc=verdicts.clean_acc,
        noise_acc=float(robust_under("noise").mean()),
        fgsm_acc=by_steps("fgsm")[1],
        half_fgsm_acc=by_steps("half-fgsm")[1],
        ce=by_steps("ce"),
        cw=by_steps("cw"),
        ce_worst=float(robust_under("ce").mean()),
        **deeper,
        **measured,
    )


def _measure_within_memory(evaluator: Evaluator, images: Tensor, labels: Tensor, climb: PGD) -> dict[str, Any]:
    """`_measure` on as many images as fit into memory."""
    try:
        return _measure(evaluator, images, labels, climb)
    except (MemoryError, RuntimeError) as error:
        if len(images) == 1 or not is_out_of_memory(error):
            raise
    half = len(images) // 2
    return _measure_within_memory(evaluator, images[:half], labels[:half], climb)


def _measure(evaluator: Evaluator, images: Tensor, labels: Tensor, climb: PGD) -> dict[str, Any]:
    """Measure gradients, the difference of two passes, and the loss before and after the short attack `climb`.

    The loss is compared on images that the model classifies correctly, predictions and passes on images with finite
    logits. An image with finite logits in one of two passes only differs by the whole spread.
    """
    x, y = to_unit(images.to(evaluator.device)), labels.to(evaluator.device)
    rng = PerExampleRNG(seed=evaluator.seed, names=("checks",), indices=list(range(len(x))))
    names = ("given", "true", "zero", "fell", "difference", "flipped", "spread")
    totals: dict[str, list[Tensor]] = {name: [] for name in names}
    with eval_without_tf32(evaluator.model):
        for part in torch.arange(len(x)).split(max(len(x) // 4, 1)):
            x_part, y_part = x[part].requires_grad_(), y[part]
            logits = evaluator.model(x_part)
            flat = input_gradient(cross_entropy(logits, y_part), x_part).flatten(1)
            finite = is_finite(logits.detach())
            totals["given"].append(logits.detach().argmax(1)[finite])
            totals["true"].append(y_part[finite])
            totals["zero"].append((flat == 0).all(1) | ~flat.isfinite().all(1))
            with torch.no_grad():
                again = evaluator.model(x_part)
                sound = finite & is_finite(again)
                totals["flipped"].append(finite ^ is_finite(again))
                totals["difference"].append((again - logits).abs().amax(1)[sound])
                totals["spread"].append((logits.amax(1) - logits.amin(1)).abs()[sound])
                before = cross_entropy(logits, y_part)
            x_adv = climb(evaluator.model, x_part.detach(), y_part, generator=rng.take(part))
            with torch.no_grad():
                after = cross_entropy(evaluator.model(x_adv), y_part)
            totals["fell"].append((after <= before)[is_correct(logits, y_part)])
    joined = {name: torch.cat(parts).double().nan_to_num() for name, parts in totals.items()}
    spread = float(joined["spread"].mean()) if len(joined["spread"]) else 0.0
    flipped = float(joined["flipped"].mean())
    return {
        "zero_gradient": float(joined["zero"].mean()),
        "largest_class_share": largest_class_share(joined["given"], joined["true"]),
        "loss_fell": float(joined["fell"].mean()) if len(joined["fell"]) else 0.0,
        "pass_difference": flipped + (float(joined["difference"].mean()) / spread if spread > 0 else 0.0),
    }


def largest_class_share(given: Tensor, y: Tensor) -> float | None:
    """The largest share of images that a model assigns to one class.

    Args:
        given: (N,) the predicted classes.  y: (N,) the true classes.
    Returns:
        A share in (0, 1]; None if there are fewer than MIN_IMAGES images or all of them have one true class.
    """
    if len(y) < MIN_IMAGES or len(y.unique()) == 1:
        return None
    return float(given.unique(return_counts=True)[1].max()) / len(given)
