"""What attacks a model of two or three classes in place of the attacks that need four.

The targeted DLR loss compares four logits and the DLR loss three. AutoAttack's authors therefore advise the untargeted
DLR loss for three classes; for two, the margin is the only one of these losses that exists. For three classes APGD also
runs on the margin towards each wrong class, so that every target is still searched.
"""

import re
from collections.abc import Mapping
from dataclasses import replace

from bat_core.attacks import APGD, Attack, AutoAttack
from bat_core.errors import InputError

TARGETED = "apgd-t"  # in the names of entries
LABEL = re.compile(r" for (\d) classes\b")
VERIFIERS: Mapping[int, Mapping[str, str]] = {
    2: {"APGD-T": "APGD on the margin", "AutoAttack": "AutoAttack's APGD-CE, FAB-T and Square, APGD on the margin"},
    3: {
        "APGD-T": "APGD-DLR, APGD-T on the margin",
        "AutoAttack": "AutoAttack's APGD-CE, APGD-DLR, FAB-T and Square, APGD-T on the margin",
    },
}


def check_classes(where: str, num_classes: int) -> None:
    """Raises InputError for a data set of fewer than two classes."""
    if num_classes < 2:
        raise InputError(
            f"{where} has {num_classes} class: a classifier needs at least 2, so use images of more classes"
        )


def substitutes(attack: Attack, num_classes: int) -> dict[str, Attack] | None:
    """The attacks that take the place of `attack`, by the ends of their names; None if it fits `num_classes`.

    Raises:
        InputError: nothing can take its place, because its loss was chosen rather than implied by a suite.
    """
    if num_classes >= attack.min_classes:
        return None
    if isinstance(attack, APGD) and attack.loss == "dlr" and attack.target == "every":
        untargeted: Attack = replace(attack, target=None)
        margin = replace(attack, loss="cw")
    elif isinstance(attack, AutoAttack) and attack.part == TARGETED:
        margin = APGD(eps=attack.eps, norm=attack.norm, loss="cw", target="every")
        untargeted = replace(attack, part="apgd-dlr")
    else:
        raise InputError(
            f"{attack.classes_rule} needs {attack.min_classes} classes, and there are {num_classes}: use loss cw"
        )
    if num_classes == 2:
        return {"apgd-cw": replace(margin, target=None)}
    return {"apgd-dlr": untargeted, "apgd-t-cw": margin}


def verifiers(verified_by: str, num_classes: int) -> str:
    """`Suite.verified_by` of a suite whose attacks were substituted."""
    known = VERIFIERS[num_classes]
    return ", ".join(dict.fromkeys(known.get(one, one) for one in verified_by.split(", ")))


def classes_in(label: str) -> int | None:
    """The number of classes that a suite's label names; None if its attacks are the usual ones."""
    match = LABEL.search(label)
    return int(match[1]) if match else None
