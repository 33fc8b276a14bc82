"""The command `corruptions`: accuracy of models under common corruptions."""

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bat_core.adapter.importing import model_code
from bat_core.config import to_dict
from bat_core.corruption_names import CORRUPTIONS, SEVERITIES
from bat_core.corruptions import Corrupted
from bat_core.data import Split, load_dataset
from bat_core.data.corrupted import Arrays, CorruptedImages, Folders, make_corrupted, open_corrupted
from bat_core.errors import InputError
from bat_core.evaluate import Evaluator
from bat_core.paths import Rooted, below, make_folder, write_atomically
from bat_core.stats import wilson
from bat_core.verdicts import Verdicts
from sweeps.engine.evaluation.attack import SUMMARY
from sweeps.engine.evaluation.corruption_options import CorruptionOptions
from sweeps.engine.evaluation.corruption_report import as_csv, corruption_page, markdown, show
from sweeps.engine.evaluation.corruption_spec import NOUN, SPEC, CorruptionFolder, CorruptionSpec
from sweeps.engine.evaluation.job import Job, spread
from sweeps.engine.evaluation.setup import make_spec_fields
from sweeps.engine.evaluation.shard_files import CLEAN
from sweeps.engine.evaluation.spec import ModelRecord
from sweeps.engine.pages.document import PAGE, render

STEM = "corruptions"
TABLES = ("table.md", "table.csv")


def run_corruptions(models: Sequence[str], options: CorruptionOptions) -> int:
    """Run or resume an evaluation under corruptions, and report it. Returns the exit code, 0."""
    return CorruptionJob(models, options).run()


class CorruptionJob(Job[CorruptionSpec]):
    """Classifies clean images and those of every corruption and severity with every model."""

    noun, spec_file, stem = NOUN, SPEC, STEM
    required_models = "one MODEL"

    options: CorruptionOptions
    folder: CorruptionFolder

    def folder_at(self, path: Path) -> CorruptionFolder:
        return CorruptionFolder(path)

    def make(self) -> tuple[CorruptionSpec, Split]:
        options = self.options
        fields, part = make_spec_fields(self.models, options, self.folder.path, self.console)
        folder = str(options.corrupted.resolve()) if options.corrupted else None
        images = corrupted_images(folder, fields["dataset"], part, fields["seed"], fields["data_dir"])
        names = options.corruptions or tuple(name for name in images.names if name in CORRUPTIONS)
        if missing := next((name for name in names if name not in images.names), None):
            raise InputError(f"--corruptions {missing}: there are {', '.join(images.names)}: name some of these")
        n = fields["n"] if folder is None else min(len(images.cell(names[0], 1, None)), fields["n"])
        spec = CorruptionSpec.new(**fields | {"n": n}, corrupted=folder, corruptions=names, of=images.source)
        return spec, part

    def total(self) -> float:
        return len(self.spec.models) * len(self.spec.corruptions)

    def done(self) -> float:
        return sum(
            place(self.folder.model(model), name, SEVERITIES[-1]).exists()
            for model in self.spec.models
            for name in self.spec.corruptions
        )

    def doing(self) -> str:
        return "classifying corrupted images"

    def attack(self) -> None:
        numbers, gpus = range(len(self.spec.models)), self.options.gpus()
        with spread(self.options, (self.spec, self.folder, self.part)) as run:
            run(work, [(number, name, gpus) for number in numbers for name in (CLEAN, *self.spec.corruptions)])

    def conclude(self) -> str:
        self._summaries = [self._summarise(model) for model in self.spec.models]
        for name, text in zip(TABLES, (markdown, as_csv), strict=True):
            write_atomically(below(self.folder.path, name), text(self._settings(), self._summaries))
        page = corruption_page(self.spec.command, self._settings(), self._summaries, f"bat-sweeps {self.spec.version}")
        write_atomically(below(self.folder.path, PAGE), render(page))
        show(self.console, self._settings(), self._summaries)
        return f"{PAGE}, {', '.join(TABLES)}, <model>/{SUMMARY}"

    def log(self, uri: str) -> None:
        from sweeps.engine.evaluation.mlflow_log import log_corruptions

        for model, summary in zip(self.spec.models, self._summaries, strict=True):
            log_corruptions(self.spec, self.folder.model(model), model, summary, uri=uri)

    _summaries: list[dict[str, Any]]

    def _settings(self) -> str:
        return (
            f"{self.spec.dataset}, {len(self.spec.corruptions)} of {len(CORRUPTIONS)} corruptions at severities"
            f" 1 to {len(SEVERITIES)}, {self.spec.of}, n = {self.spec.n} of each; 95 % intervals over images"
        )

    def _summarise(self, model: ModelRecord) -> dict[str, Any]:
        """Write and return summary.json of one model. Accuracies are in [0, 1]."""
        spec, folder = self.spec, self.folder.model(model)
        clean = Verdicts.read(below(folder, STEM, f"{CLEAN}.parquet"))
        correct = {
            name: np.stack([Verdicts.read(place(folder, name, severity)).clean_correct for severity in SEVERITIES])
            for name in spec.corruptions
        }
        found = Corrupted(correct)
        summary = {
            "model": model.source.name,
            "source": to_dict(model.source),
            "fingerprint": model.fingerprint,
            "dataset": spec.dataset,
            "n": spec.n,
            "images": spec.of,
            "clean_acc": clean.clean_acc,
            "clean_acc_interval": list(wilson(int(clean.clean_correct.sum()), len(clean))),
            "corrupted_acc": found.mean,
            "corrupted_acc_interval": list(found.interval),
            "mce": found.mce() if spec.dataset == "imagenet" and found.complete else None,
            "by_corruption": found.accuracies,
            "evaluation": spec.id,
            "version": spec.version,
        }
        write_atomically(below(folder, SUMMARY), json.dumps(summary, indent=1))
        return summary


