"""A small table and finished trials of it, made without training."""

import numpy as np

from bat_core.config import AttackConfig, TrialConfig
from bat_core.suites import evaluation_suite, trajectories
from bat_core.verdicts import UNBROKEN, Outcome, Verdicts
from sweeps.engine.paper.results import Result
from sweeps.engine.paper.table_spec import Table
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import VERDICTS, VERIFIED, Record
from sweeps.engine.sweep.spec import Resources, Sweep, Trial

N, PIXEL = 40, 1 / 255
ATTACK = AttackConfig(eps=8 * PIXEL, step_size=2 * PIXEL, steps=(7, 20, 100, 200), also="diagnostic", verify=N)
RESULT = {"clean_acc": 0.9, "pgd_acc": 0.5, "robust_acc": 0.5, "n": N, "robust_n": N, "flags": []}


def verdicts(suite, active) -> Verdicts:
    """Of N examples, all right when clean (or those of class "only"), `active` (a count by attack) hold."""
    labels = np.arange(N) % 10
    right = labels == active.get("only", labels)
    made = Verdicts(rows=np.arange(N), labels=labels, clean_correct=right, outcomes={})
    for entry in suite.entries:
        holds = np.arange(N) < active.get(entry.name, 30)
        outcome = Outcome(
            broken_at=np.where(holds, UNBROKEN, 1),
            steps=entry.steps,
            final=np.repeat(holds[:, None], len(entry.steps), axis=1),
        )
        made = made.with_outcome(entry.name, outcome)
    return made


def result(path, table: Table, active, *, seeds=(0, 1, 2), masking_status="clear", rows=None) -> Result:
    """`active(row name, seed)` gives how many of N hold under each attack. `masking_status`: of all, or by row name."""
    trials = [
        Trial(id=row.trial_id(seed), config=TrialConfig(attack=ATTACK, seed=seed))
        for row in table.trained
        for seed in seeds
    ]
    sweep = Sweep(name="table", command="c", data_dir=None, pixel=PIXEL, resources=Resources(), trials=tuple(trials))
    folder = SweepFolder(path)
    named = {row.trial_id(seed): (row.name, seed) for row in table.trained for seed in seeds}
    for trial in trials:
        name, seed = named[trial.id]
        if rows is not None and name not in rows:
            continue
        record, home = Record(folder.trial(trial)), folder.trial(trial)
        verdicts(trajectories(ATTACK), active(name, seed)).write(home / VERDICTS)
        verdicts(evaluation_suite(ATTACK), active(name, seed)).write(home / VERIFIED)
        status = masking_status if isinstance(masking_status, str) else masking_status.get(name, "clear")
        suite = evaluation_suite(ATTACK).label_for(status)
        record.append("finished", suite=suite, verdict=status, **RESULT)
    return Result(table, sweep, folder)
