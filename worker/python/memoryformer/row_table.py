"""Tables whose rows are pulled: this process sums them, and pushes their gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
import torch

from . import _native
from .errors import InvalidError
from .table import Table

if TYPE_CHECKING:
    from .run import Run
    from .work import Work

_NUMBERS_MAX = 1 << 28  # of one message: 1 GiB


class Rows:
    """Rows that servers were asked for. `positions`, int64 in the shape of what was asked: where each of them is among
    the distinct ones."""

    def __init__(self, table: "RowTable", rows: NDArray[np.uint64], hits: NDArray[np.int64],
                 positions: NDArray[np.int64], values: NDArray[np.float32], pending: _native.Pending | None,
                 token: object) -> None:
        self.rows = rows
        self.hits = hits
        self.positions = torch.from_numpy(positions)
        self._table = table
        self._values = values
        self._pending = pending
        self._token = token  # of the micro-batch that trains them; None: they are only read
        self._leaf: torch.Tensor | None = None

    def wait(self) -> torch.Tensor:
        """float32 [distinct rows, columns] on the CPU; of a training read their gradients go to the servers."""
        if self._token is not None:
            self._table.check_current(self._token)
        if self._leaf is None:
            if self._pending is not None:
                self._table.guarded(self._pending.wait)
                self._pending = None
            self._leaf = torch.from_numpy(self._values)
            if self._token is not None:
                self._leaf.requires_grad_()
                # A graph that was kept for a later micro-batch would add to what nobody sends.
                self._leaf.register_hook(lambda _: self._table.check_current(self._token))
        return self._leaf

    def gradient(self) -> NDArray[np.float32] | None:
        """As far as it was computed."""
        if self._leaf is None or self._leaf.grad is None:
            return None
        values: NDArray[np.float32] = self._leaf.grad.detach().contiguous().numpy()
        return values


class RowTable(Table):
    """Rows by their global numbers."""

    def __init__(self, run: "Run", spec: _native.TensorSpec) -> None:
        super().__init__(run, spec)
        self._pulled: list[Rows] = []  # in the micro-batch
        self._token: object = None     # of it

    def start(self, rows: NDArray[np.uint64]) -> Rows:
        """Asks for rows, of which some may be the same."""
        run, spec = self._run, self.spec
        distinct, positions, hits = np.unique(rows, return_inverse=True, return_counts=True)
        self._check_size(len(distinct), "look-up")
        values = np.zeros((len(distinct), spec.columns), np.float32)
        at, training = run.read_state(torch.is_grad_enabled())
        token = run.work.token if training and run.work is not None else None
        pending = None
        if len(distinct) > 0:
            pending = run.guarded(lambda: run.native.pull(at, spec.id, distinct, values))
        pulled = Rows(self, distinct, hits, positions.reshape(rows.shape), values, pending, token)
        if token is not None:
            if self._token is not token:
                self._token, self._pulled = token, []
            self._pulled.append(pulled)
        return pulled

    def sent(self, work: "Work") -> bool:
        return False  # until finish()

    def forget(self) -> None:
        self._token, self._pulled = None, []

    def finish(self, work: "Work") -> None:
        """The gradients of all look-ups of the micro-batch as one contribution, added in the order of the look-ups."""
        parts: list[tuple[Rows, NDArray[np.float32]]] = []
        for pulled in self._pulled if self._token is work.token else []:
            part = pulled.gradient()
            if part is not None:
                parts.append((pulled, part))
        self.forget()
        if not parts:
            work.push_nothing(self)
            return
        if len(parts) == 1:
            rows, hits, gradient = parts[0][0].rows, parts[0][0].hits, parts[0][1]
        else:
            rows = np.unique(np.concatenate([pulled.rows for pulled, _ in parts]))
            self._check_size(len(rows), "micro-batch")
            hits = np.zeros(len(rows), np.int64)
            gradient = np.zeros((len(rows), self.spec.columns), np.float32)
            for pulled, part in parts:
                at = np.searchsorted(rows, pulled.rows)
                hits[at] += pulled.hits
                gradient[at] += part
        run, spec = self._run, self.spec
        counts = np.minimum(hits, np.iinfo(np.uint32).max).astype(np.uint32)
        work.wait_later(run.guarded(
            lambda: run.native.push(work.epoch, work.step, work.number, spec.id, rows, counts, gradient)))

    def _check_size(self, rows: int, what: str) -> None:
        if rows * self.spec.columns > _NUMBERS_MAX:
            raise InvalidError(f"{self.spec.name}: {rows} rows in one {what} are more than 1 GiB; look up less at once")
