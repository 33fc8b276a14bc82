"""Simulated searches that are kept in a file, so that a contest can be stopped, go on, and run in several processes."""

import json
import multiprocessing
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from bat_core.paths import append_to, below, chosen, drop_torn_line
from support.search_simulation import Run, earlier_search, simulate
from support.search_truths import Problems
from sweeps.engine.storage.locks import exclusive

RUNS = "surrogate.jsonl"


def sampler_and_prior(contender: str) -> tuple[str, str]:
    """The sampler of a contender such as auto+budget, and what its prior is from: empty if it has none."""
    sampler, _, prior = contender.partition("+")
    return sampler, prior


@dataclass(frozen=True)
class Searches:
    """Searches of one contender on one problem, one per seed. `auto+NAME` has a prior from a search on problem NAME."""

    problem: str
    contender: str
    workers: int
    trials: int
    seeds: tuple[int, ...]

    @property
    def lock(self) -> str:
        """The name of the lock of whoever runs them."""
        return f".{self.problem}-{self.contender}-{self.workers}-{self.trials}-{self.seeds[0]}.lock"


class KeptRuns:
    """The simulated searches so far, one JSON line each. Remove the file after a change of a sampler or of a problem.

    Several processes, and several benchmarks at once, may fill the same file: a search is run by one of them.
    """

    def __init__(self, folder: Path, problems: Problems) -> None:
        self._folder, self._problems = chosen(folder), problems
        self._known: dict[str, Run] = {}
        self._read = 0

    @property
    def images(self) -> int:
        """The number of validation images of every problem."""
        return self._problems.images

    def of(self, searches: Searches) -> list[Run]:
        """The runs of these searches, all of which must be there."""
        return [self._known[self._name(searches, seed)] for seed in searches.seeds]

    def fill(self, wanted: Sequence[Searches], processes: int) -> None:
        """Run the searches that are missing, in several processes. What others run now is waited for at the end."""
        for wait in (False, True):
            self._read_on()
            missing = [one for one in wanted if any(self._name(one, seed) not in self._known for seed in one.seeds)]
            if processes == 1:
                for one in missing:
                    self.run(one, wait=wait)
            elif missing:
                with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
                    for job in [pool.submit(_run, self._folder, self._problems, one, wait) for one in missing]:
                        job.result()
        self._read_on()

    def run(self, searches: Searches, *, wait: bool) -> None:
        """Run the missing ones of these searches; none if another process runs them and `wait` is false."""
        try:
            with exclusive(below(self._folder, searches.lock), wait=wait):
                self._read_on()
                for seed in searches.seeds:
                    if (name := self._name(searches, seed)) not in self._known:
                        self._keep(name, self._simulated(searches, seed))
        except BlockingIOError:
            return

    def _simulated(self, searches: Searches, seed: int) -> Run:
        sampler, other = sampler_and_prior(searches.contender)
        prior = earlier_search(self._problems.named(other), seed) if other else []
        problem = self._problems.named(searches.problem)
        return simulate(problem, sampler, seed=seed, trials=searches.trials, workers=searches.workers, prior=prior)

    def _keep(self, name: str, run: Run) -> None:
        self._known[name] = run
        path = below(self._folder, RUNS)
        with exclusive(below(self._folder, f".{RUNS}.lock")):
            if path.exists():
                drop_torn_line(path)
            with append_to(path) as file:
                file.write(json.dumps([name, asdict(run)]).encode() + b"\n")

    def _read_on(self) -> None:
        """Read the complete lines that are new."""
        path = below(self._folder, RUNS)
        if not path.exists():
            return
        content = path.read_bytes()[self._read :]
        complete = content[: content.rfind(b"\n") + 1]
        self._read += len(complete)
        self._known |= {name: Run(**run) for name, run in map(json.loads, complete.splitlines())}

    def _name(self, one: Searches, seed: int) -> str:
        fitted = one.problem != "analytic" or "+" in one.contender
        about, images = self._problems.fingerprint if fitted else "", self._problems.images
        return f"{about}, {one.problem}, {images} images, {one.contender}, {one.workers}, {one.trials}, seed {seed}"


def _run(folder: Path, problems: Problems, searches: Searches, wait: bool) -> None:
    KeptRuns(folder, problems).run(searches, wait=wait)
