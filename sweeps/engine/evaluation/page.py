"""The page of an evaluation: every model's worst case, every attack, classes, and what to do next."""

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bat_core.masking.flags import NOTHING_TO_MASK, status_in_words
from bat_core.norms import LINF, TITLES
from bat_core.suites import is_verified
from bat_core.verdicts import Verdicts
from sweeps.engine.cli.app import PROGRAM
from sweeps.engine.cli.text import counted, percent, percent_range
from sweeps.engine.evaluation import sampled_report
from sweeps.engine.evaluation.attack import Evaluation
from sweeps.engine.evaluation.audit import audit_in_words
from sweeps.engine.evaluation.exactness import best_in_words, exactness
from sweeps.engine.evaluation.report import DETAIL, details, flags_from_few, settings
from sweeps.engine.pages.charts import Accuracies, Chart, accuracies_chart
from sweeps.engine.pages.classes import Judged, class_sections
from sweeps.engine.pages.document import (
    ROBUST_COLUMNS,
    UNVERIFIED_COLUMNS,
    Cell,
    Commands,
    Facts,
    Page,
    Section,
    Table,
    commands,
    robust_cells,
    verdict_cell,
)

Summary = Mapping[str, Any]
VERDICTS = ("clear", "suspect", "masked", NOTHING_TO_MASK, "not checked")


def evaluation_page(
    evaluation: Evaluation,
    summaries: Sequence[Summary],
    verdicts: Sequence[Verdicts],
    class_names: Sequence[str],
    gallery: Sequence[Section] = (),
) -> Page:
    """The page, from each model's summary and verdicts in the evaluation's order."""
    order = sorted(range(len(summaries)), key=lambda one: _rank(summaries[one]))
    ranked = [summaries[one] for one in order]
    judged = [
        Judged(name=str(summaries[one]["model"]), verdicts=verdicts[one], verified=_verified(summaries[one]))
        for one in order
    ]
    return Page(
        title=f"{_title(evaluation)}: {counted(len(summaries), 'model')}",
        question=f"How robust are these models, and can the number be trusted? {settings(evaluation)}.",
        answer=_answer(evaluation, ranked),
        sections=[
            _chart(ranked),
            _drawn(evaluation, ranked) if evaluation.sampled else _leaderboard(evaluation, ranked),
            *gallery,
            *(_by_attack(evaluation, ranked, judged, class_names) if evaluation.entries() else ()),
            _flags(evaluation, ranked),
            _settings(evaluation),
            _commands(evaluation),
        ],
        version=f"bat-sweeps {evaluation.version}: made from evaluation {evaluation.id}, created {evaluation.created}.",
    )


def _rank(summary: Summary) -> tuple[bool, float]:
    """Sorts verified models first, each kind by falling robust accuracy."""
    return not _verified(summary), -float(summary["robust_acc"])


def _verified(summary: Summary) -> bool:
    return is_verified(str(summary["suite"]))


def _title(evaluation: Evaluation) -> str:
    if evaluation.sampled:
        return f"Sampled evaluation under {sampled_report.worst_case(evaluation)}"
    return f"Evaluation under {evaluation.attacks().label}"


def _answer(evaluation: Evaluation, ranked: Sequence[Summary]) -> str:
    if evaluation.sampled:
        return " ".join(sampled_report.sentence(evaluation, one) for one in ranked)
    if evaluation.candidates:
        return best_in_words(evaluation, sorted(ranked, key=_order(evaluation)))
    best = ranked[0]
    robust = f"{percent(best['robust_acc'])} ({percent_range(*best['robust_acc_interval'])})"
    word = "is correct on" if _verified(best) else "is correct (not verified) on"
    clean = f"{percent(best['clean_acc'])} clean"
    first = f"{best['model']} {word} {robust} of {best['n']} images under every attack, {clean}."
    words = [status_in_words(one["verdict"], one["robust_acc"]) for one in ranked]
    counts = {word: words.count(word) for word in VERDICTS}
    said = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    return f"{first} Of {counted(len(ranked), 'model')}, the checks for gradient masking call {said}."


def _chart(ranked: Sequence[Summary]) -> Chart:
    models = [
        Accuracies(
            name=str(one["model"]),
            clean=one["clean_acc"],
            robust=one["robust_acc"],
            interval=one["robust_acc_interval"],
            suite=str(one["suite"]),
            verdict=str(one["verdict"]),
        )
        for one in ranked
    ]
    return accuracies_chart("accuracy", models)


def _order(evaluation: Evaluation) -> Callable[[Summary], int]:
    """Sorts summaries by the evaluation's order of models."""
    names = [model.source.name for model in evaluation.models]
    return lambda one: names.index(str(one["model"]))


