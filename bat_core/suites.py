"""Suites: named sets of attacks that a robust accuracy is measured against."""

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from bat_core.attacks import APGD, FGSM, PGD, Attack, AutoAttack, Ladder, Square, Transfer
from bat_core.attacks.autoattack import PARTS
from bat_core.attacks.base import MAX_TARGETS, Target
from bat_core.config import FIGURE_1_STEPS, STEPS_PER_EPS, VERIFYING_SUITES, AttackConfig
from bat_core.errors import InputError, unknown_name
from bat_core.few_classes import TARGETED, check_classes, classes_in, substitutes, verifiers
from bat_core.norms import LINF, Norm

AUTOATTACK_COST = {"apgd-ce": 100.0, "apgd-dlr": 100.0, "apgd-t": 900.0, "fab-t": 1800.0, "square": 2500.0}
NOT_VERIFIED = ", not verified"  # in the label of a suite whose worst case nothing verifies
LADDER_COST = 100.0  # most images leave it early
ONE_STEP_TARGETS: dict[str, Target] = {"fgsm": None, "mc": "mc", "ll": "ll"}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One attack of a suite.

    `steps` are the numbers of steps at which accuracy is read from one trajectory. With `skip_broken` the entry
    attacks only examples that earlier entries did not break, and drops an example as soon as it is broken. The
    worst case is the same at a fraction of the cost, but there is no accuracy under this attack alone.
    """

    name: str
    attack: Attack
    steps: tuple[int, ...] = ()
    skip_broken: bool = False

    def __post_init__(self) -> None:
        if self.steps and self.skip_broken:
            raise InputError(
                f"suite entry {self.name!r}: skip_broken drops broken examples, so accuracy cannot be read at steps"
                f" {self.steps}: leave one of the two out"
            )
        taken = getattr(self.attack, "num_steps", 1)
        if self.steps and not 1 <= min(self.steps) <= max(self.steps) <= taken:
            raise InputError(f"suite entry {self.name!r} is read at steps {self.steps}: they must lie in 1..{taken}")

    def describe(self) -> dict[str, Any]:
        """The attack's settings as plain values, for tables and records."""
        settings = {f.name: getattr(self.attack, f.name) for f in fields(self.attack)}
        plain = {name: value for name, value in settings.items() if isinstance(value, int | float | str | None)}
        if self.attack.norm == LINF:
            del plain["norm"]  # as records of earlier versions have it
        return {"attack": type(self.attack).__name__, **plain, "read_at": list(self.steps), "drop": self.skip_broken}

    @property
    def num_searches(self) -> int:
        """The number of targets that are tried in sequence."""
        return MAX_TARGETS if self.attack.target == "every" else 1

    @property
    def cost(self) -> float:
        """The approximate number of gradients per image; progress bars use it."""
        if isinstance(self.attack, AutoAttack):
            return AUTOATTACK_COST[self.attack.part]
        if isinstance(self.attack, Transfer):
            return len(self.attack.sources) * Entry(name="crafted", attack=self.attack.crafted_by).cost
        if isinstance(self.attack, Ladder):
            return LADDER_COST
        return float(getattr(self.attack, "num_steps", 1) * self.num_searches * self.attack.restarts)

    def for_classes(self, num_classes: int) -> "list[Entry]":
        """This entry, or those that take its place for two or three classes (`bat_core.few_classes`)."""
        others = substitutes(self.attack, num_classes)
        if others is None:
            return [self]
        stem = self.name if TARGETED in self.name else f"{self.name}-{TARGETED}"
        return [replace(self, name=stem.replace(TARGETED, end), attack=attack) for end, attack in others.items()]

    def readings(self) -> list[tuple[str, int | None]]:
        """The table heading and step of each accuracy: CE7, CE20, ... or the attack's name if it has no steps."""
        if not self.steps:
            return [(self.name.upper(), None)]
        if len(self.steps) == 1 and (isinstance(self.attack, FGSM) or any(map(str.isdigit, self.name))):
            return [(self.name.upper(), self.steps[0])]  # the name already contains the number of steps
        return [(f"{self.name.upper()}{step}", step) for step in self.steps]


