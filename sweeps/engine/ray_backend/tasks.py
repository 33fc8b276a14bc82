"""Runs calls of one function on Ray workers."""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, TypeVar

import ray
import torch
from ray.exceptions import RayError, RayTaskError
from ray.util import ActorPool

from bat_core.errors import InputError
from sweeps.engine.ray_backend.cluster import concurrent_trials
from sweeps.engine.sweep.spec import Resources

T = TypeVar("T")


TaskError = RayError  # raised if a call fails or its process dies


def run_tasks(
    function: Callable[..., T],
    calls: Iterable[tuple[Any, ...]],
    shared: tuple[Any, ...],
    *,
    gpus: float,
    most: int | None,
) -> Iterator[T]:
    """Run `function(*shared, *call)` for every call on Ray workers, at most `most` at a time.

    Workers are reused, so that each loads its data once. A call is taken from `calls` when a worker is free.

    Yields:
        The result of each call, in order of completion.
    Raises:
        Exception: the error of the first call that failed.
    """
    fits = concurrent_trials(Resources(gpus_per_worker=gpus))
    common = [ray.put(one) for one in shared]

    worker = ray.remote(num_cpus=1, num_gpus=gpus)(_Worker)
    waiting = iter(calls)
    first = list(islice(waiting, min(most or fits, fits)))
    pool = ActorPool([worker.remote(function) for _ in first])

    def submit(these: Iterable[tuple[Any, ...]]) -> None:
        for call in these:
            pool.submit(lambda one, call: one.run.remote(call, *common), call)

    submit(first)
    while pool.has_next():
        try:
            answer = pool.get_next_unordered()
        except RayTaskError as error:
            if isinstance(error.cause, InputError):  # without Ray's own text around its sentence
                raise error.cause from error
            raise
        submit(islice(waiting, 1))
        yield answer


class _Worker:
    """A process that calls one function repeatedly."""

    def __init__(self, function: Callable[..., Any]) -> None:
        torch.set_num_threads(1)
        self.function = function

    def run(self, call: tuple[Any, ...], *shared: Any) -> Any:
        return self.function(*shared, *call)
