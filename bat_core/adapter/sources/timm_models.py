"""`timm:NAME`: pytorch-image-models, with its pretrained weights or as an architecture."""

from typing import Any

from bat_core.adapter.importing import user_code
from bat_core.adapter.normalize import Normalization
from bat_core.adapter.sources.base import SOURCES, Built, Source, Target, installed, no_pickles
from bat_core.errors import InputError, unknown_name
from bat_core.models.from_timm import sized_network


@SOURCES.register("timm")
class Timm(Source):
    """Models of timm. NAME may be one of its own hub forms, such as hf_hub:timm/resnet18.a1_in1k."""

    form = "timm:NAME"

    def load(self, name: str, target: Target | None) -> Built:  # noqa: ARG002
        timm = _timm(name)
        with user_code(f"model 'timm:{name}'"), no_pickles():
            model = timm.create_model(name, pretrained=True)
        return Built(module=model, normalization=_normalization(model))

    def architecture(self, name: str, target: Target | None) -> Built:
        timm = _timm(name)
        with user_code(f"model 'timm:{name}'"), no_pickles():
            if target is None:
                model = timm.create_model(name, pretrained=False)
                return Built(module=model, normalization=_normalization(model))
            return Built(
                module=sized_network(timm, name, num_classes=target.num_classes, image_shape=target.image_shape)
            )


def _timm(name: str) -> Any:
    timm = installed("timm", extra="timm", what=f"model 'timm:{name}'")
    if not name:
        raise InputError("model 'timm:' has no name: write timm:NAME, such as timm:resnet18")
    if ":" not in name and not timm.is_model(name):
        raise unknown_name("model of timm", name.partition(".")[0], timm.list_models())
    return timm


def _normalization(model: Any) -> Normalization | None:
    known = getattr(model, "pretrained_cfg", None) or {}
    mean, std = known.get("mean"), known.get("std")
    return Normalization(tuple(mean), tuple(std)) if mean and std else None
