"""From attacks to per-example verdicts, and from verdicts to curves and the worst case."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn

from bat_core.attacks import PGD
from bat_core.config import AttackConfig
from bat_core.data import to_unit
from bat_core.forward import autocast, judging, resolve_precision
from bat_core.rng import ExampleDraws

Reading: TypeAlias = Literal["final", "worst"]
READINGS: tuple[Reading, ...] = ("final", "worst")
UNBROKEN = -1


@dataclass(frozen=True, kw_only=True)
class Verdicts:
    """What became of each example. Arrays have N rows, one an example.

    `rows` is the example's row in its source. `broken_at[loss]` is the first step whose iterate was
    misclassified, 0 where the clean image or the random start already was, UNBROKEN where none was.
    `final[loss]` (N, len(steps)) says whether x^k, for each k in `steps`, was classified correctly.
    """

    rows: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    clean_correct: npt.NDArray[np.bool_]
    steps: tuple[int, ...]
    broken_at: Mapping[str, npt.NDArray[np.int64]]
    final: Mapping[str, npt.NDArray[np.bool_]]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def losses(self) -> tuple[str, ...]:
        """The losses attacked with."""
        return tuple(self.broken_at)

    @property
    def clean_acc(self) -> float:
        """Accuracy on clean images, in [0, 1]."""
        return float(self.clean_correct.mean())

    @property
    def robust_correct(self) -> npt.NDArray[np.bool_]:
        """(N,): correct when clean and at every iterate of every trajectory."""
        return np.logical_and.reduce([broken == UNBROKEN for broken in self.broken_at.values()])

    @property
    def robust_acc(self) -> float:
        """The headline, in [0, 1]: per-example worst case over all that was tried."""
        return float(self.robust_correct.mean())

    def curve(self, loss: str, reading: Reading) -> npt.NDArray[np.float64]:
        """Accuracy under PGD-k for each k in `steps`: (len(steps),) in [0, 1].

        "final" asks whether x^k is misclassified, as the paper does; "worst" whether any of the clean
        image, x^0 ... x^k is.
        """
        if reading == "final":
            return self.final[loss].mean(axis=0)
        broken = self.broken_at[loss]
        return np.array([np.mean((broken == UNBROKEN) | (broken > step)) for step in self.steps])

    @classmethod
    def concat(cls, parts: Sequence["Verdicts"]) -> "Verdicts":
        """The verdicts on all parts' examples, sorted by row.

        Raises:
            ValueError: parts of different attacks, or an example that is judged twice.
        """
        first = parts[0]
        if any(part.steps != first.steps or part.losses != first.losses for part in parts):
            raise ValueError("verdicts of different steps or losses cannot be joined")
        rows = np.concatenate([part.rows for part in parts])
        if len(np.unique(rows)) < len(rows):
            raise ValueError("an example is judged twice: rows must differ")
        order = np.argsort(rows, kind="stable")
        return cls(
            rows=rows[order],
            labels=np.concatenate([part.labels for part in parts])[order],
            clean_correct=np.concatenate([part.clean_correct for part in parts])[order],
            steps=first.steps,
            broken_at={k: np.concatenate([part.broken_at[k] for part in parts])[order] for k in first.broken_at},
            final={k: np.concatenate([part.final[k] for part in parts])[order] for k in first.final},
        )

    def write(self, path: Path) -> None:
        """One row an example: index, label, clean_correct, broken_at_<loss> (null: never), final_<loss>_<k>."""
        columns: dict[str, pa.Array] = {
            "index": pa.array(self.rows),
            "label": pa.array(self.labels),
            "clean_correct": pa.array(self.clean_correct),
        }
        for loss in self.losses:
            broken = self.broken_at[loss]
            columns[f"broken_at_{loss}"] = pa.array(broken, mask=broken == UNBROKEN)
            for position, step in enumerate(self.steps):
                columns[f"final_{loss}_{step}"] = pa.array(self.final[loss][:, position])
        described = {"steps": list(self.steps), "losses": list(self.losses)}
        table = pa.table(columns).replace_schema_metadata({"bat_sweeps": json.dumps(described)})
        pq.write_table(table, path)

    @classmethod
    def read(cls, path: Path) -> "Verdicts":
        """What `write` wrote."""
        table = pq.read_table(path)
        described = json.loads((table.schema.metadata or {})[b"bat_sweeps"])
        steps, losses = tuple(described["steps"]), tuple(described["losses"])

        return cls(
            rows=table.column("index").to_numpy(),
            labels=table.column("label").to_numpy(),
            clean_correct=table.column("clean_correct").to_numpy(),
            steps=steps,
            broken_at={loss: table.column(f"broken_at_{loss}").fill_null(UNBROKEN).to_numpy() for loss in losses},
            final={
                loss: np.stack([table.column(f"final_{loss}_{step}").to_numpy() for step in steps], axis=1)
                for loss in losses
            },
        )


def evaluate(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    attack: AttackConfig = AttackConfig(),
    rows: Tensor | None = None,
    seed: int = 0,
    precision: str = "float32",
) -> Verdicts:
    """Attack every image with one PGD trajectory a loss and judge every iterate in float32.

    Each trajectory starts from the clean image by a random start of its own, which depends on
    (seed, loss, row) alone: batch size, order and sharding do not change it.

    Args:
        model: (B, C, H, W) in [0, 1] -> (B, K), put in evaluation mode meanwhile; attacked on its device.
        images: (N, C, H, W) uint8, or float in [0, 1].  labels: (N,) int64.
        attack: budget, step size, steps to read, losses, batch size.
        rows: (N,) names of the examples; default 0 ... N-1.
        precision: "float32" | "bfloat16" | "auto", for the search alone. A search in bfloat16 is judged
            in float32 at every listed step, and between them wherever it saw an example misclassified.
    Returns:
        Verdicts on the N examples, sorted by row.
    Raises:
        ValueError: no images, or images outside [0, 1].
    Source: paper, section 5 (evaluation); Figure 1.
    """
    parts = evaluate_batches(model, images, labels, attack=attack, rows=rows, seed=seed, precision=precision)
    return Verdicts.concat(list(parts))


def evaluate_batches(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    attack: AttackConfig = AttackConfig(),
    rows: Tensor | None = None,
    seed: int = 0,
    precision: str = "float32",
) -> Iterator[Verdicts]:
    """As `evaluate`, yielding the verdicts of each batch as it is done."""
    if len(images) == 0:
        raise ValueError("evaluate: there are no images")
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    rows = torch.arange(len(images)) if rows is None else rows
    for positions in torch.arange(len(images)).split(attack.batch_size):
        x, y = to_unit(images[positions].to(device)), labels[positions].to(device)
        with judging(model):
            verdicts = _judge_batch(model, x, y, rows[positions], attack, seed, resolve_precision(precision, device))
        yield verdicts


def _judge_batch(
    model: nn.Module, x: Tensor, y: Tensor, rows: Tensor, attack: AttackConfig, seed: int, precision: torch.dtype
) -> Verdicts:
    with torch.no_grad():
        clean_correct = model(x).argmax(1) == y
    broken_at, final = {}, {}
    for loss in attack.losses:
        draws = ExampleDraws(seed=seed, names=("evaluate", loss), indices=rows.tolist())
        broken_at[loss], final[loss] = _judge_trajectory(model, x, y, clean_correct, attack, loss, draws, precision)
    return Verdicts(
        rows=rows.numpy(),
        labels=y.cpu().numpy(),
        clean_correct=clean_correct.cpu().numpy(),
        steps=attack.steps,
        broken_at=broken_at,
        final=final,
    )


def _judge_trajectory(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    clean_correct: Tensor,
    attack: AttackConfig,
    loss: str,
    draws: ExampleDraws,
    precision: torch.dtype,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.bool_]]:
    search = PGD(eps=attack.eps, step_size=attack.step_size, num_steps=attack.steps[-1], loss=loss)
    exact = precision == torch.float32

    def searched(z: Tensor) -> Tensor:
        with autocast(x.device, precision):
            return model(z)

    @torch.no_grad()
    def classified(z: Tensor, label: Tensor) -> Tensor:
        return model(z).argmax(1) == label

    broken_at = torch.where(clean_correct, UNBROKEN, 0)
    final = []
    for iterate in search.trajectory(searched, x, y, generator=draws):
        listed = iterate.step in attack.steps
        if iterate.logits is None or (listed and not exact):
            correct = classified(iterate.x, y)
        else:
            correct = iterate.logits.argmax(1) == y
            if not exact and bool((seen := (broken_at == UNBROKEN) & ~correct).any()):
                correct[seen] = classified(iterate.x[seen], y[seen])
        broken_at = torch.where((broken_at == UNBROKEN) & ~correct, iterate.step, broken_at)
        if listed:
            final.append(correct)
    return broken_at.cpu().numpy(), torch.stack(final, dim=1).cpu().numpy()
