"""What a search taught about its parameters: importances and parallel coordinates, by Optuna's means.

Both see only trials that can be learned from: the search's own, finished, not masked, as clean as asked.
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

from search_spaces.base import show_value
from sweeps.engine.search.objectives import Direction, get_objective
from sweeps.engine.search.plots.style import BLUE, caption
from sweeps.engine.search.snapshot import Snapshot
from sweeps.engine.search.study import TRIAL
from sweeps.engine.search.text import believed, is_amount, judged

TOP = 0.1  # share of trials that importances ask what sets them apart ...
WIDTH = 92  # pixels of an axis in the interactive ones
MOST = 8  # parameters that the printed parallel coordinates show
TOP_TRIALS = 5  # ... but not fewer of them than this
ABSENT, OPTUNAS_ABSENT = "unused", "None"  # where a trial does not have a parameter


def importances(snapshot: Snapshot, study: optuna.Study) -> dict[str, dict[str, float]]:
    """For each measure of the objective, each parameter's share in what sets the best trials apart.

    PED-ANOVA, which knows conditional parameters. Shares of a measure add up to 1, the largest first.
    Source: Watanabe et al. 2023, arXiv:2304.10255.
    """
    losses = _losses(snapshot, study)
    return {measure: _shares(losses, at) for at, measure in enumerate(_measures(snapshot))}


def draw_importances(snapshot: Snapshot, study: optuna.Study) -> Figure:
    """A panel a measure. Optuna's own picture gives the bars of all measures the order of the last one's names."""
    found = importances(snapshot, study)
    height = 1.9 + 0.27 * max(map(len, found.values()))
    figure = Figure(figsize=(9.6, height), layout="constrained")
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
    caption(figure, snapshot, "which parameters matter", importances_note(snapshot), judged(snapshot))
    return figure


def importances_page(snapshot: Snapshot, study: optuna.Study) -> Any:
    """The same as Optuna's interactive picture."""
    losses = _losses(snapshot, study)
    with _quiet():
        return optuna.visualization.plot_param_importances(losses, evaluator=_evaluator(losses), params=_names(losses))


def draw_parallel(snapshot: Snapshot, study: optuna.Study) -> Figure:
    """Optuna's picture: a line a trial, through its measures and the parameters that matter most."""
    believable, names = _study(snapshot, study), sorted(_foremost(snapshot, study))
    with _quiet(), mpl.rc_context({"figure.constrained_layout.use": True}):
        plt.switch_backend("agg")
        axes = optuna.visualization.matplotlib.plot_parallel_coordinate(
            believable, names, target_name=_measures(snapshot)[0]
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
    all_of = len(_names(believable))
    shown = f" Shown: the {len(names)} of {all_of} parameters that matter most." if len(names) < all_of else ""
    caption(
        figure, snapshot, "trials, their measures and parameters", parallel_note(snapshot) + shown, judged(snapshot)
    )
    return figure


def parallel_page(snapshot: Snapshot, study: optuna.Study) -> Any:
    """The same as Optuna's interactive picture, with all parameters."""
    believable = _study(snapshot, study)
    with _quiet():
        figure = optuna.visualization.plot_parallel_coordinate(believable, target_name=_measures(snapshot)[0])
    for annotation in figure.layout.annotations:
        if annotation.text == OPTUNAS_ABSENT:
            annotation.text = ABSENT
    figure.update_layout(width=max(1200, WIDTH * (len(_measures(snapshot)) + len(_names(believable)))))
    return figure


def importances_note(snapshot: Snapshot) -> str:
    """How to read them."""
    count = len(believed(snapshot))
    return (
        f"How far each parameter sets the best {_top(count)} of {count} trials apart from all (PED-ANOVA, by Optuna);"
        " the bars of a measure add up to 1. A hint at where to look, no finding."
    )


def parallel_note(snapshot: Snapshot) -> str:
    """How to read them."""
    several = len(_measures(snapshot)) > 1
    order = "darker is a lower Pareto rank, 0 the front of what was aimed at" if several else "coloured by the measure"
    absent = f' "{ABSENT}": the trial has no such parameter.' if _conditional(snapshot) else ""
    return f"A line is one of {len(believed(snapshot))} trials that finished unmasked; {order}.{absent}"


def _study(snapshot: Snapshot, study: optuna.Study, *, losses: bool = False) -> optuna.Study:
    """A study in memory of the trials that can be learned from, amounts in pixels.

    With `losses`, what should be high is negated. Optuna takes a measure that it is asked about by `target`
    for one that should be low, whatever the study's direction; unnegated, it would say what makes trials bad.
    """
    objective, pixel = get_objective(snapshot.search.objective), snapshot.sweep.pixel
    amounts = {p.name for p in snapshot.search.space.parameters if is_amount(p)}
    signs = [-1.0 if losses and measure.direction == "maximize" else 1.0 for measure in objective.measures]
    directions: list[Direction] = ["minimize"] * len(signs) if losses else objective.directions
    made = optuna.create_study(directions=directions)
    with _quiet():
        made.set_metric_names(_measures(snapshot))
    scored = {one.id: one for one in believed(snapshot)}
    for frozen in study.get_trials(deepcopy=False):
        if (one := scored.get(frozen.user_attrs.get(TRIAL, ""))) is not None:
            values = [sign * value for sign, value in zip(signs, objective.values(one), strict=True)]
            made.add_trial(_copied(frozen, values, amounts, pixel))
    return made


def _copied(frozen: FrozenTrial, values: Sequence[float], amounts: set[str], pixel: float) -> FrozenTrial:
    params: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}
    for name, value in frozen.params.items():
        known = frozen.distributions[name]
        if name in amounts and isinstance(known, FloatDistribution):
            label = f"{name}, px"
            params[label] = value / pixel
            distributions[label] = FloatDistribution(known.low / pixel, known.high / pixel, log=known.log)
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

    with _quiet():
        shares = get_param_importances(losses, evaluator=_evaluator(losses), params=_names(losses), target=loss)
    return dict(sorted(shares.items(), key=lambda item: (-item[1], item[0])))


def _names(study: optuna.Study) -> list[str]:
    """All parameters, in an order that does not change from run to run."""
    return sorted({name for frozen in study.get_trials(deepcopy=False) for name in frozen.params})


def _evaluator(study: optuna.Study) -> PedAnovaImportanceEvaluator:
    count = len(study.get_trials(deepcopy=False))
    return PedAnovaImportanceEvaluator(target_quantile=_top(count) / count)


def _top(count: int) -> int:
    """How many trials are the best."""
    return min(max(round(TOP * count), TOP_TRIALS), count // 2)


def _measures(snapshot: Snapshot) -> list[str]:
    return [measure.description for measure in get_objective(snapshot.search.objective).measures]


def _conditional(snapshot: Snapshot) -> bool:
    names = {name for one in believed(snapshot) for name in one.point}
    return any(name not in one.point for one in believed(snapshot) for name in names)


def _foremost(snapshot: Snapshot, study: optuna.Study) -> list[str]:
    """The parameters that matter most to any measure."""
    most: dict[str, float] = {}
    for shares in importances(snapshot, study).values():
        most |= {name: max(share, most.get(name, 0.0)) for name, share in shares.items()}
    return sorted(most, key=lambda name: (-most[name], name))[:MOST]


def _write_ticks(axes: Axes) -> None:
    """Few numbers on a logarithmic axis, each on white so that lines do not strike it out."""
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
def _quiet() -> Iterator[None]:
    """Without Optuna's remarks that a function is new, that trials are few, or which way it counts."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
