"""What a trial that is verified in two norms reached: in each, and under both at once."""

from typing import Any

from bat_core.config import AttackConfig
from bat_core.norms import TITLES
from bat_core.suites import evaluation_suite, second_verification
from bat_core.verdicts import Verdicts, robust_in_all

UNION = "union"  # of two threats: correct when clean and under every attack of both, example by example


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
