"""The report of a search: report.md, and its one-sentence summary."""

from collections import defaultdict

from bat_core.norms import LINF, Unit
from search_spaces.base import Parameter, Space, show_value
from sweeps.engine.cli.markdown import code, document, pipe_table
from sweeps.engine.cli.text import count_of, percent, span
from sweeps.engine.paper.curve_plot import LOSS_TITLES
from sweeps.engine.search.objectives import MEASURES, get_objective
from sweeps.engine.search.report_bounded import RULE, bounded_md
from sweeps.engine.search.report_expected import expected_md, volumes_in_words
from sweeps.engine.search.report_finalists import champion_md, champions
from sweeps.engine.search.report_stopping import stopping_md
from sweeps.engine.search.report_threats import second_attack, threats_md
from sweeps.engine.search.results import Score, beats
from sweeps.engine.search.snapshot import Snapshot
from sweeps.engine.search.text import (
    attacks_of,
    counts,
    describe_objective,
    evaluated_on,
    is_amount,
    none_feasible,
    paper_point_name,
    paper_trial,
    robust,
    sampler_in_words,
    setting,
    settings,
    states,
    value_of,
    why_not_enough,
)
from sweeps.engine.search.threats import aims_in_words, all_verified, shown_in_words


def sentence(snapshot: Snapshot) -> str:
    """The result of the search in one or two sentences."""
    if not snapshot.finished:
        return f"No trial has finished: {states(snapshot)}." if snapshot.rows else "No trial has started."
    if not snapshot.front:
        return f"{_none_counts(snapshot)} No robust accuracy here is reliable."
    front, masked = snapshot.front, sum(one.masked for one in snapshot.finished)
    cleanest = max(front, key=lambda one: one.clean_acc)
    ends = [front[0]] if len(front) == 1 else [front[-1], cleanest]
    where = shown_in_words(snapshot.objective)
    reach = " to ".join(
        f"clean {percent(one.clean_acc)}, robust{where} {percent(one.robust_acc)} ({one.id})" for one in ends
    )
    infeasible = none_feasible(snapshot)
    which = "The front of trials below that accuracy" if infeasible else "The front"
    lines = [
        f"{count_of(len(snapshot.finished), 'trial')} finished" + (f", {masked} of them masked." if masked else "."),
        infeasible or "",
        f"{which} has {count_of(len(front), 'trial')}{':' if len(front) == 1 else ', from'} {reach}, on"
        " validation images.",
        volumes_in_words(snapshot),
        champions(snapshot),
    ]
    return " ".join(filter(None, lines))


def report_md(snapshot: Snapshot) -> str:
    """The report as Markdown. It links to the plots in the same folder."""
    parts = [
        f"# Search on {setting(snapshot)}",
        sentence(snapshot),
        "## Search space",
        *_searched(snapshot),
        "## Results",
        *_found(snapshot),
        "## Masked gradients",
        *_masked(snapshot),
        "## Unfinished trials",
        *_unfinished(snapshot),
        "## Cost",
        *_cost(snapshot),
        "## Finalists and champion",
        *champion_md(snapshot),
    ]
    return document(parts)


def _searched(snapshot: Snapshot) -> list[str]:
    search, unit = snapshot.search, snapshot.sweep.unit
    space, train = search.space, search.base.train
    epochs = "" if "epochs" in space.names else f", {train.epochs} epochs"
    ends = [count_of(search.num_trials, "trial")]
    ends += [] if search.max_hours is None else [f"{search.max_hours:g} hours of work"]
    ends += (
        [] if search.flat is None else [f"{search.flat} finished trials in a row that do not increase the hypervolume"]
    )
    rows = [_row(parameter, unit) for parameter in space.parameters]
    return [
        f"Space {code(space.name)}: {space.description}. Trials are drawn by {sampler_in_words(search)}"
        f" (seed {search.seed}). The search ends after {', or '.join(ends)}. {stopping_md(snapshot)}"
        + (f" {RULE}" if search.skip_dominated else f" {all_verified(search)}".rstrip()),
        pipe_table(("parameter", "description", "range", "scale", "paper", "only if"), rows),
        f"All trials share: {_fixed(space)}data {search.base.data.name}, batch size {train.batch_size}{epochs}."
        + (f" One pixel is {255 * unit.size:g}/255." if unit.norm == LINF else " Budgets are L2 distances."),
        f"Objective: {describe_objective(get_objective(search.objective))}.",
        f"{evaluated_on(snapshot)} {_attack(snapshot)} Intervals are 95 % Wilson intervals.",
    ]


