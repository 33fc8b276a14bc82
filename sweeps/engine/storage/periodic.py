"""Work that is repeated in the background."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def every(seconds: float, act: Callable[[], object], *, name: str, join: bool = True) -> Iterator[None]:
    """Call `act` every `seconds` in a thread of its own while the body runs.

    The thread ends early when `act` returns False. With `join`, a call in progress is waited for at the end.
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
