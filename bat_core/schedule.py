"""Learning rate as a function of progress alone, so that a resumed run needs no state for it."""

import math

from bat_core.config import TrainConfig

WARM_UP = 0.3  # share of a one-cycle schedule that rises, unless told otherwise


def learning_rate(config: TrainConfig, progress: float) -> float:
    """The learning rate at `progress`, the share of all updates that are done, in [0, 1).

    `one_cycle` rises linearly for 30 % and falls linearly to zero (Smith 2018, arXiv:1803.09820);
    `multi_step` falls at each milestone, tenfold unless `drop` says otherwise; `cosine` is Loshchilov and
    Hutter's (arXiv:1608.03983). The latter two rise linearly while they warm up, if they do, and go on
    from there as if they had not.
    """
    one_cycle = config.schedule == "one_cycle"
    warm_up = (WARM_UP if one_cycle else 0.0) if config.warm_up is None else config.warm_up
    rising = progress / warm_up if progress < warm_up else 1.0
    if one_cycle:
        return config.lr * min(rising, (1 - progress) / (1 - warm_up))
    if config.schedule == "multi_step":
        return config.lr * rising * config.drop ** sum(progress >= milestone for milestone in config.milestones)
    share = (1 + math.cos(math.pi * progress)) / 2
    return config.lr * rising * (config.final_lr + (1 - config.final_lr) * share)
