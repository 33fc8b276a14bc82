"""Everything that can go wrong with a sweep, done to one: each row's tests are run, and the table says what held.

python benchmarks/faults.py                     # all rows, twenty random kills
python benchmarks/faults.py --only MLflow       # rows in whose first column that word stands
python benchmarks/faults.py --markdown          # the table of docs/reliability.md, nothing is run
"""

import os
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from common import command, machine, say, table, write_report
from cyclopts import Parameter

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Row:
    """What happens, what holds then, what is lost, and the tests that do it."""

    happens: str
    holds: str
    lost: str
    tests: tuple[str, ...]


ROWS = (
    Row(
        "kill -9 of the driver and all it started, at 2 moments (20 random ones in the benchmark)",
        "every finished epoch is kept, no trial is there twice; models, verdicts, figure: byte for byte undisturbed",
        "the running epoch of what ran",
        ("integration/test_interruption.py::test_a_killed_sweep_resumes_to_the_same_end",),
    ),
    Row(
        "kill -9 of a trial's process",
        "Ray starts another, which goes on from the last checkpoint; weights as undisturbed, bit for bit",
        "its running epoch",
        ("integration/test_faults.py::test_a_trials_process_that_is_killed_or_told_to_end_is_replaced",),
    ),
    Row(
        "kill -9 of one of two workers that train together; then of a whole node of three",
        "the rest takes it up from the last checkpoint, on the spare node; weights as undisturbed, bit for bit",
        "their running epoch",
        ("integration/test_faults_cluster.py::test_two_workers_go_on_without_a_worker_and_without_a_node",),
    ),
    Row(
        "SIGTERM to a trial's process; a node is drained (spot preemption)",
        "what is between two batches is saved and gone on with elsewhere, bit for bit",
        "nothing",
        (
            "integration/test_faults.py::test_a_trials_process_that_is_killed_or_told_to_end_is_replaced",
            "integration/test_faults_cluster.py::test_a_trial_saves_what_it_is_at_and_leaves_a_node_that_is_about_to_go",
            "engine/sweep/test_trial.py::test_a_paused_trial_goes_on_from_its_batch_and_ends_as_if_it_had_not_been",
        ),
    ),
    Row(
        "Ctrl-C (or SIGTERM to the driver) once; twice",
        "once: all that trains is saved and the command to resume printed, exit 130; twice: it stops at once",
        "once: nothing (attacks begin again); twice: the running epochs",
        ("integration/test_faults.py::test_ctrl_c_once_saves_what_runs_and_twice_stops_at_once",),
    ),
    Row(
        "one trial: NaN loss, out of memory, an exception, hanging for ever",
        "it fails with its reason, the hanging one after --stall-minutes; the others go on; exit 1",
        "that trial",
        ("integration/test_faults.py::test_a_trial_that_goes_wrong_fails_with_its_reason_and_the_others_go_on",),
    ),
    Row(
        "MLflow's server is killed for a while, or replaced by an empty one",
        "training goes on; afterwards MLflow equals the records, no run or metric twice",
        "nothing",
        ("integration/test_mlflow_faults.py::test_a_server_that_is_killed_and_comes_back_as_it_was_or_empty",),
    ),
    Row(
        "MLflow's server is stopped for the whole sweep",
        "trials finish all the same, the end is not held up; sweeps/mirror.py brings it all later",
        "nothing",
        ("integration/test_mlflow_faults.py::test_a_sweep_runs_while_the_server_is_stopped_and_shows_no_password",),
    ),
    Row(
        "MLflow's server answers 500s, too late, or very slowly",
        "what it did not take is told again; what it took unsaid is not there twice; the end waits a bounded time",
        "nothing",
        (
            "integration/test_mlflow_faults.py::test_a_server_that_answers_500",
            "integration/test_mlflow_faults.py::test_a_request_whose_answer_comes_too_late",
            "integration/test_mlflow_faults.py::test_a_slow_server_does_not_hold_up_the_end",
        ),
    ),
    Row(
        "the disk is full, read-only or gone, for a while",
        "writes are tried again with back-off, training waits, nothing has happened afterwards",
        "nothing",
        ("integration/test_storage_faults.py::test_a_disk_that_fails_for_a_while_is_waited_for",),
    ),
    Row(
        "the disk is full, read-only or gone, for longer than a minute",
        "the trial fails with one sentence that says what and where; records stay readable; --resume completes it",
        "its running epoch",
        (
            "integration/test_storage_faults.py::test_a_disk_that_fails_for_good_fails_the_trial_and_loses_nothing",
            "integration/test_storage_faults.py::test_a_line_that_the_disk_took_in_part_is_cut_off",
            "integration/test_storage_sweeps.py::test_a_sweep_whose_disk_fills_up_says_so_and_goes_on_when_there_is_room",
        ),
    ),
    Row(
        "an S3 server goes away and comes back; then the machine of the sweep is lost",
        "writes wait; another machine with an empty disk goes on from the store",
        "the running epochs",
        ("integration/test_storage_sweeps.py::test_a_sweep_outlives_its_server_going_away_and_then_its_machine",),
    ),
    Row(
        "a checkpoint is cut short, a byte of it flipped, a file missing, or it is another config's",
        "it is named with the reason, in record, output and MLflow, and the one before is used",
        "the epochs since that one",
        ("unit/test_checkpoint.py",),
    ),
    Row(
        "lines of a record are damaged",
        "each is passed over and counted, the others stay true; what they said is done again where it must be",
        "what they said",
        ("engine/sweep/test_records.py",),
    ),
    Row(
        "two sweeps in one output folder",
        "the second is refused in one sentence, exit 2",
        "nothing",
        ("integration/test_bad_input.py::test_a_running_sweep_is_not_run_again",),
    ),
    Row(
        "another Ray cluster, of another sweep, runs on the same machine",
        "each asks its own dashboard whether a trial lives: workers are neither ended nor left over",
        "nothing",
        ("integration/test_ray_runner.py::test_a_process_asks_its_own_clusters_dashboard_where_there_are_two",),
    ),
    Row(
        "the clock jumps by hours and weeks, to and fro",
        "records, table and MLflow keep everything; times are as the clock had them",
        "nothing",
        ("engine/driver/test_clock_and_version.py::test_a_clock_that_jumps_to_and_fro_loses_no_record",),
    ),
    Row(
        "a worker, or who resumes, has another version of the package",
        "the worker's trial is refused, the resumed sweep goes on; both versions are named",
        "nothing",
        (
            "engine/driver/test_clock_and_version.py::test_a_worker_with_another_version_of_the_package_is_named",
            "engine/driver/test_clock_and_version.py::test_a_sweep_that_goes_on_with_another_version_says_so",
        ),
    ),
)


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """Which rows, how often."""

    only: str = ""
    """Rows in whose first column this stands."""
    kills: int = 20
    """Random moments at which the driver is killed."""
    markdown: bool = False
    """Print the table for the documentation and run nothing."""
    output: Path | None = None
    """A JSON file for what was measured."""


