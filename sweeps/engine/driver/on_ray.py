"""Sets up Ray for the driver: the cluster, the live table and signal handling."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bat_core.errors import InputError
from sweeps.engine.cli.app import resume_command
from sweeps.engine.cli.live_table import live_table
from sweeps.engine.cli.redact import redacted
from sweeps.engine.cli.text import counted
from sweeps.engine.driver.model_queries import QueryAnswers, answer_query
from sweeps.engine.driver.query_spec import ModelQuery
from sweeps.engine.driver.session import SweepSession
from sweeps.engine.sweep.spec import Trial

if TYPE_CHECKING:
    from sweeps.engine.ray_backend.tuning import TuneRun


def run_on_ray(session: SweepSession, trials: Sequence[Trial]) -> dict[str, str]:
    """Run predefined trials, each once. See `run_trials`."""
    from sweeps.engine.ray_backend import tuning

    with on_ray(session, most=len(trials)) as concurrent:
        return tuning.run_trials(tune_run(session, concurrent), trials)


def tune_run(session: SweepSession, concurrent: int) -> "TuneRun":
    """The inputs for Tune to run a session's trials, `concurrent` at a time."""
    from sweeps.engine.ray_backend.tuning import TuneRun

    return TuneRun(
        sweep=session.sweep,
        folder=session.folder,
        dataset=session.dataset,
        concurrent=concurrent,
        stall=session.options.stall(),
        cycles=session.options.cycles,
        say=lambda text: session.say(text, "yellow"),
    )


def answer_on_ray(session: SweepSession, queries: Sequence[ModelQuery]) -> bool:
    """Answer queries about finished models, several at once. Each answer is saved as it arrives.

    The report omits answers that could not be measured, and --resume retries them.

    Returns:
        Whether all queries were answered.
    """
    from sweeps.engine.ray_backend import cluster, tasks

    session.say(f"{counted(len(queries), 'measurement')} on the trained models (gradients, black-box attacks)")
    sweep, options = session.sweep, session.options
    config, gpus, answers = sweep.trials[0].config, sweep.resources.gpus_per_worker, QueryAnswers(session.folder)
    shared = (session.dataset.part(config.attack.split), config, "cuda" if gpus else "cpu")
    calls = ((query, answers.models(query)) for query in queries)
    try:
        with cluster.cluster(address=cluster.existing_cluster(options.address)):
            for query, columns in tasks.run_tasks(answer_query, calls, shared, gpus=gpus, most=options.max_concurrent):
                answers.write(query, columns)
    except (tasks.TaskError, InputError) as error:
        reason = redacted(str(error).strip().splitlines()[-1])
        again = resume_command(session.folder.path)
        session.say(f"not all measurements succeeded ({reason}); retry with {again}", "yellow")
        return False
    return True


@contextmanager
def on_ray(session: SweepSession, *, most: int | None = None, expected: int | None = None) -> Iterator[int]:
    """Run the body with Ray, the live table and signal handling.

    Args:
        most: the maximum number of concurrent trials.
        expected: the total number of trials, if not all are known yet.
    Yields:
        The number of concurrent trials.
    """
    from sweeps.engine.ray_backend import cluster, control

    options = session.options
    address = cluster.existing_cluster(options.address)
    if address:
        here = "on this machine (--address local starts another)" if address == "auto" else f"at {address}"
        session.say(f"joining the Ray cluster {here}")
    with cluster.cluster(address=address):
        fit = options.max_concurrent or cluster.concurrent_trials(session.sweep.resources)
        concurrent = min(fit, most) if most else fit
        try:
            with (
                control.stop_on_signals(lambda text: session.say(text, "yellow")),
                live_table(session.sweep, session.folder, session.console, concurrent=concurrent, expected=expected),
            ):
                yield concurrent
        except KeyboardInterrupt:
            session.say(f"stopped at once; resume with {resume_command(session.folder.path)}", "yellow")
            raise