def corrupted_images(
    folder: str | None, dataset: str, clean: Split, seed: int, data_dir: str | None
) -> CorruptedImages | Arrays | Folders:
    """The corrupted images in a folder or, without one, made of the clean ones.

    Raises:
        InputError: there are none, or none can be made.
    """
    if folder is None:
        return make_corrupted(clean, seed=seed)
    class_names, image_shape = _form(dataset, data_dir)
    return open_corrupted(Path(folder), class_names=class_names, image_shape=image_shape)


@functools.lru_cache(maxsize=1)
def _form(dataset: str, data_dir: str | None) -> tuple[tuple[str, ...], tuple[int, int, int]]:
    """A data set's classes and the shape of its images, kept for the corruptions after the first."""
    whole = load_dataset(dataset, data_dir)
    return whole.class_names, whole.image_shape


def place(folder: Path, name: str, severity: int) -> Rooted:
    """The file of a model's verdicts under one corruption."""
    return below(folder, STEM, f"{name}-{severity}.parquet")


def work(spec: CorruptionSpec, folder: CorruptionFolder, part: Split, number: int, name: str, gpus: float) -> None:
    """Classify the images of one corruption, or the clean ones, with one model, except where results are on disk."""
    model = spec.models[number]
    here = folder.model(model)
    make_folder(below(here, STEM))
    paths = [below(here, STEM, f"{CLEAN}.parquet")] if name == CLEAN else [place(here, name, one) for one in SEVERITIES]
    if all(path.exists() for path in paths):
        return
    images = None if name == CLEAN else corrupted_images(spec.corrupted, spec.dataset, part, spec.seed, spec.data_dir)
    with model_code(f"model {model.source.name!r} failed on corrupted images"):
        evaluator = Evaluator(model.load("cuda" if gpus else "cpu", NOUN), batch_size=spec.shard_size)
        for severity, path in zip(SEVERITIES, paths, strict=False):
            cell = part if images is None else images.cell(name, severity, spec.n)
            parts = [cell.take(shard) for shard in spec.shards()]
            judged = [evaluator.clean(one.images[:], one.labels, one.rows) for one in parts]
            Verdicts.concat(judged).write(path)
