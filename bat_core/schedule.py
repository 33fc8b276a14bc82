"""Learning rate as a function of progress alone, so that a resumed run needs no state for it."""

import math

from bat_core.config import TrainConfig

WARM_UP = 0.3  # share of a one-cycle schedule that rises


def learning_rate(config: TrainConfig, progress: float) -> float:
    """The learning rate at `progress`, the share of all updates that are done, in [0, 1).

    `one_cycle` rises linearly for 30 % and falls linearly to zero (Smith 2018, arXiv:1803.09820);
    `multi_step` falls tenfold at each milestone; `cosine` is Loshchilov and Hutter's (arXiv:1608.03983).
    """
    if config.schedule == "multi_step":
        return config.lr * 0.1 ** sum(progress >= milestone for milestone in config.milestones)
    if config.schedule == "cosine":
        return config.lr * (1 + math.cos(math.pi * progress)) / 2
    return config.lr * min(progress / WARM_UP, (1 - progress) / (1 - WARM_UP))
