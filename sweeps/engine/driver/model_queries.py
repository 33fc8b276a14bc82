"""Measurements on finished models that need several models, or that only one table of the paper needs."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import nn

from bat_core.attacks import FGSM, PGD
from bat_core.attacks.gradient import input_gradient
from bat_core.checkpoint import load_model
from bat_core.config import TrialConfig
from bat_core.correctness import is_correct
from bat_core.data import Split, to_unit
from bat_core.forward import eval_without_tf32
from bat_core.losses import cross_entropy
from bat_core.paths import Rooted, check_regular, make_folder, write_atomically
from bat_core.rng import PerExampleRNG
from bat_core.verdicts import checked_column
from sweeps.engine.driver.query_spec import BLACK_BOX_STEPS, GradientQuery, ModelQuery, TransferQuery
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.trial_sync import MODEL

FOLDER = "probes"
BATCH = 200
SQUARED = "squared_norm"

Models: TypeAlias = Mapping[str, nn.Module]
Columns: TypeAlias = dict[str, npt.NDArray[np.float64] | npt.NDArray[np.bool_]]


@dataclass(frozen=True)
class Norms:
    """Squared gradient norms (N,) of test images, and which of them are classified correctly."""

    squared: npt.NDArray[np.float64]
    correct: npt.NDArray[np.bool_]

    def statistic(self, which: str, statistic: str) -> float | None:
        """The "min", "mean" or "max" over "all", "correct" or "wrong" images; None if there are no such images."""
        chosen = {"all": np.ones_like(self.correct), "correct": self.correct, "wrong": ~self.correct}[which]
        if not chosen.any():
            return None
        of = self.squared[chosen]
        return float({"min": of.min, "mean": of.mean, "max": of.max}[statistic]())


@dataclass(frozen=True)
class QueryAnswers:
    """The answers in a sweep's folder."""

    folder: SweepFolder

    def missing(self, queries: Sequence[ModelQuery]) -> list[ModelQuery]:
        """The queries without an answer."""
        return [query for query in queries if self._read(query.name, query.columns) is None]

    def gradients(self, trial: str) -> Norms | None:
        """The result of a `GradientQuery`; None if there is none."""
        query = GradientQuery(trial=trial)
        table = self._read(query.name, query.columns)
        if table is None:
            return None
        return Norms(table[SQUARED], table["correct"])

    def crafted(self, source: str, target: str) -> dict[str, float] | None:
        """Accuracy of `target` on images crafted on `source`, by attack; None if there is no `TransferQuery` answer."""
        query = TransferQuery(source=source, targets=(target,))
        table = self._read(query.name, query.columns)
        if table is None:
            return None
        return {name.partition(":")[0]: float(table[name].mean()) for name in query.columns}

    def write(self, query: ModelQuery, columns: Columns) -> None:
        """Write an answer, one row per test image, and copy it to the store."""
        content = io.BytesIO()
        pq.write_table(pa.table(dict(columns)), content)
        make_folder(Rooted(self._path(query.name).parent), parents=False)
        write_atomically(self._path(query.name), content.getvalue())
        self.folder.copy_to_store(f"{FOLDER}/{query.name}.parquet")

    def models(self, query: ModelQuery) -> Models:
        """Load the models that a query uses."""
        return {trial: load_model(self.folder.results(trial) / MODEL)[0] for trial in query.models}

    def _path(self, name: str) -> Rooted:
        return self.folder.file(f"{FOLDER}/{name}.parquet")

    def _read(self, name: str, columns: Sequence[str]) -> dict[str, npt.NDArray[Any]] | None:
        """The columns of an answer; None if there is none, or it is not one that `write` wrote."""
        try:
            table = pq.read_table(check_regular(self._path(name)), columns=list(columns), partitioning=None)
            kinds = {column: pa.float64() if column == SQUARED else pa.bool_() for column in columns}
            return {column: checked_column(table, column, kind) for column, kind in kinds.items()}
        except (pa.ArrowException, KeyError, ValueError, OSError):
            return None


def answer_query(
    part: Split, config: TrialConfig, device: str, query: ModelQuery, models: Models
) -> tuple[ModelQuery, Columns]:
    """Answer a query over all images of `part`, in batches."""
    models = {name: model.to(device) for name, model in models.items()}
    answers: list[Columns] = []
    positions = torch.arange(len(part)).split(BATCH)
    for batch in part.batches(positions):
        if isinstance(query, GradientQuery):
            x, y = to_unit(batch.images.to(device)), batch.labels.to(device)  # type: ignore[union-attr]
            answers.append(measure_gradients(models[query.trial], x, y))
        else:
            answers.append(measure_transfer(query, models, batch, config, device))
    return query, {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}


def measure_gradients(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Columns:
    """The columns of a `GradientQuery` for images x (B, C, H, W) in [0, 1] with classes y (B,)."""
    with eval_without_tf32(model):
        x = x.detach().requires_grad_()
        with torch.enable_grad():
            logits = model(x)
            gradient = input_gradient(cross_entropy(logits, y), x)
        squared = gradient.double().flatten(1).square().sum(1) / 4  # a step of 1 in [0, 1] is one of 2 in [-1, 1]
    return {"correct": is_correct(logits.detach(), y).cpu().numpy(), SQUARED: squared.cpu().numpy()}


def measure_transfer(query: TransferQuery, models: Models, batch: Split, config: TrialConfig, device: str) -> Columns:
    """The columns of a `TransferQuery` for one batch of images."""
    x, y = to_unit(batch.images.to(device)), batch.labels.to(device)  # type: ignore[union-attr]
    eps, norm, step_size = config.attack.eps, config.attack.norm, config.attack.step_size
    attacks = {
        "fgsm": FGSM(eps=eps, norm=norm),
        f"ce{BLACK_BOX_STEPS}": PGD(eps=eps, norm=norm, step_size=step_size, num_steps=BLACK_BOX_STEPS),
    }
    correct: Columns = {}
    for name, attack in attacks.items():
        rng = PerExampleRNG(seed=config.seed, names=("crafted", name), indices=batch.rows.tolist())
        with eval_without_tf32(models[query.source]):
            x_adv = attack(models[query.source], x, y, generator=rng)
        for target in query.targets:
            with eval_without_tf32(models[target]), torch.no_grad():
                correct[f"{name}:{target}"] = is_correct(models[target](x_adv), y).cpu().numpy()
    return correct
