"""The command `evaluate`: attacks models and reports what remains robust."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from bat_core.data import Split, to_unit
from bat_core.errors import InputError, check_choice
from bat_core.evaluate import Evaluator
from bat_core.masking.flags import DEPTHS
from bat_core.suites import get_suite
from sweeps.engine.cli.options import Several
from sweeps.engine.evaluation.attack import (
    NOUN,
    SPEC,
    Evaluation,
    EvaluationFolder,
    attack_shard,
    check_model,
    finished_attacks,
    joined,
    summarise,
    write_verdicts,
)
from sweeps.engine.evaluation.job import Job, spread
from sweeps.engine.evaluation.model_sources import find_models, fingerprint
from sweeps.engine.evaluation.options import JobOptions
from sweeps.engine.evaluation.report import as_csv, markdown, show
from sweeps.engine.evaluation.setup import decide
from sweeps.engine.evaluation.spec import ModelRecord
from sweeps.engine.storage.files import write_atomically
from sweeps.engine.sweep.records import VERDICTS

TABLES = ("table.md", "table.csv")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EvaluateOptions(JobOptions):
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
    resume: str | None = None
    """Resume the evaluation in this folder, at the attack and shard where it stopped."""

    def check(self) -> None:
        """Raises InputError for what cannot be used, before anything is loaded."""
        super().check()
        check_choice("--checks", self.checks, (*DEPTHS, "none"))
        get_suite(self.suite, eps=0.5)


def run_evaluation(models: Sequence[str], options: EvaluateOptions) -> int:
    """Evaluate models, or resume an evaluation, and report it.

    Returns:
        The exit code, 0.
    Raises:
        InputError: the input cannot be used; nothing was attacked.
    """
    return EvaluationJob(models, options).run()


class EvaluationJob(Job[Evaluation]):
    """Models under a suite of attacks and the checks for masked gradients."""

    noun, spec_file, article = NOUN, SPEC, "an"
    wanted = "one MODEL"

    options: EvaluateOptions
    folder: EvaluationFolder

    @property
    def stem(self) -> str:
        return f"evaluate-{self.options.suite}"

    def folder_at(self, path: Path) -> EvaluationFolder:
        return EvaluationFolder(path)

    def make(self) -> tuple[Evaluation, Split]:
        options = self.options
        subset = get_suite(options.suite, eps=0.5).subset
        decided, part = decide(self.models, options, self.folder.path, self.console, subset=subset)
        evaluation = Evaluation.new(
            **decided,
            suite=options.suite,
            checks=options.checks,
            save_adversarial=options.save_adversarial,
            transfer_from=self._black_boxes(part, decided["models"][0]),
        )
        return evaluation, part

    def total(self) -> float:
        return sum(self._costs().values()) * len(self.spec.models) * len(self.spec.shards())

    def done(self) -> float:
        costs = self._costs()
        return sum(costs.get(attack, 0.0) for _, _, attack in finished_attacks(self.spec, self.folder))

    def doing(self) -> str:
        shards, attacks = len(self.spec.shards()), len(self.spec.attacks().entries)
        done = {model.source.name: 0 for model in self.spec.models}
        for name, _, _ in finished_attacks(self.spec, self.folder):
            done[name] += 1
        waiting = [name for name, count in done.items() if count < shards * attacks]
        if not waiting:
            return "looking for red flags"
        return f"attacking {waiting[0]} ({len(done) - len(waiting) + 1} of {len(done)})"

    def attack(self) -> None:
        """Every model on every shard, then the checks: here, or spread over processes."""
        numbers, gpus = range(len(self.spec.models)), self.options.gpus()
        with spread(self.options, (self.spec, self.folder, self.part)) as run:
            run(work, [(number, shard, gpus) for number in numbers for shard in self.spec.shards()])
            if self.spec.checks != "none":
                run(check, [(number, gpus) for number in numbers])

    def conclude(self) -> str:
        """Each model's verdicts and summary, and the tables of all."""
        self._summaries = []
        for model in self.spec.models:
            place = self.folder.model(model)
            verdicts = joined(self.spec, place)
            write_verdicts(verdicts, place / VERDICTS)
            self._summaries.append(summarise(self.spec, model, verdicts, place))
        for name, text in zip(TABLES, (markdown, as_csv), strict=True):
            write_atomically(self.folder.path / name, text(self.spec, self._summaries))
        show(self.console, self.spec, self._summaries)
        return f"{', '.join(TABLES)}, <model>/summary.json, <model>/verdicts.parquet"

    def log(self, uri: str) -> None:
        from sweeps.engine.evaluation.mlflow_log import log_evaluation  # noqa: PLC0415 (seconds to import)

        for model, summary in zip(self.spec.models, self._summaries, strict=True):
            log_evaluation(self.spec, self.folder.model(model), model, summary, uri=uri)

    _summaries: list[dict[str, Any]]

    def _costs(self) -> dict[str, float]:
        return {entry.name: entry.cost for entry in self.spec.attacks().entries}

    def _black_boxes(self, part: Split, attacked: ModelRecord) -> tuple[ModelRecord, ...]:
        """The models that a transfer attack is crafted on.

        Raises:
            InputError: one does not take the same images or has other classes.
        """
        if not self.options.transfer_from:
            return ()
        downloads, x = self.folder.path.with_name(f"{self.folder.path.name}-models"), to_unit(part.images[:2])
        classes = attacked.load("cpu", NOUN)(x).shape[1]
        found = []
        for source in find_models(self.options.transfer_from, weights=None, downloads=downloads):
            model = source.load().eval()
            if model(x).shape != (len(x), classes):
                raise InputError(f"--transfer-from: {source.name!r} does not return {classes} logits an image")
            found.append(ModelRecord(source=source, fingerprint=fingerprint(model)))
        return tuple(found)


def work(evaluation: Evaluation, folder: EvaluationFolder, part: Split, number: int, shard: slice, gpus: float) -> None:
    """All attacks on one shard of one model, but for those that are on disk."""
    model = evaluation.models[number]
    attack_shard(evaluation, folder.model(model), _evaluator(evaluation, number, gpus), part, shard)


def check(evaluation: Evaluation, folder: EvaluationFolder, part: Split, number: int, gpus: float) -> None:
    """The red flags of one model."""
    model = evaluation.models[number]
    check_model(evaluation, folder.model(model), _evaluator(evaluation, number, gpus), part)


_LOADED: dict[tuple[str, int], Evaluator] = {}


def _evaluator(evaluation: Evaluation, number: int, gpus: float) -> Evaluator:
    """The model in this process; only one is kept."""
    key = (evaluation.id, number)
    if key not in _LOADED:
        _LOADED.clear()
        model = evaluation.models[number].source.load("cuda" if gpus else "cpu")
        _LOADED[key] = Evaluator(model.eval(), seed=evaluation.seed, precision=evaluation.precision)
    return _LOADED[key]
