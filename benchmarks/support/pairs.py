"""Compares two attacks on the same images, image by image, in single runs and over several seeds."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.stats import binomtest

from bat_core.stats import Z95
from support.common import Flags, discordant, points, table

TARGET = 0.3  # largest accepted difference of mean accuracies, in percentage points
SHARED = "-shared"  # suffix of attacks for which both implementations use the same start


@dataclass(frozen=True, kw_only=True)
class Run:
    """Our attack and theirs on one model with one seed. `ours`, `theirs` are strings of N digits: 1 means robust."""

    model: str
    recipe: str
    attack: str
    seed: int
    ours: str
    theirs: str
    our_seconds: float
    their_seconds: float

    @property
    def flags(self) -> tuple[Flags, Flags]:
        ours, theirs = (np.array([mark == "1" for mark in marks]) for marks in (self.ours, self.theirs))
        return ours, theirs

    def describe(self) -> dict[str, Any]:
        ours, theirs = self.flags
        only_theirs_broke, only_ours_broke, p = discordant(ours, theirs)
        return asdict(self) | {
            "our_acc": float(ours.mean()),
            "their_acc": float(theirs.mean()),
            "points": points(ours, theirs),
            "only_ours_broke": only_ours_broke,
            "only_theirs_broke": only_theirs_broke,
            "sign_test_p": p,
        }


def summary(runs: Sequence[Run]) -> dict[str, Any]:
    """Summarise one attack on one model over all seeds.

    The sign test is over images: it counts those that our attack breaks with more seeds than theirs, and vice versa.
    """
    pairs = [run.flags for run in runs]
    differences = [points(ours, theirs) for ours, theirs in pairs]
    net = np.sum([ours.astype(int) - theirs.astype(int) for ours, theirs in pairs], axis=0)
    fewer, more = int((net > 0).sum()), int((net < 0).sum())
    mean = float(np.mean(differences))
    shared = runs[0].attack.endswith(SHARED)
    return {
        "model": runs[0].model,
        "recipe": runs[0].recipe,
        "attack": runs[0].attack,
        "our_acc": [float(ours.mean()) for ours, _ in pairs],
        "their_acc": [float(theirs.mean()) for _, theirs in pairs],
        "points": differences,
        "mean_points": mean,
        "points_by_chance": None if shared else _by_chance(np.concatenate(pairs)),
        "images_ours_broke_oftener": more,
        "images_theirs_broke_oftener": fewer,
        "sign_test_p": float(binomtest(more, more + fewer).pvalue) if more + fewer else 1.0,
        "within_target": abs(mean) <= TARGET,
        "ours_weaker": mean > TARGET,
    }


def _by_chance(flags: Flags) -> float:
    """The difference of the means of two halves of these runs (2S, N), in points, that 95 of 100 cases stay within.

    The model: each image is robust with its own probability, which is the same in every run of either attack.
    """
    runs, n = flags.shape
    variance = flags.var(axis=0, ddof=1).sum() * 2 / (runs / 2) / n**2
    return float(100 * Z95 * np.sqrt(variance))


def show(report: dict[str, Any], n: int) -> None:
    runs = [
        [
            f"{run['recipe']} {run['attack']} seed {run['seed']}",
            f"{run['our_acc']:.2%}",
            f"{run['their_acc']:.2%}",
            f"{run['points']:+.2f}",
            f"{run['only_ours_broke']} / {run['only_theirs_broke']}",
            f"{run['sign_test_p']:.2g}",
            f"{run['our_seconds']:.0f} / {run['their_seconds']:.0f}",
        ]
        for run in report["runs"]
    ]
    columns = ("", "ours", "theirs", "points", "broken by ours / theirs only", "sign test p", "seconds")
    table(f"Robust accuracy, each seed, n = {n}", columns, runs)
    means = [
        [
            f"{case['recipe']} {case['attack']}",
            _mean_and_range(case["our_acc"]),
            _mean_and_range(case["their_acc"]),
            f"{case['mean_points']:+.2f}",
            "" if case["points_by_chance"] is None else f"{case['points_by_chance']:.2f}",
            f"{case['images_ours_broke_oftener']} / {case['images_theirs_broke_oftener']}",
            f"{case['sign_test_p']:.2g}",
            _outcome(case),
        ]
        for case in report["summary"]
    ]
    outcome = f"within {TARGET}"
    columns = ("", "ours (range)", "theirs (range)", "points", "by chance", "more often ours / theirs", "p", outcome)
    table(f"Means over seeds, n = {n}; images broken more often by ours / theirs", columns, means)


def _mean_and_range(values: Sequence[float]) -> str:
    return f"{np.mean(values):.2%} ({min(values):.2%}-{max(values):.2%})"


def _outcome(case: dict[str, Any]) -> str:
    if case["within_target"]:
        return "yes"
    by_chance = case["points_by_chance"] is not None and abs(case["mean_points"]) <= case["points_by_chance"]
    return f"NO, ours is {'weaker' if case['ours_weaker'] else 'stronger'}{', within chance' if by_chance else ''}"
