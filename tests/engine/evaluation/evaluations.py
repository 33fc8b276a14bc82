"""What tests of evaluations share: some made by hand, verdicts drawn at random, and networks to evaluate."""

import contextlib
import copy
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from bat_core.attacks import APGD
from bat_core.attacks.ladder import Ladder, Search, Stage
from bat_core.evaluate import Evaluator
from bat_core.suites import SUITES, Entry, Suite
from bat_core.verdicts import SKIPPED, UNBROKEN, Outcome, Verdicts
from sweeps.engine.evaluation.attack import Evaluation, EvaluationFolder
from sweeps.engine.evaluation.model_sources import ModelSource
from sweeps.engine.evaluation.options import EvaluateOptions
from sweeps.engine.evaluation.run import run_evaluation
from sweeps.engine.evaluation.shard_files import SHARDS
from sweeps.engine.evaluation.spec import ModelRecord

PIXEL = 5 / 255
EPS = 8 * PIXEL
N = 24
BATCH = 8


def evaluation(*names: str, suite: str = "paper", n: int = 40, **changes) -> Evaluation:
    models = tuple(
        ModelRecord(source=ModelSource(name=name, factory="nets:net"), fingerprint=name) for name in names or ("net",)
    )
    decided = {
        "command": "python sweeps/evaluate.py nets:net",
        "models": models,
        "dataset": "digits",
        "data_dir": None,
        "split": "test",
        "n": n,
        "pixel": PIXEL,
        "eps": 8 * PIXEL,
        "step_size": 2 * PIXEL,
        "seed": 0,
        "precision": "float32",
        "shard_size": 16,
        "suite": suite,
        "checks": "none",
        "save_adversarial": False,
    }
    return Evaluation.new(**decided | changes)


def drawn(suite: Suite, n: int, *, seed: int = 0, rows: list[int] | None = None) -> Verdicts:
    """Verdicts such as `suite` might come to on n examples."""
    rng = np.random.default_rng(seed)
    clean = rng.random(n) < 0.9
    verdicts = Verdicts(
        rows=np.arange(n) * 3 if rows is None else np.array(rows),
        labels=rng.integers(10, size=n),
        clean_correct=clean,
        outcomes={},
    )
    for entry in suite.entries:
        broken_at = np.where(rng.random(n) < 0.3, rng.integers(1, 200, size=n), UNBROKEN)
        if entry.skip_broken:
            broken_at = np.where(verdicts.robust_correct, broken_at, SKIPPED)
        broken_at = np.where(clean, broken_at, 0)
        read = (n, len(entry.steps))
        final = (broken_at == UNBROKEN)[:, None] | ((rng.random(read) < 0.5) & (broken_at != SKIPPED)[:, None])
        verdicts = verdicts.with_outcome(entry.name, Outcome(broken_at=broken_at, steps=entry.steps, final=final))
    return verdicts


def shorten_suites(patch):
    """Let the suites fast and quick take few steps, so that quick breaks images that fast leaves."""
    stages = (
        Stage(within=math.inf, searches=(Search(loss="pm", steps=1),)),
        Stage(within=0.05, searches=(Search(loss="dlr", steps=2, nearest=(0, 1)),)),
    )

    def fast(*, eps, step_size=None, norm="linf"):
        ladder = Ladder(eps=eps, norm=norm, stages=stages)
        return Suite(name="fast", entries=(Entry(name="ladder", attack=ladder, skip_broken=True),))

    def quick(*, eps, step_size=None, norm="linf"):
        attacks = {
            "apgd-ce": APGD(eps=eps, norm=norm, num_steps=5),
            "apgd-t": APGD(eps=eps, norm=norm, num_steps=5, loss="dlr", target="every"),
        }
        entries = tuple(Entry(name=name, attack=attack, skip_broken=True) for name, attack in attacks.items())
        return Suite(name="quick", entries=entries, verified_by="APGD-CE, APGD-T", subset=1000)

    patch.setitem(SUITES, "fast", fast)
    patch.setitem(SUITES, "quick", quick)


def nowhere(*_):
    """Stands in for MLflow, and takes everything."""


MADE: dict[str, nn.Module] = {}


def net():
    """The network in MADE["robust"], to be changed at will."""
    return copy.deepcopy(MADE["robust"])


def tuned():
    model = net()
    with torch.no_grad():
        next(model.parameters())[0] += 1e-6
    return model


def probabilities():
    return nn.Sequential(net(), nn.Softmax(1)).eval()


class DropoutLeftOn(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = net()

    def forward(self, x):
        return self.model(nn.functional.dropout(x, 0.1, training=True))


def random():
    return DropoutLeftOn().eval()


def of_bytes():
    class Divided(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = net()

        def forward(self, x):
            return self.model(x / 255)

    return Divided().eval()


def without_gradient():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = net()

        def forward(self, x):
            return self.model(x).detach()

    return Detached().eval()


def unseeded():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10)).eval()


class Hungry(nn.Module):
    """No more than five images fit into its memory."""

    def __init__(self):
        super().__init__()
        self.model = net()

    def forward(self, x):
        if len(x) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return self.model(x)


def hungry():
    return Hungry().eval()


def of_seven():
    return nn.Sequential(net(), nn.Linear(10, 7)).eval()


def factory(made):
    return f"{made.__module__}:{made.__name__}"


def options(**changes):
    default = {"suite": "paper", "n": N, "batch_size": BATCH, "checks": "none", "dataset": "digits", "eps": EPS}
    return EvaluateOptions(**{**default, "gpus_per_worker": 0.0, "output": Path("out"), **changes})


def evaluated(made=net, **changes):
    """The folder of a new evaluation of one model."""
    assert run_evaluation([factory(made)], options(**changes)) == 0
    return changes.get("output", Path("out")).resolve()


def resume(folder, **changes):
    return run_evaluation(changes.pop("models", []), EvaluateOptions(resume=str(folder), **changes))


def model_folder(folder):
    (model,) = EvaluationFolder(folder).load().models
    return folder / model.source.name


def verdicts_of(folder):
    return Verdicts.read(model_folder(folder) / "verdicts.parquet")


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def written(folder):
    """When each shard's file was written, and which file it is."""
    stats = {path.relative_to(folder): path.stat() for path in sorted(folder.rglob(f"{SHARDS}/*/*"))}
    return {path: (stat.st_ino, stat.st_mtime_ns) for path, stat in stats.items()}


class Killed(BaseException):
    """Stands in for a signal: no handler of exceptions sees it."""


@contextlib.contextmanager
def killed_after(attacks):
    """The body is killed before the attack after that many."""
    real, done = Evaluator.attack, []

    def attack(self, entry, *arguments, **settings):
        if len(done) == attacks:
            raise Killed
        done.append(entry.name)
        return real(self, entry, *arguments, **settings)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Evaluator, "attack", attack)
        with pytest.raises(Killed):
            yield