def _row(parameter: Parameter, unit: Unit) -> list[str]:
    only = parameter.fixed_value()
    if only is not None:
        bounds = f"{value_of(parameter, only, unit)}, fixed"
    elif is_amount(parameter):
        bounds = " to ".join(value_of(parameter, bound, unit) for bound in (parameter.low, parameter.high))
    else:
        bounds = parameter.bounds()
    scale = "log" if parameter.log and only is None else ""
    default = value_of(parameter, parameter.default, unit)
    return [code(parameter.name), parameter.description, bounds, scale, default, parameter.condition()]


def _fixed(space: Space) -> str:
    return "".join(f"{name} {show_value(value)}, " for name, value in space.fixed.items())


def _attack(snapshot: Snapshot) -> str:
    """The attack settings that all trials share."""
    attack = snapshot.search.base.attack
    steps = f"{max(attack.steps)} steps of {snapshot.sweep.unit.amount(attack.step_size, 3)}"
    verified = attacks_of(snapshot).verified_by
    then = (
        f"; {verified} with AutoAttack's settings then attacks the images that remain correct"
        if verified
        else ", not verified"
    )
    losses = " and ".join(LOSS_TITLES.get(loss, loss) for loss in attack.losses)
    return f"PGD runs {steps} on {losses} from one random start{then}.{second_attack(snapshot)}"


def _found(snapshot: Snapshot) -> list[str]:
    if not snapshot.finished:
        return [f"No results yet. {states(snapshot)}."]
    if not snapshot.front:
        parts = [_none_counts(snapshot)]
    else:
        parts = [
            *filter(None, [none_feasible(snapshot)]),
            f"The front contains the trials that no other trial beats in {aims_in_words(snapshot.objective)}. They are"
            " the best of"
            f" {count_of(len(snapshot.finished), 'trial')} on the same images, so their numbers are"
            " slightly optimistic.",
            _front(snapshot),
            *threats_md(snapshot),
            *expected_md(snapshot),
        ]
    parts += ["![clean and verified robust accuracy](pareto.png)", _paper_result(snapshot)]
    why_not = why_not_enough(snapshot)
    if why_not is not None:
        return [*parts, f"Importances and parallel coordinates are omitted: {why_not}."]
    return [*parts, "![importances](importances.png)", "![parallel coordinates](parallel.png)"]


def _front(snapshot: Snapshot) -> str:
    rows = [
        [one.id, percent(one.clean_acc), robust(one), str(one.robust_n), one.suite, one.verdict, span(one.hours),
         ", ".join(settings(snapshot, one.point))]
        for one in snapshot.front[::-1]
    ]  # fmt: skip
    heading = f"robust{shown_in_words(snapshot.objective)} (95 %)"
    return pipe_table(("trial", "clean", heading, "n", "suite", "verdict", "training", "parameters"), rows)


def _paper_result(snapshot: Snapshot) -> str:
    trial, name = paper_trial(snapshot), paper_point_name(snapshot)
    one = next((score for score in snapshot.finished if trial is not None and score.id == trial.id), None)
    if trial is None:
        return f"The search did not try {name}."
    if one is None:
        return f"{_capital(name)} is {trial.id}; it did not finish."
    said = f"{_capital(name)}, {one.id}: clean {percent(one.clean_acc)}, robust {robust(one)}, {one.verdict}."
    if one.masked:
        return f"{said} Its robust accuracy is not reliable."
    if one.constant:
        return f"{said} It predicts the same class for every image."
    if one in snapshot.front:
        return f"{said} It is on the front."

    def aimed_at(score: Score) -> list[float]:
        return [aim(score) for aim in snapshot.objective.aims]

    beating = (other for other in snapshot.front if beats(aimed_at(other), aimed_at(one)))
    better = max(beating, key=lambda other: other.robust_acc)
    overlap = better.interval[0] <= one.interval[1]
    chance = "; the two intervals overlap" if overlap else ""
    return f"{said} {better.id} beats it: clean {percent(better.clean_acc)}, robust {robust(better)}{chance}."


def _masked(snapshot: Snapshot) -> list[str]:
    """How many trials were masked, and their PGD accuracy compared with their verified accuracy."""
    masked = [one for one in snapshot.finished if one.masked]
    steers = (
        ""
        if MEASURES["pgd"] in get_objective(snapshot.search.objective).measures
        else ", and the sampler treats them as infeasible"
    )
    parts = [
        "Masked gradients make attacks fail on models that are not robust, so the accuracy of a masked model under"
        f" attack is not reliable. Masked trials are kept and shown, but never on the front{steers}.",
        f"{_capital(count_of(len(masked), 'trial'))} of {len(snapshot.finished)} finished"
        f" {'is' if len(masked) <= 1 else 'are'} masked.",
    ]
    if masked:
        rows = [
            [one.id, percent(one.clean_acc), percent(one.pgd_acc), robust(one), one.suite, ", ".join(one.flags)]
            for one in sorted(masked, key=lambda one: -one.pgd_acc)
        ]
        parts.append(pipe_table(("masked", "clean", "under PGD", "under the suite (95 %)", "suite", "flags"), rows))
    if constant := _constant(snapshot):
        parts.append(
            f"{_capital(count_of(len(constant), 'trial'))} ({', '.join(one.id for one in constant)})"
            f" {'predicts' if len(constant) == 1 else 'predict'} the same class for every image. The"
            " robust accuracy of such a model is the share of that class; the model has learnt nothing, so it is not"
            " on the front."
        )
    return [*parts, *_gap(snapshot)]


