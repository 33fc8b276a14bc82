"""A Gaussian process over the points of a space whose observations have known noise."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve
from scipy.optimize import minimize
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
    """A fitted process. `predict` answers for the mean over training seeds, without the noise of one trial.

    `cost` is the negative logarithm of the density of values and hyperparameters, in the unit of the values.
    """

    model: GaussianProcessRegressor
    centre: float
    scale: float
    seed_noise: float
    cost: float = 0.0

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
    y, noise = (y - centre) / scale, noise / scale**2 + 1e-8
    priors = np.array([VARIANCE, *[LENGTH] * x.shape[1], SEED_NOISE])
    loss = Loss(x, y, noise)

    def with_priors(theta: Array) -> tuple[float, Array]:
        value, gradient = loss(theta)
        off = (theta - priors[:, 0]) / priors[:, 1]
        return value + 0.5 * float(off @ off), gradient + off / priors[:, 1]

    start, bounds = priors[:, 0], [np.log(BOUNDS)] * len(priors)
    found = minimize(with_priors, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": STEPS})
    theta: Array = found.x
    variance, lengths, seed_noise = np.exp(theta[0]), np.exp(theta[1:-1]), float(np.exp(theta[-1]))
    kernel = ConstantKernel(variance) * Matern(lengths, nu=2.5) + WhiteKernel(seed_noise)
    model = GaussianProcessRegressor(kernel, alpha=noise, optimizer=None).fit(x, y)
    return Posterior(model, centre, scale, seed_noise, float(found.fun) + len(y) * float(np.log(scale)))


class Loss:
    """The negative logarithm of the marginal likelihood, and its gradient, at logarithms of the hyperparameters:
    variance, a length per coordinate, seed noise.

    scikit-learn computes the same; most of its time is spent on naming hyperparameters.
    """

    def __init__(self, x: Array, y: Array, noise: Array) -> None:
        self._y, self._noise = y, noise
        self._squares = (x[:, None, :] - x[None, :, :]) ** 2

    def __call__(self, theta: Array) -> tuple[float, Array]:
        variance, lengths, seed_noise = np.exp(theta[0]), np.exp(theta[1:-1]), np.exp(theta[-1])
        scaled = np.sqrt(5 * (self._squares @ lengths**-2))
        decay = variance * np.exp(-scaled)
        kernel = decay * (1 + scaled + scaled**2 / 3)
        factor = cho_factor(kernel + np.diag(self._noise + seed_noise), lower=True)
        weights = cho_solve(factor, self._y)
        pull = np.outer(weights, weights) - cho_solve(factor, np.eye(len(self._y)))
        by_length = np.tensordot(pull * decay * (1 + scaled), self._squares, 2) * (5 / 3) / lengths**2
        gradient = -0.5 * np.array([(pull * kernel).sum(), *by_length, np.trace(pull) * seed_noise])
        value = 0.5 * self._y @ weights + np.log(np.diag(factor[0])).sum() + 0.5 * len(self._y) * np.log(2 * np.pi)
        return float(value), gradient
