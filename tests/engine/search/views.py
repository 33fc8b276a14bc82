"""Searches that nobody ran: views made of invented scores and states, and the studies that would belong to them."""

import math
import random

import optuna
from optuna.trial import TrialState, create_trial

from bat_core.config import AttackConfig, DataConfig, TrainConfig, TrialConfig
from bat_core.stats import wilson
from search_spaces.base import compose, get_space
from sweeps.engine.search.objectives import get_objective
from sweeps.engine.search.results import Score
from sweeps.engine.search.samplers import distributions, free
from sweeps.engine.search.snapshot import Finalist, Snapshot, Tested
from sweeps.engine.search.spec import Final, Search
from sweeps.engine.search.study import FROM, TRIAL
from sweeps.engine.search.trial_config import trial_config
from sweeps.engine.sweep.records import TrialStatus
from sweeps.engine.sweep.spec import Resources, Sweep, Trial

PIXEL = 5 / 255
MINUTES = 3  # between the ends of two trials
N, ROBUST_N = 300, 200
HALVED = "successive halving at epoch {at}: val_robust_acc 0.113 is not among the best"
KILLED = "its process died: killed, or out of memory"


def search_of(*spaces, final=True, space=None, **changes):
    if space is None:
        space = compose([get_space(name) for name in spaces or ("bat",)]).at(PIXEL)
    decided = {
        "space": space,
        "base": TrialConfig(
            data=DataConfig(val_size=N),
            train=TrainConfig(epochs=20),
            attack=AttackConfig(
                eps=8 * PIXEL, step_size=2 * PIXEL, steps=(20,), losses=("ce",), split="val", verify=ROBUST_N
            ),
        ),
        "objective": "clean+robust", "sampler": "tpe", "seed": 0, "num_trials": 40, "max_hours": None, "flat": None,
        "halving": None,
        "final": Final(count=3, epochs=20, seeds=(0, 1, 2), rule="knee", registered_name="digits") if final else None,
    }  # fmt: skip
    return Search(**decided | changes)


def draw(space, rng):
    """A point at random, as the sampler's first are."""
    point = {}
    for p in space.parameters:
        if not p.applies(point):
            continue
        if p.kind == "choice":
            point[p.name] = rng.choice(p.options)
        else:
            low, high = (math.log(p.low), math.log(p.high)) if p.log else (p.low, p.high)
            value = rng.uniform(low, high)
            value = min(max(math.exp(value) if p.log else value, p.low), p.high)
            point[p.name] = round(value) if p.kind == "integer" else value
    return point


def trial_of(search, number, point=None, role="search", name=None):
    point = search.space.default_point() if point is None else point
    config = trial_config(search.space, point, search.base)
    return Trial(id=name or f"trial-{number:03d}", config=config, role=role, point=point)


def score_of(search, number, clean, robust, *, masking_status="clear", pgd=None, hours=0.05, trial=None, **changes):
    """A finished trial: the n-th ends after 3 (n + 1) minutes."""
    known = {
        "trial": trial or trial_of(search, number),
        "clean_acc": clean,
        "robust_acc": robust,
        "pgd_acc": robust + 0.02 if pgd is None else pgd,
        "n": N,
        "robust_n": ROBUST_N,
        "suite": "PGD-20+quick" + (", not verified: masked" if masking_status == "masked" else ""),
        "masking_status": masking_status,
        "flags": {"clear": (), "suspect": ("more_steps_help",), "masked": ("zero_gradient", "label_leaking")}[
            masking_status
        ],
        "hours": hours,
        "ended": 60.0 * MINUTES * (number + 1),
    }
    return Score(**known | changes)


def status_of(phase, number=0, *, epochs=20, hours=0.05, reason="", collapsed=None):
    seconds = 3600 * hours / max(epochs, 1)
    done = tuple({"epoch": epoch + 1, "seconds": seconds} for epoch in range(epochs))
    ended = 60.0 * MINUTES * (number + 1)
    return TrialStatus(phase=phase, epochs=done, ended=ended, reason=reason, collapsed=collapsed, attempts=1)


def view_of(search, scored=(), others=(), **changes):
    """A view of finished trials, and of `others`: (trial, status) each."""
    sweep = Sweep(
        name="search", id="0123456789abcdef", created="2026-01-01T00:00:00+00:00", command="sweeps/search.py",
        data_dir=None, pixel=PIXEL, resources=Resources(), trials=(), open=True,
    )  # fmt: skip
    rows = [(one.trial, status_of("finished", hours=one.hours)) for one in scored]
    rows = sorted([*rows, *others], key=lambda row: row[0].id)
    last = max([one.ended for one in scored] + [status.ended or 0.0 for _, status in others], default=0.0)
    known = {"finished": tuple(scored), "rows": tuple(rows), "intervals": ((0.0, last),) if rows else ()}
    return Snapshot(sweep=sweep, search=search, **known | changes)