def _drawn(evaluation: Evaluation, ranked: Sequence[Summary]) -> Table:
    """The intervals, and how many images were drawn for each."""
    return Table(
        heading="Intervals",
        columns=sampled_report.columns(evaluation),
        rows=sampled_report.rows(evaluation, ranked),
        note=sampled_report.note(evaluation),
    )


def _by_attack(
    evaluation: Evaluation, ranked: Sequence[Summary], judged: Sequence[Judged], class_names: Sequence[str]
) -> list[Section]:
    """Classes and attacks, as far as all images met them."""
    first = judged[0].name if judged else None
    return [*class_sections(judged, first, class_names), _attacks(evaluation, ranked)]


def _leaderboard(evaluation: Evaluation, ranked: Sequence[Summary]) -> Table:
    rows: list[list[Cell | str]] = []
    for one in ranked:
        robust = robust_cells(one["robust_acc"], one["robust_acc_interval"], verified=_verified(one))
        clean = Cell(percent(one["clean_acc"]), one["clean_acc"])
        verdict = verdict_cell(str(one["verdict"]), one["robust_acc"])
        rows.append(
            [Cell(str(one["model"]), look="name"), clean, *robust, verdict, Cell(str(one["suite"]), look="name")]
        )
    columns = ("model", "clean", *ROBUST_COLUMNS, "checks", "suite")
    unverified = "" if all(map(_verified, ranked)) else " Not verified: stronger attacks can only lower it."
    note = (
        "The share of images that are correct against every attack, with 95 % Wilson intervals."
        f"{unverified} {exactness(evaluation.attacks())}"
    )
    table = Table(heading="Leaderboard", columns=columns, rows=rows, note=note)
    return table.without_empty(UNVERIFIED_COLUMNS)


def _attacks(evaluation: Evaluation, ranked: Sequence[Summary]) -> Table:
    return Table(
        heading="Every attack",
        columns=DETAIL,
        rows=details(evaluation, ranked),
        note="On: all images, or those remaining after the attacks above; no single attack verifies a model.",
    )


def _flags(evaluation: Evaluation, ranked: Sequence[Summary]) -> Table:
    rows: list[list[Cell | str]] = []
    for one in ranked:
        for flag in one["flags"]:
            verdict = Cell(str(flag["verdict"]), look=str(flag["verdict"]))
            rows.append([str(one["model"]), verdict, str(flag["name"]), _prose(f"{flag['says']}; {flag['why']}")])
        rows += [[str(one["model"]), "", "inspection", _prose(str(said))] for said in one["findings"]]
        rows += [[str(one["model"]), "", "RobustBench", _prose(str(one["published"]))]] if "published" in one else []
        if "audit" in one:
            rows.append([str(one["model"]), "", "audit", _prose(audit_in_words(one["audit"]))])
    clear = "No red flag of gradient masking, and nothing to report about how the models are called."
    note = flags_from_few(evaluation, ranked) if rows else clear
    columns = ("model", "verdict", "name", "what was seen")
    return Table(heading="Red flags and findings", columns=columns, rows=rows, note=note)


def _prose(text: str) -> Cell:
    return Cell(text, look="prose")


def _settings(evaluation: Evaluation) -> Facts:
    pairs = [
        ("data set", f"{evaluation.dataset} {evaluation.split}, the first {evaluation.n} images"),
        ("data folder", evaluation.data_dir or "none"),
        ("budget", _budget(evaluation)),
        ("step size", f"{evaluation.step_size:.6g}"),
        ("seed", str(evaluation.seed)),
        ("precision of the search", evaluation.precision),
        ("precision of verdicts", "float32"),
        ("checks", evaluation.checks),
        ("bat-sweeps", evaluation.version),
    ]
    return Facts(heading="Settings and environment", pairs=pairs)


def _budget(evaluation: Evaluation) -> str:
    pixels = f" ({evaluation.unit.amount(evaluation.eps)})" if evaluation.norm == LINF else ""
    return f"{TITLES[evaluation.norm]} {evaluation.eps:.6g}{pixels}"


def _commands(evaluation: Evaluation) -> Commands:
    models = [model.source.folder for model in evaluation.models if model.source.folder]
    others = []
    if models and "standard" not in evaluation.suite:
        norm = "" if evaluation.norm == LINF else f" --norm {evaluation.norm}"
        first = shlex.quote(str(models[0]))
        others.append(("under AutoAttack", f"{PROGRAM} evaluate {first} --suite standard{norm}"))
    return commands("evaluate", evaluation.command, others)
