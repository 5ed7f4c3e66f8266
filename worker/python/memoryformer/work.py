"""A micro-batch that this process has been given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from . import _native
from .errors import Error, InvalidError, SupersededError

if TYPE_CHECKING:
    from .run import Run
    from .table import Table


class Work:
    """Micro-batch `number` (from 0) of step `step` (from 1): compute its loss, then `backward(loss)`.

    Its data must follow from the two numbers alone: any process may be given it, and after a recovery it is given
    again.
    """

    def __init__(self, run: "Run", epoch: int, step: int, number: int) -> None:
        self._run = run
        self.epoch = epoch
        self.step = step
        self.number = number
        self.done = False
        self.token = object()  # nothing else is it
        #: False once the step went on without this process: what it still computes is thrown away, and somebody
        #: does the micro-batch again.
        self.valid = True
        self.given_up: SupersededError | None = None  # why it is not valid
        self._pending: list[_native.Pending] = []

    def backward(self, loss: torch.Tensor) -> None:
        """Gradients of the micro-batch's mean loss (a scalar), which go to the servers; ends the micro-batch.

        The step's gradient is that of the mean over its micro-batches.
        """
        self._check_open()
        if not isinstance(loss, torch.Tensor) or loss.numel() != 1:
            raise InvalidError(f"work.backward: the loss has to be a tensor of one number, the micro-batch's mean, not "
                               f"{tuple(loss.shape) if isinstance(loss, torch.Tensor) else type(loss).__name__}")
        (loss.reshape(()) / self._run.micro_batches).backward()
        self.finish(float(loss.detach()))

    def skip(self) -> None:
        """Contributes nothing, as an empty micro-batch, with a loss of 0. Before any backward pass: what memory layers
        have sent cannot be taken back. (A step with a gradient that is not finite is dropped by the servers.)"""
        self._check_open()
        for table in self._run.tables:
            if table.sent(self):
                raise Error(f"work.skip(): {table.spec.name} has its gradient already; decide before backward",
                            "invalid")
        for table in self._run.tables:
            table.forget()
        for parameter in self._run.parameters():
            parameter.grad = None
        self.finish(0.0)

    def finish(self, loss: float) -> None:
        """Ends a micro-batch whose gradients are there already: for several calls of `tensor.backward()`, each of a
        loss divided by run.micro_batches."""
        self._check_open()
        run = self._run
        run.check_unchanged()
        for table in run.tables:
            table.finish(self)
        pushes = run.guarded(lambda: run.push_parameters(self))
        for request in self._pending + (pushes or []):
            run.guarded(request.wait)
        self._pending = []
        self.done = True
        run.end_work(self, loss)

    def _check_open(self) -> None:
        if self.done or self._run.work is not self:
            raise Error(f"micro-batch {self.number} of step {self.step} has ended: it ends with work.backward(), "
                        "work.finish() or work.skip(), once", "invalid")

    def push_nothing(self, table: "Table") -> None:
        """The contribution of a table that had no part in the loss."""
        native, spec = self._run.native, table.spec
        self.wait_later(self._run.guarded(lambda: native.push(
            self.epoch, self.step, self.number, spec.id, np.zeros(0, np.uint64), None,
            np.zeros((0, spec.columns), np.float32))))

    def wait_later(self, request: _native.Pending | None) -> None:
        """At the end of the micro-batch."""
        if request is not None:
            self._pending.append(request)
