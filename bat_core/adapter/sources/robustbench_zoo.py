"""`robustbench:NAME`: RobustBench's zoo; architecture and weights come from its own package."""

from pathlib import Path
from typing import Any

from bat_core.adapter.importing import user_code
from bat_core.adapter.sources.base import SOURCES, Built, Source, Target, installed, no_pickles
from bat_core.errors import InputError, unknown_name

DATASETS = ("cifar10", "cifar100", "imagenet")
THREAT_MODELS = ("Linf", "L2")  # the first is meant where none is named


@SOURCES.register("robustbench")
class RobustBench(Source):
    """Models of RobustBench. NAME may begin with a data set and a norm: robustbench:cifar10/L2/Augustin2020Adversarial.

    Weights are kept in the folder that RobustBench uses by default, ./models.
    """

    form = "robustbench:NAME"
    takes_weights = False

    def resolve(self, name: str) -> str:
        dataset, slash, _ = name.partition("/")
        if slash and dataset not in DATASETS:
            raise unknown_name("data set of RobustBench", dataset, DATASETS)
        if slash and (threat := _parts(name)[1]) not in THREAT_MODELS:
            raise unknown_name("threat model of RobustBench", threat, THREAT_MODELS)
        return name

    def complete(self, name: str, target: Target) -> str:
        if "/" in name:
            return name
        if target.dataset not in DATASETS:
            raise InputError(
                f"model 'robustbench:{name}': RobustBench has no models for {target.dataset!r}, but for"
                f" {', '.join(DATASETS)}: write robustbench:cifar10/{name} to name one"
            )
        return f"{target.dataset}/{name}"

    def title(self, name: str) -> str:
        return name.rpartition("/")[2]

    def load(self, name: str, target: Target | None) -> Built:  # noqa: ARG002
        what = f"model 'robustbench:{name}'"
        dataset, threat, model = _parts(name)
        zoo: Any = installed("robustbench.utils", extra="robustbench", what=what)
        known = _names(dataset, threat)
        if known and model not in known:
            raise unknown_name(f"model of RobustBench for {dataset}", model, known)
        with user_code(what), no_pickles():
            module = zoo.load_model(
                model_name=model, dataset=dataset, threat_model=threat, model_dir=str(Path("models").resolve())
            )
        return Built(module=module)


def _parts(name: str) -> tuple[str, str, str]:
    """Data set, threat model and model of a complete name."""
    dataset, _, model = name.partition("/")
    threat, slash, rest = model.partition("/")
    return (dataset, threat, rest) if slash else (dataset, THREAT_MODELS[0], model)


def _names(dataset: str, threat: str) -> tuple[str, ...]:
    """The names in the zoo; empty if this version does not list them in the usual place."""
    zoo: Any = installed("robustbench.model_zoo", extra="robustbench", what="robustbench")
    enums: Any = installed("robustbench.model_zoo.enums", extra="robustbench", what="robustbench")
    try:
        return tuple(zoo.model_dicts[enums.BenchmarkDataset(dataset)][enums.ThreatModel(threat)])
    except (AttributeError, KeyError, ValueError):
        return ()
