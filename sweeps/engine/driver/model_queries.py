"""What no trial can answer alone, or the paper asks in one table only: asked of finished models, kept beside them."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

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
from bat_core.data import Split, to_unit
from bat_core.evaluate import classified
from bat_core.forward import judging
from bat_core.losses import cross_entropy
from bat_core.rng import PerExampleRNG
from sweeps.engine.storage.files import write_atomically
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.trial_sync import MODEL

FOLDER = "probes"
BATCH = 200
BLACK_BOX_STEPS = 20

Models: TypeAlias = Mapping[str, nn.Module]
Columns: TypeAlias = dict[str, npt.NDArray[np.float64] | npt.NDArray[np.bool_]]


@dataclass(frozen=True, kw_only=True)
class GradientQuery:
    """The squared L2 norm of the gradient of each test image's loss, in units of [-1, 1]."""

    trial: str

    @property
    def name(self) -> str:
        """Its file's name, without the ending."""
        return f"gradients-{self.trial}"

    @property
    def models(self) -> tuple[str, ...]:
        """The trials whose models are asked."""
        return (self.trial,)

    @property
    def columns(self) -> tuple[str, ...]:
        """What its file has for each test image."""
        return ("correct", "squared_norm")

    def measure(
        self,
        models: Models,
        x: torch.Tensor,
        y: torch.Tensor,
        rows: Sequence[int],  # noqa: ARG002
        config: TrialConfig,  # noqa: ARG002
    ) -> Columns:
        """One batch of images x (B, C, H, W) in [0, 1] of classes y (B,)."""
        model = models[self.trial]
        with judging(model):
            x = x.detach().requires_grad_()
            with torch.enable_grad():
                logits = model(x)
                gradient = input_gradient(cross_entropy(logits, y), x)
            squared = gradient.double().flatten(1).square().sum(1) / 4  # a step of 1 in [0, 1] is one of 2 in [-1, 1]
        return {"correct": classified(logits.detach(), y).cpu().numpy(), "squared_norm": squared.cpu().numpy()}


@dataclass(frozen=True, kw_only=True)
class TransferQuery:
    """Whether each target is right on images crafted on another model, by FGSM and by PGD of 20 steps."""

    source: str
    targets: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its file's name, without the ending."""
        return f"crafted-on-{self.source}"

    @property
    def models(self) -> tuple[str, ...]:
        """The trials whose models are asked."""
        return (self.source, *self.targets)

    @property
    def columns(self) -> tuple[str, ...]:
        """What its file has for each test image."""
        return tuple(f"{attack}:{target}" for attack in ("fgsm", f"ce{BLACK_BOX_STEPS}") for target in self.targets)

    def measure(
        self, models: Models, x: torch.Tensor, y: torch.Tensor, rows: Sequence[int], config: TrialConfig
    ) -> Columns:
        """One batch of images x (B, C, H, W) in [0, 1] of classes y (B,)."""
        eps, step_size = config.attack.eps, config.attack.step_size
        attacks = {
            "fgsm": FGSM(eps=eps),
            f"ce{BLACK_BOX_STEPS}": PGD(eps=eps, step_size=step_size, num_steps=BLACK_BOX_STEPS),
        }
        correct: Columns = {}
        for name, attack in attacks.items():
            rng = PerExampleRNG(seed=config.seed, names=("crafted", name), indices=list(rows))
            with judging(models[self.source]):
                x_adv = attack(models[self.source], x, y, generator=rng)
            for target in self.targets:
                with judging(models[target]), torch.no_grad():
                    correct[f"{name}:{target}"] = classified(models[target](x_adv), y).cpu().numpy()
        return correct


ModelQuery: TypeAlias = GradientQuery | TransferQuery


@dataclass(frozen=True)
class Norms:
    """Squared gradient norms (N,) of test images, and which of them are classified correctly."""

    squared: npt.NDArray[np.float64]
    correct: npt.NDArray[np.bool_]

    def statistic(self, which: str, statistic: str) -> float | None:
        """The "min", "mean" or "max" over "all", "correct" or "wrong" images; None where there are none."""
        chosen = {"all": np.ones_like(self.correct), "correct": self.correct, "wrong": ~self.correct}[which]
        if not chosen.any():
            return None
        of = self.squared[chosen]
        return float({"min": of.min, "mean": of.mean, "max": of.max}[statistic]())


@dataclass(frozen=True)
class QueryAnswers:
    """The answers that lie in a sweep's folder."""

    folder: SweepFolder

    def missing(self, queries: Sequence[ModelQuery]) -> list[ModelQuery]:
        """Those that have not been answered."""
        return [query for query in queries if self._read(query.name, query.columns) is None]

    def gradients(self, trial: str) -> Norms | None:
        """What `GradientQuery` found."""
        query = GradientQuery(trial=trial)
        table = self._read(query.name, query.columns)
        if table is None:
            return None
        return Norms(table.column("squared_norm").to_numpy(), table.column("correct").to_numpy())

    def crafted(self, source: str, target: str) -> dict[str, float] | None:
        """Accuracy of `target` on what `TransferQuery` crafted on `source`, by attack."""
        query = TransferQuery(source=source, targets=(target,))
        table = self._read(query.name, query.columns)
        if table is None:
            return None
        return {name.partition(":")[0]: float(table.column(name).to_numpy().mean()) for name in query.columns}

    def write(self, query: ModelQuery, columns: Columns) -> None:
        """Keep an answer, one row a test image."""
        content = io.BytesIO()
        pq.write_table(pa.table(dict(columns)), content)
        self._path(query.name).parent.mkdir(exist_ok=True)
        write_atomically(self._path(query.name), content.getvalue())
        self.folder.keep(f"{FOLDER}/{query.name}.parquet")

    def models(self, query: ModelQuery) -> Models:
        """The models that a probe asks."""
        return {trial: load_model(self._trial(trial) / MODEL)[0] for trial in query.models}

    def _trial(self, trial: str) -> Path:
        return self.folder.path / "trials" / trial

    def _path(self, name: str) -> Path:
        return self.folder.path / FOLDER / f"{name}.parquet"

    def _read(self, name: str, columns: Sequence[str]) -> pa.Table | None:
        try:
            return pq.read_table(self._path(name), columns=list(columns), partitioning=None)
        except (pa.ArrowException, OSError):
            return None


def answer_query(
    part: Split, config: TrialConfig, device: str, query: ModelQuery, models: Models
) -> tuple[ModelQuery, Columns]:
    """The answer over all images of `part`, asked in batches."""
    models = {name: model.to(device) for name, model in models.items()}
    answers: list[Columns] = []
    positions = torch.arange(len(part)).split(BATCH)
    for batch in part.batches(positions):
        x, y = to_unit(batch.images.to(device)), batch.labels.to(device)  # type: ignore[union-attr]
        answers.append(query.measure(models, x, y, batch.rows.tolist(), config))
    return query, {name: np.concatenate([answer[name] for answer in answers]) for name in answers[0]}
