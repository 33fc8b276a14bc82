"""What Figure 1 says in its last sentence is what its trials found, and whether to believe it."""

import pytest

from bat_core.config import AttackConfig, RecipeConfig, TrialConfig
from bat_core.suites import evaluation_suite, trajectories
from sweeps.engine.paper.figure_1 import draw
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import VERDICTS, VERIFIED, Record
from sweeps.engine.sweep.spec import Resources, Sweep, Trial
from sweeps.eps_budget import EpsBudgetOptions, grid
from tests.engine.evaluation.evaluations import drawn
from tests.engine.paper.made import RESULT

PIXEL = 5 / 255
ATTACK = AttackConfig(eps=8 * PIXEL, step_size=2 * PIXEL, steps=(1, 3), verify=40)


def trial(pixels: int, attack: AttackConfig = ATTACK) -> Trial:
    recipe = RecipeConfig(params={"eps": pixels * PIXEL})
    return Trial(id=f"eps{pixels}-seed0", config=TrialConfig(recipe=recipe, attack=attack))


@pytest.fixture
def sentence(tmp_path):
    """Makes a sweep of two finished trials, of which the second is more robust, and returns what it shows."""

    def make(*verdicts, attack=ATTACK):
        folder, trials = SweepFolder(tmp_path), [trial(4, attack), trial(8, attack)]
        sweep = Sweep(name="s", command="", data_dir=None, pixel=PIXEL, resources=Resources(), trials=tuple(trials))
        for one, masking_status, seed in zip(trials, verdicts, (1, 3), strict=True):
            record = Record(folder.trial(one))
            drawn(trajectories(attack), 40, seed=seed).write(folder.trial(one) / VERDICTS)
            if attack.verify:
                drawn(evaluation_suite(attack), 40, seed=seed).write(folder.trial(one) / VERIFIED)
            suite = evaluation_suite(attack).label_for(masking_status)
            record.append("finished", suite=suite, verdict=masking_status, **RESULT)
        return draw(sweep, folder).sentence

    return make


def test_the_best_budget_is_told_with_its_suite_and_n(sentence):
    said = sentence("clear", "suspect")
    assert said.startswith(
        "R-MC-LA trained at 8 pixels is most robust: 45.0% of test images are correct under PGD-3 of 8 pixels"
    )
    assert "and 12.5% under PGD-3+quick (n = 40)" in said
    assert "not verified" not in said


def test_without_verification_it_says_so(sentence):
    said = sentence("clear", "clear", attack=AttackConfig(**{**vars(ATTACK), "verify": 0}))
    assert said.endswith("(means over 1 seed; not verified).")
    assert "quick" not in said


def test_a_masked_models_number_is_not_told_as_if_it_were_verified(sentence):
    assert "not verified" in sentence("clear", "masked")


def test_what_another_trial_was_masked_by_is_not_held_against_the_best(sentence):
    said = sentence("masked", "clear")
    assert "8 pixels is most robust" in said
    assert "not verified" not in said


@pytest.mark.parametrize(
    ("dataset", "recipe", "epochs", "milestones"),
    [
        ("cifar10", "R-MC-LA", 100, (60, 90)),
        ("cifar10", "R-MC-LA+", 200, (100, 150)),
        ("svhn", "Madry-LA+", 200, (100, 150)),
    ],
)
def test_a_plus_is_the_papers_long_schedule(digits, dataset, recipe, epochs, milestones) -> None:
    for trial in grid(EpsBudgetOptions(dataset=dataset, recipe=recipe), digits):
        train = trial.config.train
        assert trial.config.recipe.name in {recipe.removesuffix("+"), "Undefended"}
        assert (train.schedule, train.epochs, train.lr) == ("multi_step", epochs, 0.01 if dataset == "svhn" else 0.1)
        assert tuple(round(share * epochs) for share in train.milestones) == milestones
