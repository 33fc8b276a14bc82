"""What an evaluation does in the processes that attack: each keeps one model in memory."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from bat_core.adapter.importing import model_code
from bat_core.data import Split
from bat_core.evaluate import Evaluator
from bat_core.memory import gpu_batch_size
from bat_core.paths import Rooted
from sweeps.engine.evaluation.attack import NOUN, Evaluation, EvaluationFolder, attack_shards, check_model
from sweeps.engine.evaluation.audit import audit_model
from sweeps.engine.evaluation.sampling import attack_drawn


def work(
    evaluation: Evaluation, folder: EvaluationFolder, part: Split, number: int, shards: Sequence[slice], gpus: float
) -> None:
    """Run all attacks on some shards of one model, except those whose results are on disk."""
    with _model(evaluation, folder, part, number, gpus) as (place, evaluator):
        attack_shards(evaluation, place, evaluator, part, shards)


def work_first(
    evaluation: Evaluation, folder: EvaluationFolder, part: Split, number: int, shards: Sequence[slice], gpus: float
) -> None:
    """Run the first attack alone on some shards of one model, unless its result is on disk."""
    with _model(evaluation, folder, part, number, gpus) as (place, evaluator):
        attack_shards(evaluation, place, evaluator, part, shards, first=1)


def work_drawn(
    evaluation: Evaluation, folder: EvaluationFolder, part: Split, number: int, shard: slice, gpus: float
) -> None:
    """Run the suite on some of the images drawn for one model."""
    with _model(evaluation, folder, part, number, gpus) as (place, evaluator):
        attack_drawn(evaluation, place, evaluator, part, shard)


def check(evaluation: Evaluation, folder: EvaluationFolder, part: Split, number: int, gpus: float) -> None:
    """Check one model for gradient masking, and audit its ladder."""
    doing = "in a check for gradient masking"
    with _model(evaluation, folder, part, number, gpus, doing=doing) as (place, evaluator):
        if evaluation.checks != "none":
            check_model(evaluation, place, evaluator, part)
        if evaluation.audit:
            audit_model(evaluation, place, evaluator, part)


@contextmanager
def _model(
    evaluation: Evaluation,
    folder: EvaluationFolder,
    part: Split,
    number: int,
    gpus: float,
    *,
    doing: str = "under attack",
) -> Iterator[tuple[Rooted, Evaluator]]:
    """The folder and the evaluator of a model; what its code raises in the body is an error of the model."""
    model = evaluation.models[number]
    evaluator = loaded(evaluation, number, part, gpus)
    with model_code(f"model {model.source.name!r} failed {doing}"):
        yield folder.model(model), evaluator


_LOADED: dict[tuple[str, int], Evaluator] = {}


def loaded(evaluation: Evaluation, number: int, part: Split, gpus: float) -> Evaluator:
    """The evaluator of a model in this process. Only one model is kept in memory."""
    key = (evaluation.id, number)
    if key not in _LOADED:
        _LOADED.clear()
        model = evaluation.models[number].load("cuda" if gpus else "cpu", NOUN)
        with model_code(f"model {evaluation.models[number].source.name!r}"):
            fits = gpu_batch_size(model, part.images, most=evaluation.shard_size, gpus=gpus)
        _LOADED[key] = Evaluator(
            model,
            seed=evaluation.seed,
            precision=evaluation.precision,
            max_chunk=fits,
            batch_size=evaluation.shard_size,
            cycles=evaluation.cycles,
        )
    return _LOADED[key]
