"""Red flags of gradient masking: signs that an attack failed for another reason than robustness.

What a flag measures and where its limits lie stands in CHECKS. A verdict is the worst flag's word.
Source of the list: Athalye et al. 2018, arXiv:1802.00420; Carlini et al. 2019, arXiv:1902.06705.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from bat_core.attacks import FGSM, PGD, Noise, Square
from bat_core.attacks.gradient import input_gradient
from bat_core.data import Images, to_unit
from bat_core.errors import check_choice
from bat_core.evaluate import Judge, classified, is_out_of_memory
from bat_core.forward import judging
from bat_core.losses import cross_entropy
from bat_core.rng import ExampleDraws
from bat_core.suites import Entry, Suite
from bat_core.verdicts import Verdicts

Verdict: TypeAlias = Literal["clear", "suspect", "masked"]
VERDICTS: tuple[Verdict, ...] = ("clear", "suspect", "masked")
Depth: TypeAlias = Literal["cheap", "full"]
DEPTHS: tuple[Depth, ...] = ("cheap", "full")

IMAGES = 200  # what the checks look at
FEW = 20  # of fewer images an honest model may give all the same class
ONE_CLASS = "one_class"  # the flag of a model that has learnt nothing
LARGE_EPS = 0.5  # a ball that holds plain grey for every image: nothing can stand in it
EOT = 8  # passes a gradient is averaged over for a model that is random


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was measured on `n` images; shares and accuracies in [0, 1], None where it was not measured.

    `ce` and `cw` hold accuracies after so many PGD steps (final iterate). `ce_worst` counts every iterate.
    `one_answer` is the largest share of the clean images that the model gives one class; it is None where they
    are fewer than FEW, or all of one class.
    """

    n: int
    clean_acc: float
    zero_gradient: float
    pass_difference: float
    loss_fell: float
    noise_acc: float
    fgsm_acc: float
    half_fgsm_acc: float
    ce: Mapping[int, float]
    cw: Mapping[int, float]
    ce_worst: float
    restarts_acc: float | None = None
    large_eps_acc: float | None = None
    black_box_only: float | None = None
    eot_acc: float | None = None
    verified_acc: float | None = None
    one_answer: float | None = None

    @property
    def ce_acc(self) -> float:
        """Under the longest cross-entropy attack."""
        return self.ce[max(self.ce)]

    @property
    def cw_acc(self) -> float:
        """Under the longest margin attack."""
        return self.cw[max(self.cw)]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One red flag: its number (the larger the worse), two limits, what it says and why that matters."""

    name: str
    measure: Callable[[Evidence], float | None]
    suspect: float
    masked: float
    says: str
    why: str

    def flag(self, evidence: Evidence) -> "Flag | None":
        """The flag, where the number reaches a limit."""
        value = self.measure(evidence)
        if value is None or value < self.suspect:
            return None
        masked = value >= self.masked
        return Flag(
            name=self.name,
            verdict="masked" if masked else "suspect",
            value=value,
            limit=self.masked if masked else self.suspect,
            says=self.says.format(value=f"{value:.1%}"),
            why=self.why,
        )


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A raised red flag."""

    name: str
    verdict: Verdict
    value: float
    limit: float
    says: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the checks of one model came to."""

    verdict: Verdict
    flags: tuple[Flag, ...]
    evidence: Evidence
    depth: Depth

    def describe(self) -> dict[str, Any]:
        """As plain values."""
        return asdict(self)


def _minus(high: float | None, low: float | None) -> float | None:
    return None if high is None or low is None else high - low


def _noise_share(evidence: Evidence) -> float | None:
    """Of what the attack breaks, the share that noise breaks too; None where noise breaks next to nothing."""
    by_noise, by_attack = evidence.clean_acc - evidence.noise_acc, evidence.clean_acc - evidence.ce_worst
    if by_noise < 0.02:
        return None
    return by_noise / max(by_attack, by_noise / 10)


CHECKS: tuple[Check, ...] = (
    Check(
        name="zero_gradient",
        measure=lambda e: e.zero_gradient,
        suspect=0.05,
        masked=0.30,
        says="{value} of the images have no input gradient at all (zero, or not finite)",
        why="a gradient attack cannot move where there is no gradient: the network saturates, rounds or breaks off",
    ),
    Check(
        name="random_output",
        measure=lambda e: e.pass_difference,
        suspect=0.001,
        masked=2.0,
        says="two passes over the same images differ by {value} of the logits' spread",
        why="an attack follows one draw and is judged by another; average gradients over draws (eot) before believing",
    ),
    Check(
        name="random_gradient",
        measure=lambda e: _minus(e.ce_acc, e.eot_acc),
        suspect=0.03,
        masked=0.10,
        says="averaging gradients over passes breaks {value} more images",
        why="randomness hid the gradient from the attack",
    ),
    Check(
        name="more_steps_help",
        measure=lambda e: max(e.ce[after] - e.ce[before] for before in e.ce for after in e.ce if before < after),
        suspect=0.03,
        masked=0.10,
        says="accuracy is {value} higher after more attack steps than after fewer",
        why="an attack that goes on should not get worse: its gradients lead astray",
    ),
    Check(
        name="one_step_beats_many",
        measure=lambda e: e.ce_acc - e.fgsm_acc,
        suspect=0.02,
        masked=0.10,
        says="accuracy under one step is {value} lower than under many",
        why="many small steps can do all that one large step can, unless the gradient is no guide",
    ),
    Check(
        name="label_leaking",
        measure=lambda e: max(e.fgsm_acc - e.clean_acc, e.fgsm_acc - e.half_fgsm_acc),
        suspect=0.03,
        masked=0.10,
        says="accuracy rises by {value} as the one-step attack grows",
        why="the network reads the label off the one-step perturbation it was trained on (Kurakin et al. 2017)",
    ),
    Check(
        name="black_box_beats_white_box",
        measure=lambda e: e.black_box_only,
        suspect=0.02,
        masked=0.05,
        says="{value} of the images fall to random search alone, and to no gradient attack",
        why="who knows the gradient knows more than who does not, unless the gradient is masked",
    ),
    Check(
        name="large_budget_survived",
        measure=lambda e: e.large_eps_acc,
        suspect=0.05,
        masked=0.20,
        says="{value} stand in a ball so large that it holds plain grey",
        why="accuracy must reach 0 as eps grows, else the attack fails, not the perturbation",
    ),
    Check(
        name="restarts_matter",
        measure=lambda e: _minus(e.ce.get(20), e.restarts_acc),
        suspect=0.05,
        masked=0.15,
        says="five random starts break {value} more images than one",
        why="the loss surface is so rough that it depends on luck where an attack ends",
    ),
    Check(
        name="ce_far_above_margin",
        measure=lambda e: e.ce_acc - e.cw_acc,
        suspect=0.08,
        masked=0.20,
        says="accuracy under cross-entropy is {value} above that under the margin loss",
        why="labels or logits were shaped so that cross-entropy's gradient says little",
    ),
    Check(
        name="pgd_far_above_verified",
        measure=lambda e: _minus(min(e.ce_acc, e.cw_acc), e.verified_acc),
        suspect=0.08,
        masked=0.15,
        says="PGD overstates the robustness by {value}",
        why="attacks that choose their own steps and targets break what fixed-step PGD leaves standing",
    ),
    Check(
        name="loss_does_not_rise",
        measure=lambda e: e.loss_fell,
        suspect=0.05,
        masked=0.30,
        says="for {value} of the images the loss did not rise along the attack",
        why="steps up the gradient must raise the loss; here they do not",
    ),
    Check(
        name="noise_as_strong",
        measure=_noise_share,
        suspect=0.50,
        masked=0.90,
        says="random noise breaks {value} of what the attack breaks",
        why="an attack that is no better than noise has found no direction",
    ),
    Check(
        name=ONE_CLASS,
        measure=lambda e: e.one_answer,
        suspect=1.0,
        masked=2.0,
        says="{value} of the images are given the same class",
        why="no attack moves an answer that does not depend on the image: what stands is that class's share",
    ),
)


def examine(
    model: nn.Module,
    images: Images,
    labels: Tensor,
    *,
    eps: float,
    depth: Depth = "full",
    seed: int = 0,
    precision: str = "float32",
    verified: Tensor | None = None,
) -> Findings:
    """Look for red flags of gradient masking.

    Args:
        model: (B, C, H, W) in [0, 1] -> (B, K).
        images: (N, C, H, W) uint8, or float in [0, 1]; the first 200 are looked at.  labels: (N,) int64.
        eps: the budget that the model is judged at.
        depth: "cheap" costs about 60 gradients an image, "full" about 450 and a black-box attack.
        verified: (N,) bool, what stood against a verified suite, where one ran.
    Returns:
        The verdict, the flags that led to it and all that was measured.
    """
    check_choice("checks.depth", depth, DEPTHS)
    images, labels = images[:IMAGES], labels[:IMAGES]
    judge = Judge(model, seed=seed, precision=precision)
    suite = attacks(eps, depth)
    verdicts = judge.extend(judge.clean(images, labels, torch.arange(len(images))), images, suite)
    measured = _probed(judge, images, labels, eps)
    if measured["pass_difference"] >= _check("random_output").suspect:
        eot = Suite(name="eot", entries=(_pgd("eot", eps, loss="ce", steps=(10,), eot=EOT),))
        measured["eot_acc"] = judge.extend(verdicts.bare(), images, eot).curve("eot", "final").item()
    if verified is not None:
        measured["verified_acc"] = float(verified[:IMAGES].double().mean())
    return conclude(_evidence(verdicts, measured), depth)


def conclude(evidence: Evidence, depth: Depth) -> Findings:
    """The verdict that follows from what was measured."""
    flags = tuple(flag for check in CHECKS if (flag := check.flag(evidence)) is not None)
    verdict = max((flag.verdict for flag in flags), key=VERDICTS.index, default=VERDICTS[0])
    return Findings(verdict=verdict, flags=flags, evidence=evidence, depth=depth)


def attacks(eps: float, depth: Depth) -> Suite:
    """What the checks try on the model. Its worst case is no robustness: some budgets are not `eps`."""
    steps = (1, 5, 10, 20) if depth == "cheap" else (1, 5, 10, 20, 50, 100)
    entries = [
        Entry(name="noise", attack=Noise(eps=eps, num_steps=10)),
        Entry(name="fgsm", attack=FGSM(eps=eps), steps=(1,)),
        Entry(name="half-fgsm", attack=FGSM(eps=eps / 2), steps=(1,)),
        _pgd("ce", eps, loss="ce", steps=steps),
        _pgd("cw", eps, loss="cw", steps=steps),
    ]
    if depth == "full":
        entries += [
            _pgd("restarts", eps, loss="ce", steps=(20,), restarts=5),
            Entry(name="square", attack=Square(eps=eps, num_steps=1000), drop=True),
            _pgd("large-ce", LARGE_EPS, loss="ce", steps=(20,)),
            _pgd("large-cw", LARGE_EPS, loss="cw", steps=(20,)),
        ]
    return Suite(name="checks", entries=tuple(entries))


def _pgd(name: str, eps: float, *, loss: str, steps: tuple[int, ...], restarts: int = 1, eot: int = 1) -> Entry:
    attack = PGD(eps=eps, step_size=eps / 4, num_steps=steps[-1], loss=loss, restarts=restarts, eot=eot)
    return Entry(name=name, attack=attack, steps=steps)


def _evidence(verdicts: Verdicts, measured: Mapping[str, Any]) -> Evidence:
    def by_steps(name: str) -> dict[int, float]:
        outcome = verdicts.outcomes[name]
        return {step: float(acc) for step, acc in zip(outcome.steps, outcome.curve("final"), strict=True)}

    def stands(*names: str) -> Any:
        holds = verdicts.clean_correct
        for name in names:
            holds = holds & verdicts.outcomes[name].holds
        return holds

    deeper: dict[str, float] = {}
    if "square" in verdicts.outcomes:
        white = stands("fgsm", "half-fgsm", "ce", "cw", "restarts")
        fell_to_black = (verdicts.outcomes["noise"].broken_at > 0) | (verdicts.outcomes["square"].broken_at >= 0)
        deeper = {
            "restarts_acc": by_steps("restarts")[20],
            "large_eps_acc": float(stands("large-ce", "large-cw").mean()),
            "black_box_only": float((white & fell_to_black).mean()),
        }
    return Evidence(
        n=len(verdicts),
        clean_acc=verdicts.clean_acc,
        noise_acc=float(stands("noise").mean()),
        fgsm_acc=by_steps("fgsm")[1],
        half_fgsm_acc=by_steps("half-fgsm")[1],
        ce=by_steps("ce"),
        cw=by_steps("cw"),
        ce_worst=float(stands("ce").mean()),
        **deeper,
        **measured,
    )


def _probed(judge: Judge, images: Tensor, labels: Tensor, eps: float) -> dict[str, Any]:
    """`_probe`, on as many of the images as fit into memory."""
    try:
        return _probe(judge, images, labels, eps)
    except (MemoryError, RuntimeError) as error:
        if len(images) == 1 or not is_out_of_memory(error):
            raise
    half = len(images) // 2
    return _probed(judge, images[:half], labels[:half], eps)


def _probe(judge: Judge, images: Tensor, labels: Tensor, eps: float) -> dict[str, Any]:
    """Gradients, two passes, and the loss before and after a short attack, where the clean image is right."""
    x, y = to_unit(images.to(judge.device)), labels.to(judge.device)
    attack = PGD(eps=eps, step_size=eps / 4, num_steps=10, random_start=False)
    draws = ExampleDraws(seed=judge.seed, names=("checks",), indices=list(range(len(x))))
    totals: dict[str, list[Tensor]] = {"zero": [], "fell": [], "difference": [], "spread": []}
    given: list[Tensor] = []
    with judging(judge.model):
        for part in torch.arange(len(x)).split(max(len(x) // 4, 1)):
            own_x, own_y = x[part].requires_grad_(), y[part]
            logits = judge.model(own_x)
            flat = input_gradient(cross_entropy(logits, own_y), own_x).flatten(1)
            given.append(logits.detach().argmax(1))
            totals["zero"].append((flat == 0).all(1) | ~flat.isfinite().all(1))
            with torch.no_grad():
                again = judge.model(own_x)
                totals["difference"].append((again - logits).abs().amax(1))
                totals["spread"].append((logits.amax(1) - logits.amin(1)).abs())
                before = cross_entropy(logits, own_y)
            x_adv = attack(judge.model, own_x.detach(), own_y, generator=draws.take(part))
            with torch.no_grad():
                after = cross_entropy(judge.model(x_adv), own_y)
            totals["fell"].append((after <= before)[classified(logits, own_y)])
    joined = {name: torch.cat(parts).double().nan_to_num() for name, parts in totals.items()}
    spread = float(joined["spread"].mean())
    return {
        "zero_gradient": float(joined["zero"].mean()),
        "one_answer": _largest_share(torch.cat(given)) if len(y) >= FEW and len(y.unique()) > 1 else None,
        "loss_fell": float(joined["fell"].mean()) if len(joined["fell"]) else 0.0,
        "pass_difference": float(joined["difference"].mean()) / spread if spread > 0 else 0.0,
    }


def _largest_share(classes: Tensor) -> float:
    return float(classes.unique(return_counts=True)[1].max()) / len(classes)


def _check(name: str) -> Check:
    return next(check for check in CHECKS if check.name == name)
