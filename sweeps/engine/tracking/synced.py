"""What a trial's run on the server has already, so that only the rest is sent."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from mlflow.entities import Run

from sweeps.engine.sweep.records import Event, TrialStatus
from sweeps.engine.sweep.spec import Trial

SYNCED_TAG = "bat.synced"  # digests of what was logged: another process sees by it that nothing is new
VERSION = "2"  # of what is logged for a trial: another one logs all trials again
START = ""  # the digest of no epochs


@dataclass
class Synced:
    """A run as this process knows it: its tags and status, and how many epochs it has.

    `epochs` are those that this process sent, `digest` theirs. `complete` says whether parameters were sent;
    `model` is the URI of its model. `certain` is False after an error: the server may have done more than it said.
    """

    run: Run
    tags: dict[str, str] = field(init=False)
    status: str = field(init=False)
    ended: int | None = field(init=False)
    complete: bool = field(init=False)
    model: str | None = None
    certain: bool = True
    epochs: tuple[Event, ...] = ()
    digest: str = START

    def __post_init__(self) -> None:
        self.tags, self.status, self.ended = dict(self.run.data.tags), self.run.info.status, self.run.info.end_time
        self.complete = "seed" in self.run.data.params

    def sent(self, epochs: tuple[Event, ...]) -> int:
        """How many of `epochs`, from the first, the run has."""
        if not self.epochs and self.certain and (said := _said(self.tags.get(SYNCED_TAG, ""))):
            count, digest = said
            if count <= len(epochs) and digest_on(START, epochs[:count]) == digest:
                self.epochs, self.digest = epochs[:count], digest
        count = len(self.epochs)
        if epochs[:count] != self.epochs:
            pairs = enumerate(zip(self.epochs, epochs, strict=False))
            count = next((at for at, (old, new) in pairs if old != new), min(count, len(epochs)))
            self.epochs, self.digest = epochs[:count], digest_on(START, epochs[:count])
        return count


def digest_on(digest: str, epochs: Sequence[Event]) -> str:
    """The digest of epochs that follow those of a digest: each epoch costs the same, however many came before."""
    for event in epochs:
        digest = _short(f"{digest} {json.dumps(event, sort_keys=True)}")
    return digest


def label(trial: Trial, status: TrialStatus, digest: str) -> str:
    """The value of SYNCED_TAG for a status whose epochs have a digest. How far an attack has come is not logged."""
    rest: list[Any] = [
        VERSION, trial.config.hash, trial.role, status.phase, status.started, status.ended, status.reason,
        status.collapsed, dict(status.passed_over), status.result, status.reused,
    ]  # fmt: skip
    return f"{len(status.epochs)} {digest or '-'} {_short(json.dumps(rest, sort_keys=True))}"


def _said(value: str) -> tuple[int, str] | None:
    """The number and digest of the epochs in a value of SYNCED_TAG."""
    count, _, rest = value.partition(" ")
    digest = rest.partition(" ")[0]
    return (int(count), digest) if count.isdecimal() and digest not in ("", "-") else None


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
