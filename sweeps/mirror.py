"""Sync a sweep's records to MLflow again, for example after the server was down."""

import sys
import threading
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from sweeps.engine.cli.app import command
from sweeps.engine.cli.redact import redacted_uri


def main(output: Annotated[Path, Parameter(help="The sweep's folder.")], /) -> int:
    """Make MLflow (MLFLOW_TRACKING_URI, else mlflow.db here) agree with a sweep's records.

    Repeated runs change nothing.
    """
    from sweeps.engine.sweep.folder import SweepFolder
    from sweeps.engine.sweep.records import read_status, unread_lines
    from sweeps.engine.tracking.background import BackgroundSync
    from sweeps.engine.tracking.location import how_to_open, restored_experiments

    folder = SweepFolder(output.resolve())
    sweep = folder.load()
    mirroring = BackgroundSync(sweep, folder)
    if damage := unread_lines({trial.id: read_status(folder.trial(trial)) for trial in folder.trials(sweep)}):
        print(f"warning: {damage}", file=sys.stderr)
    if trouble := mirroring.once(patience=threading.TIMEOUT_MAX):
        print(f"error: MLflow did not take everything: {trouble}", file=sys.stderr)
        return 1
    if restored := restored_experiments():
        print(restored)
    print(f"MLflow at {redacted_uri(mirroring.uri)} agrees with {output}: {how_to_open(mirroring.uri, mirroring.link)}")
    return 0


if __name__ == "__main__":
    command(main)
