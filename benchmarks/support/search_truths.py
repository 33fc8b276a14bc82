"""Problems of known truth for part `surrogate`: fitted to recorded trials, and an analytic one.

A problem says what a point of the space `bat` reaches in the mean over training seeds. What a search sees of it has the
noise of a training seed and of a sample of images.
"""

import hashlib
import json
import math
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.ensemble import ExtraTreesRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

from bat_core.errors import InputError
from bat_core.jsontext import read_json
from search_spaces.base import Point, Space, get_space
from search_spaces.encoding import Encoding
from sweeps.engine.search.results import scores
from sweeps.engine.search.spec import SEARCH
from sweeps.engine.sweep.folder import SweepFolder
from sweeps.engine.sweep.records import read_status

Array = npt.NDArray[np.float64]
TRIALS = "*.jsonl"
MEASURES = ("clean", "robust")
PIXEL = 5 / 255  # of the embedded digits, whose budgets the recorded trials use
SEED_NOISE = 0.15  # of the analytic problem: standard deviation between training seeds, of the logit
FEWEST = 20  # recorded trials


@dataclass(frozen=True)
class Recorded:
    """A trial that was really trained: accuracies in [0, 1] on `n` images, and the validation curve by epoch."""

    point: Point
    clean: float
    pgd: float
    robust: float
    n: int
    masked: bool
    curve: tuple[tuple[float, float], ...]
    seconds: tuple[float, ...]
    """Of each epoch, and then of the evaluation."""
    verifying: float = 0.0
    """Seconds of the evaluation that the verifying suite took; 0 if they are not known."""


@dataclass(frozen=True)
class Problem:
    """`truth` maps points to (N, 2) clean and robust accuracy in the mean over seeds.

    `seed_noise` is the standard deviation between training seeds, of the logit of each measure. `images` is the number
    of validation images that a trial is measured on.
    """

    name: str
    space: Space
    truth: Callable[[Sequence[Point]], Array]
    seed_noise: tuple[float, float]
    images: int

    def measure(self, truth: Array, rng: np.random.Generator) -> Array:
        """What one trial shows of its (2,) truth. An image that is classified wrong is not robust."""
        clean, robust = _expit(_logit(truth) + rng.standard_normal(2) * self.seed_noise)
        right = rng.binomial(self.images, clean)
        stays = rng.binomial(right, min(robust / max(clean, 1e-9), 1.0))
        return np.array([right, stays]) / self.images


def recorded_trials(folder: Path) -> list[Recorded]:
    """Trials from JSON lines (`point`, `clean`, `pgd`, `robust`, `clean_bits`, `verdict`, `curve`) in a folder, or from
    the searches that are below it.

    Raises:
        InputError: there are too few.
    """
    found = [_from_line(line) for path in sorted(folder.glob(TRIALS)) for line in path.read_text().splitlines()]
    if not found:
        found = [one for path in sorted(folder.rglob(SEARCH)) for one in _from_search(path.parent)]
    if len(found) < FEWEST:
        raise InputError(
            f"--trials {str(folder)!r} holds {len(found)} finished trials, and a surrogate needs {FEWEST}: name a"
            " folder of searches over the space 'bat', such as the --cache of part a"
        )
    return found


def _from_line(line: str) -> Recorded:
    row: dict[str, Any] = read_json(line.encode())
    curve = tuple((epoch["val_clean_acc"], epoch["val_robust_acc"]) for epoch in row["curve"])
    return Recorded(
        row["point"], row["clean"], row["pgd"], row["robust"], len(row["clean_bits"]), row["verdict"] == "masked",
        curve, _durations([epoch["cpu"] for epoch in row["curve"]], row["cpu"]), row.get("verify_cpu", 0.0),
    )  # fmt: skip


def _durations(until: Sequence[float], total: float) -> tuple[float, ...]:
    """The duration of each epoch, and of what follows the last one, from the processor seconds after each."""
    return tuple(float(one) for one in np.diff([0.0, *until, total]))


def _from_search(path: Path) -> list[Recorded]:
    folder = SweepFolder(path)
    found = []
    for one in scores(folder.load(), folder):
        epochs = read_status(folder.trial(one.trial)).epochs
        curve = tuple((epoch["val_clean_acc"], epoch["val_robust_acc"]) for epoch in epochs)
        spent = [epoch["seconds"] for epoch in epochs]
        total = max(one.ended - (read_status(folder.trial(one.trial)).started or one.ended), sum(spent))
        found.append(
            Recorded(one.point, one.clean_acc, one.pgd_acc, one.robust_acc, one.n, one.masked, curve,
                     _durations(np.cumsum(spent).tolist(), total))
        )  # fmt: skip
    return found


@dataclass(frozen=True)
class Problems:
    """Problems by name: gp and forest (fitted to the trials), budget (gp at another budget), and analytic.

    `images` is the number of validation images of every problem.
    """

    trials: tuple[Recorded, ...]
    images: int

    @property
    def fingerprint(self) -> str:
        """Tells apart what problems were fitted to; empty without trials."""
        text = json.dumps([[one.point, one.clean, one.robust] for one in self.trials])
        return hashlib.sha256(text.encode()).hexdigest()[:8] if self.trials else ""

    def named(self, name: str) -> Problem:
        """The problem called `name`, fitted once.

        Raises:
            InputError: unknown name.
        """
        key = (self.fingerprint, self.images, name)
        if key not in _fitted:
            _fitted[key] = problem(name, self.trials, self.images)
        return _fitted[key]