def _gap(snapshot: Snapshot) -> list[str]:
    """What PGD alone would report, without the verifying suite and the masking checks."""
    if not snapshot.finished:
        return []
    by_pgd = max(snapshot.finished, key=lambda one: one.pgd_acc)
    doubt = ", which is not reliable either" if by_pgd.masked else ""
    said = [
        f"By PGD alone {by_pgd.id} would be the most robust trial, with {percent(by_pgd.pgd_acc)}. It is"
        f" {by_pgd.verdict}, and under the full suite it has {robust(by_pgd.shown_under(None))}{doubt}."
    ]
    if unmasked := [one for one in snapshot.finished if not one.masked]:
        widest = max(unmasked, key=lambda one: one.pgd_acc - one.under().acc)
        said.append(
            f"Among unmasked trials, PGD overestimates {widest.id} the most: {percent(widest.pgd_acc)} under PGD,"
            f" {percent(widest.under().acc)} verified."
        )
    if any(one.n != one.robust_n for one in snapshot.finished):
        few, many = counts(one.robust_n for one in snapshot.finished), counts(one.n for one in snapshot.finished)
        said.append(f"PGD ran on {many} images, the suite on the first {few} of them.")
    return [" ".join(said)]


def _unfinished(snapshot: Snapshot) -> list[str]:
    parts = bounded_md(snapshot)
    for phase, word in (("stopped", "stopped early"), ("failed", "failed")):
        if count := snapshot.count(phase) - (len(snapshot.bounded) if phase == "stopped" else 0):
            lines = [f"- {reason}: {', '.join(ids)}" for reason, ids in _reasons(snapshot, phase).items()]
            parts.append("\n".join([f"{_capital(count_of(count, 'trial'))} {word}:\n", *lines]))
    if rest := [trial.id for trial, status in snapshot.rows if not status.done]:
        parts.append(f"Not ended yet: {', '.join(rest)}. `--resume` continues them.")
    if collapsed := [trial.id for trial, status in snapshot.rows if status.collapsed is not None]:
        parts.append(f"Training collapsed (catastrophic overfitting) in {', '.join(collapsed)}.")
    return parts or ["Every trial finished."]


def _reasons(snapshot: Snapshot, phase: str) -> dict[str, list[str]]:
    """Trial ids by the reason they ended. Numbers that differ between trials are dropped from the reason."""
    found: dict[str, list[str]] = defaultdict(list)
    for trial, status in snapshot.rows:
        if status.phase == phase and status.bound is None:
            said = (status.reason.strip().splitlines() or ["no reason was recorded"])[0]
            found[code(said) if phase == "failed" else said.partition(": ")[0]].append(trial.id)
    return found


def _cost(snapshot: Snapshot) -> list[str]:
    search = _training(snapshot)
    finalists = sum(member.hours for finalist in snapshot.finalists for member in finalist.members)
    of = f" ({span(search)} for the search, {span(finalists)} for the finalists)" if finalists else ""
    return [
        f"{states(snapshot)}. The search ran for {span(snapshot.hours)} of wall time; training took"
        f" {span(search + finalists)} summed over all processes{of}.",
        "![best result so far by hours of work](progress.png)",
    ]


def _training(snapshot: Snapshot) -> float:
    """Hours of training of all trials, finished or not, summed over processes."""
    seconds = sum(epoch["seconds"] for _, status in snapshot.rows for epoch in status.epochs)
    return float(seconds) * snapshot.sweep.resources.num_workers / 3600


def _none_counts(snapshot: Snapshot) -> str:
    constant = _constant(snapshot)
    if not constant:
        if len(snapshot.finished) == 1:
            return "The one finished trial is masked."
        return f"All {len(snapshot.finished)} finished trials are masked."
    masked = len(snapshot.finished) - len(constant)
    return (
        f"{len(snapshot.finished)} finished: {masked} masked, {len(constant)} that predict one class for every image."
    )


def _constant(snapshot: Snapshot) -> list[Score]:
    """The trials that predict one class for every image and are not masked."""
    return [one for one in snapshot.finished if one.constant and not one.masked]


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
