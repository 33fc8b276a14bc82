"""The config of a trial: frozen, validated, stored as JSON and hashed, so that equal trials have equal hashes."""

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, TypeAlias, TypeVar, get_args

from bat_core.errors import InputError, brief_repr, check_choice, check_finite
from bat_core.norms import LINF, Norm, check_budget, check_norm

FIGURE_1_STEPS = (1, 2, 5, 7, 10, 20, 50, 100, 200)
LOSS_NAMES = ("ce", "cw", "dlr", "pm", "scaled-ce")  # their functions are in losses.py, which imports torch
STEPS_PER_EPS = 4  # a step is a quarter of the budget: 2 pixels of 8
EVAL_PIXELS = 8  # the paper's budget, of training and of evaluation, in pixels of the data set
SCHEDULES = ("one_cycle", "multi_step", "cosine")
PRECISIONS = ("auto", "float32", "bfloat16")
ON_COLLAPSE = ("stop", "go_on")
AUTOMATIC = ("auto", "on", "off")
COMPILE = ("auto", "on", "graphs", "off")
UNHASHED = (  # settings added later, with the value that corresponds to the earlier behaviour
    ("data", "image_size", None),
    ("data", "image_column", None),
    ("data", "label_column", None),
    ("attack", "also", None),
    ("train", "compile", "auto"),
    ("train", "channels_last", "auto"),
)

SPLITS = ("test", "val")
VerifyingSuite: TypeAlias = Literal["fast", "quick"]
VERIFYING_SUITES: tuple[VerifyingSuite, ...] = get_args(VerifyingSuite)
ONLY_IF_SET = {"only_if_set": True}  # metadata of a field that is stored only where it is not the default

C = TypeVar("C")
Param: TypeAlias = float | str | bool


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which images. Their location is not part of a trial, so the same trial runs on another machine.

    `image_size` is the height and width of images in files; `image_column` and `label_column` are columns of Parquet
    files. None means the data set's default.
    """

    name: str = "digits"
    train_size: int | None = None
    val_size: int | None = None
    test_size: int | None = None
    image_size: int | None = None
    image_column: str | None = None
    label_column: str | None = None

    def __post_init__(self) -> None:
        for where in ("train_size", "val_size", "test_size", "image_size"):
            size = getattr(self, where)
            if size is not None:
                check_finite(f"data.{where}", size, low=1)


@dataclass(frozen=True, kw_only=True)
class RecipeConfig:
    """A training recipe by name, with its parameters (`eps` in [0, 1] units, `beta`, `norm` unless L-inf ...)."""

    name: str = "R-MC-LA"
    params: Mapping[str, Param] = field(default_factory=dict)

    def __post_init__(self) -> None:
        own = ":" not in self.name
        if own and self.params.get("norm") == LINF:  # so that trials from before there were norms are equal
            object.__setattr__(self, "params", {name: self.params[name] for name in self.params if name != "norm"})
        for param, value in self.params.items():
            if isinstance(value, str | bool):
                continue
            if param == "eps":
                check_budget("recipe.eps", value, str(self.params.get("norm", LINF)))
            else:
                check_finite(f"recipe.{param}", value, allow_inf=True)

    def __hash__(self) -> int:
        return hash((self.name, tuple(sorted(self.params.items()))))


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How the weights are trained: SGD with momentum; weight decay on convolution and linear weights only.

    `batch_size` is global. `milestones` are the fractions of `epochs` at which `multi_step` multiplies lr by `drop`;
    the paper's [60, 90, 100] are 0.6 and 0.9 of 100 epochs. `final_lr` is the final rate of `cosine`, as a share
    of lr. `warm_up` is the share of training in which lr rises; None means 0.3 for `one_cycle` and 0 for the others.

    After each epoch, `val_steps` PGD steps estimate the robust accuracy on validation images. `on_collapse` applies
    to trials with catastrophic overfitting: "stop" ends training with the model of the previous epoch, "go_on"
    continues, for studying the collapse. `compile` runs the network through torch.compile and `channels_last` sets
    the memory layout; "auto" is the choice that measured fastest (`bat_core.forward`).
    """

    epochs: int = 20
    batch_size: int = 64
    lr: float = 0.1
    schedule: str = "one_cycle"
    milestones: tuple[float, ...] = (0.6, 0.9)
    drop: float = 0.1
    final_lr: float = 0.0
    warm_up: float | None = None
    momentum: float = 0.9
    weight_decay: float = 2e-4
    val_steps: int = 5
    precision: str = "auto"
    on_collapse: str = "stop"
    compile: str = "auto"
    channels_last: str = "auto"

    def __post_init__(self) -> None:
        check_finite("train.epochs", self.epochs, low=1)
        check_finite("train.batch_size", self.batch_size, low=1)
        check_finite("train.lr", self.lr, strict=True)
        check_finite("train.momentum", self.momentum)
        check_finite("train.weight_decay", self.weight_decay)
        check_finite("train.val_steps", self.val_steps, low=1)
        check_choice("train.schedule", self.schedule, SCHEDULES)
        check_choice("train.precision", self.precision, PRECISIONS)
        check_choice("train.on_collapse", self.on_collapse, ON_COLLAPSE)
        check_choice("train.compile", self.compile, COMPILE)
        check_choice("train.channels_last", self.channels_last, AUTOMATIC)
        check_finite("train.drop", self.drop, strict=True)
        check_finite("train.final_lr", self.final_lr)
        check_finite("train.warm_up", self.warm_up or 0.0)
        for where in ("drop", "final_lr"):
            if getattr(self, where) > 1:
                raise InputError(
                    f"train.{where}={getattr(self, where):g} must be at most 1: it is a share of the learning rate"
                )
        if (self.warm_up or 0.0) >= 1:
            raise InputError(f"train.warm_up={self.warm_up:g} must be below 1: it is a share of training")
        if self.momentum >= 1:
            raise InputError(f"train.momentum={self.momentum:g} must be below 1")
        if any(not 0 < milestone < 1 for milestone in self.milestones):
            raise InputError(
                f"train.milestones={self.milestones} must be between 0 and 1: they are fractions of epochs"
            )


