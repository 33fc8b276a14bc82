"""How long does a sweep wait at its end for an MLflow server that takes its time?

python benchmarks/slow_server.py                      # 24 trials of about 10 s, 0.2 s a call; 3 minutes on 2 cores

A real MLflow server on loopback stands behind a proxy that holds every answer for --delay seconds. A sweep on digits
logs to it. The figures are the time between the end of the last trial and that of the sweep, the calls, and how many
runs of the server are finished and have their model.
"""

import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cyclopts import Parameter
from mlflow import MlflowClient
from support.common import command, machine, say, write_report
from support.live_sweeps import ROOT, live_sweep

from sweeps.engine.sweep.folder import SweepFolder

sys.path.insert(0, str(ROOT))  # the tests' server and proxy

from tests.integration.servers import Proxy, Server


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """The sweep and the server."""

    delay: float = 0.2
    """Seconds for which every answer is held."""
    trials: int = 24
    """Number of trials."""
    epochs: int = 20
    """Epochs of a trial."""
    output: Path | None = None
    """JSON file for all measurements."""


def main(options: Options = Options()) -> dict[str, Any]:
    """Run the sweep behind the slow server."""
    with tempfile.TemporaryDirectory() as place:
        server = Server(folder=Path(place) / "server")
        server.start()
        try:
            with Proxy(server).running() as proxy:
                proxy.spoil("slow", delay=options.delay)
                began = time.time()
                _sweep(Path(place), proxy.uri, options)
                exited = time.time()
            folder = SweepFolder(Path(place) / "sweep")
            ends = [status.ended for _, status in folder.statuses(folder.load()) if status.ended]
            client = MlflowClient(server.uri)
            runs = client.search_runs([one.experiment_id for one in client.search_experiments()], max_results=1000)
        finally:
            server.kill()
    whole = [run for run in runs if run.info.status == "FINISHED" and run.outputs.model_outputs]
    report = {
        "machine": machine("cpu"), "options": asdict(options), "seconds": exited - began, "finished": len(ends),
        "seconds_after_last_trial": exited - max(ends), "calls": len(proxy.calls), "most_at_once": proxy.most,
        "runs": len(runs), "finished_runs_with_model": len(whole),
    }  # fmt: skip
    say(f"{len(ends)} trials in {report['seconds']:.0f} s; the sweep ended {report['seconds_after_last_trial']:.1f} s")
    say(f"after the last of them; {len(whole)} of {len(runs)} runs are finished with a model; {len(proxy.calls)} calls")
    write_report(options.output, report)
    return report


def _sweep(place: Path, uri: str, options: Options) -> None:
    small = ("--epochs", str(options.epochs), "--model", "small_cnn_16", "--steps", "1", "20")
    said, environment = live_sweep(options.trials, uri, *small)
    subprocess.run(said, cwd=place, env=environment, stdout=subprocess.DEVNULL, check=True)


if __name__ == "__main__":
    command(main)
