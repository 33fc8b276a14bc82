"""Compares the finished models of many sweeps, searches and evaluations.

python sweeps/leaderboard.py outputs                                  # all that is in a folder
python sweeps/leaderboard.py http://127.0.0.1:5000                    # all that an MLflow server knows
python sweeps/leaderboard.py outputs/search-... outputs/evaluate-... --csv models.csv --html models.html
"""

from dataclasses import dataclass
from pathlib import Path

from cyclopts import Parameter

from sweeps.engine.cli.app import command
from sweeps.engine.cli.given import Options


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class LeaderboardOptions(Options):
    """What is shown, and where it is written."""

    dataset: str | None = None
    """Only models that were evaluated on this data set."""
    robustbench: int = 0
    """Show this many of RobustBench's published entries beside them, best first, where data set and budget are the
    same; and what differs in protocol."""
    csv: Path | None = None
    """Write all models to this CSV file."""
    html: Path | None = None
    """Write all models to this page, which opens without a network."""


def main(*sources: str, options: LeaderboardOptions = LeaderboardOptions()) -> int:
    """Show all finished models of sweeps and evaluations, by data set, images and budget.

    SOURCE is the folder of a sweep, a search, a table or an evaluation, or one that has such folders; or the URI of a
    tracking server or database, such as http://127.0.0.1:5000 or sqlite:///mlflow.db. Within a
    table the verified models come first, by robust accuracy, with 95 % Wilson intervals. A number that no verifying
    suite has seen has a column of its own.
    """
    from sweeps.engine.evaluation.leaderboard import run_leaderboard

    return run_leaderboard(
        sources,
        dataset=options.dataset,
        csv_file=options.csv,
        html_file=options.html,
        robustbench=options.robustbench,
    )


if __name__ == "__main__":
    command(main)