@dataclass(frozen=True, kw_only=True)
class Suite:
    """Attacks that run in order, each from the clean image. Robust accuracy is the worst case over all of them.

    `verified_by` names the attacks that make the worst case trustworthy. It is None for suites of the paper's own
    attacks, which can be off by 30 points (README). `subset` is the number of images the suite is meant for.
    `classes` is set if attacks were substituted because there are so few classes.
    """

    name: str
    entries: tuple[Entry, ...]
    verified_by: str | None = None
    subset: int | None = None
    classes: int | None = None

    def __post_init__(self) -> None:
        names = [entry.name for entry in self.entries]
        if not names or len(set(names)) < len(names):
            raise InputError(f"suite {self.name!r} has entries {names}: it needs at least one, each with a unique name")

    def for_classes(self, num_classes: int | None) -> "Suite":
        """The suite for a model of `num_classes`: itself from four classes on, or if None.

        Raises:
            InputError: fewer than two classes, or an attack whose loss does not exist for so few classes.
        """
        if num_classes is None or all(num_classes >= entry.attack.min_classes for entry in self.entries):
            return self
        check_classes("the model", num_classes)
        entries: list[Entry] = []
        for new in (new for entry in self.entries for new in entry.for_classes(num_classes)):
            if all((new.attack, new.skip_broken) != (one.attack, one.skip_broken) for one in entries):
                entries.append(new)
        verified_by = verifiers(self.verified_by, num_classes) if self.verified_by else None
        return replace(self, entries=tuple(entries), verified_by=verified_by, classes=num_classes)

    def check_available(self) -> None:
        """Raises InputError if an attack cannot run on this machine."""
        for entry in self.entries:
            entry.attack.check_available()

    @property
    def title(self) -> str:
        """The suite's name, and the number of classes if its attacks were substituted."""
        return f"{self.name} for {self.classes} classes" if self.classes else self.name

    @property
    def label(self) -> str:
        """The suite's title, marked "not verified" if nothing in the suite verifies the result."""
        return self.title if self.verified_by else f"{self.title}{NOT_VERIFIED}"

    @property
    def verified_in_words(self) -> str:
        """The attacks of `verified_by` as a phrase, such as "APGD-CE and APGD-T"."""
        *first, last = (self.verified_by or "nothing").split(", ")
        return " and ".join(filter(None, (", ".join(first), last)))

    def label_for(self, masking_status: str) -> str:
        """The label, given the result of the masking checks.

        Gradient attacks verify nothing if the model's gradients are masked. Such a model needs a suite with a
        black-box attack, such as `standard`.
        """
        black_box = any(isinstance(entry.attack, Square) or entry.name == "square" for entry in self.entries)
        if masking_status == "masked" and self.verified_by and not black_box:
            return f"{self.title}{NOT_VERIFIED}: masked"
        return self.label

    def entry(self, name: str) -> Entry:
        """The entry called `name`."""
        return next(entry for entry in self.entries if entry.name == name)

    def describe(self) -> dict[str, Any]:
        """All settings as plain values."""
        return {
            "name": self.title,
            "verified_by": self.verified_by,
            "entries": {entry.name: entry.describe() for entry in self.entries},
        }


def paper(*, eps: float, step_size: float, norm: Norm = LINF) -> Suite:
    """The paper's white-box attacks: FGSM, CE7, CE20, CE100, CW20, CW100, CW200 (Tables 5 and 6)."""
    return Suite(
        name="paper",
        entries=(
            Entry(name="fgsm", attack=FGSM(eps=eps, norm=norm), steps=(1,)),
            _trajectory("ce", eps, step_size, norm, (7, 20, 100)),
            _trajectory("cw", eps, step_size, norm, (20, 100, 200)),
        ),
    )


