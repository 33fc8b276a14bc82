"""The best of several models, found without attacking all of them to the end, is the best of the whole evaluation."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from bat_core.errors import InputError
from bat_core.evaluate import Evaluator
from sweeps.engine.evaluation.best import find_best
from sweeps.engine.evaluation.job import Job
from sweeps.engine.evaluation.leaderboard import collect
from sweeps.engine.evaluation.run import run_evaluation
from tests.engine.evaluation.evaluations import (
    contents,
    factory,
    killed_after,
    net,
    nowhere,
    options,
    resume,
    shorten_suites,
)

N = 24
pytestmark = pytest.mark.usefixtures("alone", "made")


@dataclass
class Runner:
    """A contender whose bound falls to its value, by one unit of work at a time."""

    name: str
    falls: list[int]
    bound: int
    spent: int = 0

    @property
    def done(self):
        return self.spent == len(self.falls)

    def advance(self):
        self.bound -= self.falls[self.spent]
        self.spent += 1


def runners(rng, count):
    """Contenders of which several reach the same value now and then."""
    return [
        Runner(str(number), rng.integers(0, 3, size=6).tolist(), int(rng.integers(8, 14))) for number in range(count)
    ]


def test_the_winner_is_that_of_all_work():
    rng, saved = np.random.default_rng(5), 0
    for _ in range(300):
        contenders = runners(rng, 5)
        values = [one.bound - sum(one.falls) for one in contenders]
        won = find_best(contenders, Runner.advance)
        assert won.done
        assert won.name == str(values.index(max(values)))  # of equal ones the first
        saved += sum(len(one.falls) - one.spent for one in contenders)
    assert saved > 0


def test_without_contenders_there_is_no_winner():
    with pytest.raises(ValueError, match="no contender"):
        find_best([], Runner.advance)


def shaken(strength):
    """The robust network with noise on its weights: the more, the less robust."""
    model = copy.deepcopy(net())
    generator = torch.Generator().manual_seed(round(100 * strength))
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(strength * weight.std(correction=0) * torch.randn(weight.shape, generator=generator))
    return model.eval()


def little():
    return shaken(0.05)


def much():
    return shaken(0.6)


def more():
    return shaken(0.9)


MODELS = (much, little, more, net)


def evaluated(*models, candidates=(), **changes):
    settings = {"suite": "fast+quick", "n": N, "batch_size": 6, **changes}
    assert run_evaluation([factory(one) for one in models], options(**settings), candidates=candidates) == 0
    folder = Path(settings.get("output", "out")).resolve()
    return folder, [json.loads((folder / name_of(one) / "summary.json").read_text()) for one in models]


def name_of(model):
    return factory(model).replace(":", ".")


@pytest.fixture(scope="module")
def whole(tmp_path_factory, made):
    """The summaries of the whole evaluation, and how many times it attacked some images."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("whole"))
        patch.setattr(Job, "_log", nowhere)
        shorten_suites(patch)
        done = attacks_run(patch)
        return evaluated(*MODELS)[1], len(done)


def attacks_run(monkeypatch):
    real, done = Evaluator.attack, []

    def attack(self, entry, *arguments, **settings):
        done.append(entry.name)
        return real(self, entry, *arguments, **settings)

    monkeypatch.setattr(Evaluator, "attack", attack)
    return done


def best_of(summaries):
    return max(summaries, key=lambda one: (one["robust_acc"], one["clean_acc"]))["model"]


def test_the_best_model_and_its_number_are_those_of_the_whole_evaluation(whole, monkeypatch, capsys):
    done, (whole, every) = attacks_run(monkeypatch), whole
    folder, found = evaluated(*MODELS, find_best=True)
    assert len(done) < every
    best = best_of(whole)
    by_name = {one["model"]: one for one in found}
    (exact,) = (one for one in whole if one["model"] == best)
    assert by_name[best]["robust_acc"] == exact["robust_acc"]
    assert by_name[best]["suite"] == "fast+quick"
    left = [one for one in found if one["suite"] == "fast+quick, not verified: left, cannot win"]
    assert left
    for one in left:
        (truth,) = (other for other in whole if other["model"] == one["model"])
        assert truth["robust_acc"] <= one["robust_acc"] <= exact["robust_acc"]
    printed = capsys.readouterr().out
    for text in (" ".join(printed.split()), (folder / "table.md").read_text(), (folder / "report.html").read_text()):
        assert f"{best} is the most robust: {exact['robust_acc']:.1%} under fast+quick" in text
    assert "<= " in printed
    assert {entry.model for entry in collect([folder]) if not entry.verified} == {one["model"] for one in left}


def test_models_that_belong_together_win_by_their_mean(whole):
    groups, (whole, _) = (0, 0, 1, 1), whole
    means = [sum(one["robust_acc"] for one, group in zip(whole, groups, strict=True) if group == g) / 2 for g in (0, 1)]
    _, found = evaluated(*MODELS, find_best=True, candidates=groups)
    won = means.index(max(means))
    assert all(
        one["suite"] == "fast+quick" and one["robust_acc"] == other["robust_acc"]
        for one, other, group in zip(found, whole, groups, strict=True)
        if group == won
    )


def test_it_goes_on_where_it_was_stopped():
    expected, _ = evaluated(*MODELS, find_best=True, output=Path("undisturbed"))
    with killed_after(7):
        evaluated(*MODELS, find_best=True)
    assert resume(Path("out")) == 0
    mine, theirs = (
        {path: content for path, content in contents(one.resolve()).items() if path.suffix in {".parquet", ".csv"}}
        for one in (Path("out"), expected)
    )
    assert mine == theirs


@pytest.mark.parametrize(
    ("models", "candidates", "says"),
    [
        ((net,), (), "1 model was found"),
        (MODELS, (0, 0, 0, 0), "chooses among several"),
        (MODELS, (0, 0, 0, 1), "same"),
    ],
)
def test_a_choice_needs_several_candidates_of_one_size(models, candidates, says):
    with pytest.raises(InputError, match=says):
        evaluated(*models, find_best=True, candidates=candidates)


def test_attacks_that_pool_attack_the_images_of_several_shards_at_once(monkeypatch, whole):
    done = attacks_run(monkeypatch)
    folder, (summary,) = evaluated(net)
    assert done == ["ladder", *["apgd-ce", "apgd-t"] * (N // 6)]
    assert summary["robust_acc"] == next(one["robust_acc"] for one in whole[0] if one["model"] == name_of(net))
    (folder / name_of(net) / "shards" / "000006" / "00-ladder.parquet").unlink()
    done.clear()
    before = contents(folder)
    assert resume(folder) == 0
    assert done == ["ladder"]  # of that shard alone
    assert before.items() <= contents(folder).items()
