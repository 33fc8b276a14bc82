"""The page of a sweep, search or table: a pure function of the sweep's folder."""

import math
import shlex
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from bat_core.checkpoint import class_names_of
from bat_core.config import flatten, to_dict
from bat_core.errors import InputError
from bat_core.masking.flags import NOTHING_TO_MASK, status_in_words
from bat_core.stats import wilson
from bat_core.suites import is_verified
from bat_core.verdicts import Verdicts
from sweeps.engine.cli.app import PROGRAM
from sweeps.engine.cli.text import count_of, counted, percent, span
from sweeps.engine.pages.charts import Chart
from sweeps.engine.pages.classes import Judged, class_sections
from sweeps.engine.pages.document import (
    NONE,
    PAGE,
    ROBUST_COLUMNS,
    UNVERIFIED_COLUMNS,
    Cell,
    Commands,
    Facts,
    Page,
    Section,
    Table,
    commands,
    render,
    robust_cells,
    verdict_cell,
)
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import VERDICTS, VERIFIED, TrialStatus, read_events
from sweeps.engine.sweep.spec import Sweep, Trial

COLUMNS = (
    *("model", "budget", "seed", "clean", *ROBUST_COLUMNS, "checks", "n"),
    *("suite", "training", "state", "settings"),
)


@dataclass(frozen=True, kw_only=True)
class Story:
    """What a page says besides what every sweep's page has.

    `setting` names the parameters that tell a trial apart from the others, for the leaderboard. `subcommand` is the
    command as `bat-sweeps` knows it.
    """

    title: str
    question: str
    answer: str
    subcommand: str
    charts: Sequence[Chart] = ()
    sections: Sequence[Section] = ()
    setting: Callable[[Trial], str] = lambda trial: trial.config.recipe.name


def write_sweep_page(sweep: Sweep, folder: SweepFolder, story: Story) -> str:
    """Write report.html into the sweep's folder. Returns its name."""
    folder.write(PAGE, render(sweep_page(sweep, folder, story)))
    return PAGE


def sweep_page(sweep: Sweep, folder: SweepFolder, story: Story) -> Page:
    """The page: question and answer, figure, leaderboard, classes, cost, settings, environment, commands."""
    board = _Board(sweep, folder, story)
    sections: list[Section] = [*story.charts, board.leaderboard(), *story.sections, *board.classes()]
    sections += [board.cost(), board.settings(), board.environment(), board.commands()]
    return Page(
        title=story.title,
        question=story.question,
        answer=f"{story.answer} {board.verdicts_in_words()}".strip(),
        sections=sections,
        version=f"bat-sweeps {sweep.version}: made from the records of {folder.title(sweep)}, created {sweep.created}.",
    )


