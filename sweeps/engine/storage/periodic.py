"""Repeat a call in the background."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def every(seconds: float, act: Callable[[], object], *, name: str, join: bool = True) -> Iterator[None]:
    """Call `act` every `seconds` in a separate thread while the body runs.

    The thread ends early if `act` returns False. With `join`, the exit waits for a call in progress.
    """
    stop = threading.Event()

    def loop() -> None:
        while not stop.wait(seconds):
            if act() is False:
                return

    thread = threading.Thread(target=loop, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        if join:
            thread.join()
