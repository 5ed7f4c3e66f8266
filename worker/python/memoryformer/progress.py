"""How a run goes, for people: a line that is written over on a terminal, else one line every ten seconds."""

from __future__ import annotations

import sys
import time
from typing import TextIO

from . import _native

_SECONDS_BETWEEN = {True: 0.2, False: 10.0}  # by whether it is a terminal


class Progress:
    """Shows steps on stderr."""

    def __init__(self, steps: int, stream: TextIO | None = None) -> None:
        self._steps = steps
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._begin = self._shown = time.monotonic()
        self._first: int | None = None
        self._caught_up = False  # with what was done before
        self._open = False  # a line that has no end yet

    def joined(self, step: int) -> None:
        """The newest step that is known, told before others are shown: what was done before this process is no speed
        of it."""
        if self._first is None:
            self._first = step if step > 1 else 0

    def show(self, record: _native.StepRecord) -> None:
        """A finished step."""
        now = time.monotonic()
        first = self._first or 0
        if not self._caught_up and record.step < first:
            return
        self._caught_up = True
        last = record.step == self._steps
        if not last and record.val_loss is None and now - self._shown < _SECONDS_BETWEEN[self._terminal]:
            return
        self._shown = now
        speed = (record.step - first) / max(now - self._begin, 1e-9)
        text = f"step {record.step}/{self._steps}  loss {record.loss:.4f}  lr {record.lr:.3g}  {speed:.3g} steps/s"
        if record.val_loss is not None:
            text += f"  held out {record.val_loss:.4f}"
        if self._terminal:
            width = 40
            done = width * record.step // self._steps
            text = f"\r[{'#' * done}{'.' * (width - done)}] {text}\x1b[K"
            self._open = True
        self._stream.write(text if self._terminal else text + "\n")
        self._stream.flush()

    def say(self, text: str) -> None:
        """A line of its own."""
        self.end()
        self._stream.write(text + "\n")
        self._stream.flush()

    def end(self) -> None:
        """Nothing more comes on the line."""
        if self._open:
            self._stream.write("\n")
            self._open = False
