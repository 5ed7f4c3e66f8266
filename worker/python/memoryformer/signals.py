"""How a process leaves a run when it ends."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import weakref
from typing import TYPE_CHECKING, Any, Callable, Iterator

if TYPE_CHECKING:
    from .run import Run


@contextlib.contextmanager
def ends_by_signal(stop: Callable[[], None], close: Callable[[], None]) -> Iterator[None]:
    """SIGTERM and SIGHUP, if the script has nothing else for them, end the loop inside after the work in hand, so that
    nothing is lost; then the process ends as it would have."""
    got: list[int] = []
    before: dict[int, Any] = {}

    def handle(number: int, _: object) -> None:
        got.append(number)
        signal.signal(number, signal.SIG_DFL)  # a second one ends at once
        stop()

    with contextlib.suppress(ValueError):  # not the main thread
        for which in (signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(which) == signal.SIG_DFL:
                before[which] = signal.signal(which, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            if number not in got:
                signal.signal(number, handler)
        if got:
            close()
            signal.signal(got[0], signal.SIG_DFL)
            os.kill(os.getpid(), got[0])


def close_at_exit(run: "Run") -> None:
    """A script that ends by an error, or keeps the run in a global variable, leaves the run, too."""
    weak = weakref.ref(run)

    def close() -> None:
        alive = weak()
        if alive is not None:
            alive.close()

    atexit.register(close)