class _Board:
    """What the sections of one sweep's page are made of."""

    def __init__(self, sweep: Sweep, folder: SweepFolder, story: Story) -> None:
        self.sweep, self.folder, self.story = sweep, folder, story
        self.rows = folder.statuses(sweep)

    @cached_property
    def finished(self) -> list[tuple[Trial, TrialStatus, dict[str, Any]]]:
        """Finished trials with their results: the verified ones first, each kind by falling robust accuracy."""
        found = [(trial, status, dict(status.result)) for trial, status in self.rows if status.result is not None]
        return sorted(found, key=lambda row: (not is_verified(row[2]["suite"]), -row[2]["robust_acc"]))

    def verdicts_in_words(self) -> str:
        """How many trials ended how, and what the checks for gradient masking said."""
        words = [f"{counted(len(self.finished), 'trial')} of {len(self.rows)} finished"]
        said = [status_in_words(result["verdict"], result["robust_acc"]) for *_, result in self.finished]
        for verdict in ("clear", "suspect", "masked", NOTHING_TO_MASK):
            if count := said.count(verdict):
                words.append(f"{count} {verdict}")
        unverified = sum(not is_verified(result["suite"]) for *_, result in self.finished)
        words += [f"{unverified} not verified"] if unverified else []
        if beaten := sum(status.bound is not None for _, status in self.rows):
            words.append(f"{beaten} off the front by PGD and not verified")
        for phase in ("stopped", "failed"):
            if count := sum(status.phase == phase and status.bound is None for _, status in self.rows):
                words.append(f"{count} {phase}")
        return f"{', '.join(words)}."

    def leaderboard(self) -> Table:
        """All trials: the verified first, each number in the column of its kind."""
        ended = {trial.id for trial, *_ in self.finished}
        others = [(trial, status) for trial, status in self.rows if trial.id not in ended]
        rows = [self._row(trial, status, result) for trial, status, result in self.finished]
        rows += [self._row(trial, status, None) for trial, status in others]
        table = Table(
            heading="Leaderboard",
            columns=COLUMNS,
            rows=rows,
            note=(
                "Robust: the share of images that are correct against every attack of the suite. Verified: a verifying"
                " suite (Auto-PGD or AutoAttack) is among the attacks, and nothing says that the gradients hide. All"
                " other numbers are in a column of their own: stronger attacks can only lower them. 95 %: Wilson"
                " intervals over test images, which say nothing of the spread over seeds."
            ),
        )
        return table.without_empty(UNVERIFIED_COLUMNS).without_common(("n", "suite"))

    def _row(self, trial: Trial, status: TrialStatus, result: dict[str, Any] | None) -> list[Cell | str]:
        pixels = self.sweep.budget_in_pixels(trial)
        budget = self.sweep.training_budget(trial) or self.sweep.unit.amount(0.0)
        setting = Cell(self.story.setting(trial), look="prose")
        row: list[Cell | str] = [Cell(trial.id, look="name")]
        row += [Cell(budget, pixels), Cell(str(trial.config.seed), trial.config.seed)]
        hours = status.training_hours(self.sweep.resources.num_workers)
        trained = Cell(span(hours), hours) if status.epochs else NONE
        if result is None:
            state = f"{status.phase}: {status.reason}" if status.reason else status.phase
            if status.bound is not None:
                state = f"not verified: {status.reason}"
            return [*row, *([NONE] * 8), trained, Cell(state, look=status.phase), setting]
        clean, robust = result["clean_acc"], result["robust_acc"]
        reach = wilson(round(robust * result["robust_n"]), result["robust_n"])
        row += [Cell(percent(clean), clean), *robust_cells(robust, reach, verified=is_verified(result["suite"]))]
        verdict = verdict_cell(result["verdict"], robust)
        state = "finished" if status.collapsed is None else f"finished, collapsed at epoch {status.collapsed}"
        n = Cell(str(result["robust_n"]), result["robust_n"])
        return [*row, verdict, n, Cell(result["suite"], look="name"), trained, state, setting]

    def classes(self) -> list[Section]:
        """Robust accuracy by class, and the best verified model's confusion matrix."""
        models, best = [], None
        for trial, _, result in self.finished:
            place = self.folder.trial(trial)
            file = place / VERIFIED if (place / VERIFIED).exists() else place / VERDICTS
            try:
                verdicts = Verdicts.read(file)
            except InputError:
                continue  # a damaged file: its numbers are in the record
            verified = is_verified(result["suite"])
            models.append(Judged(name=trial.id, verdicts=verdicts, verified=verified))
            if best is None and verified and trial.role != "reference":
                best = trial
        if not models:
            return []
        chosen = best or self.finished[0][0]
        names = class_names_of(self.folder.trial(chosen) / "model")
        return class_sections(models, chosen.id, names)

    def cost(self) -> Facts:
        """Hours of training and of attacks."""
        processes = self.sweep.resources.num_workers
        training = [status.training_hours(processes) for _, status in self.rows]
        attacks = [
            max((status.ended or 0) - (status.attack_started or 0), 0) * processes / 3600
            for _, status in self.rows
            if status.attack_started and status.ended and status.attempts == 1
        ]
        trained = [hours for hours in training if hours]
        pairs = [
            ("training", f"{span(sum(training))} over {count_of(len(trained), 'trial')}, all processes"),
            ("a trial's training", span(statistics.fmean(trained)) if trained else "-"),
            ("attacks and checks", f"{span(sum(attacks))} over {count_of(len(attacks), 'trial')}"),
        ]
        reused = sum(status.reused is not None for _, status in self.rows)
        return Facts(heading="Cost", pairs=[*pairs, *([("reused", counted(reused, "trial"))] if reused else [])])

    def settings(self) -> Facts:
        """The settings that all trials share."""
        configs = [flatten(to_dict(trial.config)) for trial, _ in self.rows]
        first = configs[0] if configs else {}
        shared = {
            name: value
            for name, value in first.items()
            if value is not None and all(other.get(name) == value for other in configs)
        }
        unit = ("unit of budget", self.sweep.unit.note)
        pairs = [unit, *((name, _shown(value)) for name, value in shared.items())]
        return Facts(heading="Settings that all trials share", pairs=pairs)

    def environment(self) -> Facts:
        """Versions and machines, from the records."""
        events = (event for trial, _ in self.rows for event in read_events(self.folder.trial(trial)))
        starts = [event for event in events if event["event"] == "start"]
        resources = self.sweep.resources
        processes = counted(resources.num_workers, "process", "processes")
        each = f"{counted(resources.cpus_per_worker, 'CPU core')} and {resources.gpus_per_worker:g} GPUs each"
        pairs = [
            ("bat-sweeps", self.sweep.version),
            ("torch", _all(_torch(start.get("versions")) for start in starts)),
            ("devices", _all(str(start.get("device", "?")) for start in starts)),
            ("a trial's resources", f"{processes}, {each}"),
            ("data folder", self.sweep.data_dir or "none"),
        ]
        return Facts(heading="Environment", pairs=pairs)

    def commands(self) -> Commands:
        """Commands to repeat the sweep and to go on, to be run in the folder that has this page."""
        pairs = []
        if self.finished:
            first = shlex.quote(f"trials/{self.finished[0][0].id}")
            pairs.append(("attack the first model with AutoAttack", f"{PROGRAM} evaluate {first} --suite standard"))
            pairs.append(("attack all models on one another", f"{PROGRAM} transfer ."))
        pairs.append(("bring MLflow up to date", f"{PROGRAM} mirror ."))
        pairs.append(("compare with other sweeps", f"{PROGRAM} leaderboard . OTHER"))
        return commands(self.story.subcommand, self.sweep.command, pairs)


def _all(found: Iterable[str]) -> str:
    return ", ".join(sorted(set(found))) or "-"


def _torch(versions: object) -> str:
    return str(versions.get("torch", "?")) if isinstance(versions, dict) else "?"


def _shown(value: Any) -> str:
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.6g}"
    return ", ".join(map(_shown, value)) if isinstance(value, list | tuple) else str(value)
