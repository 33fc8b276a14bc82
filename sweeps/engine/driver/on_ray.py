"""The driver's part of Ray: the cluster, the live table and the signals around a run."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from rich.console import Console

from bat_core.data import Dataset
from bat_core.errors import InputError
from sweeps.engine.cli.live_table import live_table
from sweeps.engine.cli.options import SweepOptions
from sweeps.engine.cli.redact import redacted
from sweeps.engine.cli.text import counted, relative, say
from sweeps.engine.driver.model_queries import ModelQuery, QueryAnswers, ask
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.spec import Sweep, Trial


def run_on_ray(
    waiting: Sequence[Trial],
    sweep: Sweep,
    dataset: Dataset,
    folder: SweepFolder,
    console: Console,
    options: SweepOptions,
) -> dict[str, str]:
    """Run trials that are known, each once. See `run_trials`."""
    with on_ray(sweep, folder, console, options, most=len(waiting)) as concurrent:
        from sweeps.engine.ray_backend import tuning  # noqa: PLC0415

        return tuning.run_trials(waiting, sweep, dataset, folder, concurrent=concurrent, stall=options.stall())


def _ask_on_ray(
    queries: Sequence[ModelQuery],
    sweep: Sweep,
    dataset: Dataset,
    folder: SweepFolder,
    console: Console,
    options: SweepOptions,
) -> bool:
    """Ask finished models what no trial can answer alone, several at once; each answer is kept as it comes.

    Where one cannot be had, the report is drawn without it, and --resume asks again.

    Returns:
        Whether all were answered.
    """
    from sweeps.engine.ray_backend import cluster, tasks  # noqa: PLC0415

    say(console, f"{counted(len(queries), 'question')} about the trained models (gradients, black boxes)")
    config, gpus, probed = sweep.trials[0].config, sweep.resources.gpus_per_worker, QueryAnswers(folder)
    shared = (dataset.part(config.attack.split), config, "cuda" if gpus else "cpu")
    with cluster.cluster(address=cluster.existing_cluster(options.address)):
        calls = ((query, probed.models(query)) for query in queries)
        try:
            for query, answer in tasks.run_tasks(ask, calls, shared, gpus=gpus, most=options.max_concurrent):
                probed.write(query, answer)
        except (tasks.TaskError, InputError) as error:
            said = redacted(str(error).strip().splitlines()[-1])
            say(console, f"not all could be answered ({said}): --resume {relative(folder.path)} asks again", "yellow")
            return False
    return True


@contextmanager
def on_ray(
    sweep: Sweep,
    folder: SweepFolder,
    console: Console,
    options: SweepOptions,
    *,
    most: int | None = None,
    expected: int | None = None,
) -> Iterator[int]:
    """Ray, the table of trials and a way to stop, for the body: gives how many trials run at once, `most` at most.

    `expected` is how many trials there will be, if they are not all known yet.
    """
    from sweeps.engine.ray_backend import cluster, control  # noqa: PLC0415 (slow to import)

    address = cluster.existing_cluster(options.address)
    if address:
        here = "that runs on this machine (--address local starts another)" if address == "auto" else f"at {address}"
        say(console, f"joining the Ray cluster {here}")
    with cluster.cluster(address=address):
        fit = options.max_concurrent or cluster.concurrent_trials(sweep.resources)
        concurrent = min(fit, most) if most else fit
        try:
            with (
                control.stop_on_signals(lambda text: say(console, text, "yellow")),
                live_table(sweep, folder, console, concurrent=concurrent, expected=expected),
            ):
                yield concurrent
        except KeyboardInterrupt:
            say(console, f"stopped at once; go on with --resume {relative(folder.path)}", "yellow")
            raise
