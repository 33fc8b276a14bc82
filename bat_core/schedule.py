"""The learning rate as a function of progress alone, so that resuming needs no scheduler state."""

import math

from bat_core.config import TrainConfig

MIDDLE = 0.5  # of a schedule: where the only update of a run is made if the schedule starts at zero
WARM_UP = 0.3  # default share of a one-cycle schedule in which the rate rises


def update_rate(config: TrainConfig, progress: float, *, updates: int) -> float:
    """The learning rate of the update at `progress` in a run of `updates`.

    A schedule that rises from zero wastes its first update. If there is no other, the rate is that of the schedule's
    middle, so that the run changes the weights.
    """
    rate = learning_rate(config, progress)
    return learning_rate(config, MIDDLE) if updates == 1 and rate == 0 else rate


def learning_rate(config: TrainConfig, progress: float) -> float:
    """The learning rate at `progress`, the share of updates done, in [0, 1).

    `one_cycle` rises linearly for `warm_up` (default 30 %) and falls linearly to zero (Smith 2018,
    arXiv:1803.09820). `multi_step` is multiplied by `drop` (default 0.1) at each milestone. `cosine` follows
    Loshchilov and Hutter (arXiv:1608.03983). With a warm-up, the latter two rise linearly and then continue as if
    there had been none.
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
