"""From the command line to verdicts: checks models, attacks them, resumes, reports."""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from bat_core.checks import DEPTHS
from bat_core.config import PRECISIONS
from bat_core.data import Dataset, Split, load_dataset
from bat_core.errors import InputError, check_amount, check_choice, check_finite
from bat_core.evaluate import Judge
from bat_core.inspection import inspect
from bat_core.suites import STEPS_OF_EPS, Suite, get_suite
from sweeps.engine.console import relative
from sweeps.engine.driver import how_to_open, sole_driver
from sweeps.engine.evaluation import (
    SPEC,
    VERDICTS,
    Evaluation,
    EvaluationFolder,
    Examined,
    check_model,
    finished_attacks,
    joined,
    judge_shard,
    summarise,
    write_verdicts,
)
from sweeps.engine.evaluation_tables import as_csv, markdown, show
from sweeps.engine.mirroring import hush, tracking_uri, why
from sweeps.engine.models import ModelSource, find_models, fingerprint
from sweeps.engine.options import Amount, command_line, timestamped
from sweeps.engine.sweep import refuse_if_used, write_atomically

PIXELS = 8  # of budget, unless another is asked for
PLAIN_INTERVAL = 15.0  # seconds between two lines of progress where the output is no terminal
GPU_BATCH, CPU_BATCH = 1000, 250
SPLITS = ("test", "val")


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class EvaluateOptions:
    """What to attack with, on which images. None stands for what is usual."""

    suite: str = "paper+quick"
    """Attacks: paper, curve, quick, standard, or several joined as paper+standard."""
    dataset: str | None = None
    """Images: digits, cifar10, svhn. Default: what the model was trained on."""
    data_dir: Path | None = None
    """Folder with the images. Default: the one the model's sweep read."""
    split: str = "test"
    """test, or val: images held out of train, to choose by."""
    n: int | None = None
    """Evaluate on so many images. Default: all, or as many as the suite is meant for."""
    eps: Amount | None = None
    """Budget, as 8/255. Default: 8 pixels of the data set."""
    step_size: Amount | None = None
    """Step of attacks with fixed steps. Default: a quarter of --eps."""
    seed: int = 0
    """Names the random starts."""
    weights: Path | None = None
    """state_dict for a package.module:factory: safetensors, or what torch.save wrote."""
    checks: str = "full"
    """Red flags of gradient masking: full, cheap or none."""
    precision: str = "float32"
    """Of the search: float32, bfloat16 or auto. Verdicts are float32 always."""
    batch_size: int | None = None
    """Images at once, and in one shard. Default: 250, on GPUs 1,000."""
    save_adversarial: bool = False
    """Keep every adversarial image, as Parquet."""
    despite_findings: bool = False
    """Attack a model even if it fails the inspection (probabilities, another range ...)."""
    workers: int | None = None
    """Processes that share the work. Default: one a GPU, on a cluster as many as fit, else this one alone."""
    gpus_per_worker: float | None = None
    """GPUs of each process. Default: 1 where there are GPUs."""
    address: str | None = None
    """Ray cluster to join. Default: RAY_ADDRESS, else none."""
    output: Path | None = None
    """A new folder for verdicts, summaries and tables. Default: outputs/evaluate-<suite>-<time>."""
    resume: Path | None = None
    """Go on with the evaluation in this folder, at the attack and shard where it stopped."""

    def check(self) -> None:
        """Raises InputError for what cannot be used, before anything is loaded."""
        check_choice("--split", self.split, SPLITS)
        check_choice("--checks", self.checks, (*DEPTHS, "none"))
        check_choice("--precision", self.precision, PRECISIONS)
        get_suite(self.suite, eps=0.5)
        for name in ("eps", "step_size"):
            if getattr(self, name) is not None:
                check_amount(f"--{name.replace('_', '-')}", getattr(self, name))
        for name in ("n", "batch_size", "workers"):
            if getattr(self, name) is not None:
                check_finite(f"--{name.replace('_', '-')}", getattr(self, name), low=1)

    def refuse_beside_resume(self, models: Sequence[str]) -> None:
        """A resumed evaluation is as it was set up."""
        allowed = {"resume", "data_dir", "workers", "gpus_per_worker", "address"}
        given = [f"--{f.name.replace('_', '-')}" for f in fields(self) if getattr(self, f.name) != f.default]
        given = [flag for flag in given if flag[2:].replace("-", "_") not in allowed] + list(models)
        if given:
            raise InputError(f"{given[0]} cannot be given with --resume: the evaluation goes on as it was set up")

    def gpus(self) -> float:
        """GPUs of each process."""
        usual = 1.0 if torch.cuda.is_available() else 0.0
        return usual if self.gpus_per_worker is None else self.gpus_per_worker


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
        options.refuse_beside_resume(models)
        evaluation, folder, part = _resumed(options, options.resume)
    else:
        evaluation, folder, part = _begun(models, options, console)
    with sole_driver(folder.path, "evaluation"):
        with _progress(console, evaluation, folder):
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
    sources = find_models(
        models, weights=options.weights, downloads=folder.path.with_name(f"{folder.path.name}-models")
    )
    dataset, data_dir = _images(sources, options)
    eps = options.eps if options.eps is not None else PIXELS * dataset.pixel
    step_size = options.step_size if options.step_size is not None else eps / STEPS_OF_EPS
    suite = get_suite(options.suite, eps=eps, step_size=step_size)
    images = dataset.test if options.split == "test" else dataset.val
    n = _count(options.n, suite, len(images))
    part = images.take(slice(n))
    examined = _inspect(sources, part, dataset, options, console)
    evaluation = Evaluation.new(
        command=command_line(),
        models=examined,
        dataset=dataset.name,
        data_dir=data_dir,
        split=options.split,
        n=n,
        pixel=dataset.pixel,
        suite=options.suite,
        eps=eps,
        step_size=step_size,
        seed=options.seed,
        precision=options.precision,
        shard_size=options.batch_size or (GPU_BATCH if options.gpus() else CPU_BATCH),
        checks=options.checks,
        save_adversarial=options.save_adversarial,
    )
    folder.create(evaluation)
    return evaluation, folder, part


