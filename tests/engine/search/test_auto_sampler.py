"""The sampler `auto`: its process, its improvement, what it makes of each kind of trial, and its proposals."""

import numpy as np
import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import TrialState, create_trial
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from search_spaces.base import Parameter, Space
from search_spaces.encoding import Encoding
from sweeps.engine.search.auto_sampler import STARTUP, propose
from sweeps.engine.search.gaussian import Loss, fit
from sweeps.engine.search.improvement import expected_excess, expected_hypervolume_gain
from sweeps.engine.search.observations import END, FEWEST, NOISE, SIGNALS, observe
from sweeps.engine.search.results import hypervolume
from sweeps.engine.search.samplers import distributions, draw, named_sampler

LINE = Space(
    name="line",
    description="one number",
    parameters=(Parameter(name="at", kind="float", description="", default=0.5, low=0.0, high=1.0),),
)
BOTH = [StudyDirection.MAXIMIZE] * 2


def told(at, values=None, state=TrialState.COMPLETE, **known):
    point = {"at": at}
    return create_trial(
        state=state, values=values, params=point, distributions=distributions(LINE, point),
        user_attrs=known.pop("attrs", {}), constraints=known.pop("constraints", {}),
    )  # fmt: skip


def test_the_expected_gain_is_the_mean_of_gains():
    rng = np.random.default_rng(0)
    front = np.array([[0.2, 0.8], [0.5, 0.5], [0.4, 0.4], [0.9, 0.1]])
    mean, deviation = np.array([0.55, 0.45]), np.array([0.2, 0.3])
    before = hypervolume(map(tuple, front))
    drawn = mean + deviation * rng.standard_normal((20_000, 2))
    gains = [hypervolume([*map(tuple, front), (a, b)]) - before for a, b in drawn]
    exact = expected_hypervolume_gain((mean[:1], mean[1:]), (deviation[:1], deviation[1:]), front, (0.0, 0.0))
    assert exact[0] == pytest.approx(np.mean(gains), abs=4 * np.std(gains) / np.sqrt(len(gains)))


def test_with_an_empty_front_the_expected_gain_is_a_product():
    mean, deviation = np.array([0.5]), np.array([0.1])
    gain = expected_hypervolume_gain((mean, mean), (deviation, deviation), np.empty((0, 2)), (0.0, 0.0))
    assert gain == pytest.approx(expected_excess(mean, deviation, 0.0) ** 2)


def test_a_process_without_noise_goes_through_its_values_and_with_noise_shrinks_to_their_mean():
    x = np.linspace(0, 1, 9)[:, None]
    y = np.sin(3 * x[:, 0])
    mean, deviation = fit(x, y, np.zeros(9)).predict(x)
    assert mean == pytest.approx(y, abs=0.05)
    assert (deviation < 0.1).all()
    noisy = y.copy()
    noisy[4] += 3.0
    noise = np.full(9, 1e-4)
    noise[4] = 100.0
    assert fit(x, noisy, noise).predict(x[4:5])[0] == pytest.approx(y[4], abs=0.3)


def test_the_likelihood_and_its_gradient_are_those_of_scikit_learn():
    rng = np.random.default_rng(0)
    x, y, noise = rng.random((12, 3)), rng.standard_normal(12), rng.random(12)
    theta = rng.standard_normal(5)
    variance, *lengths, seed_noise = np.exp(theta)
    kernel = ConstantKernel(variance) * Matern(lengths, nu=2.5) + WhiteKernel(seed_noise)
    peer = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None).fit(x, y)
    likelihood, gradient = peer.log_marginal_likelihood(theta, eval_gradient=True)
    value, mine = Loss(x, y, noise)(theta)
    assert value == pytest.approx(-likelihood)
    assert mine == pytest.approx(-gradient)


def test_believed_trials_leave_the_mean_and_lower_the_doubt():
    x, y = np.array([[0.0], [0.3], [1.0]]), np.array([0.0, 1.0, 0.0])
    process, there = fit(x, y, np.full(3, 1e-3)), np.array([[0.65]])
    before, after = process.predict(there), process.believing(there).predict(there)
    assert after[0] == pytest.approx(before[0], abs=1e-3)
    assert after[1] < before[1]