_fitted: dict[tuple[str, int, str], Problem] = {}  # of this process


def problem(name: str, trials: Sequence[Recorded], images: int) -> Problem:
    """The problem called `name`: gp or forest (fitted to the trials), budget (gp at another budget), or analytic.

    Raises:
        InputError: unknown name.
    """
    space = get_space("bat").at(PIXEL)
    if name == "analytic":
        noise = (SEED_NOISE, SEED_NOISE)
        return Problem(name, space, lambda points: np.array([_analytic(one) for one in points]), noise, images)
    if name == "budget":
        return _at_smaller_budget(problem("gp", trials, images))
    if name not in FAMILIES:
        raise InputError(f"unknown problem {name!r}; known: {', '.join((*FAMILIES, 'budget', 'analytic'))}")
    vector = Encoding(space).vector
    x = np.array([vector(one.point) for one in trials])
    models = []
    for measure in MEASURES:
        y = _logit(np.array([_smoothed(getattr(one, measure), one.n) for one in trials]))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a parameter without influence
            models.append(FAMILIES[name]().fit(x, y))

    def truth(points: Sequence[Point]) -> Array:
        at = np.array([vector(one) for one in points])
        clean, robust = (_expit(model.predict(at)) for model in models)
        return np.column_stack([clean, np.minimum(clean, robust)])

    noise = tuple(_seed_noise(trials, measure) for measure in MEASURES)
    return Problem(name, space, truth, (noise[0], noise[1]), images)


def _at_smaller_budget(whole: Problem) -> Problem:
    """An evaluation budget of three quarters: the same trade-off at smaller training budgets, and higher accuracies."""
    gained = np.array([0.3, 0.8])  # of the logits

    def truth(points: Sequence[Point]) -> Array:
        larger = [{**one, "eps": min(float(one["eps"]) / 0.75, 16 * PIXEL)} for one in points]
        clean, robust = _expit(_logit(whole.truth(larger)) + gained).T
        return np.column_stack([clean, np.minimum(clean, robust)])

    return replace(whole, name="budget", truth=truth)


def _process() -> GaussianProcessRegressor:
    kernel = ConstantKernel(1.0) * RBF(np.ones(Encoding(get_space("bat")).width), (0.1, 1e3)) + WhiteKernel(
        0.1, (1e-3, 1.0)
    )
    return GaussianProcessRegressor(kernel, normalize_y=True, n_restarts_optimizer=2, random_state=0)


def _forest() -> ExtraTreesRegressor:
    return ExtraTreesRegressor(30, min_samples_leaf=2, max_features=0.7, random_state=0)


FAMILIES: dict[str, Callable[[], Any]] = {"gp": _process, "forest": _forest}


def _seed_noise(trials: Sequence[Recorded], measure: str) -> float:
    """The standard deviation between seeds of a measure's logit, from points that were trained several times.

    The variance of a sample of images is subtracted.
    """
    same = defaultdict(list)
    for one in trials:
        same[json.dumps(one.point, sort_keys=True)].append(one)
    spread, freedom, sampling = 0.0, 0, []
    for group in same.values():
        shares = np.array([_smoothed(getattr(one, measure), one.n) for one in group])
        spread += float(((_logit(shares) - _logit(shares).mean()) ** 2).sum())
        freedom += len(group) - 1
        sampling += [
            1 / (one.n * share * (1 - share)) for one, share in zip(group, shares, strict=True) if len(group) > 1
        ]
    return math.sqrt(max(spread / freedom - float(np.mean(sampling)), 0.05**2)) if freedom else SEED_NOISE


def _analytic(point: Point) -> tuple[float, float]:
    """A trade-off by the budget, with a paper point near its knee: weaker attacks, weak steps and labels cost."""
    eps = float(point["eps"]) / PIXEL / 16
    strength = 1 - math.exp(-float(point["num_steps"]) * float(point["rel_step_size"]) * 1.5)
    used = eps * strength
    label = {"one-hot": 0.1, "smooth": 0.05, "adversarial": 0.0}[str(point["label"])]
    if "beta" in point:
        label += 0.04 * math.log(float(point["beta"]) / 9) ** 2
    if "eps_y" in point:
        label += 0.5 * (float(point["eps_y"]) - 0.4) ** 2
    target = {"mc": 0.0, "none": 0.05, "random": 0.1, "ll": 0.15}[str(point["target"])]
    lost = label + target + (0.0 if point["random_start"] else 0.05)
    clean = 0.97 - 0.35 * used**2.5 - 0.3 * lost
    robust = 0.52 * (1 - math.exp(-4 * used)) * (1 - 1.5 * min(lost, 0.6))
    return clean, min(max(robust, 0.005), clean)


def _smoothed(share: float, n: int) -> float:
    return (share * n + 0.5) / (n + 1)


def _logit(share: Array) -> Array:
    share = np.clip(share, 1e-4, 1 - 1e-4)
    return np.log(share / (1 - share))


def _expit(value: Array) -> Array:
    return 1 / (1 + np.exp(-value))
