"""From the command line to verdicts: checks models, attacks them, resumes, reports."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console

from bat_core.data import Split, to_unit
from bat_core.errors import InputError, check_choice
from bat_core.evaluate import Evaluator
from bat_core.masking.flags import DEPTHS
from bat_core.suites import get_suite
from sweeps.engine.cli.options import Several, timestamped
from sweeps.engine.cli.text import progress, relative
from sweeps.engine.evaluation.attack import (
    NOUN,
    SPEC,
    VERDICTS,
    Evaluation,
    EvaluationFolder,
    attack_shard,
    check_model,
    finished_attacks,
    joined,
    summarise,
    write_verdicts,
)
from sweeps.engine.evaluation.job import AssessOptions, decide, found_again, spread
from sweeps.engine.evaluation.model_sources import find_models, fingerprint
from sweeps.engine.evaluation.report import as_csv, markdown, show
from sweeps.engine.evaluation.spec import ModelRecord
from sweeps.engine.storage.files import refuse_if_used, write_atomically
from sweeps.engine.storage.locks import sole_driver
from sweeps.engine.tracking.background import how_to_open, hush, patience_for, tracking_uri, trouble_in


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(AssessOptions):
    """What to attack with, on which images. None stands for what is usual."""

    suite: str = "paper+quick"
    """Attacks: paper, curve, quick, standard, or several joined as paper+standard."""
    n: int | None = None
    """Evaluate on so many images. Default: all, or as many as the suite is meant for."""
    transfer_from: Annotated[tuple[str, ...], Several] = ()
    """Attack also with what CE20 finds on these models (as MODEL): a black box."""
    checks: str = "full"
    """Red flags of gradient masking: full, cheap or none."""
    save_adversarial: bool = False
    """Keep every adversarial image, as Parquet."""
    output: Path | None = None
    """A new folder for verdicts, summaries and tables. Default: outputs/evaluate-<suite>-<time>."""
    resume: Path | None = None
    """Go on with the evaluation in this folder, at the attack and shard where it stopped."""

    def check(self) -> None:
        """Raises InputError for what cannot be used, before anything is loaded."""
        super().check()
        check_choice("--checks", self.checks, (*DEPTHS, "none"))
        get_suite(self.suite, eps=0.5)


def run_evaluation(models: Sequence[str], options: EvaluateOptions) -> int:
    """Evaluate models, or go on with it, and say what came out.

    Returns:
        The exit code, 0.
    Raises:
        InputError: the input cannot be used; nothing has been attacked.
    """
    console = Console()

    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, soft_wrap=True, highlight=False, markup=False)

    if options.resume:
        options.refuse_beside_resume(models, NOUN)
        evaluation, folder, part = _resumed(options, options.resume)
    else:
        evaluation, folder, part = _begun(models, options, console)
    with sole_driver(folder.path, NOUN):
        costs = {entry.name: entry.cost for entry in evaluation.attacks().entries}
        total = sum(costs.values()) * len(evaluation.models) * len(evaluation.shards())
        with progress(
            console,
            total=total,
            done=lambda: _done(evaluation, folder, costs),
            doing=lambda: _doing(evaluation, folder),
        ):
            _attack(evaluation, folder, part, options)
        summaries = _conclude(evaluation, folder)
        show(console, evaluation, summaries)
        say(f"Results: {relative(folder.path)} (table.md, table.csv, <model>/summary.json, <model>/verdicts.parquet)")
        uri = tracking_uri()
        if trouble := _log(evaluation, folder, summaries, uri):
            say(f"MLflow did not take everything ({trouble}); later: --resume {relative(folder.path)}", "yellow")
        else:
            say(f"MLflow: {how_to_open(uri)}")
    return 0


def _begun(
    models: Sequence[str], options: EvaluateOptions, console: Console
) -> tuple[Evaluation, EvaluationFolder, Split]:
    options.check()
    if not models:
        raise InputError("name at least one MODEL, or an evaluation to --resume")
    folder = EvaluationFolder((options.output or timestamped(f"evaluate-{options.suite}")).resolve())
    refuse_if_used(folder.path, SPEC, "an evaluation")
    subset = get_suite(options.suite, eps=0.5).subset
    decided, part = decide(models, options, folder.path, console, subset=subset)
    evaluation = Evaluation.new(
        **decided,
        suite=options.suite,
        checks=options.checks,
        save_adversarial=options.save_adversarial,
        transfer_from=_black_boxes(options, folder, part, decided["models"][0]),
    )
    folder.create(evaluation)
    return evaluation, folder, part


def _black_boxes(
    options: EvaluateOptions, folder: EvaluationFolder, part: Split, attacked: ModelRecord
) -> tuple[ModelRecord, ...]:
    """The models that a transfer attack is crafted on.

    Raises:
        InputError: one does not answer to the same images with the same classes.
    """
    if not options.transfer_from:
        return ()
    downloads, x = folder.path.with_name(f"{folder.path.name}-models"), to_unit(part.images[:2])
    classes = attacked.load("cpu", NOUN)(x).shape[1]
    found = []
    for source in find_models(options.transfer_from, weights=None, downloads=downloads):
        model = source.load().eval()
        if model(x).shape != (len(x), classes):
            raise InputError(f"--transfer-from: {source.name!r} does not return {classes} logits an image")
        found.append(ModelRecord(source=source, fingerprint=fingerprint(model)))
    return tuple(found)


def _resumed(options: EvaluateOptions, path: Path) -> tuple[Evaluation, EvaluationFolder, Split]:
    folder = EvaluationFolder(path.resolve())
    evaluation = folder.load()
    return evaluation, folder, found_again(evaluation, options, NOUN)


def _attack(evaluation: Evaluation, folder: EvaluationFolder, part: Split, options: EvaluateOptions) -> None:
    """Every model on every shard, then the checks: here, or spread over processes."""
    numbers, gpus = range(len(evaluation.models)), options.gpus()
    with spread(options, (evaluation, folder, part)) as run:
        run(work, [(number, shard, gpus) for number in numbers for shard in evaluation.shards()])
        if evaluation.checks != "none":
            run(check, [(number, gpus) for number in numbers])


def work(evaluation: Evaluation, folder: EvaluationFolder, part: Split, number: int, shard: slice, gpus: float) -> None:
    """All attacks on one shard of one model, but for those that are on disk."""
    model = evaluation.models[number]
    attack_shard(evaluation, folder.model(model), _judge(evaluation, number, gpus), part, shard)


def check(evaluation: Evaluation, folder: EvaluationFolder, part: Split, number: int, gpus: float) -> None:
    """The red flags of one model."""
    model = evaluation.models[number]
    check_model(evaluation, folder.model(model), _judge(evaluation, number, gpus), part)


_LOADED: dict[tuple[str, int], Evaluator] = {}


def _judge(evaluation: Evaluation, number: int, gpus: float) -> Evaluator:
    """The model in this process; only one is kept."""
    key = (evaluation.id, number)
    if key not in _LOADED:
        _LOADED.clear()
        model = evaluation.models[number].source.load("cuda" if gpus else "cpu")
        _LOADED[key] = Evaluator(model.eval(), seed=evaluation.seed, precision=evaluation.precision)
    return _LOADED[key]


def _done(evaluation: Evaluation, folder: EvaluationFolder, costs: dict[str, float]) -> float:
    return sum(costs.get(attack, 0.0) for _, _, attack in finished_attacks(evaluation, folder))


def _doing(evaluation: Evaluation, folder: EvaluationFolder) -> str:
    shards, attacks = len(evaluation.shards()), len(evaluation.attacks().entries)
    done = {model.source.name: 0 for model in evaluation.models}
    for name, _, _ in finished_attacks(evaluation, folder):
        done[name] += 1
    waiting = [name for name, count in done.items() if count < shards * attacks]
    if not waiting:
        return "looking for red flags"
    return f"attacking {waiting[0]} ({len(done) - len(waiting) + 1} of {len(done)})"


def _conclude(evaluation: Evaluation, folder: EvaluationFolder) -> list[dict[str, Any]]:
    """Each model's verdicts and summary, and the tables of all."""
    summaries = []
    for number, model in enumerate(evaluation.models):
        place = folder.model(model)
        verdicts = joined(evaluation, place)
        write_verdicts(verdicts, place / VERDICTS)
        summary = summarise(evaluation, evaluation.models[number], verdicts, place)
        summaries.append(summary)
    write_atomically(folder.path / "table.md", markdown(evaluation, summaries))
    write_atomically(folder.path / "table.csv", as_csv(evaluation, summaries))
    return summaries


def _log(evaluation: Evaluation, folder: EvaluationFolder, summaries: Sequence[dict[str, Any]], uri: str) -> str | None:
    """Bring the summaries into MLflow. Returns None, or why it did not take them."""

    def log() -> None:
        from sweeps.engine.evaluation.mlflow_log import log_evaluation  # noqa: PLC0415 (seconds to import)

        hush()
        for model, summary in zip(evaluation.models, summaries, strict=True):
            log_evaluation(evaluation, folder.model(model), model, summary, uri=uri)

    return trouble_in(log, patience=patience_for(len(evaluation.models)))
