"""Two workers linked by gloo train the model that one worker trains, and share its evaluation."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import load_file, save_file
from torch import Tensor

from bat_core.checkpoint import load_model
from bat_core.config import AttackConfig, DataConfig, RecipeConfig, TrainConfig, TrialConfig
from bat_core.data import load_dataset
from bat_core.evaluate import Evaluator
from bat_core.fit import fit
from bat_core.suites import trajectories, verification
from bat_core.verdicts import Verdicts
from bat_core.workers import Workers
from sweeps.engine.sweep.trial_sync import MODEL
from tests.exact import exact_state, linked
from tests.integration.conftest import TINY
from tests.integration.running import Place

IMAGES = {"train_size": 256, "val_size": 40, "test_size": 60}
ACCURACIES = ("train_acc", "val_clean_acc", "val_robust_acc", "val_one_step_acc")


def config(model: str) -> TrialConfig:
    return TrialConfig(
        data=DataConfig(**IMAGES),
        model=model,
        recipe=RecipeConfig(params={"eps": 40 / 255}),
        train=TrainConfig(epochs=3, batch_size=64, val_steps=2, precision="float32"),
        attack=AttackConfig(eps=40 / 255, step_size=10 / 255, steps=(1, 2), verify=0),
    )


def fitted(trial: TrialConfig, workers: Workers = Workers()) -> tuple[Mapping[str, Tensor], dict[str, float]]:
    dataset = load_dataset("digits", **IMAGES)
    *_, last = fit(trial, dataset, state=exact_state(trial, dataset), workers=workers)
    return {name: tensor.contiguous() for name, tensor in last.state.model.state_dict().items()}, last.metrics()


def one_of_two(rank: int, folder: Path) -> None:
    weights, metrics = fitted(config("small_cnn_gn_8"), linked(rank, str(folder)))
    save_file(
        dict(weights) | {f"metric {name}": torch.tensor(value, dtype=torch.float64) for name, value in metrics.items()},
        folder / f"{rank}",
    )
    dist.destroy_process_group()


def test_two_workers_train_what_one_trains_on_the_same_global_batch(tmp_path: Path) -> None:
    """Group norm, for batch norm's statistics are each worker's own."""
    mp.spawn(one_of_two, args=(tmp_path,), nprocs=2)
    weights, metrics = fitted(config("small_cnn_gn_8"))
    for rank in range(2):
        found = load_file(tmp_path / f"{rank}")
        for name, one in weights.items():
            torch.testing.assert_close(found[name], one)
        assert {name: found[f"metric {name}"].item() for name in ACCURACIES} == pytest.approx(
            {name: metrics[name] for name in ACCURACIES}, rel=1e-12
        )
        assert found["metric train_loss"].item() == pytest.approx(metrics["train_loss"], rel=1e-9)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As in the workers: sums come out alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def distance(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> float:
    return sum(float((one[name] - other[name]).double().square().sum()) for name in one) ** 0.5


@pytest.mark.ray
@pytest.mark.slow
def test_a_sweep_links_its_workers_and_shares_the_evaluation_among_them(
    place: Place, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    options = ["--eps-x", "40/255", "--seeds", "0", "--reference", "none", "--model", "small_cnn_gn"]
    code, printed = place.run("eps_budget.py", *TINY, *options, "--num-workers", "2", "--output", "two-workers")
    assert code == 0, printed
    output = place.sweep("two-workers")
    (trial,) = output.spec.trials
    (status,) = output.statuses().values()
    assert [epoch["epoch"] for epoch in status.epochs] == [1, 2, 3]

    dataset = load_dataset("digits", **IMAGES)
    two = load_file(output.folder.trial(trial) / MODEL / "model.safetensors")
    *_, last = fit(trial.config, dataset)
    one = {name: tensor.clone() for name, tensor in last.state.model.state_dict().items()}
    with monkeypatch.context() as unlinked:
        unlinked.setattr(Workers, "wrap", lambda self, model: model)
        unlinked.setattr(Workers, "sum", lambda self, counts: counts)
        unlinked.setattr(Workers, "average_buffers", lambda self, model: None)
        *_, last = fit(trial.config, dataset, workers=Workers(0, 2))
    # Rounding may turn the sign of a pixel's gradient here and there, which is far from half of the images missing.
    assert 100 * distance(two, one) < distance(last.state.model.state_dict(), one)

    folder, test, attack = output.folder.trial(trial), dataset.test, trial.config.attack
    evaluator = Evaluator(load_model(folder)[0], seed=trial.config.seed)
    parts: dict[str, list[Verdicts]] = {"verdicts": [], "verified": []}
    for rank in range(2):  # in batches as the workers had them
        images, labels, rows = (one[rank::2] for one in (test.images, test.labels, test.rows))
        curves = evaluator.extend(evaluator.clean(images, labels, rows), images, trajectories(attack))
        parts["verdicts"].append(curves)
        parts["verified"].append(evaluator.extend(curves.take(np.arange(4)), images[:4], verification(attack)))
    for name, shares in parts.items():
        joined, found = Verdicts.concat(shares), Verdicts.read(folder / f"{name}.parquet")
        assert found.rows.tolist() == joined.rows.tolist()
        assert found.clean_correct.tolist() == joined.clean_correct.tolist()
        assert found.outcomes.keys() == joined.outcomes.keys()
        for attack_name, outcome in joined.outcomes.items():
            np.testing.assert_array_equal(found.outcomes[attack_name].broken_at, outcome.broken_at)
    assert found.rows.tolist() == sorted(test.rows[:8].tolist())
    assert (status.result["robust_n"], status.result["robust_acc"]) == (8, found.robust_acc)
