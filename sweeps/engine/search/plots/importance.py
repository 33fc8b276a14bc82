"""Parameter importances and parallel coordinates of a search, computed and drawn by Optuna.

Both use only the search's own trusted trials: finished, not masked, and feasible for the objective.
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
import optuna
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, create_trial

from bat_core.norms import LINF, TITLES, Unit
from search_spaces.base import show_value
from sweeps.engine.cli.plotting import new_figure
from sweeps.engine.search.objectives import Direction, get_objective
from sweeps.engine.search.observations import TRIAL, last_ends
from sweeps.engine.search.plots.style import BLUE, caption
from sweeps.engine.search.snapshot import Snapshot
from sweeps.engine.search.text import evaluated_on, is_amount, trusted

TOP = 0.1  # share of trials that count as the best for importances ...
WIDTH = 92  # pixels per axis of the interactive plot
MOST = 8  # parameters in the static parallel coordinates plot
TOP_TRIALS = 5  # ... but at least this many
ABSENT, OPTUNAS_ABSENT = "unused", "None"  # shown if a trial does not have the parameter


def importances(snapshot: Snapshot, study: optuna.Study) -> dict[str, dict[str, float]]:
    """For each measure of the objective, the importance of each parameter for the best trials.

    Uses PED-ANOVA, which supports conditional parameters. The importances of a measure add up to 1, largest first.
    Source: Watanabe et al. 2023, arXiv:2304.10255.
    """
    losses = _losses(snapshot, study)
    return {measure: _shares(losses, at) for at, measure in enumerate(_measures(snapshot))}


def draw_importances(snapshot: Snapshot, study: optuna.Study) -> Figure:
    """Draw one panel per measure. Optuna's own plot would sort all measures like the last one."""
    found = importances(snapshot, study)
    height = 1.9 + 0.27 * max(map(len, found.values()))
    figure = new_figure(9.6, height)
    panels = figure.subplots(1, len(found), sharex=True, squeeze=False)[0]
    for axes, (measure, shares) in zip(panels, found.items(), strict=True):
        bars = axes.barh(list(shares), list(shares.values()), color=BLUE, height=0.7)
        axes.bar_label(bars, fmt="{:.2f}", padding=3, fontsize=8)
        axes.invert_yaxis()
        axes.set_title(measure, fontsize=10)
        axes.set_xlabel("importance")
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params("y", length=0)
        axes.margins(x=0.12)
    caption(figure, snapshot, "parameter importance", importances_note(snapshot), evaluated_on(snapshot))
    return figure


def importances_page(snapshot: Snapshot, study: optuna.Study) -> Any:
    """The same as an interactive Optuna plot."""
    losses = _losses(snapshot, study)
    with _ignore_warnings():
        return optuna.visualization.plot_param_importances(losses, evaluator=_evaluator(losses), params=_names(losses))


def draw_parallel(snapshot: Snapshot, study: optuna.Study) -> Figure:
    """Draw Optuna's parallel coordinates: one line per trial, through its measures and most important parameters."""
    trusted_study, names = _study(snapshot, study), sorted(_most_important(snapshot, study))
    with _ignore_warnings(), mpl.rc_context({"figure.constrained_layout.use": True}):
        plt.switch_backend("agg")
        axes = optuna.visualization.matplotlib.plot_parallel_coordinate(
            trusted_study, names, target_name=_measures(snapshot)[0]
        )
        figure = axes.figure
        assert isinstance(figure, Figure)
        plt.close(figure)
    for panel in figure.axes:
        _write_ticks(panel)
    axes.set_title("")
    for name in axes.get_xticklabels():
        name.set(rotation=25, ha="right", rotation_mode="anchor", fontsize=9)
    figure.set_size_inches(max(9.6, 1.25 * len(axes.get_xticks())), 5.8)
    all_of = len(_names(trusted_study))
    shown = f" Shown: the {len(names)} most important of {all_of} parameters." if len(names) < all_of else ""
    caption(
        figure,
        snapshot,
        "trials, their measures and parameters",
        parallel_note(snapshot) + shown,
        evaluated_on(snapshot),
    )
    return figure


def parallel_page(snapshot: Snapshot, study: optuna.Study) -> Any:
    """The same as an interactive Optuna plot, with all parameters."""
    trusted_study = _study(snapshot, study)
    with _ignore_warnings():
        figure = optuna.visualization.plot_parallel_coordinate(trusted_study, target_name=_measures(snapshot)[0])
    for annotation in figure.layout.annotations:
        if annotation.text == OPTUNAS_ABSENT:
            annotation.text = ABSENT
    figure.update_layout(width=max(1200, WIDTH * (len(_measures(snapshot)) + len(_names(trusted_study)))))
    return figure


def importances_note(snapshot: Snapshot) -> str:
    """How to read the plot."""
    count = len(trusted(snapshot))
    return (
        f"How strongly each parameter distinguishes the best {_top(count)} of {count} trials from all trials"
        " (PED-ANOVA, by Optuna). The bars of a measure add up to 1. Treat this as a hint, not as evidence."
    )


