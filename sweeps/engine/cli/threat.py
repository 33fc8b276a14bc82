"""A norm and a budget as the command line names them: linf:8/255."""

from dataclasses import dataclass

from bat_core.errors import InputError
from bat_core.norms import NORMS, Norm, check_budget, check_norm
from sweeps.engine.cli.given import Options
from sweeps.engine.cli.options import amount_of

NAMED_BY_THREATS = ("norm", "eps", "step_size")  # options that --threat takes the place of


@dataclass(frozen=True)
class Threat:
    """A norm and a budget in [0, 1] units, and both as typed: linf:8/255."""

    text: str
    norm: Norm
    eps: float

    @classmethod
    def parse(cls, text: str) -> "Threat":
        """The threat that was typed.

        Raises:
            InputError: it is no norm and budget, or the budget is out of the norm's range.
        """
        typed, colon, amount = text.partition(":")
        try:
            eps = amount_of(amount) if colon else None
        except ValueError:
            eps = None
        if eps is None:
            raise InputError(f"--threat {text!r} must be a norm and a budget, such as linf:8/255 or l2:0.5")
        check_norm("--threat", typed)
        norm = next(known for known in NORMS if known == typed)
        check_budget(f"--threat {typed}", eps, norm)
        return cls(text, norm, eps)

    @property
    def name(self) -> str:
        """The name of its folder."""
        return self.text.replace(":", "-").replace("/", "_")


def refuse_beside(options: Options) -> None:
    """Raises InputError if an option is given that --threat takes the place of."""
    if given := next((name for name in NAMED_BY_THREATS if name in options.given), None):
        raise InputError(f"{options.flag(given)} cannot be given with --threat, which names norms and budgets")
