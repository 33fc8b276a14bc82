"""The red flags of gradient masking, and the masking status they lead to.

CHECKS defines what each flag measures and its two limits. The masking status is that of the worst flag.

A flag is raised when its value is equal to or above a limit. Most values are shares of the `n` images, or
differences of two shares, so they are multiples of 1/n: a limit L is reached at L * n images, and one image more
or less can raise or clear a flag. Every limit on a share is a multiple of 1/200, so at the usual n = 200 a value
can equal a limit exactly; the rounding of differences (ROUNDING) does not decide then. With fewer images a flag rests
on fewer of them: the 2 % limits are 4 images at n = 200 and a single image at n = 50 or below. A status from few
images is therefore only indicative. MIN_IMAGES guards the `one_class` check alone; the other checks run at any n.

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

ROUNDING = 1e-9  # far below 1/n: a value equal to a limit but for rounding reaches it
LOWEST_SHARE = 0.02  # the lowest limit on a share of the images
MIN_IMAGES = 20  # with fewer images a sound model may well predict one class for all of them
ONE_CLASS = "one_class"  # the flag of a model that has learnt nothing
NOTHING_TO_MASK = "nothing to mask"  # what is said in place of "clear" where there is no robustness
NOTHING = 0.01  # a robust accuracy below which there is none


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Measurements on `n` images: shares and accuracies in [0, 1]. None means not measured.

    `ce` and `cw` map a number of PGD steps to the accuracy of the final iterate. `ce_worst` counts every iterate.
    `largest_class_share` is the largest share of the clean images that the model assigns to one class; None if
    there are fewer than MIN_IMAGES images or all of them have one true class.
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
        """Accuracy under the longest cross-entropy attack."""
        return self.ce[max(self.ce)]

    @property
    def cw_acc(self) -> float:
        """Accuracy under the longest margin attack."""
        return self.cw[max(self.cw)]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One red flag: a measured value (larger is worse), two inclusive limits, a description and a reason.

    A value equal to `suspect` raises the flag as "suspect", one equal to `masked` as "masked". The module's
    docstring explains what this means for few images.
    """

    name: str
    measure: Callable[[Evidence], float | None]
    suspect: float
    masked: float
    description: str
    why: str

    def flag(self, evidence: Evidence) -> "Flag | None":
        """The raised flag if the value reaches a limit, else None."""
        value = self.measure(evidence)
        if value is None or value < self.suspect - ROUNDING:
            return None
        masked = value >= self.masked - ROUNDING
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
    """The result of all checks on one model."""

    masking_status: MaskingStatus = field(metadata={"key": "verdict"})
    flags: tuple[Flag, ...]
    evidence: Evidence
    depth: Depth

    def describe(self) -> dict[str, Any]:
        """The findings as plain JSON values."""
        return to_dict(self)


def _minus(high: float | None, low: float | None) -> float | None:
    return None if high is None or low is None else high - low