def main(options: Options = Options()) -> None:
    """Do to a sweep what can go wrong, and say what held; the top of the file describes it."""
    if options.markdown:
        print(markdown())
        return
    rows = [row for row in ROWS if options.only.lower() in row.happens.lower()]
    done = []
    for row in rows:
        say(row.happens)
        began = time.monotonic()
        counts = run(row.tests, kills=options.kills)
        done.append({"row": asdict(row), **counts, "seconds": round(time.monotonic() - began)})
    cells = [[one["row"]["happens"], one["row"]["lost"], outcome(one), f"{one['seconds']} s"] for one in done]
    table("faults", ("what happens", "what is lost", "what must hold", "took"), cells)
    write_report(options.output, {"machine": machine("cpu"), "kills": options.kills, "rows": done})
    sys.exit(any(one["failed"] for one in done))


def run(tests: Iterable[str], *, kills: int) -> dict[str, int]:
    """How many of the tests passed, failed or were skipped."""
    report = Path("outputs/benchmarks/faults.xml").absolute()
    report.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *(f"tests/{test}" for test in tests)],
        cwd=ROOT,
        env=os.environ | {"BAT_SWEEPS_KILLS": str(kills)},
        check=False,
    )
    suite = ElementTree.parse(report).getroot().find("testsuite")
    assert suite is not None
    total, skipped = int(suite.attrib["tests"]), int(suite.attrib["skipped"])
    failed = int(suite.attrib["failures"]) + int(suite.attrib["errors"])
    return {"passed": total - skipped - failed, "failed": failed, "skipped": skipped}


def outcome(counts: dict[str, Any]) -> str:
    """One cell."""
    if counts["failed"]:
        return f"NOT HELD: {counts['failed']} of {counts['failed'] + counts['passed']} tests failed"
    if not counts["passed"]:
        return "not run"
    return f"held ({counts['passed']} tests" + (f", {counts['skipped']} skipped)" if counts["skipped"] else ")")


def markdown() -> str:
    """The table as docs/reliability.md has it."""
    lines = ["| what happens | what holds | what is lost | tests |", "| --- | --- | --- | --- |"]
    for row in ROWS:
        tests = ", ".join(f"`{test.rpartition('::')[2] or test}`" for test in row.tests)
        lines.append(f"| {row.happens} | {row.holds} | {row.lost} | {tests} |")
    return "\n".join(lines)


if __name__ == "__main__":
    command(main)