def study_of(snapshot, taught=()):
    """The study as `SearchStudy` would have it: all trials in their states, and those of a warm start."""
    objective, space = get_objective(snapshot.search.objective), snapshot.search.space
    study = optuna.create_study(directions=objective.directions)
    scored = {one.id: one for one in snapshot.finished}
    states = {"finished": TrialState.COMPLETE, "stopped": TrialState.PRUNED, "failed": TrialState.FAIL}
    for trial, status in snapshot.rows:
        point, one = dict(trial.point), scored.get(trial.id)
        attrs = {TRIAL: trial.id} | ({FROM: "the paper"} if point == space.default_point() else {})
        known = {"params": free(space, point), "distributions": distributions(space, point), "user_attrs": attrs}
        if one is not None:
            known |= {"values": objective.values(one), "constraints": objective.constraints(one)}
        study.add_trial(create_trial(state=states.get(status.phase, TrialState.RUNNING), **known))
    for one in taught:
        known = {"params": free(space, one.point), "distributions": distributions(space, one.point)}
        study.add_trial(create_trial(values=objective.values(one), user_attrs={FROM: "another search"}, **known))
    return study


def finalist_of(search, origin, *, count=3, shift=0.0, verdicts=("clear",) * 3):
    """A point of the front, trained anew: the seeds lie around what the trial had."""
    members, tested = [], []
    for seed in range(count):
        name = f"final-{origin.id}-seed{seed}"
        trial = trial_of(search, 0, dict(origin.point), "finalist", name)
        clean, robust = origin.clean_acc - 0.003 * seed + shift, origin.robust_acc - 0.02 + 0.01 * seed + shift
        one = score_of(search, 0, clean, robust, trial=trial, masking_status=verdicts[seed], hours=origin.hours)
        members.append(one)
        right = round((robust - 0.03) * 360)
        tested.append(
            Tested(
                trial=name,
                clean_acc=clean - 0.01,
                robust_acc=right / 360,
                robust_interval=wilson(right, 360),
                n=360,
                suite="standard",
                masking_status=verdicts[seed],
            )
        )
    return Finalist(origin=origin, members=tuple(members), tested=tuple(tested))


def _invented(search, number, point, rng, *, masked):
    """What such a point might come to: budget buys robustness with clean accuracy."""
    eps = float(point["eps"]) / PIXEL
    strength = 1 - math.exp(-eps / 5)
    soft = {"one-hot": 0.0, "smooth": 0.03, "adversarial": 0.06}[point["label"]]
    clean = 0.985 - 0.0006 * eps**1.9 - 0.3 * soft * strength + rng.gauss(0, 0.006)
    robust = 0.05 + 0.6 * strength + soft - 0.0012 * eps**2 + 0.008 * min(point["num_steps"], 4) + rng.gauss(0, 0.02)
    robust = min(robust - (0.05 if point["target"] == "random" else 0.0), clean - 0.1)
    hours = 0.01 * (1 + point["num_steps"])
    masking_status = "masked" if masked else "suspect" if rng.random() < 0.12 else "clear"
    pgd = robust + (0.28 if masked else abs(rng.gauss(0.012, 0.008)))
    robust += 0.12 if masked else 0.0
    right, n = round(robust * ROBUST_N) / ROBUST_N, round(clean * N) / N
    trial = trial_of(search, number, point)
    return score_of(
        search, number, n, right, masking_status=masking_status, pgd=round(pgd * N) / N, hours=hours, trial=trial,
    )  # fmt: skip


def realistic(*spaces, seed=4, trials=40, masked=3, stopped=6, failed=2, finalists=3):
    """A whole search with some of everything; the paper's point is its first trial."""
    search, rng = search_of(*spaces or ("bat", "schedule")), random.Random(seed)
    kinds = ["masked"] * masked + ["stopped"] * stopped + ["failed"] * failed
    kinds += ["finished"] * (trials - 1 - len(kinds))
    rng.shuffle(kinds)
    scored, others = [], []
    for number, kind in enumerate(["finished", *kinds]):
        point = search.space.default_point() if number == 0 else draw(search.space, rng)
        if kind in {"finished", "masked"}:
            scored.append(_invented(search, number, point, rng, masked=kind == "masked"))
        else:
            at = rng.choice((3, 9)) if kind == "stopped" else 2
            reason = HALVED.format(at=at) if kind == "stopped" else KILLED
            status = status_of(kind, number, epochs=at, hours=0.01, reason=reason)
            others.append((trial_of(search, number, point), status))
    snapshot = view_of(search, scored, others)
    chosen = tuple(finalist_of(search, one) for one in snapshot.front[:: max(len(snapshot.front) // 3, 1)][:finalists])
    champion = chosen[1].members[-1].id if len(chosen) > 1 else None
    return view_of(search, scored, others, finalists=chosen, champion=champion)
