"""What the leaderboard compares: finished models of sweeps and evaluations, and RobustBench's published entries."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

from bat_core.errors import InputError
from bat_core.masking.flags import status_in_words
from bat_core.norms import LINF, Norm, Unit
from bat_core.paths import below
from bat_core.stats import wilson
from bat_core.suites import is_verified
from sweeps.engine.cli.redact import redacted_uri
from sweeps.engine.evaluation.attack import SPEC as EVALUATION
from sweeps.engine.evaluation.attack import SUMMARY, EvaluationFolder
from sweeps.engine.evaluation.corruption_spec import SPEC as CORRUPTIONS
from sweeps.engine.evaluation.published import AS_OF, differences, published_at
from sweeps.engine.evaluation.summaries import read_summary
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.spec import SPEC as SWEEP
from sweeps.engine.tracking.background import failure_of, quiet_mlflow, time_limit
from sweeps.engine.tracking.location import prepare

ROBUSTBENCH = "RobustBench"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A finished model. Accuracies and budgets are in [0, 1]; `hours` and what a recipe has are None if unknown."""

    dataset: str
    split: str
    eps: float
    eps_pixels: float
    model: str
    folder: str
    clean_acc: float
    robust_acc: float
    n: int
    suite: str
    verdict: str
    recipe: str | None = None
    train_eps_pixels: float | None = None
    seed: int | None = None
    hours: float | None = None
    norm: Norm = LINF
    architecture: str | None = None
    training_data: str | None = None
    published: bool = False

    @property
    def verified(self) -> bool:
        """Whether a verifying suite stands behind its robust accuracy."""
        return is_verified(self.suite)

    @property
    def interval(self) -> tuple[float, float]:
        """The robust accuracy's 95 % Wilson interval."""
        return wilson(round(self.robust_acc * self.n), self.n)

    @property
    def unit(self) -> Unit:
        """How its budgets are written."""
        return Unit(self.eps / self.eps_pixels, self.norm)

    @property
    def group(self) -> str:
        """What it can be compared within."""
        return f"{self.dataset}, {self.split} images, {self.unit.budget(self.eps)}"


def known_folders(folders: Sequence[Path]) -> list[Path]:
    """The folders of sweeps, evaluations and evaluations under corruptions in `folders`, each once.

    Raises:
        InputError: a folder has none.
    """
    found: dict[Path, None] = {}
    for folder in folders:
        here = [folder.resolve(), *sorted(one for one in folder.resolve().glob("*/") if not one.is_symlink())]
        known = [one for one in here if any((one / file).exists() for file in (SWEEP, EVALUATION, CORRUPTIONS))]
        if not known:
            raise InputError(f"{str(folder)!r} has no sweep or evaluation: name their folders, or the one above them")
        found |= dict.fromkeys(known)
    return list(found)


def collect(folders: Sequence[Path]) -> list[Entry]:
    """The finished models of every sweep and evaluation in `folders`, each folder once.

    Raises:
        InputError: a folder has neither, or one of its files is damaged.
    """
    readers = {SWEEP: _sweep, EVALUATION: _evaluation}
    return [
        one
        for path in known_folders(folders)
        for file, read in readers.items()
        if (path / file).exists()
        for one in read(path)
    ]


def tracked(uris: Sequence[str]) -> list[Entry]:
    """The finished models that tracking servers know, by experiment.

    Raises:
        InputError: a server does not answer.
    """
    return [one for uri in uris for one in _tracked(uri)]


def _tracked(uri: str) -> list[Entry]:
    prepare(uri)
    found: list[Entry] = []

    def ask() -> None:
        from sweeps.engine.tracking.finished import finished_runs

        quiet_mlflow()
        for run in finished_runs(uri):
            known = {field.name: getattr(run, field.name) for field in fields(run) if field.name != "experiment"}
            found.append(Entry(folder=run.experiment, **known))

    if trouble := failure_of(ask, patience=time_limit(0)):
        raise InputError(f"MLflow at {redacted_uri(uri)} cannot be read: {trouble}")
    return found


def _sweep(path: Path) -> Iterator[Entry]:
    folder = SweepFolder(path)
    sweep = folder.load()
    for trial, status in folder.statuses(sweep):
        if (result := status.result) is None:
            continue
        config = trial.config
        yield Entry(
            dataset=config.data.name,
            split=str(result.get("split", "test")),
            eps=config.attack.eps,
            eps_pixels=round(config.attack.eps / sweep.pixel, 6),
            norm=sweep.norm,
            model=trial.id,
            folder=path.name,
            clean_acc=result["clean_acc"],
            robust_acc=result["robust_acc"],
            n=result["robust_n"],
            suite=result["suite"],
            verdict=status_in_words(result["verdict"], result["robust_acc"]),
            recipe=config.recipe.name,
            train_eps_pixels=sweep.budget_in_pixels(trial),
            seed=config.seed,
            hours=status.training_hours(sweep.resources.num_workers),
            architecture=config.model,
            training_data=f"trained on {config.data.train_size:,} images" if config.data.train_size else None,
        )


def _evaluation(path: Path) -> Iterator[Entry]:
    folder = EvaluationFolder(path)
    evaluation = folder.load()
    for model in evaluation.models:
        place = below(folder.model(model), SUMMARY)
        if not place.exists():
            continue
        one = read_summary(place)
        yield Entry(
            dataset=evaluation.dataset,
            split=evaluation.split,
            eps=evaluation.eps,
            eps_pixels=evaluation.eps_in_pixels,
            norm=evaluation.norm,
            model=model.source.name,
            folder=path.name,
            clean_acc=one.clean_acc,
            robust_acc=one.robust_acc,
            n=one.n,
            suite=one.suite,
            verdict=status_in_words(one.verdict, one.robust_acc),
        )


def beside(entries: Sequence[Entry], most: int) -> list[Entry]:
    """RobustBench's best published entries for the data sets and budgets of models evaluated on test images."""
    wanted = dict.fromkeys((one.dataset, one.norm, one.eps, one.eps_pixels) for one in entries if one.split == "test")
    return [
        Entry(
            dataset=dataset,
            split="test",
            eps=eps,
            eps_pixels=eps_pixels,
            model=one.model,
            folder=ROBUSTBENCH,
            clean_acc=one.clean_acc,
            robust_acc=one.robust_acc,
            n=one.n,
            suite="AutoAttack, published",
            verdict="-",
            norm=norm,
            architecture=one.architecture,
            training_data="extra data" if one.extra_data else "no extra data",
            published=True,
        )
        for dataset, norm, eps, eps_pixels in wanted
        for one in published_at(dataset, norm, eps)[:most]
    ]


def protocol(members: Sequence[Entry]) -> list[str]:
    """What differs between own models and the published ones beside them; nothing if there are none beside."""
    theirs = [one for one in members if one.published]
    if not theirs:
        return []
    lines = [
        f"{ROBUSTBENCH}: published accuracies under AutoAttack on {theirs[0].n:,} test images, as of {AS_OF}. No red"
        " flags were looked for."
    ]
    for one in members:
        if not one.published:
            others = differences(suite=one.suite, n=one.n, published_n=theirs[0].n, training=one.training_data)
            lines.append(f"{one.folder}/{one.model} differs: {'; '.join(others) or 'in nothing that is known'}.")
    return lines
