"""`torchvision:NAME`: torchvision's classifiers, with pretrained weights or as an architecture."""

from typing import Any

from torch import nn

from bat_core.adapter.importing import user_code
from bat_core.adapter.normalize import Normalization
from bat_core.adapter.sources.base import SOURCES, Built, Source, Target, no_pickles
from bat_core.errors import unknown_name
from bat_core.models.from_torchvision import architecture_options


@SOURCES.register("torchvision")
class Torchvision(Source):
    """Models of torchvision.models. NAME may add the weights: resnet50.IMAGENET1K_V1; the default is DEFAULT."""

    form = "torchvision:NAME"

    def load(self, name: str, target: Target | None) -> Built:  # noqa: ARG002
        from torchvision import models

        architecture, _, chosen = name.partition(".")
        _check(architecture)
        available = models.get_model_weights(architecture)
        try:
            weights = available[chosen or "DEFAULT"]
        except KeyError:
            raise unknown_name(f"weights of {architecture}", chosen, available.__members__) from None
        with user_code(f"model 'torchvision:{name}'"), no_pickles():
            model = models.get_model(architecture, weights=weights)
            known: Any = weights.transforms()
        return Built(module=model, normalization=Normalization(tuple(known.mean), tuple(known.std)))

    def architecture(self, name: str, target: Target | None) -> Built:
        from torchvision import models

        _check(name)
        sizes = architecture_options(name, None if target is None else target.image_shape[1])
        if target is not None:
            sizes["num_classes"] = target.num_classes
        with user_code(f"model 'torchvision:{name}'"):
            model = models.get_model(name, weights=None, **sizes)
            if target is not None and target.image_shape[0] != 3:
                _take_channels(model, target.image_shape[0])
        return Built(module=model)


def _check(name: str) -> None:
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise unknown_name("model of torchvision", name, known)


def _take_channels(model: nn.Module, channels: int) -> None:
    """Replace the first convolution, which takes 3 channels, by one that takes `channels`."""
    for name, first in model.named_modules():
        if isinstance(first, nn.Conv2d):
            parent, _, own = name.rpartition(".")
            replacement = nn.Conv2d(
                channels,
                first.out_channels,
                first.kernel_size,  # type: ignore[arg-type]
                first.stride,  # type: ignore[arg-type]
                first.padding,  # type: ignore[arg-type]
                bias=first.bias is not None,
            )
            setattr(model.get_submodule(parent), own, replacement)
            return