@dataclass(frozen=True, kw_only=True)
class SecondThreat:
    """A norm other than a trial's own in which it is verified too, and the budget there."""

    norm: Norm
    eps: float

    def __post_init__(self) -> None:
        check_norm("attack.second.norm", self.norm)
        check_budget("attack.second.eps", self.eps, self.norm)


@dataclass(frozen=True, kw_only=True)
class AttackConfig:
    """The evaluation: one PGD trajectory from a random start per loss, read at `steps`.

    On the first `verify` images, `verify_suite` then attacks the examples that remain robust and makes the worst
    case trustworthy. With 0 it is skipped and the accuracy is labelled "not verified". `also` names a suite whose
    attacks run before it, such as "diagnostic" for the paper's tables. `split` selects the images: "test", or
    "val" for trials that are used to choose something. `norm` is that of `eps` and `step_size`: "linf" or "l2".
    In the norm and budget of `second`, `verify_suite` attacks the same first `verify` images too, each from the clean
    image.
    """

    eps: float = 8 / 255
    step_size: float = 2 / 255
    steps: tuple[int, ...] = FIGURE_1_STEPS
    losses: tuple[str, ...] = ("ce", "cw")
    batch_size: int = 200
    verify: int = 200
    split: str = "test"
    also: str | None = None
    norm: Norm = field(default=LINF, metadata=ONLY_IF_SET)
    second: SecondThreat | None = field(default=None, metadata=ONLY_IF_SET)
    verify_suite: VerifyingSuite = field(default="quick", metadata=ONLY_IF_SET)

    def __post_init__(self) -> None:
        check_norm("attack.norm", self.norm)
        check_budget("attack.eps", self.eps, self.norm)
        check_budget("attack.step_size", self.step_size, self.norm)
        check_finite("attack.batch_size", self.batch_size, low=1)
        check_finite("attack.verify", self.verify)
        if not self.steps or not self.losses:
            raise InputError("attack.steps and attack.losses need at least one entry each")
        if min(self.steps) < 1 or list(self.steps) != sorted(set(self.steps)):
            raise InputError(f"attack.steps={self.steps} must be whole numbers of at least 1 in increasing order")
        for loss in self.losses:
            check_choice("attack.losses", loss, LOSS_NAMES)
        check_choice("attack.split", self.split, SPLITS)
        check_choice("attack.verify_suite", self.verify_suite, VERIFYING_SUITES)
        if self.second is not None and self.second.norm == self.norm:
            raise InputError(f"attack.second.norm={self.norm} is attack.norm too: the second must be another norm")
        if self.second is not None and not self.verify:
            raise InputError("attack.second is verified on the first attack.verify images: verify must be at least 1")


