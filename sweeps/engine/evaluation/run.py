"""The command `evaluate`: attack models and report their robust accuracy."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from bat_core.adapter.importing import model_code, user_code
from bat_core.adapter.sources import Target
from bat_core.checkpoint import class_names_of
from bat_core.data import Split, to_unit
from bat_core.errors import InputError
from bat_core.evaluate import Evaluator
from bat_core.gallery import choose, specimens
from bat_core.memory import gpu_batch_size
from bat_core.norms import LINF
from bat_core.paths import below, write_atomically
from bat_core.suites import get_suite
from bat_core.verdicts import Verdicts
from sweeps.engine.cli.text import counted, span
from sweeps.engine.evaluation.attack import (
    NOUN,
    SPEC,
    Evaluation,
    EvaluationFolder,
    attack_shard,
    check_model,
    finished_attacks,
    first_batch_seconds,
    joined,
    summarise,
    write_verdicts,
)
from sweeps.engine.evaluation.gallery import gallery_section, largest_change, save_gallery
from sweeps.engine.evaluation.job import Job, spread
from sweeps.engine.evaluation.model_sources import find_models
from sweeps.engine.evaluation.options import EvaluateOptions
from sweeps.engine.evaluation.page import evaluation_page
from sweeps.engine.evaluation.report import as_csv, markdown, show
from sweeps.engine.evaluation.setup import adapt_model, make_spec_fields
from sweeps.engine.evaluation.spec import ModelRecord
from sweeps.engine.pages.document import PAGE, Section, render
from sweeps.engine.sweep.records import VERDICTS

TABLES = ("table.md", "table.csv")


def run_evaluation(models: Sequence[str], options: EvaluateOptions, *, part_of: Path | None = None) -> int:
    """Run or resume an evaluation, and report it.

    Args:
        part_of: the folder of the search that the evaluation belongs to, and that is resumed in its place.
    Returns:
        The exit code, 0.
    Raises:
        InputError: the input is invalid; nothing was attacked.
    """
    return EvaluationJob(models, options, part_of=part_of).run()


class EvaluationJob(Job[Evaluation]):
    """Attacks models with a suite and checks them for gradient masking."""

    noun, spec_file, article = NOUN, SPEC, "an"
    required_models = "one MODEL"

    options: EvaluateOptions
    folder: EvaluationFolder

    def __init__(self, models: Sequence[str], options: EvaluateOptions, *, part_of: Path | None = None) -> None:
        super().__init__(models, options, part_of=part_of)
        self._began, self._told = time.time(), False

    @property
    def stem(self) -> str:
        return f"evaluate-{self.options.suite}"

    def folder_at(self, path: Path) -> EvaluationFolder:
        return EvaluationFolder(path)

    def make(self) -> tuple[Evaluation, Split]:
        options = self.options
        subset = get_suite(options.suite, eps=0.5).subset
        decided, part = make_spec_fields(
            self.models, options, self.folder.path, self.console, subset=subset, cycles=options.cycles
        )
        evaluation = Evaluation.new(
            **decided,
            suite=options.suite,
            checks=options.checks,
            save_adversarial=options.save_adversarial,
            cycles=options.cycles,
            gallery=options.gallery,
            transfer_from=self._black_boxes(part, decided["dataset"], decided["models"][0]),
        )
        return evaluation, part

    def total(self) -> float:
        return sum(self._costs().values()) * len(self.spec.models) * len(self.spec.shards())

    def done(self) -> float:
        costs = self._costs()
        return sum(costs.get(attack, 0.0) for _, attack in finished_attacks(self.spec, self.folder))

    def doing(self) -> str:
        self._tell_time()
        shards, attacks = len(self.spec.shards()), len(self.spec.attacks().entries)
        done = {model.source.name: 0 for model in self.spec.models}
        for name, _ in finished_attacks(self.spec, self.folder):
            done[name] += 1
        waiting = [name for name, count in done.items() if count < shards * attacks]
        if not waiting:
            return "checking for gradient masking"
        return f"attacking {waiting[0]} ({len(done) - len(waiting) + 1} of {len(done)})"

    def attack(self) -> None:
        """Attack every model on every shard, then run the checks: here, or in worker processes."""
        numbers, gpus = range(len(self.spec.models)), self.options.gpus()
        with spread(self.options, (self.spec, self.folder, self.part)) as run:
            run(work, [(number, shard, gpus) for number in numbers for shard in self.spec.shards()])
            if self.spec.checks != "none":
                run(check, [(number, gpus) for number in numbers])

    def conclude(self) -> str:
        """Write each model's verdicts and summary, and the tables of all models."""
        self._summaries = []
        for model in self.spec.models:
            place = self.folder.model(model)
            verdicts = joined(self.spec, place)
            write_verdicts(verdicts, below(place, VERDICTS))
            self._summaries.append(summarise(self.spec, model, verdicts, place))
        for name, text in zip(TABLES, (markdown, as_csv), strict=True):
            write_atomically(below(self.folder.path, name), text(self.spec, self._summaries))
        found = self._verdicts()
        page = evaluation_page(self.spec, self._summaries, found, self._class_names(), self._galleries(found))
        write_atomically(below(self.folder.path, PAGE), render(page))
        show(self.console, self.spec, self._summaries)
        return f"{PAGE}, {', '.join(TABLES)}, <model>/summary.json, <model>/verdicts.parquet"

    def log(self, uri: str) -> None:
        from sweeps.engine.evaluation.mlflow_log import log_evaluation

        for model, summary in zip(self.spec.models, self._summaries, strict=True):
            log_evaluation(self.spec, self.folder.model(model), model, summary, uri=uri)

    _summaries: list[dict[str, Any]]

    def _verdicts(self) -> list[Verdicts]:
        return [Verdicts.read(self.folder.model(model) / VERDICTS) for model in self.spec.models]

    def _galleries(self, verdicts: Sequence[Verdicts]) -> list[Section]:
        """Each model's gallery, also as gallery.png in its folder; attacked here, on this process's device."""
        sections: list[Section] = []
        if not self.spec.gallery:
            return sections
        for number, (model, known) in enumerate(zip(self.spec.models, verdicts, strict=True)):
            order = {row: at for at, row in enumerate(self.part.rows.tolist())}
            evaluator = _evaluator(self.spec, number, self.part, self.options.gpus() if self.options.alone() else 0.0)
            halves = zip(("that fall first", "that stand longest"), choose(known, self.spec.gallery), strict=True)
            found = []
            for which, positions in halves:
                rows = [order[int(known.rows[at])] for at in positions]
                with model_code(f"model {model.source.name!r} failed in its gallery"):
                    suite = self.spec.attacks(evaluator.device.type)
                    shown = specimens(suite, evaluator, self.part, rows, self._class_names())
                found += shown
                if shown:
                    heading = f"Images of {model.source.name} {which}"
                    sections.append(
                        gallery_section(heading, shown, largest_change(shown, self.spec), whole=self.spec.norm == LINF)
                    )
            save_gallery(found, self.folder.model(model), largest_change(found, self.spec))
        return sections

    def _class_names(self) -> tuple[str, ...]:
        """The classes' names, as the first model that was trained here knows them."""
        folders = (model.source.folder for model in self.spec.models)
        return next((names for one in folders if one and (names := class_names_of(Path(one)))), ())

    def _tell_time(self) -> None:
        """Once a first batch has met every attack: how long each took, and about how long the rest will."""
        if self._told:
            return
        first = first_batch_seconds(self.spec, self.folder, since=self._began)
        if first is None:
            return
        self._told = True
        batches = len(self.spec.models) * len(self.spec.shards())
        left = batches * (1 - self.done() / self.total()) * sum(first.values())
        each = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in first.items())
        size = counted(min(self.spec.shard_size, self.spec.n), "image")
        self.say(
            f"a batch of {size} takes: {each}; {counted(batches, 'batch', 'batches')}: about {span(left / 3600)} left"
        )

    def _costs(self) -> dict[str, float]:
        return {entry.name: entry.cost for entry in self.spec.attacks().entries}

    def _black_boxes(self, part: Split, dataset: str, attacked: ModelRecord) -> tuple[ModelRecord, ...]:
        """Load the source models of the transfer attack.

        Raises:
            InputError: a source does not return logits for the same classes.
        """
        if not self.options.transfer_from:
            return ()
        downloads, x = self.folder.path.with_name(f"{self.folder.path.name}-models"), to_unit(part.images[:2])
        classes = attacked.load("cpu", NOUN)(x).shape[1]
        found = []
        plain = replace(self.options, normalize=None, logits_key="")
        for source in find_models(self.options.transfer_from, weights=None, downloads=downloads):
            aimed = source.aimed_at(
                Target(dataset=dataset, num_classes=classes, image_shape=(x.shape[1], x.shape[2], x.shape[3]))
            )
            record, model = adapt_model(aimed, part, classes, plain, self.console)
            with user_code(f"--transfer-from: {source.name!r}"):
                shape = model.eval()(x.to(self.options.device())).shape
            if shape != (len(x), classes):
                raise InputError(
                    f"--transfer-from: {source.name!r} must return {classes} logits per image, like the attacked"
                    " models: name another source"
                )
            found.append(record)
        return tuple(found)