def _resumed(options: EvaluateOptions, path: Path) -> tuple[Evaluation, EvaluationFolder, Split]:
    folder = EvaluationFolder(path.resolve())
    evaluation = folder.load()
    dataset = load_dataset(evaluation.dataset, options.data_dir or evaluation.data_dir)
    for model in evaluation.models:
        if fingerprint(model.source.load()) != model.fingerprint:
            raise InputError(f"model {model.source.name!r} is not the one this evaluation began with: begin a new one")
    images = dataset.test if evaluation.split == "test" else dataset.val
    return evaluation, folder, images.take(slice(evaluation.n))


def _images(sources: Sequence[ModelSource], options: EvaluateOptions) -> tuple[Dataset, str | None]:
    """The data set that all models are evaluated on, and where it lies."""
    names = {options.dataset} if options.dataset else {source.dataset for source in sources if source.dataset}
    if len(names) != 1:
        said = f"the models were trained on {' and '.join(sorted(filter(None, names)))}" if names else "none is known"
        raise InputError(f"name the images with --dataset: {said}")
    (name,) = names
    assert name is not None
    known = next((source.data_dir for source in sources if source.dataset == name and source.data_dir), None)
    data_dir = str(options.data_dir.resolve()) if options.data_dir else known
    return load_dataset(name, data_dir), data_dir


def _count(asked: int | None, suite: Suite, there: int) -> int:
    if asked is not None and asked > there:
        raise InputError(f"--n={asked}: there are {there} images")
    return asked or min(suite.subset or there, there)


def _inspect(
    sources: Sequence[ModelSource], part: Split, dataset: Dataset, options: EvaluateOptions, console: Console
) -> tuple[Examined, ...]:
    """Look at every model before any is attacked.

    Raises:
        InputError: one cannot be evaluated as it is.
    """
    examined = []
    for source in sources:
        model = source.load("cuda" if options.gpus() else "cpu")
        findings = inspect(model, part.images, part.labels, num_classes=dataset.num_classes)
        for finding in findings:
            if finding.severity == "error" and (finding.name in HOPELESS or not options.despite_findings):
                remedy = "" if finding.name in HOPELESS else " (or add --despite-findings)"
                raise InputError(f"model {source.name!r}: {finding.says}{remedy}")
            console.print(f"{source.name}: {finding.says}", style="yellow", markup=False, highlight=False)
        said = tuple(finding.says for finding in findings)
        examined.append(Examined(source=source, fingerprint=fingerprint(model), findings=said))
    return tuple(examined)


