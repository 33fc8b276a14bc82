"""Data sets of users: `package.module:factory`, a function that returns the images."""

import inspect
from typing import Any

import torch

from bat_core.adapter.importing import import_object, user_code
from bat_core.data.augment import shifts
from bat_core.data.base import DATASETS, Source, Split
from bat_core.data.request import Request
from bat_core.data.user_images import as_split, class_names_of
from bat_core.errors import InputError

FORM = "package.module:factory"
RULE = (
    "it must return (train, test), or {'train': ..., 'test': ..., 'class_names': ...} where train may be missing, and"
    " each of both is (images, labels) or a torch Dataset of (image, label)"
)


@DATASETS.register(FORM, pattern=r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
def factory(request: Request) -> Source:
    """What a user's function returns. It is called with `data_dir` and `image_size` if it has such parameters.

    It returns a `Source`, a pair (train, test), or a dict with "test" and perhaps "train" and "class_names". A split
    is a `Split`, a pair (images, labels) of arrays or tensors, or a torch Dataset of (image, label). Images are of one
    size. See `user_images.as_split` for their forms.
    """
    request.refuse_columns()
    what = f"data set {request.name!r}"
    if request.download:
        raise InputError(f"{what} does not support --download: omit it")
    made = _call(import_object(request.name, what=what), request, what)
    if isinstance(made, Source):
        return made
    parts = _parts(made, what)
    test = as_split(parts["test"], f"{what}, test")
    train = None if parts["train"] is None else as_split(parts["train"], f"{what}, train")
    names = parts.get("class_names") or class_names_of(parts["test"])
    return Source(
        train=train,
        test=test,
        class_names=_class_names(names, [split for split in (train, test) if split is not None], what),
        augmentation=shifts(*test.images.shape[2:]),
    )


def _call(function: Any, request: Request, what: str) -> Any:
    if not callable(function):
        raise InputError(f"{what} is a {type(function).__name__}: it must be a function that returns the images")
    with user_code(f"{what} cannot be made"):
        parameters = inspect.signature(function).parameters
        given: dict[str, Any] = {
            name: value
            for name, value in (("data_dir", request.data_dir), ("image_size", request.image_size))
            if value is not None and name in parameters
        }
        if request.data_dir is not None and "data_dir" not in parameters:
            raise InputError(f"{what} takes no parameter data_dir: omit --data-dir, or give the function one")
        missing = [
            name
            for name, parameter in parameters.items()
            if parameter.default is parameter.empty
            and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
            and name not in given
        ]
        if missing == ["data_dir"]:
            raise InputError(f"{what} needs a folder: give it with --data-dir DIR")
        if missing:
            raise InputError(f"{what} needs the parameter {missing[0]!r}: give it a default")
        return function(**given)


def _parts(made: Any, what: str) -> dict[str, Any]:
    if isinstance(made, dict):
        if unknown := set(map(str, made)) - {"train", "test", "class_names"}:
            raise InputError(f"{what} returns a dict with {min(unknown)!r}: {RULE}")
        if made.get("test") is None:
            raise InputError(f"{what} returns a dict without 'test': {RULE}")
        return {"train": None, **made}
    if isinstance(made, tuple | list) and len(made) in (2, 3) and not _is_array(made[0]) and not _is_array(made[1]):
        train, test, *names = made
        if test is None:
            raise InputError(f"{what} returns None as test: {RULE}")
        return {"train": train, "test": test, "class_names": names[0] if names else None}
    raise InputError(f"{what} returns {_described(made)}: {RULE}")


def _is_array(value: Any) -> bool:
    return hasattr(value, "dtype") and hasattr(value, "shape")


def _described(made: Any) -> str:
    if isinstance(made, tuple | list):
        kinds = ", ".join(type(item).__name__ for item in made[:4])
        return f"a {type(made).__name__} of {len(made)} ({kinds})"
    return f"a {type(made).__name__}"


def _class_names(names: Any, splits: list[Split], what: str) -> tuple[str, ...]:
    """The names given, else the numbers of the classes."""
    if names is not None:
        if isinstance(names, str) or not all(isinstance(name, str) for name in names):
            raise InputError(f"{what}: class_names must be a list of strings")
        return tuple(names)
    labels = torch.cat([split.labels for split in splits])
    if int(labels.min()) != 0:
        raise InputError(
            f"{what}: labels span {int(labels.min())}..{int(labels.max())}: they must start at 0; if no image of class"
            " 0 is there, return class_names as well"
        )
    return tuple(str(number) for number in range(int(labels.max()) + 1))
