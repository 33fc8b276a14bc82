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
from bat_core.evaluate import pooled
from bat_core.gallery import choose, largest_change, specimens
from bat_core.norms import LINF
from bat_core.paths import below, write_atomically
from bat_core.suites import get_suite
from bat_core.verdicts import Verdicts
from sweeps.engine.cli.options import gpu_count
from sweeps.engine.cli.text import counted, span
from sweeps.engine.evaluation.attack import NOUN, SPEC, Evaluation, EvaluationFolder, joined
from sweeps.engine.evaluation.best import Candidate, candidates, find_best, verdicts_so_far
from sweeps.engine.evaluation.gallery import gallery_section, save_gallery
from sweeps.engine.evaluation.job import Job, Run, spread
from sweeps.engine.evaluation.model_sources import find_models
from sweeps.engine.evaluation.options import EvaluateOptions
from sweeps.engine.evaluation.page import evaluation_page
from sweeps.engine.evaluation.progress import finished_attacks, finished_cost, first_batch_seconds, total_cost
from sweeps.engine.evaluation.report import as_csv, markdown, show
from sweeps.engine.evaluation.sampling import DRAWN_VERDICTS, attacked, make_draw, next_shards
from sweeps.engine.evaluation.setup import adapt_model, make_spec_fields
from sweeps.engine.evaluation.spec import ModelRecord
from sweeps.engine.evaluation.summaries import summarise
from sweeps.engine.evaluation.workers import check, loaded, work, work_drawn, work_first
from sweeps.engine.pages.document import PAGE, Section, render
from sweeps.engine.sweep.records import VERDICTS

TABLES = ("table.md", "table.csv")
GROUPS_EACH = 4  # groups of shards that a worker process gets at least, so that all end at about the same time


def run_evaluation(
    models: Sequence[str], options: EvaluateOptions, *, part_of: Path | None = None, candidates: Sequence[int] = ()
) -> int:
    """Run or resume an evaluation, and report it.

    Args:
        part_of: the folder of the search that the evaluation belongs to, and that is resumed in its place.
        candidates: with `options.find_best`, the number of the candidate that each model belongs to, such as all
            seeds of one recipe: the candidate with the best mean wins. Default: each model for itself.
    Returns:
        The exit code, 0.
    Raises:
        InputError: the input is invalid; nothing was attacked.
    """
    job = EvaluationJob(models, options, part_of=part_of)
    job.groups = tuple(candidates)
    return job.run()


