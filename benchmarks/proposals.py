"""Does a search's proposal cost the same at the end of thousands of trials as at the beginning?

OMP_NUM_THREADS=1 python benchmarks/proposals.py    # 2,000 proposals of each sampler; CPU time
OMP_NUM_THREADS=1 python benchmarks/proposals.py --samplers auto --count 500

A search proposes, and each trial ends at once with made accuracies: nothing is trained. A proposal's cost is the CPU
time of the search's looks at its clock and front, of the proposal, and of telling the study how the trial ended.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import mean
from typing import Annotated, Any

import psutil
import torch
from cyclopts import Parameter
from support.common import command, machine, say, table, write_report
from support.made_sweeps import PIXEL, SECONDS, record_of, search_of

from sweeps.engine.search.pace import Budget, Pace
from sweeps.engine.search.study import SearchStudy
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import RECORD
from sweeps.engine.sweep.spec import Resources, Sweep

MIB = 2**20
EPOCHS, IMAGES = 10, 200


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class Options:
    """How many proposals, of which samplers."""

    samplers: Annotated[tuple[str, ...], Parameter(consume_multiple=True)] = ("random", "tpe", "auto")
    """Samplers."""
    count: int = 2000
    """Number of proposals."""
    part: int = 100
    """Proposals that one figure is the mean of."""
    output: Path | None = None
    """JSON file for all measurements."""


def main(options: Options = Options()) -> dict[str, Any]:
    """Propose `count` trials with each sampler."""
    torch.set_num_threads(1)
    report: dict[str, Any] = {"machine": machine("cpu"), "options": asdict(options), "samplers": {}}
    rows = []
    for sampler in options.samplers:
        seconds, mib = _search(sampler, options.count)
        parts = [mean(seconds[at : at + options.part]) for at in range(0, options.count, options.part)]
        report["samplers"][sampler] = {"seconds": parts, "mib_added": mib}
        rows.append([sampler, *(f"{parts[at]:.3f}" for at in _places(len(parts))), f"{max(seconds):.2f}", f"{mib:.0f}"])
        say(f"{sampler}: {sum(seconds):.0f} s")
        write_report(options.output, report)
    names = [f"to {options.part * (at + 1)}" for at in _places(options.count // options.part)]
    table("CPU seconds per proposal, mean of a part", ("sampler", *names, "longest", "MiB added"), rows)
    return report


def _places(parts: int) -> Sequence[int]:
    """Of the parts to show: the first two, the middle and the last."""
    return sorted({0, min(1, parts - 1), (parts - 1) // 2, parts - 1})


def _search(sampler: str, count: int) -> tuple[list[float], float]:
    """CPU seconds of each proposal, and the memory that all of them add to the process in MiB."""
    with tempfile.TemporaryDirectory() as place:
        folder = SweepFolder(Path(place) / "search")
        sweep = Sweep(
            name="made", command="", data_dir=None, pixel=PIXEL, resources=Resources(), trials=(), open=True
        )  # fmt: skip
        folder.create(sweep)
        search = replace(search_of(count), sampler=sampler)
        search.write(folder)
        study = SearchStudy(search, sweep, folder)
        budget = Budget(search, study, Pace(sweep, folder))
        before = psutil.Process().memory_info().rss
        seconds = []
        for at in range(count):
            began = time.process_time()
            assert budget.is_open()
            trial = study.propose()
            spent = time.process_time() - began
            (folder.path / "trials" / trial.id / RECORD).write_bytes(record_of(trial, at * SECONDS, EPOCHS, IMAGES, at))
            began = time.process_time()
            study.settle(trial)
            seconds.append(spent + time.process_time() - began)
        return seconds, (psutil.Process().memory_info().rss - before) / MIB


if __name__ == "__main__":
    command(main)
