"""Part c of the search benchmark: the results of a search with objective PGD, evaluated with AutoAttack."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from bat_core.checkpoint import load_model
from bat_core.evaluate import evaluate
from bat_core.stats import wilson
from bat_core.suites import get_suite
from support.common import say, table
from support.searches import Outcome, Setting
from sweeps.engine.cli.plotting import save_figure
from sweeps.engine.search.results import Score, front, undominated

COLORS = {"PGD-20": "tab:red", "verified": "tab:blue"}


@dataclass(frozen=True, kw_only=True)
class FrontModel:
    """A model of a front: its accuracies in the search, and under AutoAttack on the same images and on test images."""

    aim: str
    seed: int
    trial: str
    masking_status: str
    claimed_clean: float
    claimed: float
    standard: float
    n: int
    test_clean: float
    test_standard: float
    test_n: int


def compare_fronts(
    outcomes: Mapping[str, Sequence[Outcome]], setting: Setting, *, n: int, searches: int, figure: Path | None
) -> dict[str, Any]:
    """Evaluate both fronts with AutoAttack."""
    torch.set_num_threads(2)
    models = [
        _front_model(aim, one, outcome, setting, n)
        for aim, all_of_it in outcomes.items()
        for outcome in all_of_it[:searches]
        for one in claimed_front(aim, outcome.finished)
    ]
    rows = [
        [
            f"{one.aim}, seed {one.seed}, {one.trial}",
            f"{one.claimed_clean:.1%} / {one.claimed:.1%}",
            f"{one.standard:.1%}",
            f"{100 * (one.claimed - one.standard):+.1f}",
            f"{one.test_clean:.1%} / {one.test_standard:.1%}",
            "{:.1%}-{:.1%}".format(*wilson(round(one.test_standard * one.test_n), one.test_n)),
            one.masking_status,
        ]
        for one in models
    ]
    columns = (
        "objective",
        "in the search: clean / robust",
        "standard",
        "drop",
        "test: clean / standard",
        "95 %",
        "checks",
    )
    table(f"c: fronts under standard, n = {setting.val_size} validation and {n} test images", columns, rows)
    means = {}
    for aim in outcomes:
        mine = [one for one in models if one.aim == aim]
        means[aim] = {
            "claimed": fmean(one.claimed for one in mine),
            "standard": fmean(one.standard for one in mine),
            "test_standard": fmean(one.test_standard for one in mine),
            "best_test_standard": max(one.test_standard for one in mine),
            "models": len(mine),
        }
        print(
            f"objective {aim}: mean robust accuracy {means[aim]['claimed']:.1%} in the search,"
            f" {means[aim]['standard']:.1%} under standard on the same images, {means[aim]['test_standard']:.1%} on"
            f" test images (best {means[aim]['best_test_standard']:.1%}, {len(mine)} models)"
        )
    if figure is not None:
        save_figure(draw(models, setting, n, searches), figure.with_suffix(""))
    return {"models": [asdict(one) for one in models], "means": means}


def claimed_front(aim: str, finished: Sequence[Score]) -> list[Score]:
    """The front as the search saw it: a search with objective PGD uses neither verification nor masking checks."""
    if aim == "verified":
        return front(finished)
    return undominated(finished, by=lambda one: one.pgd_acc)


def _front_model(aim: str, one: Score, outcome: Outcome, setting: Setting, n: int) -> FrontModel:
    seen, tested = (_under_standard(one, outcome, setting, split, n) for split in ("val", "test"))
    return FrontModel(
        aim=aim,
        seed=outcome.seed,
        trial=one.id,
        masking_status=one.masking_status,
        claimed_clean=one.clean_acc,
        claimed=one.robust_acc if aim == "verified" else one.pgd_acc,
        standard=seen["standard"],
        n=seen["n"],
        test_clean=tested["clean"],
        test_standard=tested["standard"],
        test_n=tested["n"],
    )


def _under_standard(one: Score, outcome: Outcome, setting: Setting, split: str, n: int) -> dict[str, Any]:
    kept = outcome.folder / "standard" / f"{one.id}-{split}-{n}.json"
    if not kept.exists():
        say(f"standard on {outcome.kind.name}, seed {outcome.seed}, {one.id}, {split}")
        part = setting.images().part(split)
        part = part.take(slice(n)) if split == "test" else part
        model, config = load_model(outcome.folder / "trials" / one.id)
        suite = get_suite("standard", eps=config.attack.eps, step_size=config.attack.step_size)
        verdicts = evaluate(model, part.images, part.labels, rows=part.rows, attack=suite)
        kept.parent.mkdir(exist_ok=True)
        kept.write_text(json.dumps({"clean": verdicts.clean_acc, "standard": verdicts.robust_acc, "n": len(verdicts)}))
    return dict(json.loads(kept.read_text()))


def draw(models: Sequence[FrontModel], setting: Setting, n: int, searches: int) -> Figure:
    """Two panels: the robust accuracy that each search reports, and its drop under AutoAttack."""
    figure = Figure(figsize=(9.6, 4.6), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    for axes, (aim, color) in zip(panels, COLORS.items(), strict=True):
        _panel(axes, [one for one in models if one.aim == aim], aim, color)
    panels[0].set_ylabel("robust accuracy")
    figure.suptitle(f"{setting.dataset}: the same search with objective PGD-20 and verified worst case", fontsize=12)
    note = (
        f"Hollow: in the search; solid: AutoAttack (standard) on the same {setting.val_size} validation images;"
        f" crosses: standard on n = {n} test images.\n{searches} searches each, fronts only; {setting.model},"
        f" {setting.epochs} epochs, eps = 8 px."
    )
    figure.supxlabel(note, fontsize=8, color="0.3", x=0.01, ha="left")
    return figure


def _panel(axes: Axes, models: Sequence[FrontModel], aim: str, color: str) -> None:
    for one in models:
        start, end = (one.claimed_clean, one.claimed), (one.claimed_clean, one.standard)
        axes.annotate("", end, start, arrowprops={"arrowstyle": "-", "color": color, "alpha": 0.45})
        axes.plot(*start, "o", markerfacecolor="none", color=color)
        axes.plot(*end, "o", color=color)
        axes.plot(one.test_clean, one.test_standard, "x", color="0.55", markersize=5)
    fell = fmean(one.claimed - one.standard for one in models)
    axes.set_title(f"objective clean + {aim}: mean drop {100 * fell:.1f} points", fontsize=10)
    axes.set_xlabel("clean accuracy")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(PercentFormatter(1.0))
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