def parallel_note(snapshot: Snapshot) -> str:
    """How to read the plot."""
    several = len(_measures(snapshot)) > 1
    order = (
        "darker lines have a lower Pareto rank, and rank 0 is the front of the objective"
        if several
        else "colour shows the measure"
    )
    absent = f' "{ABSENT}": the trial does not have this parameter.' if _conditional(snapshot) else ""
    return f"Each line is one of {len(trusted(snapshot))} trials that finished unmasked; {order}.{absent}"


def _study(snapshot: Snapshot, study: optuna.Study, *, losses: bool = False) -> optuna.Study:
    """An in-memory study of the trusted trials, with amounts in pixels (in L2 as they are).

    With `losses`, measures to maximise are negated. Optuna assumes that a measure passed as `target` is to be
    minimised, whatever the study's direction; without the negation, it would explain bad trials.
    """
    objective, unit = get_objective(snapshot.search.objective), snapshot.sweep.unit
    amounts = {p.name for p in snapshot.search.space.parameters if is_amount(p)}
    signs = [-1.0 if losses and measure.direction == "maximize" else 1.0 for measure in objective.measures]
    directions: list[Direction] = ["minimize"] * len(signs) if losses else objective.directions
    made = optuna.create_study(directions=directions)
    with _ignore_warnings():
        made.set_metric_names(_measures(snapshot))
    scored = {one.id: one for one in trusted(snapshot)}
    for frozen in last_ends(study.get_trials(deepcopy=False)):
        if (one := scored.get(frozen.user_attrs.get(TRIAL, ""))) is not None:
            values = [sign * value for sign, value in zip(signs, objective.values(one), strict=True)]
            made.add_trial(_copied(frozen, values, amounts, unit))
    return made


def _copied(frozen: FrozenTrial, values: Sequence[float], amounts: set[str], unit: Unit) -> FrozenTrial:
    params: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}
    for name, value in frozen.params.items():
        known = frozen.distributions[name]
        if name in amounts and isinstance(known, FloatDistribution):
            px = unit.norm == LINF
            label, size = (f"{name}, px", unit.size) if px else (f"{name}, {TITLES[unit.norm]}", 1.0)
            params[label] = value / size
            distributions[label] = FloatDistribution(known.low / size, known.high / size, log=known.log)
        elif isinstance(value, bool):
            params[name], distributions[name] = show_value(value), CategoricalDistribution(("yes", "no"))
        else:
            params[name], distributions[name] = value, known
    return create_trial(values=values, params=params, distributions=distributions)


def _losses(snapshot: Snapshot, study: optuna.Study) -> optuna.Study:
    return _study(snapshot, study, losses=True)


def _shares(losses: optuna.Study, at: int) -> dict[str, float]:
    def loss(frozen: FrozenTrial) -> float:
        return float(frozen.values[at])

    with _ignore_warnings():
        shares = get_param_importances(losses, evaluator=_evaluator(losses), params=_names(losses), target=loss)
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))


def _names(study: optuna.Study) -> list[str]:
    """All parameters, in a deterministic order."""
    return sorted({name for frozen in study.get_trials(deepcopy=False) for name in frozen.params})


def _evaluator(study: optuna.Study) -> PedAnovaImportanceEvaluator:
    count = len(study.get_trials(deepcopy=False))
    return PedAnovaImportanceEvaluator(target_quantile=_top(count) / count)


def _top(count: int) -> int:
    """The number of trials that count as the best."""
    return min(max(round(TOP * count), TOP_TRIALS), count // 2)


def _measures(snapshot: Snapshot) -> list[str]:
    return [measure.description for measure in get_objective(snapshot.search.objective).measures]


def _conditional(snapshot: Snapshot) -> bool:
    names = {name for one in trusted(snapshot) for name in one.point}
    return any(name not in one.point for one in trusted(snapshot) for name in names)


def _most_important(snapshot: Snapshot, study: optuna.Study) -> list[str]:
    """The parameters with the highest importance for any measure."""
    most: dict[str, float] = {}
    for shares in importances(snapshot, study).values():
        most |= {name: max(share, most.get(name, 0.0)) for name, share in shares.items()}
    return sorted(most, key=lambda name: (-most[name], name))[:MOST]


def _write_ticks(axes: Axes) -> None:
    """Put few ticks on a logarithmic axis, each on a white background to stay readable."""
    if axes.get_yscale() == "log":
        low, high = axes.get_ylim()
        ticks = [low, (low * high) ** 0.5, high]
        axes.set_yticks(ticks, [f"{tick:.2g}" for tick in ticks])
        axes.yaxis.set_minor_locator(NullLocator())
    labels = [label.get_text() for label in axes.get_yticklabels()]
    if OPTUNAS_ABSENT in labels:
        axes.set_yticks(axes.get_yticks(), [ABSENT if text == OPTUNAS_ABSENT else text for text in labels])
    for label in axes.get_yticklabels():
        label.set(fontsize=8, bbox={"facecolor": "white", "alpha": 0.75, "linewidth": 0, "pad": 0.8})


@contextmanager
def _ignore_warnings() -> Iterator[None]:
    """Suppress Optuna's warnings about experimental functions, few trials and directions."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