@dataclass(frozen=True, kw_only=True)
class TrialConfig:
    """One model: the images, the network, the recipe, the training, the evaluation and the seed."""

    data: DataConfig = DataConfig()
    model: str = "small_cnn"
    recipe: RecipeConfig = RecipeConfig()
    train: TrainConfig = TrainConfig()
    attack: AttackConfig = AttackConfig()
    seed: int = 0

    def __post_init__(self) -> None:
        check_finite("seed", self.seed)

    @property
    def hash(self) -> str:
        """Twelve hexadecimal digits, equal for equal configs on every machine."""
        typed = from_dict(TrialConfig, to_dict(self))  # normalises types: trials with 1 and 1.0 are equal
        values = to_dict(typed)
        for part, choice, default in UNHASHED:  # trials from before the setting existed keep their hash
            if values[part][choice] == default:
                del values[part][choice]
        text = json.dumps(values, sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def to_dict(config: Any) -> dict[str, Any]:
    """A dataclass as plain JSON values; infinity is written as "inf", because JSON cannot represent it.

    A field with a "key" in its metadata is written under that name, so that stored names outlive renames in Python.
    One with "only_if_set" is left out where it has its default, so that files of earlier versions stay as they were.
    """

    def plain(value: Any) -> Any:
        if dataclasses.is_dataclass(value):
            return {_key(field): plain(found) for field, found in _stored(value)}
        if isinstance(value, float) and math.isinf(value):
            return str(value)
        if isinstance(value, Mapping):
            return {key: plain(item) for key, item in value.items()}
        if isinstance(value, tuple | list):
            return [plain(item) for item in value]
        return value

    return typing.cast(dict[str, Any], plain(config))


def _stored(value: Any) -> Iterator[tuple["dataclasses.Field[Any]", Any]]:
    """The fields of a dataclass that are written, and what they hold."""
    for one in dataclasses.fields(value):
        found = getattr(value, one.name)
        if not ("only_if_set" in one.metadata and found == one.default):
            yield one, found


def _key(field: "dataclasses.Field[Any]") -> str:
    """The name under which a field is stored."""
    return str(field.metadata.get("key", field.name))


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"train": {"lr": 0.1}} -> {"train.lr": 0.1}."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def from_dict(kind: type[C], values: Any) -> C:
    """Build the dataclass `kind` from the output of `to_dict`.

    Raises:
        InputError: an unknown or missing field, or a value of the wrong type.
    """
    if not isinstance(values, Mapping):
        raise InputError(f"{kind.__name__}={brief_repr(values)} must be a mapping of its fields")
    hints = typing.get_type_hints(kind)
    names = {_key(field): field.name for field in dataclasses.fields(typing.cast(Any, kind))}
    if unknown := set(values) - set(names):
        first = min(map(brief_repr, unknown))
        raise InputError(f"{kind.__name__} has no field {first}; its fields are {', '.join(names)}")
    typed = {names[key]: _typed(key, hints[names[key]], value) for key, value in values.items()}
    try:
        return kind(**typed)
    except TypeError as error:
        raise InputError(f"{kind.__name__}: {error}") from error


def check_storable(config: Any) -> None:
    """Check that a dataclass can be read back once it is written, so that nothing is written that cannot.

    Raises:
        InputError: a value, such as an integer beyond 64 bits, has no place in the file.
    """
    from_dict(type(config), to_dict(config))


def _typed(name: str, hint: Any, value: Any) -> Any:
    """Convert `value` to the type `hint`: JSON has neither tuples nor infinity, and may store 1.0 as 1."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    convert: Callable[[Any], Any]
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise InputError(f"{name}={brief_repr(value)} is too large: integers must fit into 64 bits")
    if origin in (typing.Union, types.UnionType):
        return _typed_one_of(name, arguments, value)
    if origin is typing.Literal:
        fits, convert = value in arguments, lambda literal: literal
    elif dataclasses.is_dataclass(hint):
        fits, convert = isinstance(value, Mapping), partial(from_dict, typing.cast(type[Any], hint))
    elif origin is tuple:
        fits = isinstance(value, list | tuple) and (arguments[-1] is Ellipsis or len(value) == len(arguments))
        convert = partial(_typed_items, name, arguments[0])
    elif origin is Mapping:
        fits = isinstance(value, Mapping) and all(isinstance(key, str) for key in value)
        convert = partial(_typed_values, name, arguments[1])
    elif hint is float:
        fits, convert = _is_number(value) or value in ("inf", "-inf"), float
    else:
        fits, convert = type(value) is hint, hint
    if not fits and origin is typing.Literal:
        raise InputError(f"{name}={brief_repr(value)} must be one of {', '.join(map(str, arguments))}")
    if not fits:
        raise InputError(f"{name}={brief_repr(value)} must be of type {getattr(hint, '__name__', hint)}")
    return convert(value)


def _typed_one_of(name: str, hints: Sequence[Any], value: Any) -> Any:
    """Convert to a union: `X | None` gives X or None; other unions keep strings and bools and make numbers floats."""
    if value is None and type(None) in hints:
        return None
    exact = value not in ("inf", "-inf") and type(value) in hints
    return value if exact else _typed(name, hints[0], value)


def _typed_items(name: str, hint: Any, values: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(_typed(name, hint, value) for value in values)


def _typed_values(name: str, hint: Any, values: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _typed(f"{name}.{key}", hint, value) for key, value in values.items()}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
