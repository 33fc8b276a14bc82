"""The report's section on finalists: the rule, the champion, and the results on test images."""

from sweeps.engine.cli.markdown import pipe_table
from sweeps.engine.cli.text import count_of, percent, with_interval
from sweeps.engine.search.objectives import get_objective
from sweeps.engine.search.race import CLEAR, choice_shares
from sweeps.engine.search.report_expected import origins_in_words
from sweeps.engine.search.results import MASKED
from sweeps.engine.search.snapshot import Finalist, Snapshot, Tested
from sweeps.engine.search.text import (
    champion_of,
    conditions,
    describe_rule,
    nothing_to_retrain,
    seeds_each,
    settings,
    suites,
)
from sweeps.engine.search.threats import shown_in_words

ONCE = (
    "All choices were made on validation images, which were split from train. Test images were used once, after all"
    " choices, and their results changed nothing."
)
UNTOUCHED = "All numbers above are from validation images, which were split from train. Test images were not used."


def champions(snapshot: Snapshot) -> str:
    """The champion in one sentence; empty without a champion."""
    if (champion := champion_of(snapshot)) is None:
        return ""
    said, where = f"Champion: {snapshot.champion}, of {champion.origin.id}", shown_in_words(snapshot.objective)
    tested = next((one for one in champion.tested if one.trial == snapshot.champion), None)
    if tested is None:
        means = f"clean {percent(champion.clean_acc)}, robust{where} {percent(champion.robust_acc)}"
        return f"{said}: {means}, mean over seeds on validation images; not tested yet."
    return (
        f"{said}: on test clean {percent(tested.clean_acc)}, robust{where}"
        f" {with_interval(tested.robust_acc, tested.robust_interval)} under {tested.suite}, n = {tested.n},"
        f" {tested.verdict}." + (" Its robust accuracy is not reliable." if tested.masking_status == MASKED else "")
    )


def champion_md(snapshot: Snapshot) -> list[str]:
    """The section as Markdown: the finalists, the rule and the champion."""
    final = snapshot.search.final
    if not snapshot.finalists and final and (why := nothing_to_retrain(snapshot)):
        return [
            f"{why} So there are no finalists: nothing was retrained, and no model was registered. To get them, resume"
            " this search with more trials (`--num-trials N`).",
            UNTOUCHED,
        ]
    if not snapshot.finalists:
        asked = "The finalists have not been trained yet" if final else "This search has no finalists"
        return [
            f"{asked}. To get them, resume this search with `--finalists K`: K trials of the front that"
            " together dominate a large area are retrained with several seeds and evaluated once on test images; one"
            " becomes the champion.",
            UNTOUCHED,
        ]
    where = shown_in_words(snapshot.objective)
    parts = [
        f"{count_of(len(snapshot.finalists), 'finalist')}: trials of the front, retrained with"
        f" {seeds_each(snapshot.finalists)}. On validation images, mean over seeds"
        f" [lowest-highest seed], under {suites(one for f in snapshot.finalists for one in f.members)}:",
        pipe_table(
            ("finalist", "clean", f"robust{where}", "n", "verdicts", "parameters"),
            [_on_validation(snapshot, finalist) for finalist in snapshot.finalists],
        ),
        *filter(None, [origins_in_words(snapshot)]),
        _choice(snapshot),
    ]
    rows = [_on_test(finalist, tested) for finalist in snapshot.finalists for tested in finalist.tested]
    if not rows:
        return [*parts, "The finalists have not been evaluated on test images yet."]
    head = ("finalist", "trial", "clean", f"robust{where} (95 %)", "n", "suite", "verdict")
    return [*parts, "On test images:", pipe_table(head, rows), ONCE]


def _choice(snapshot: Snapshot) -> str:
    final, champion = snapshot.search.final, champion_of(snapshot)
    by = f" The rule is `{final.rule}`: {describe_rule(final.rule)}." if final else ""
    basis = "It uses the means above and excludes finalists with a masked seed."
    if champion is None:
        why = f"no finalist satisfies {conditions(snapshot.search)}, or the choice has not been made yet"
        return f"There is no champion: {why}.{by} {basis}"
    best = max(champion.members, key=lambda one: (one.robust_acc, one.clean_acc)).id == snapshot.champion
    of = ", the most robust of its seeds on validation images" if best else ""
    return f"The champion is {snapshot.champion}: {champion.origin.id}{of}.{by} {basis}{_clearness(snapshot, champion)}"


def _clearness(snapshot: Snapshot, champion: Finalist) -> str:
    """How often the rule would choose the same finalist with other seeds."""
    final = snapshot.search.final
    if final is None or len(snapshot.finalists) < 2 or not any(len(one.members) > 1 for one in snapshot.finalists):
        return ""
    floor = get_objective(snapshot.search.objective).floor or 0.0
    share = choice_shares(snapshot.finalists, final.rule, floor)[champion.origin.id]
    unclear = "" if share >= CLEAR else f": below {CLEAR:.0%}, so the choice is not clear"
    return f" With other seeds it would choose {champion.origin.id} in {share:.0%} of draws{unclear}."


def _on_validation(snapshot: Snapshot, finalist: Finalist) -> list[str]:
    members = finalist.members
    mark = " (champion)" if finalist is champion_of(snapshot) else ""
    return [
        f"{finalist.origin.id}{mark}",
        _spread(finalist.clean_acc, [one.clean_acc for one in members]),
        _spread(finalist.robust_acc, [one.robust_acc for one in members]),
        " / ".join(str(n) for n in sorted({one.robust_n for one in members})),
        ", ".join(one.verdict for one in members),
        ", ".join(settings(snapshot, finalist.origin.point)),
    ]


def _spread(mean: float, values: list[float]) -> str:
    return f"{percent(mean)} [{100 * min(values):.1f}-{100 * max(values):.1f}]"


def _on_test(finalist: Finalist, tested: Tested) -> list[str]:
    return [
        finalist.origin.id,
        tested.trial,
        percent(tested.clean_acc),
        with_interval(tested.robust_acc, tested.robust_interval),
        str(tested.n),
        tested.suite,
        tested.verdict,
    ]