def diagnostic(*, eps: float, step_size: float, norm: Norm = LINF) -> Suite:
    """The attacks of the paper's Tables 1, 3 and 4: three one-step attacks with and without random start (rs),
    two steps as long as the budget, and CE7 without random start."""
    one_step = tuple(
        Entry(
            name=f"{name}{suffix}",
            attack=FGSM(eps=eps, norm=norm, target=target, random_start=bool(suffix)),
            steps=(1,),
        )
        for name, target in ONE_STEP_TARGETS.items()
        for suffix in ("", "-rs")
    )
    long_steps = PGD(eps=eps, norm=norm, step_size=eps, num_steps=2)
    from_clean = PGD(eps=eps, norm=norm, step_size=step_size, num_steps=7, random_start=False)
    return Suite(
        name="diagnostic",
        entries=(
            *one_step,
            Entry(name="pgd2-8", attack=long_steps, steps=(2,)),
            Entry(name="ce7-clean", attack=from_clean, steps=(7,)),
        ),
    )


def imagenet(*, eps: float, step_size: float, norm: Norm = LINF) -> Suite:  # noqa: ARG001 (the paper gives each attack its own step size)
    """The paper's Table 9: untargeted (nt) and towards a random class (rd), with 10 and 100 steps.

    The step size is a tenth of the budget for 10 steps (1.6 pixels of 16) and a sixteenth for 100.
    """
    lengths = ((10, eps / 10), (100, eps / 16))
    targets: dict[str, Target] = {"nt": None, "rd": "random"}
    return Suite(
        name="imagenet",
        entries=tuple(
            Entry(
                name=f"ce{steps}-{suffix}",
                attack=PGD(eps=eps, norm=norm, step_size=size, num_steps=steps, target=target),
                steps=(steps,),
            )
            for suffix, target in targets.items()
            for steps, size in lengths
        ),
    )


def curve(*, eps: float, step_size: float, norm: Norm = LINF) -> Suite:
    """Figure 1 and beyond: PGD with both losses, read at 1 to 1,000 steps."""
    steps = (*FIGURE_1_STEPS, 500, 1000)
    return Suite(name="curve", entries=tuple(_trajectory(loss, eps, step_size, norm, steps) for loss in ("ce", "cw")))


def quick(*, eps: float, step_size: float, norm: Norm = LINF) -> Suite:  # noqa: ARG001 (Auto-PGD adapts its step size)
    """APGD-CE and APGD-T with AutoAttack's settings, on a subset: verified accuracy for searches."""
    return Suite(
        name="quick",
        entries=(
            Entry(name="apgd-ce", attack=APGD(eps=eps, norm=norm, loss="ce"), skip_broken=True),
            Entry(name="apgd-t", attack=APGD(eps=eps, norm=norm, loss="dlr", target="every"), skip_broken=True),
        ),
        verified_by="APGD-CE, APGD-T",
        subset=1000,
    )


def fast(*, eps: float, step_size: float, norm: Norm = LINF) -> Suite:  # noqa: ARG001 (its searches have their own step sizes)
    """A ladder of short searches that goes on where the boundary is near: for searches and trials."""
    return Suite(
        name="fast",
        entries=(Entry(name="ladder", attack=Ladder(eps=eps, norm=norm), skip_broken=True),),
        verified_by="a ladder of APGD searches",
    )


def standard(*, eps: float, step_size: float, norm: Norm = LINF) -> Suite:  # noqa: ARG001
    """AutoAttack's standard version in its authors' implementation: the field's benchmark."""
    return Suite(
        name="standard",
        entries=tuple(
            Entry(name=part, attack=AutoAttack(eps=eps, norm=norm, part=part), skip_broken=True) for part in PARTS
        ),
        verified_by="AutoAttack",
    )


SUITES: dict[str, Callable[..., Suite]] = {
    "paper": paper,
    "diagnostic": diagnostic,
    "imagenet": imagenet,
    "curve": curve,
    "quick": quick,
    "fast": fast,
    "standard": standard,
}


def is_verified(label: str) -> bool:
    """Whether a suite's label, as records keep it, says that its worst case is verified."""
    return NOT_VERIFIED not in label


