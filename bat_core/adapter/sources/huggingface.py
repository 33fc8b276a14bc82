"""`hf:ORG/NAME` or `hf:FOLDER`: image classifiers of Hugging Face transformers."""

from pathlib import Path
from typing import Any

from bat_core.adapter.importing import user_code
from bat_core.adapter.normalize import Normalization
from bat_core.adapter.sources.base import SOURCES, Built, Source, Target, installed, no_pickles
from bat_core.errors import InputError


@SOURCES.register("hf")
class HuggingFace(Source):
    """Loads with AutoModelForImageClassification; code from the hub is never run (trust_remote_code=False)."""

    form = "hf:ORG/NAME"
    takes_weights = False

    def resolve(self, name: str) -> str:
        path = Path(name)
        if path.is_dir():
            return str(path.resolve())
        if path.is_absolute() or name.startswith(".") or name.count("/") > 1:
            raise InputError(f"model 'hf:{name}': there is no such folder; a name on the hub reads ORG/NAME")
        return name

    def title(self, name: str) -> str:
        return name.rstrip("/").rpartition("/")[2]

    def load(self, name: str, target: Target | None) -> Built:  # noqa: ARG002
        transformers: Any = installed("transformers", extra="hf", what=f"model 'hf:{name}'")
        with user_code(f"model 'hf:{name}'"), no_pickles():
            model = transformers.AutoModelForImageClassification.from_pretrained(name, trust_remote_code=False)
        return Built(module=model, normalization=_normalization(transformers, name))


def _normalization(transformers: Any, name: str) -> Normalization | None:
    """The normalisation in preprocessor_config.json; None without that file."""
    try:
        settings, _ = transformers.ImageProcessingMixin.get_image_processor_dict(name)
    except OSError:
        return None
    mean, std = settings.get("image_mean"), settings.get("image_std")
    if not settings.get("do_normalize", True) or mean is None or std is None:
        return None
    mean, std = ((value,) if isinstance(value, int | float) else tuple(value) for value in (mean, std))
    return Normalization(tuple(map(float, mean)), tuple(map(float, std)))