class EvaluationJob(Job[Evaluation]):
    """Attacks models with a suite and checks them for gradient masking."""

    noun, spec_file, article = NOUN, SPEC, "an"
    required_models = "one MODEL"

    options: EvaluateOptions
    folder: EvaluationFolder

    def __init__(self, models: Sequence[str], options: EvaluateOptions, *, part_of: Path | None = None) -> None:
        super().__init__(models, options, part_of=part_of)
        self._began, self._told = time.time(), False
        self.groups: tuple[int, ...] = ()

    @property
    def stem(self) -> str:
        return f"evaluate-{self.options.suite}"

    def folder_at(self, path: Path) -> EvaluationFolder:
        return EvaluationFolder(path)

    def make(self) -> tuple[Evaluation, Split]:
        options = self.options
        subset = None if options.sampled else get_suite(options.suite, eps=0.5).subset
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
            survivors=options.survivors,
            stop_below=options.stop_below,
            stop_above=options.stop_above,
            candidates=self._candidates(len(decided["models"])),
            audit=options.audit,
            transfer_from=self._black_boxes(part, decided["dataset"], decided["models"][0]),
        )
        return evaluation, part

    def _candidates(self, models: int) -> tuple[int, ...]:
        """Which candidate each model belongs to; none unless the best is searched.

        Raises:
            InputError: there are not several candidates.
        """
        if not self.options.find_best:
            return ()
        found = self.groups or tuple(range(models))
        if len(found) != models or len(set(found)) < 2:
            raise InputError(f"--find-best chooses among several models, and {counted(models, 'model')} was found")
        if len({found.count(one) for one in found}) > 1:
            raise InputError(f"candidates={list(found)}: each candidate needs the same number of models")
        return found

    def total(self) -> float:
        return total_cost(self.spec)

    def done(self) -> float:
        return finished_cost(self.spec, self.folder)

    def doing(self) -> str:
        self._tell_time()
        shards, attacks = len(self.spec.shards()), len(self.spec.entries())
        done = {model.source.name: 0 for model in self.spec.models}
        for name, _ in finished_attacks(self.spec, self.folder):
            done[name] += 1
        waiting = [name for name, count in done.items() if count < shards * attacks]
        if waiting:
            return f"attacking {waiting[0]} ({len(done) - len(waiting) + 1} of {len(done)})"
        return "attacking images that are drawn" if self.spec.sampled else "checking for gradient masking"

    def attack(self) -> None:
        """Attack every model on every shard, then run the checks: here, or in worker processes."""
        numbers, gpus = list(range(len(self.spec.models))), self.options.gpus()
        with spread(self.options, (self.spec, self.folder, self.part)) as run:
            if self.spec.candidates:
                numbers = self._attack_to_the_best(run, gpus)
            else:
                groups = self.spec.shard_groups(self._together)
                run(work, [(number, group, gpus) for number in numbers for group in groups])
            if self.spec.sampled:
                self._attack_drawn(run, gpus)
            if self.spec.checks != "none" or self.spec.audit:
                run(check, [(number, gpus) for number in numbers])

    @property
    def _together(self) -> int:
        """How many shards one process attacks side by side."""
        most = pooled(self.spec.shard_size, self.part.images) // self.spec.shard_size
        if self.options.alone():
            return most
        shards = len(self.spec.shards()) * len(self.spec.models)
        return max(min(most, shards // (GROUPS_EACH * self._side_by_side)), 1)

    def _attack_to_the_best(self, run: Run, gpus: float) -> list[int]:
        """Attack until one candidate has won. Returns the models that met every attack."""
        groups = self.spec.shard_groups(self._together)
        run(work_first, [(number, group, gpus) for number in range(len(self.spec.models)) for group in groups])
        known = candidates(self.spec, self.folder)

        def advance(candidate: Candidate) -> None:
            chosen = candidate.unfinished(self._side_by_side)
            run(work, [(number, [shard], gpus) for number, shard in chosen])
            candidate.refresh(chosen)

        find_best(known, advance)
        return [number for one in known for number in one.numbers if one.done]

    def _attack_drawn(self, run: Run, gpus: float) -> None:
        """Attack drawn images until all are attacked, or the question is decided, for every model."""
        places = [self.folder.model(model) for model in self.spec.models]
        for place in places:
            make_draw(self.spec, place)
        while calls := [
            (number, shard, gpus)
            for number, place in enumerate(places)
            for shard in next_shards(self.spec, place, most=self._side_by_side)
        ]:
            run(work_drawn, calls)

    @property
    def _side_by_side(self) -> int:
        """How many shards are attacked before a look at what they say."""
        return 1 if self.options.alone() else self.options.workers or gpu_count() or 1

    def conclude(self) -> str:
        """Write each model's verdicts and summary, and the tables of all models."""
        self._summaries, found = [], []
        for model in self.spec.models:
            place = self.folder.model(model)
            if self.spec.candidates:
                verdicts, standing = verdicts_so_far(self.spec, place)
                left = len(verdicts.outcomes) < len(self.spec.entries())
                summary = summarise(self.spec, model, verdicts, place, standing=standing if left else None)
            else:
                verdicts = joined(self.spec, place)
                summary = summarise(self.spec, model, verdicts, place)
            if self.spec.sampled and (drawn := attacked(self.spec, place)):
                Verdicts.concat(drawn).write(below(place, DRAWN_VERDICTS))
            verdicts.write(below(place, VERDICTS))
            found.append(verdicts)
            self._summaries.append(summary)
        for name, text in zip(TABLES, (markdown, as_csv), strict=True):
            write_atomically(below(self.folder.path, name), text(self.spec, self._summaries))
        page = evaluation_page(self.spec, self._summaries, found, self._class_names(), self._galleries(found))
        write_atomically(below(self.folder.path, PAGE), render(page))
        show(self.console, self.spec, self._summaries)
        return f"{PAGE}, {', '.join(TABLES)}, <model>/summary.json, <model>/verdicts.parquet"

    def log(self, uri: str) -> None:
        from sweeps.engine.evaluation.mlflow_log import log_evaluation

        for model, summary in zip(self.spec.models, self._summaries, strict=True):
            log_evaluation(self.spec, self.folder.model(model), model, summary, uri=uri)

    _summaries: list[dict[str, Any]]

    def _galleries(self, verdicts: Sequence[Verdicts]) -> list[Section]:
        """Each model's gallery, also as gallery.png in its folder; attacked here, on this process's device."""
        sections: list[Section] = []
        if not self.spec.gallery:
            return sections
        for number, (model, known) in enumerate(zip(self.spec.models, verdicts, strict=True)):
            order = {row: at for at, row in enumerate(self.part.rows.tolist())}
            evaluator = loaded(self.spec, number, self.part, self.options.gpus() if self.options.alone() else 0.0)
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
                        gallery_section(
                            heading,
                            shown,
                            largest_change(shown, self.spec.eps, self.spec.norm),
                            whole=self.spec.norm == LINF,
                        )
                    )
            save_gallery(found, self.folder.model(model), largest_change(found, self.spec.eps, self.spec.norm))
        return sections

    def _class_names(self) -> tuple[str, ...]:
        """The classes' names, as the first model that was trained here knows them."""
        folders = (model.source.folder for model in self.spec.models)
        return next((names for one in folders if one and (names := class_names_of(Path(one)))), ())

    def _tell_time(self) -> None:
        """Once a first batch has met every attack: how long each took, and about how long the rest will."""
        if self._told or self.spec.sampled or self.spec.candidates:  # those end when it is decided
            return
        first = first_batch_seconds(self.spec, self.folder, since=self._began, together=self._together)
        if not first:
            return
        self._told = True
        batches = len(self.spec.models) * len(self.spec.shards())
        left = batches * (1 - self.done() / self.total()) * sum(first.values())
        each = ", ".join(f"{name} {seconds:.0f} s" for name, seconds in first.items())
        size = counted(min(self.spec.shard_size, self.spec.n), "image")
        self.say(
            f"a batch of {size} takes: {each}; {counted(batches, 'batch', 'batches')}: about {span(left / 3600)} left"
        )

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