def suite_names() -> tuple[str, ...]:
    """Every suite's name. Several can be joined with a plus sign."""
    return tuple(SUITES)


def get_suite(name: str, *, eps: float, step_size: float | None = None, norm: Norm = LINF) -> Suite:
    """The suite called `name`, or several joined with a plus sign, as in "paper+standard".

    Args:
        eps: budget, in the unit of the images.
        step_size: for attacks with fixed steps. Default: a quarter of eps, the paper's 2 pixels of 8.
        norm: in which eps and step_size are measured.
    Raises:
        ValueError: unknown name.
    """
    step_size = eps / STEPS_PER_EPS if step_size is None else step_size
    parts = name.split("+")
    if missing := next((part for part in parts if part not in SUITES), None):
        raise unknown_name("suite", missing, SUITES, forms="or several joined, as in paper+quick")
    return join([SUITES[part](eps=eps, step_size=step_size, norm=norm) for part in parts])


def join(suites: Sequence[Suite]) -> Suite:
    """Join several suites into one. An attack that occurs in two of them runs once."""
    if len(suites) == 1:
        return suites[0]
    entries: dict[str, Entry] = {}
    for suite in suites:
        for entry in suite.entries:
            same = (entry.attack, entry.skip_broken)
            known = next((one for one in entries.values() if (one.attack, one.skip_broken) == same), None)
            name = known.name if known else _unique_name(entry.name, suite.name, entries)
            steps = sorted({*entry.steps, *(known.steps if known else ())})
            entries[name] = replace(entry, name=name, steps=tuple(steps))
    verified = ", ".join(suite.verified_by for suite in suites if suite.verified_by)
    subsets = [suite.subset for suite in suites]
    return Suite(
        name="+".join(suite.name for suite in suites),
        entries=tuple(entries.values()),
        verified_by=verified or None,
        subset=None if None in subsets else min(size for size in subsets if size is not None),
    )


def trajectories(config: AttackConfig) -> Suite:
    """A trial's own curves: one PGD trajectory per loss, read at the configured steps, and the `also` suite."""
    entries = tuple(
        _trajectory(loss, config.eps, config.step_size, config.norm, config.steps) for loss in config.losses
    )
    own = Suite(name=f"PGD-{config.steps[-1]}", entries=entries)
    if config.also is None:
        return own
    return join([own, get_suite(config.also, eps=config.eps, step_size=config.step_size, norm=config.norm)])


def evaluation_suite(config: AttackConfig) -> Suite:
    """All attacks of a trial's evaluation."""
    return join([suite for suite in (trajectories(config), verification(config)) if suite])


def verification(config: AttackConfig) -> Suite | None:
    """The suite that verifies a trial's own curves; None if the trial does not verify."""
    return get_suite(config.verify_suite, eps=config.eps, norm=config.norm) if config.verify else None


def verifying_suite_in(label: str) -> Suite | None:
    """The suite that verified, by the label that a trial's record keeps; None if there was none."""
    names = re.split(r"[+, ]", label)
    name = next((name for name in VERIFYING_SUITES if name in names), None)
    return get_suite(name, eps=1.0).for_classes(classes_in(label)) if name else None


def second_verification(config: AttackConfig) -> Suite | None:
    """The suite that verifies a trial in its second norm; None if it has none."""
    second = config.second
    return get_suite(config.verify_suite, eps=second.eps, norm=second.norm) if second else None


def _trajectory(loss: str, eps: float, step_size: float, norm: Norm, steps: tuple[int, ...]) -> Entry:
    attack = PGD(eps=eps, norm=norm, step_size=step_size, num_steps=steps[-1], loss=loss)
    return Entry(name=loss, attack=attack, steps=steps)


def _unique_name(name: str, suite: str, taken: Mapping[str, Entry]) -> str:
    """`name`, or a name prefixed with the suite's if `name` is taken."""
    candidates = itertools.chain(
        [name, f"{suite}-{name}"], (f"{suite}-{name}-{number}" for number in itertools.count(2))
    )
    return next(candidate for candidate in candidates if candidate not in taken)