def test_each_kind_of_trial_is_taken_as_what_it_is():
    whole = [
        told(0.1 * k, [0.5 + 0.05 * k, 0.4], attrs={NOISE: [0.01, 0.02], SIGNALS: {"2": [0.25 + 0.025 * k, 0.3]}})
        for k in range(FEWEST + 2)
    ]
    masked = told(0.95, [0.99, 0.99], constraints={"masked": 1.0})
    below = told(0.85, [0.3, 0.6], constraints={"clean floor": 0.2})
    stopped = told(0.9, state=TrialState.PRUNED, attrs={SIGNALS: {"1": [0.0, 0.0], "2": [0.35, 0.3]}})
    silent = told(0.91, state=TrialState.PRUNED)
    failed = told(0.92, state=TrialState.FAIL)
    running = told(0.93, state=TrialState.RUNNING)
    seen = observe(Encoding(LINE), BOTH, [*whole, masked, below, stopped, silent, failed, running])
    assert [point["at"] for point in seen.points] == pytest.approx([0.1 * k for k in range(FEWEST + 2)] + [0.85, 0.9])
    assert seen.values[-1] == pytest.approx([0.7, 0.4], abs=0.02)
    assert seen.noise[0] == pytest.approx([0.01, 0.02])
    assert len(seen.ended_x) == len(whole) + 5
    infeasible = seen.ended_x[(seen.broken > 0).any(axis=1), 0]
    assert infeasible == pytest.approx([0.95, 0.85, 0.92])


def test_a_stopped_trial_is_no_observation_before_enough_have_finished():
    stopped = told(0.9, state=TrialState.PRUNED, attrs={SIGNALS: {END: [0.35, 0.3]}})
    few = [told(0.1 * k, [0.5, 0.4], attrs={SIGNALS: {END: [0.5, 0.4]}}) for k in range(FEWEST - 1)]
    assert len(observe(Encoding(LINE), BOTH, [*few, stopped]).points) == FEWEST - 1
    assert len(observe(Encoding(LINE), BOTH, [*few, few[0], stopped]).points) == FEWEST + 1


def test_a_minimised_value_is_turned_round():
    seen = observe(Encoding(LINE), [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE], [told(0.1, [0.5, 3.0])])
    assert seen.values.tolist() == [[0.5, -3.0]]
    assert seen.reference == (0.0, -3.0)


@pytest.mark.parametrize("objectives", [1, 2])
def test_it_finds_the_best_of_a_line_sooner_than_chance_would(objectives):
    sampler = named_sampler("auto", LINE, objectives=objectives, seed=0, draws=0)
    study = optuna.create_study(directions=["maximize"] * objectives, sampler=sampler)
    for _ in range(STARTUP + 6):
        trial = study.ask()
        at = draw(trial, LINE)["at"]
        study.tell(trial, [1 - (at - 0.37) ** 2] * objectives)
    assert max(trial.values[0] for trial in study.trials) > 1 - 0.01**2


def test_it_avoids_what_is_infeasible():
    x = np.linspace(0, 1, 12)
    trials = [
        told(at, [0.5, 0.5], constraints={"masked": -1.0})
        if at < 0.6
        else told(at, [at, at], constraints={"masked": 1.0})
        for at in x
    ]
    seen = observe(Encoding(LINE), BOTH, trials)
    chosen = [propose(Encoding(LINE), seen, [], np.random.default_rng(seed))["at"] for seed in range(3)]
    assert max(chosen) < 0.75


def test_trials_that_run_keep_it_away_from_their_points():
    trials = [told(at, [1 - at, at], attrs={NOISE: [1e-4, 1e-4]}) for at in np.linspace(0, 0.5, 10)]
    seen, rng = observe(Encoding(LINE), BOTH, trials), np.random.default_rng
    alone = propose(Encoding(LINE), seen, [], rng(0))["at"]
    beside = propose(Encoding(LINE), seen, [{"at": alone}] * 3, rng(0))["at"]
    assert abs(alone - beside) > 0.02


def test_a_reopened_study_proposes_what_an_uninterrupted_one_does():
    proposed = []
    for again in (False, True):
        study = optuna.create_study(directions=["maximize"] * 2)
        study.sampler = named_sampler("auto", LINE, objectives=2, seed=3, draws=0)
        for number in range(STARTUP + 2):
            if again and number == STARTUP:
                study.sampler = named_sampler("auto", LINE, objectives=2, seed=3, draws=9)
            trial = study.ask()
            at = draw(trial, LINE)["at"]
            study.tell(trial, [at, 1 - at**2])
        proposed.append([trial.params["at"] for trial in study.trials])
    assert proposed[0] == proposed[1]
    assert len(set(proposed[0])) == STARTUP + 2


def test_many_observations_are_thinned_and_the_best_are_kept():
    trials = [told(at, [at, 1 - at]) for at in np.linspace(0, 1, 60)]
    thin = observe(Encoding(LINE), BOTH, trials).thinned(20, np.random.default_rng(0))
    assert len(thin.points) == len(thin.x) == len(thin.values) == 20
    assert {thin.values[:, 0].max(), thin.values[:, 1].max()} == {1.0}


def test_more_than_two_objectives_are_left_to_optuna():
    assert type(named_sampler("auto", LINE, objectives=3, seed=0, draws=0)).__name__ == "GPSampler"
