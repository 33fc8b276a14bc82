"""The base of training recipes: an attack on the image, a label and a loss."""

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from bat_core.attacks import Attack, LogitsFn
from bat_core.config import Param
from bat_core.errors import InputError
from bat_core.labels import adversarial_label, check_beta_and_gamma, check_eps_y, smooth_label
from bat_core.losses import cross_entropy
from bat_core.norms import LINF
from bat_core.registry import Registry
from bat_core.rng import BatchRNG

CleanLogits: TypeAlias = Callable[[], Tensor]


class Label(Protocol):
    """Computes the training label, a class (B,) or a distribution (B, K), from the true classes y (B,).

    `clean_logits()` returns the logits (B, K) of the clean images; a label that does not call it saves that pass.
    """

    def __call__(self, y: Tensor, clean_logits: CleanLogits) -> Tensor: ...


@dataclass(frozen=True)
class OneHot:
    """All mass on the true class, represented by its index."""

    def __call__(self, y: Tensor, clean_logits: CleanLogits) -> Tensor:  # noqa: ARG002
        return y


@dataclass(frozen=True)
class Smooth:
    """Label smoothing (LS in the paper), eq. 15."""

    eps_y: float = 0.5

    def __post_init__(self) -> None:
        check_eps_y(self.eps_y)

    def __call__(self, y: Tensor, clean_logits: CleanLogits) -> Tensor:
        return smooth_label(y, num_classes=clean_logits().shape[1], eps_y=self.eps_y)


@dataclass(frozen=True)
class Adversarial:
    """Label adversary (LA in the paper), eq. 14 and 18."""

    beta: float = 9.0
    gamma: float = 0.01

    def __post_init__(self) -> None:
        check_beta_and_gamma(self.beta, self.gamma)

    def __call__(self, y: Tensor, clean_logits: CleanLogits) -> Tensor:
        return adversarial_label(clean_logits(), y, beta=self.beta, gamma=self.gamma)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How one batch becomes one training loss.

    Recipes with a loss other than cross-entropy on the adversarial images override `loss`. `attack` carries the
    recipe's budget, even if the recipe overrides `perturb`.
    """

    attack: Attack | None = None
    label: Label = OneHot()

    def check(self, model: nn.Module, num_classes: int) -> None:  # noqa: ARG002 (for recipes that read the network)
        """Raises InputError if the recipe cannot train `model`, which may be on the meta device."""
        if self.attack is not None and num_classes < self.attack.min_classes:
            raise InputError(
                f"the recipe's {self.attack.classes_rule} needs {self.attack.min_classes} classes, and there are"
                f" {num_classes}: use another recipe"
            )

    def craft(self, logits_fn: LogitsFn, x: Tensor, y: Tensor, rng: BatchRNG) -> tuple[Tensor, Tensor]:
        """Adversarial images (B, C, H, W) in [0, 1] and their labels, (B,) or (B, K), all detached.

        `logits_fn` is the unwrapped model with batch norm on its running statistics. It sees the clean images at
        most once, for the label and the target together.
        """

        @functools.cache
        def clean_logits() -> Tensor:
            with torch.no_grad():
                return logits_fn(x)

        label = self.label(y, clean_logits)
        return self.perturb(logits_fn, x, y, rng, clean_logits), label

    def perturb(self, logits_fn: LogitsFn, x: Tensor, y: Tensor, rng: BatchRNG, clean_logits: CleanLogits) -> Tensor:
        """The training images (B, C, H, W), detached. Recipes with their own search override this."""
        if self.attack is None:
            return x
        return self.attack(logits_fn, x, y, generator=rng, clean_logits=clean_logits)

    @property
    def max_distance(self) -> float:
        """The largest distance of a training image from its clean image, in the unit of x."""
        return self.attack.eps if self.attack else 0.0

    def loss(
        self,
        model: nn.Module,
        x: Tensor,  # noqa: ARG002 (for recipes that also train on clean images)
        x_adv: Tensor,
        label: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Per-example training loss (B,) and logits (B, K) of the training images, in train mode."""
        logits = model(x_adv)
        return cross_entropy(logits, label), logits


RecipeFactory: TypeAlias = Callable[..., Recipe]
RECIPES: Registry[RecipeFactory] = Registry("recipe", "bat_core.recipes")


def get_recipe(name: str, **params: Param) -> Recipe:
    """The recipe called `name` in the paper, with the paper's parameters by default.

    Args:
        params: the recipe's parameters: `eps` (unit of x, default 8/255), `norm`, `beta`, `gamma`, `eps_y`, ...
    Raises:
        ValueError: unknown name, unknown parameter, or a value outside its range.
    """
    factory, captured = RECIPES.find(name)
    known = recipe_params(name)
    for param, value in params.items():
        if param not in known:
            takes = f"it takes {', '.join(known)}" if known else "it takes no parameters"
            raise InputError(f"recipe {name!r} has no parameter {param!r}: {takes}")
        _check_kind(param, value, known[param])
    if params.get("norm", LINF) != LINF and "eps" in known and "eps" not in params:
        raise InputError(f"recipe {name!r} with norm={params['norm']} needs eps: its default is an L-inf budget")
    return factory(**captured, **params)


def budget_params(name: str, eps: float, norm: str) -> dict[str, Param]:
    """The parameters of recipe `name` that set its budget; none if it has no budget.

    A recipe from elsewhere without a parameter `norm` decides on its norm itself.
    """
    known = recipe_params(name)
    if "eps" not in known:
        return {}
    return {"eps": eps} if norm == LINF or "norm" not in known else {"eps": eps, "norm": norm}


def _check_kind(name: str, value: Param, default: Param) -> None:
    """Check that a value has the same kind as the default: string, bool, integer or number."""
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(default, bool):
        fits, kind = isinstance(value, bool), "true or false"
    elif isinstance(default, str):
        fits, kind = isinstance(value, str), "a name"
    elif isinstance(default, int):
        fits, kind = numeric and float(value).is_integer(), "a whole number"
    else:
        fits, kind = numeric, "a number"
    if not fits:
        raise InputError(f"recipe.{name}={value!r} must be {kind}")


def recipe_params(name: str) -> Mapping[str, Param]:
    """The parameters of recipe `name`, with their defaults."""
    factory, captured = RECIPES.find(name)
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: p.default for p in parameters if p.name not in captured}


def recipe_names() -> tuple[str, ...]:
    """Every recipe's name, sorted."""
    return RECIPES.names()