def _noise_share(evidence: Evidence) -> float | None:
    """The share of the images broken by the attack that noise breaks too; None if noise breaks fewer than 2 %."""
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
        description="{value} of the images have no input gradient at all (zero or not finite)",
        why="a gradient attack cannot move without a gradient: the network saturates, rounds or detaches",
    ),
    Check(
        name="random_output",
        measure=lambda e: e.pass_difference,
        suspect=0.001,
        masked=2.0,
        description="two passes over the same images differ by {value} of the logits' spread",
        why="an attack optimises one sample of the network and is evaluated on another; average gradients (eot) first",
    ),
    Check(
        name="random_gradient",
        measure=lambda e: _minus(e.ce_acc, e.eot_acc),
        suspect=0.03,
        masked=0.10,
        description="averaging gradients over passes breaks {value} more images",
        why="randomness hides the gradient from the attack",
    ),
    Check(
        name="more_steps_help",
        measure=lambda e: max(e.ce[after] - e.ce[before] for before in e.ce for after in e.ce if before < after),
        suspect=0.03,
        masked=0.10,
        description="accuracy is {value} higher after more attack steps than after fewer",
        why="more steps should not weaken an attack: its gradients are misleading",
    ),
    Check(
        name="one_step_beats_many",
        measure=lambda e: e.ce_acc - e.fgsm_acc,
        suspect=0.02,
        masked=0.10,
        description="accuracy under one step is {value} lower than under many",
        why="many small steps can do all that one large step can, unless the gradient is misleading",
    ),
    Check(
        name="label_leaking",
        measure=lambda e: max(e.fgsm_acc - e.clean_acc, e.fgsm_acc - e.half_fgsm_acc),
        suspect=0.03,
        masked=0.10,
        description="accuracy rises by {value} as the one-step attack grows",
        why="the network infers the label from the one-step perturbation it was trained on (Kurakin et al. 2017)",
    ),
    Check(
        name="black_box_beats_white_box",
        measure=lambda e: e.black_box_only,
        suspect=0.02,
        masked=0.05,
        description="{value} of the images are broken by random search only, and by no gradient attack",
        why="an attack with gradients is stronger than one without, unless the gradient is masked",
    ),
    Check(
        name="large_budget_survived",
        measure=lambda e: e.large_eps_acc,
        suspect=0.05,
        masked=0.20,
        description="{value} of the images remain robust in a ball so large that it contains plain grey",
        why="accuracy must reach 0 as eps grows; otherwise the attack fails, not the perturbation",
    ),
    Check(
        name="restarts_matter",
        measure=lambda e: _minus(e.ce.get(20), e.restarts_acc),
        suspect=0.05,
        masked=0.15,
        description="five random starts break {value} more images than one",
        why="the loss surface is so rough that an attack's result depends on its random start",
    ),
    Check(
        name="ce_far_above_margin",
        measure=lambda e: e.ce_acc - e.cw_acc,
        suspect=0.08,
        masked=0.20,
        description="accuracy under cross-entropy is {value} above that under the margin loss",
        why="the training labels or the scale of the logits make the cross-entropy gradient uninformative",
    ),
    Check(
        name="pgd_far_above_verified",
        measure=lambda e: _minus(min(e.ce_acc, e.cw_acc), e.verified_acc),
        suspect=0.08,
        masked=0.15,
        description="PGD overestimates robust accuracy by {value}",
        why="attacks with adaptive steps and targets break images that fixed-step PGD does not",
    ),
    Check(
        name="loss_does_not_rise",
        measure=lambda e: e.loss_fell,
        suspect=0.05,
        masked=0.30,
        description="for {value} of the images the loss did not rise along the attack",
        why="steps along the gradient must increase the loss; here they do not",
    ),
    Check(
        name="noise_as_strong",
        measure=_noise_share,
        suspect=0.50,
        masked=0.90,
        description="random noise breaks {value} of what the attack breaks",
        why="an attack that is no better than noise has found no useful direction",
    ),
    Check(
        name=ONE_CLASS,
        measure=lambda e: e.largest_class_share,
        suspect=1.0,
        masked=2.0,
        description="the model assigns {value} of the images to the same class",
        why="no attack can change a prediction that does not depend on the image: the accuracy is that class's share",
    ),
)


def conclude(evidence: Evidence, depth: Depth) -> Findings:
    """The flags that the evidence raises, and the masking status of the worst one."""
    flags = tuple(flag for check in CHECKS if (flag := check.flag(evidence)) is not None)
    masking_status = max(
        (flag.masking_status for flag in flags), key=MASKING_STATUSES.index, default=MASKING_STATUSES[0]
    )
    return Findings(masking_status=masking_status, flags=flags, evidence=evidence, depth=depth)


def get_check(name: str) -> Check:
    """The check called `name`."""
    return next(check for check in CHECKS if check.name == name)


def status_in_words(masking_status: str, robust_acc: float) -> str:
    """A masking status as people read it: a model that stands on nothing is not "clear", it has nothing to mask.

    Args:
        masking_status: as records keep it.  robust_acc: in [0, 1], the worst case over all attacks.
    """
    return NOTHING_TO_MASK if masking_status == "clear" and robust_acc < NOTHING else masking_status
