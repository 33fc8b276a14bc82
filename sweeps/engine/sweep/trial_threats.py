"""What a trial reached, and whether its gradients are masked: in its norm, in a second one, and under both at once."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from bat_core.config import AttackConfig, to_dict
from bat_core.data import Split
from bat_core.masking.checks import examine
from bat_core.masking.flags import MASKING_STATUSES, ONE_CLASS, Findings
from bat_core.norms import TITLES, UNION, Norm
from bat_core.suites import evaluation_suite, second_verification
from bat_core.verdicts import Verdicts, robust_in_all


def check_masking(model: nn.Module, images: Split, attack: AttackConfig, *, seed: int) -> dict[Norm, Findings]:
    """The cheap checks for masked gradients, by norm: at the trial's own budget, then at its second, if it has one."""
    budgets = {attack.norm: attack.eps}
    if attack.second is not None:
        budgets[attack.second.norm] = attack.second.eps
    return {
        norm: examine(model, images.images, images.labels, eps=eps, norm=norm, depth="cheap", seed=seed)
        for norm, eps in budgets.items()
    }


def masking_result(found: Mapping[Norm, Findings]) -> dict[str, Any]:
    """What the record of a finished trial says of its checks, which are given by norm, the trial's own first.

    The status is the worst of all norms. `findings` are those in its own norm, `second_findings` those in its second.
    """
    own, *others = found.values()
    return {
        "verdict": worst_status([one.masking_status for one in found.values()]),
        "flags": flags_by_norm({norm: [flag.name for flag in one.flags] for norm, one in found.items()}),
        "findings": to_dict(own),
        **({"second_findings": to_dict(*others)} if others else {}),
    }


def worst_status(statuses: Sequence[str]) -> str:
    """The worst of several masking statuses. One that this program does not know counts as none."""
    return max(statuses, key=lambda one: MASKING_STATUSES.index(one) if one in MASKING_STATUSES else -1)


def flags_by_norm(raised: Mapping[str, Sequence[str]]) -> list[str]:
    """The names of the red flags in each norm, as in "more_steps_help (L2)".

    A flag has no norm in its name if it was raised in every norm, or if it is ONE_CLASS, which looks at clean images.
    """
    whole = {ONE_CLASS, *set.intersection(*(set(names) for names in raised.values()))}
    named = (name if name in whole else f"{name} ({TITLES[norm]})" for norm, names in raised.items() for name in names)
    return list(dict.fromkeys(named))


def threat_results(
    attack: AttackConfig, verified: Verdicts, second: Verdicts, *, num_classes: int, masking_status: str
) -> dict[str, dict[str, Any]]:
    """The `threats` of a finished trial's record: `robust_acc` in [0, 1], `n` and `suite`, by norm and for the union.

    Args:
        verified: in the trial's own norm.  second: in its second norm, on the same examples.
    Raises:
        ValueError: the verdicts are on different examples.
    """
    suite = second_verification(attack)
    assert suite is not None
    assert attack.second is not None
    own, other = (one.for_classes(num_classes) for one in (evaluation_suite(attack), suite))
    union = f"{own.title} ({TITLES[attack.norm]}) and {other.title} ({TITLES[attack.second.norm]})"
    rows = {
        attack.norm: (verified.robust_correct, own.label_for(masking_status)),
        attack.second.norm: (second.robust_correct, other.label_for(masking_status)),
        UNION: (
            robust_in_all([verified, second]),
            union + other.label_for(masking_status).removeprefix(other.title),
        ),
    }
    return {
        name: {"robust_acc": float(robust.mean()), "n": len(robust), "suite": label}
        for name, (robust, label) in rows.items()
    }
