"""What is measured on finished models because it needs several of them, or only one table of the paper needs it."""

from dataclasses import dataclass
from typing import TypeAlias

BLACK_BOX_STEPS = 20


@dataclass(frozen=True, kw_only=True)
class GradientQuery:
    """The squared L2 norm of the gradient of each test image's loss, in units of [-1, 1]."""

    trial: str

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return f"gradients-{self.trial}"

    @property
    def models(self) -> tuple[str, ...]:
        """The trials whose models are used."""
        return (self.trial,)

    @property
    def columns(self) -> tuple[str, ...]:
        """The file's columns, one value per test image."""
        return ("correct", "squared_norm")


@dataclass(frozen=True, kw_only=True)
class TransferQuery:
    """Whether each target is correct on images crafted on another model, by FGSM and by PGD with 20 steps."""

    source: str
    targets: tuple[str, ...]

    @property
    def name(self) -> str:
        """The file's name without its suffix."""
        return f"crafted-on-{self.source}"

    @property
    def models(self) -> tuple[str, ...]:
        """The trials whose models are used."""
        return (self.source, *self.targets)

    @property
    def columns(self) -> tuple[str, ...]:
        """The file's columns, one value per test image."""
        return tuple(f"{attack}:{target}" for attack in ("fgsm", f"ce{BLACK_BOX_STEPS}") for target in self.targets)


ModelQuery: TypeAlias = GradientQuery | TransferQuery
