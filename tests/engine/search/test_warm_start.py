"""Earlier searches of other images: a prior in this search's pixels, used only while it explains what is seen."""

from dataclasses import replace

import numpy as np
import optuna
import pytest

from bat_core.errors import InputError
from search_spaces.base import get_space
from search_spaces.encoding import Encoding
from sweeps.engine.ray_backend.rungs import ranked
from sweeps.engine.search.auto_sampler import HINTS, STARTUP
from sweeps.engine.search.gaussian import Posterior
from sweeps.engine.search.prior import FEWEST, PRIOR, Shifted, fit_prior, fit_with_prior
from sweeps.engine.search.samplers import draw, named_sampler
from sweeps.engine.search.warm_start import prior_rows, read_warm_start
from tests.engine.search.test_auto_sampler import LINE
from tests.engine.search.trials import BASE, PIXEL, SPACE, Lab, search_of

OTHER_IMAGES = replace(BASE, data=replace(BASE.data, val_size=200))


def earlier(path, count=3):
    lab = Lab(path, search_of())
    study = lab.open()
    for number in range(count):
        lab.finish(study.propose(), 0.9 - number / 10, 0.4 + number / 10, verdict="masked" if number == 2 else "clear")
    lab.search.write(lab.folder)
    return lab


def test_a_comparable_search_is_observed_and_another_one_is_a_prior_in_this_ones_pixels(tmp_path):
    path = earlier(tmp_path / "earlier").folder.path
    same = read_warm_start(path, search_of(), PIXEL)
    assert (same.difference, same.scale, len(same.trials)) == (None, 1.0, 3)
    mine = search_of(get_space("bat").at(PIXEL / 5), sampler="auto", base=OTHER_IMAGES)
    with pytest.raises(InputError, match="only it has parameter"):
        read_warm_start(path, mine, PIXEL / 5)
    mine = search_of(replace(SPACE, parameters=tuple(
        replace(one, low=one.low / 5, high=one.high / 5) if one.name == "eps" else one for one in SPACE.parameters
    )), sampler="auto", base=OTHER_IMAGES)  # fmt: skip
    start = read_warm_start(path, mine, PIXEL / 5)
    assert start.difference == "its data.val_size is 300, and this search's is 200"
    rows = prior_rows(start, mine)
    assert len(rows) == 2  # not the masked one
    assert rows[0]["point"]["eps"] == pytest.approx(start.trials[0].point["eps"] / 5)
    assert rows[1]["values"] == [pytest.approx(0.8), pytest.approx(0.5)]
    for refused in (replace(mine, sampler="tpe"), replace(mine, objective="robust+hours")):
        with pytest.raises(InputError, match="--sampler auto"):
            read_warm_start(path, refused, PIXEL / 5)


def test_a_prior_is_kept_in_the_study_and_is_no_observation(tmp_path):
    lab = Lab(tmp_path, search_of(sampler="auto", warm_start=("other",)))
    study = lab.open()
    study.expect([{"point": {}, "values": [0.1, 0.2], "noise": [0.0, 0.0]}], "other")
    assert study.study.trials == []
    assert study.sources() == lab.open().sources() == {"other"}


def rows_of(values):
    return [{"point": {"at": float(at)}, "values": [float(v)] * 2, "noise": [1e-4] * 2}
            for at, v in values]  # fmt: skip


def test_a_prior_that_explains_what_is_seen_is_used_and_another_one_is_not():
    x = np.linspace(0, 1, 20)
    shape = np.sin(9 * x)
    prior = fit_prior(Encoding(LINE), rows_of(zip(x, shape, strict=True)), ranked)
    seen, noise = np.array([0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95])[:, None], np.full(7, 1e-4)
    related, there = 0.3 + 0.5 * np.sin(9 * seen[:, 0]), np.array([[0.42]])
    guided = fit_with_prior(seen, related, noise, prior.processes[0])
    assert isinstance(guided, Shifted)
    assert guided.predict(there)[0] == pytest.approx(0.3 + 0.5 * np.sin(9 * 0.42), abs=0.03)
    for unlike in (-related, np.array([0.1, 0.5, 0.2, 0.6, 0.1, 0.5, 0.3])):
        assert isinstance(fit_with_prior(seen, unlike, noise, prior.processes[0]), Posterior)
    assert fit_prior(Encoding(LINE), rows_of([(0.5, 1.0)] * (FEWEST - 1)), ranked) is None


def test_the_first_proposals_are_the_best_points_of_the_prior():
    study = optuna.create_study(directions=["maximize"] * 2)
    study.sampler = named_sampler("auto", LINE, objectives=2, seed=0, draws=0)
    study.set_user_attr(f"{PRIOR}x", rows_of((at, 1 - abs(at - 0.3)) for at in np.linspace(0, 1, 21)))
    drawn = []
    for _ in range(STARTUP + 1):
        trial = study.ask()
        drawn.append(draw(trial, LINE)["at"])
        study.tell(trial, [drawn[-1], 1 - drawn[-1]])
    assert sorted(drawn[:HINTS]) == pytest.approx([0.25, 0.3, 0.35])
    assert len(set(drawn)) == STARTUP + 1
