"""How long a search has been at work: the time in which one of its trials was under way, over all restarts."""

from collections.abc import Iterable
from pathlib import Path

from sweeps.engine.records import Event, read_events

Interval = tuple[float, float]


def work_intervals(folders: Iterable[Path]) -> list[Interval]:
    """When at least one trial was under way, from first to last, in Unix seconds; a restart leaves a gap."""
    merged: list[Interval] = []
    for begin, end in sorted(interval for folder in folders for interval in _attempts(read_events(folder))):
        if merged and begin <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end))
        else:
            merged.append((begin, end))
    return merged


def hours_until(moment: float, intervals: Iterable[Interval]) -> float:
    """Hours of work that were done by then."""
    return sum(max(min(end, moment) - begin, 0.0) for begin, end in intervals) / 3600


def _attempts(events: Iterable[Event]) -> list[Interval]:
    """Each attempt at a trial, from its start to the last that was heard of it."""
    attempts: list[Interval] = []
    for event in events:
        if event["event"] == "start" or not attempts:
            attempts.append((event["time"], event["time"]))
        else:
            attempts[-1] = (attempts[-1][0], event["time"])
    return attempts
