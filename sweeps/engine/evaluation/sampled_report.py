"""What evaluations of drawn images report: an interval for all images, how it came about, and the answer."""

from collections.abc import Mapping, Sequence
from typing import Any

from sweeps.engine.cli.text import counted, percent, percent_range
from sweeps.engine.evaluation.attack import FIRST, Evaluation
from sweeps.engine.evaluation.sampling import AT_LEAST, BELOW

Summary = Mapping[str, Any]
CSV_NAME = "sampled"  # of the line with the interval


def columns(evaluation: Evaluation) -> tuple[str, ...]:
    """The table's columns."""
    first = (f"after {FIRST}",) if evaluation.survivors is not None else ()
    answer = ("answer",) if evaluation.stops else ()
    return ("model", "clean", *first, "drawn", "fell", "all images, 95 %", *answer, "checks")


def title(evaluation: Evaluation) -> str:
    """What the interval is."""
    return f"What {worst_case(evaluation)} would leave: an interval for all images, from those drawn"


def worst_case(evaluation: Evaluation) -> str:
    """The attacks whose worst case the interval is for."""
    name = evaluation.attacks().title
    return f"{FIRST} and {name}" if evaluation.survivors is not None else name


def note(evaluation: Evaluation) -> str:
    """How to read the interval."""
    drawn_from = f"those that stand after {FIRST}" if evaluation.survivors is not None else "those correct when clean"
    return (
        f"Images were drawn at random, without replacement, from {drawn_from}. The interval covers what"
        f" {worst_case(evaluation)} would leave of these {evaluation.n} images in 95 % of draws, whenever one stops"
        " (arXiv:2006.04347). It is not the number of a whole evaluation, and does not cover the draw of test images."
    )


def rows(evaluation: Evaluation, summaries: Sequence[Summary]) -> list[list[str]]:
    """One row per model, below `columns`."""
    found = []
    for one in summaries:
        sample = one["sampled"]
        first = [percent(sample["population"] / sample["n"])] if evaluation.survivors is not None else []
        answer = [answer_in_words(evaluation, sample)] if evaluation.stops else []
        drawn = f"{sample['drawn']} of {sample['population']}"
        cells = [str(one["model"]), percent(one["clean_acc"]), *first, drawn, str(sample["fallen"]), bounds(sample)]
        found.append([*cells, *answer, str(one["verdict"])])
    return found


def bounds(sample: Mapping[str, Any]) -> str:
    """The interval in words, with two decimals, as it is narrow."""
    low, high = sample["low"], sample["high"]
    return f"{low:.2%} (all attacked)" if sample["exact"] else f"{low:.2%}-{high:.2%}"


def answer_in_words(evaluation: Evaluation, sample: Mapping[str, Any]) -> str:
    """The answer to the question that the evaluation was stopped by."""
    if sample["answer"] == BELOW:
        return f"below {evaluation.stop_below:.4g}"
    if sample["answer"] == AT_LEAST:
        return f"at least {evaluation.stop_above:.4g}"
    return "undecided"


def sentence(evaluation: Evaluation, one: Summary) -> str:
    """One model's result as a sentence."""
    sample = one["sampled"]
    attacked = f"{counted(sample['drawn'], 'image')} of {sample['population']} attacked"
    said = f"{one['model']}: {worst_case(evaluation)} would leave {bounds(sample)} of {one['n']} images ({attacked})"
    if not evaluation.stops:
        return f"{said}."
    stopped = "" if sample["exact"] or sample["answer"] not in (BELOW, AT_LEAST) else "stopped early: "
    return f"{said}; {stopped}{answer_in_words(evaluation, sample)}."


def headline(evaluation_name: str, summary: Summary) -> str:
    """One model's interval in a line, for MLflow."""
    sample = summary["sampled"]
    return (
        f"{percent_range(sample['low'], sample['high'])} ({evaluation_name}: 95 % interval for all {summary['n']}"
        f" images, {sample['drawn']} of {sample['population']} attacked) at eps {summary['eps']:.4f},"
        f" {summary['verdict']}"
    )
