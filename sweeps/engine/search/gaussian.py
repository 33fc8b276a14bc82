"""A Gaussian process over the points of a space whose observations have known noise."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

Array = npt.NDArray[np.float64]

# Log-normal priors of the hyperparameters (mean and standard deviation of the logarithm), for coordinates in [0, 1]
# and values of unit variance.
VARIANCE, LENGTH, SEED_NOISE = (0.0, 1.0), (0.5, 1.0), (-3.0, 1.5)
BOUNDS = (1e-3, 1e3)
STEPS = 40  # of the optimiser: enough for two digits of a hyperparameter


@dataclass(frozen=True)
class Posterior:
    """A fitted process. `predict` answers for the mean over training seeds, without the noise of one trial."""

    model: GaussianProcessRegressor
    centre: float
    scale: float
    seed_noise: float

    def predict(self, x: Array) -> tuple[Array, Array]:
        """Mean and standard deviation at (N, D) points: two (N,) arrays in the unit of the values."""
        mean, deviation = self.model.predict(x, return_std=True)
        latent = np.sqrt(np.maximum(deviation**2 - self.seed_noise, 1e-12))
        return self.centre + self.scale * mean, self.scale * latent

    def draws(self, x: Array, count: int, rng: np.random.Generator) -> Array:
        """(N, count) joint draws of the values at (N, D) points, without the noise of one trial."""
        mean, covariance = self.model.predict(x, return_cov=True)
        latent = covariance - self.seed_noise * np.eye(len(x))
        strengths, directions = np.linalg.eigh(latent)
        spread = directions * np.sqrt(np.maximum(strengths, 0.0))
        return self.centre + self.scale * (mean[:, None] + spread @ rng.standard_normal((len(x), count)))

    def believing(self, x: Array) -> "Posterior":
        """The process after its own means at (N, D) points are observed too, as for trials that still run.

        Source: Ginsbourger, Le Riche and Carraro 2010 (kriging believer).
        """
        model, noise = self.model, float(np.mean(self.model.alpha))
        believed = GaussianProcessRegressor(
            model.kernel_, alpha=np.append(model.alpha, np.full(len(x), noise)), optimizer=None
        ).fit(np.concatenate([model.X_train_, x]), np.append(model.y_train_, model.predict(x)))
        return Posterior(believed, self.centre, self.scale, self.seed_noise)


def fit(x: Array, y: Array, noise: Array) -> Posterior:
    """Fit a process with a Matern 5/2 kernel and one length per coordinate, at the maximum of the posterior density.

    Args:
        x: (N, D) in [0, 1].  y: (N,) observed values.
        noise: (N,) variances of the observations that are known, as of a share of n images. The variance between
            training seeds is estimated on top.
    Source: Rasmussen and Williams 2006, algorithm 2.1 and section 5.4.
    """
    centre, scale = float(y.mean()), float(max(y.std(), 1e-6))
    kernel = (
        ConstantKernel(1.0, BOUNDS) * Matern(np.full(x.shape[1], np.exp(LENGTH[0])), BOUNDS, nu=2.5)
        + WhiteKernel(np.exp(SEED_NOISE[0]), BOUNDS)
    )  # fmt: skip
    model = GaussianProcessRegressor(kernel, alpha=noise / scale**2 + 1e-8, optimizer=_with_priors)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # a length at its bound is a parameter without influence
        model.fit(x, (y - centre) / scale)
    return Posterior(model, centre, scale, float(model.kernel_.k2.noise_level))


def _with_priors(objective: Callable[[Array], tuple[float, Array]], start: Array, bounds: Array) -> tuple[Array, float]:
    """Maximise likelihood times prior. The hyperparameters are logarithms: variance, lengths, seed noise."""
    priors = np.array([VARIANCE, *[LENGTH] * (len(start) - 2), SEED_NOISE])
    centres, widths = priors[:, 0], priors[:, 1]

    def loss(theta: Array) -> tuple[float, Array]:
        value, gradient = objective(theta)
        off = (theta - centres) / widths
        return value + 0.5 * float(off @ off), gradient + off / widths

    found: Any = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS})
    return found.x, float(found.fun)
