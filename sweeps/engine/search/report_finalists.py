"""What was chosen in the end, by what rule, and how it did on test images."""

from sweeps.engine.cli.text import count_of, percent, pipe_table, with_interval
from sweeps.engine.search.results import MASKED
from sweeps.engine.search.snapshot import Finalist, Snapshot, Tested
from sweeps.engine.search.text import champion_of, rule, settings, suites

ONCE = (
    "Everything was chosen on validation images, split from train. Test images were touched once, after all was chosen,"
    " and nothing was chosen by what came out."
)


def champions(snapshot: Snapshot) -> str:
    """The champion in a sentence; nothing if there is none."""
    if (champion := champion_of(snapshot)) is None:
        return ""
    said = f"Champion: {snapshot.champion}, of {champion.origin.id}"
    tested = next((one for one in champion.tested if one.trial == snapshot.champion), None)
    if tested is None:
        means = f"clean {percent(champion.clean_acc)}, robust {percent(champion.robust_acc)}"
        return f"{said}: {means}, mean over seeds on validation images; not tested yet."
    return (
        f"{said}: on test clean {percent(tested.clean_acc)}, robust"
        f" {with_interval(tested.robust_acc, tested.robust_interval)} under {tested.suite}, n = {tested.n},"
        f" {tested.masking_status}."
        + (" Its robustness is not to be believed." if tested.masking_status == MASKED else "")
    )


def champion_md(snapshot: Snapshot) -> list[str]:
    """The finalists, the rule, the champion."""
    final = snapshot.search.final
    if not snapshot.finalists:
        asked = "The finalists have not been trained yet" if final else "No finalists were asked for"
        return [
            f"{asked}. `--resume` this search with `--finalists K`: the K trials of the front that together dominate"
            " most are trained anew with several seeds, evaluated on test images once, and one becomes the champion.",
            "All numbers above are from validation images, split from train; test images were not touched.",
        ]
    parts = [
        f"{count_of(len(snapshot.finalists), 'finalist')}: trials of the front, trained anew with"
        f" {count_of(len(snapshot.finalists[0].members), 'seed')} each. On validation images, means over seeds, from"
        f" the lowest to the highest seed, under {suites(one for f in snapshot.finalists for one in f.members)}:",
        pipe_table(
            ("finalist", "clean", "robust", "n", "verdicts", "parameters"),
            [_on_validation(snapshot, finalist) for finalist in snapshot.finalists],
        ),
        _choice(snapshot),
    ]
    rows = [_on_test(finalist, tested) for finalist in snapshot.finalists for tested in finalist.tested]
    if not rows:
        return [*parts, "The finalists have not been evaluated on test images yet."]
    head = ("finalist", "trial", "clean", "robust (95 %)", "n", "suite", "verdict")
    return [*parts, "On test images:", pipe_table(head, rows), ONCE]


def _choice(snapshot: Snapshot) -> str:
    final, champion = snapshot.search.final, champion_of(snapshot)
    by = f" The rule is `{final.rule}`: {rule(final.rule)}." if final else ""
    held = "It looks at the means above, and at no finalist with a masked seed."
    if champion is None:
        return f"There is no champion: no finalist satisfies the rule, or the choice is still to come.{by} {held}"
    best = max(champion.members, key=lambda one: (one.robust_acc, one.clean_acc)).id == snapshot.champion
    of = ", of its seeds the most robust on validation images" if best else ""
    return f"The champion is {snapshot.champion}: {champion.origin.id}{of}.{by} {held}"


def _on_validation(snapshot: Snapshot, finalist: Finalist) -> list[str]:
    members = finalist.members
    mark = " (champion)" if finalist is champion_of(snapshot) else ""
    return [
        f"{finalist.origin.id}{mark}",
        _spread(finalist.clean_acc, [one.clean_acc for one in members]),
        _spread(finalist.robust_acc, [one.robust_acc for one in members]),
        " / ".join(str(n) for n in sorted({one.robust_n for one in members})),
        ", ".join(one.masking_status for one in members),
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
        tested.masking_status,
    ]