HOPELESS = {"forward", "output", "classes", "no_gradient"}  # what cannot be attacked at all


def _attack(evaluation: Evaluation, folder: EvaluationFolder, part: Split, options: EvaluateOptions) -> None:
    """Every model on every shard, then the checks: here, or spread over processes."""
    shards = [(number, shard) for number in range(len(evaluation.models)) for shard in evaluation.shards()]
    gpus = options.gpus()
    if options.workers == 1 or (options.workers is None and options.address is None and not _several_gpus(gpus)):
        for number, shard in shards:
            work(evaluation, folder, part, number, shard, gpus)
        for number in range(len(evaluation.models)):
            check(evaluation, folder, part, number, gpus)
        return
    from sweeps.engine import ray_runner  # noqa: PLC0415 (slow to import, and not needed in one process)

    with ray_runner.cluster(address=ray_runner.existing_cluster(options.address)):
        shared = (evaluation, folder, part)
        ray_runner.run_tasks(work, [(*one, gpus) for one in shards], shared, gpus=gpus, most=options.workers)
        if evaluation.checks != "none":
            numbers = [(number, gpus) for number in range(len(evaluation.models))]
            ray_runner.run_tasks(check, numbers, shared, gpus=gpus, most=options.workers)


def _several_gpus(gpus: float) -> bool:
    return bool(gpus) and torch.cuda.device_count() > 1


def work(evaluation: Evaluation, folder: EvaluationFolder, part: Split, number: int, shard: slice, gpus: float) -> None:
    """All attacks on one shard of one model, but for those that are on disk."""
    model = evaluation.models[number]
    judge_shard(evaluation, folder.model(model), _judge(evaluation, number, gpus), part, shard)


def check(evaluation: Evaluation, folder: EvaluationFolder, part: Split, number: int, gpus: float) -> None:
    """The red flags of one model."""
    if evaluation.checks != "none":
        model = evaluation.models[number]
        check_model(evaluation, folder.model(model), _judge(evaluation, number, gpus), part)


_LOADED: dict[tuple[str, int], Judge] = {}


def _judge(evaluation: Evaluation, number: int, gpus: float) -> Judge:
    """The model in this process; only one is kept."""
    key = (evaluation.id, number)
    if key not in _LOADED:
        _LOADED.clear()
        model = evaluation.models[number].source.load("cuda" if gpus else "cpu")
        _LOADED[key] = Judge(model.eval(), seed=evaluation.seed, precision=evaluation.precision)
    return _LOADED[key]


@contextmanager
def _progress(console: Console, evaluation: Evaluation, folder: EvaluationFolder) -> Iterator[None]:
    """A bar with the time left, drawn from what lies on disk; a line now and then where there is no terminal."""
    costs = {entry.name: entry.cost for entry in evaluation.attacks().entries}
    total = sum(costs.values()) * len(evaluation.models) * len(evaluation.shards())
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    bar = Progress(*columns, console=console, disable=not console.is_terminal)
    task = bar.add_task("attacking", total=total)
    first = _done(evaluation, folder, costs)
    stop = threading.Event()

    def watch() -> None:
        interval = 0.5 if console.is_terminal else PLAIN_INTERVAL
        while not stop.wait(interval):
            done = _done(evaluation, folder, costs)
            bar.update(task, completed=done, description=_doing(evaluation, folder))
            if not console.is_terminal:
                left = bar.tasks[0].time_remaining
                words = "" if left is None else f", about {round(left)} s left"
                console.print(f"{_doing(evaluation, folder)}: {done / total:.0%}{words}", highlight=False)

    bar.update(task, completed=first)
    watcher = threading.Thread(target=watch, daemon=True)
    with bar:
        watcher.start()
        try:
            yield
        finally:
            stop.set()
            watcher.join()
            bar.update(task, completed=_done(evaluation, folder, costs))


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
    try:
        from sweeps.engine.mlflow_evaluations import log_evaluation  # noqa: PLC0415 (seconds to import)

        hush()
        for model, summary in zip(evaluation.models, summaries, strict=True):
            log_evaluation(evaluation, folder.model(model), model, summary, uri=uri)
    except Exception as error:
        return why(error)
    return None
