"""What the red flags of gradient masking are, and the verdict they lead to.

What a flag measures and where its limits lie stands in CHECKS. A verdict is the worst flag's word.
Source of the list: Athalye et al. 2018, arXiv:1802.00420; Carlini et al. 2019, arXiv:1902.06705.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from bat_core.config import to_dict

MaskingStatus: TypeAlias = Literal["clear", "suspect", "masked"]
MASKING_STATUSES: tuple[MaskingStatus, ...] = ("clear", "suspect", "masked")
Depth: TypeAlias = Literal["cheap", "full"]
DEPTHS: tuple[Depth, ...] = ("cheap", "full")

MIN_IMAGES = 20  # of fewer images an honest model may give all the same class
ONE_CLASS = "one_class"  # the flag of a model that has learnt nothing


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was measured on `n` images; shares and accuracies in [0, 1], None where it was not measured.

    `ce` and `cw` hold accuracies after so many PGD steps (final iterate). `ce_worst` counts every iterate.
    `largest_class_share` is the largest share of the clean images that the model gives one class; it is None where they
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
    largest_class_share: float | None = field(default=None, metadata={"key": "one_answer"})

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
    description: str
    why: str

    def flag(self, evidence: Evidence) -> "Flag | None":
        """The flag, where the number reaches a limit."""
        value = self.measure(evidence)
        if value is None or value < self.suspect:
            return None
        masked = value >= self.masked
        return Flag(
            name=self.name,
            masking_status="masked" if masked else "suspect",
            value=value,
            limit=self.masked if masked else self.suspect,
            description=self.description.format(value=f"{value:.1%}"),
            why=self.why,
        )


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A raised red flag."""

    name: str
    masking_status: MaskingStatus = field(metadata={"key": "verdict"})
    value: float
    limit: float
    description: str = field(metadata={"key": "says"})
    why: str


@dataclass(frozen=True, kw_only=True)
class Findings:
    """What the checks of one model came to."""

    masking_status: MaskingStatus = field(metadata={"key": "verdict"})
    flags: tuple[Flag, ...]
    evidence: Evidence
    depth: Depth

    def describe(self) -> dict[str, Any]:
        """As plain values."""
        return to_dict(self)


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
        description="{value} of the images have no input gradient at all (zero, or not finite)",
        why="a gradient attack cannot move where there is no gradient: the network saturates, rounds or breaks off",
    ),
    Check(
        name="random_output",
        measure=lambda e: e.pass_difference,
        suspect=0.001,
        masked=2.0,
        description="two passes over the same images differ by {value} of the logits' spread",
        why="an attack follows one draw and is judged by another; average gradients over draws (eot) before believing",
    ),
    Check(
        name="random_gradient",
        measure=lambda e: _minus(e.ce_acc, e.eot_acc),
        suspect=0.03,
        masked=0.10,
        description="averaging gradients over passes breaks {value} more images",
        why="randomness hid the gradient from the attack",
    ),
    Check(
        name="more_steps_help",
        measure=lambda e: max(e.ce[after] - e.ce[before] for before in e.ce for after in e.ce if before < after),
        suspect=0.03,
        masked=0.10,
        description="accuracy is {value} higher after more attack steps than after fewer",
        why="an attack that goes on should not get worse: its gradients lead astray",
    ),
    Check(
        name="one_step_beats_many",
        measure=lambda e: e.ce_acc - e.fgsm_acc,
        suspect=0.02,
        masked=0.10,
        description="accuracy under one step is {value} lower than under many",
        why="many small steps can do all that one large step can, unless the gradient is no guide",
    ),
    Check(
        name="label_leaking",
        measure=lambda e: max(e.fgsm_acc - e.clean_acc, e.fgsm_acc - e.half_fgsm_acc),
        suspect=0.03,
        masked=0.10,
        description="accuracy rises by {value} as the one-step attack grows",
        why="the network reads the label off the one-step perturbation it was trained on (Kurakin et al. 2017)",
    ),
    Check(
        name="black_box_beats_white_box",
        measure=lambda e: e.black_box_only,
        suspect=0.02,
        masked=0.05,
        description="{value} of the images fall to random search alone, and to no gradient attack",
        why="who knows the gradient knows more than who does not, unless the gradient is masked",
    ),
    Check(
        name="large_budget_survived",
        measure=lambda e: e.large_eps_acc,
        suspect=0.05,
        masked=0.20,
        description="{value} stand in a ball so large that it holds plain grey",
        why="accuracy must reach 0 as eps grows, else the attack fails, not the perturbation",
    ),
    Check(
        name="restarts_matter",
        measure=lambda e: _minus(e.ce.get(20), e.restarts_acc),
        suspect=0.05,
        masked=0.15,
        description="five random starts break {value} more images than one",
        why="the loss surface is so rough that it depends on luck where an attack ends",
    ),
    Check(
        name="ce_far_above_margin",
        measure=lambda e: e.ce_acc - e.cw_acc,
        suspect=0.08,
        masked=0.20,
        description="accuracy under cross-entropy is {value} above that under the margin loss",
        why="labels or logits were shaped so that cross-entropy's gradient says little",
    ),
    Check(
        name="pgd_far_above_verified",
        measure=lambda e: _minus(min(e.ce_acc, e.cw_acc), e.verified_acc),
        suspect=0.08,
        masked=0.15,
        description="PGD overstates the robustness by {value}",
        why="attacks that choose their own steps and targets break what fixed-step PGD leaves standing",
    ),
    Check(
        name="loss_does_not_rise",
        measure=lambda e: e.loss_fell,
        suspect=0.05,
        masked=0.30,
        description="for {value} of the images the loss did not rise along the attack",
        why="steps up the gradient must raise the loss; here they do not",
    ),
    Check(
        name="noise_as_strong",
        measure=_noise_share,
        suspect=0.50,
        masked=0.90,
        description="random noise breaks {value} of what the attack breaks",
        why="an attack that is no better than noise has found no direction",
    ),
    Check(
        name=ONE_CLASS,
        measure=lambda e: e.largest_class_share,
        suspect=1.0,
        masked=2.0,
        description="{value} of the images are given the same class",
        why="no attack moves an answer that does not depend on the image: what stands is that class's share",
    ),
)


def conclude(evidence: Evidence, depth: Depth) -> Findings:
    """The verdict that follows from what was measured."""
    flags = tuple(flag for check in CHECKS if (flag := check.flag(evidence)) is not None)
    masking_status = max(
        (flag.masking_status for flag in flags), key=MASKING_STATUSES.index, default=MASKING_STATUSES[0]
    )
    return Findings(masking_status=masking_status, flags=flags, evidence=evidence, depth=depth)


def get_check(name: str) -> Check:
    """The check of that name."""
    return next(check for check in CHECKS if check.name == name)