def work(evaluation: Evaluation, folder: EvaluationFolder, part: Split, number: int, shard: slice, gpus: float) -> None:
    """Run all attacks on one shard of one model, except those whose results are on disk."""
    model = evaluation.models[number]
    evaluator = _evaluator(evaluation, number, part, gpus)
    with model_code(f"model {model.source.name!r} failed under attack"):
        attack_shard(evaluation, folder.model(model), evaluator, part, shard)


def check(evaluation: Evaluation, folder: EvaluationFolder, part: Split, number: int, gpus: float) -> None:
    """Check one model for gradient masking."""
    model = evaluation.models[number]
    evaluator = _evaluator(evaluation, number, part, gpus)
    with model_code(f"model {model.source.name!r} failed in a check for gradient masking"):
        check_model(evaluation, folder.model(model), evaluator, part)


_LOADED: dict[tuple[str, int], Evaluator] = {}


def _evaluator(evaluation: Evaluation, number: int, part: Split, gpus: float) -> Evaluator:
    """The evaluator of a model in this process. Only one model is kept in memory."""
    key = (evaluation.id, number)
    if key not in _LOADED:
        _LOADED.clear()
        model = evaluation.models[number].load("cuda" if gpus else "cpu", NOUN)
        with model_code(f"model {evaluation.models[number].source.name!r}"):
            fits = gpu_batch_size(model, part.images, most=evaluation.shard_size, gpus=gpus)
        _LOADED[key] = Evaluator(
            model, seed=evaluation.seed, precision=evaluation.precision, max_chunk=fits, cycles=evaluation.cycles
        )
    return _LOADED[key]
