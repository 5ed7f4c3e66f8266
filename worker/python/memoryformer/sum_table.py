"""Tables of a memory layer whose rows the servers sum."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
import torch

from . import _native
from .errors import Error, InvalidError
from .table import Table

if TYPE_CHECKING:
    from .run import Run
    from .work import Work

_INDEX_TYPES = ((8, torch.uint8), (16, torch.int16), (32, torch.int32))  # by bits; signed ones hold the same bytes


def index_type(bits: int) -> torch.dtype:
    """Of bucket numbers of so many bits, as they go over the wire."""
    return next(kind for most, kind in _INDEX_TYPES if bits <= most)


class Request:
    """Sums that servers are asked for."""

    def __init__(self, table: "SumTable", out: NDArray[np.float32], parts: list[_native.Pending],
                 token: object) -> None:
        self._table = table
        self._out = out
        self._parts = parts
        self.token = token  # of the micro-batch that trains the rows; None: they are only read

    def values(self) -> NDArray[np.float32]:
        """float32 [T, columns]; zeros if the micro-batch is nobody's any more."""
        if self.token is not None:
            self._table.check_current(self.token)
        for part in self._parts:
            self._table.guarded(part.wait)
        self._parts = []
        return self._out


class SumTable(Table):
    """`tables` tables of 2 ** `bits` rows of `columns` numbers."""

    def __init__(self, run: "Run", spec: _native.TensorSpec, bits: int) -> None:
        super().__init__(run, spec)
        self._type = index_type(bits)
        self._contributed: object = None  # token of the micro-batch in which it last was

    def indices(self, buckets: torch.Tensor) -> NDArray[Any]:
        """Integers [pairs, T] in the type that goes over the wire."""
        return buckets.to(self._type).cpu().contiguous().numpy()

    def start(self, indices: NDArray[Any], weights: NDArray[np.float32], tokens: int) -> Request:
        """Asks for the sums [T, columns]. A read of training if gradients are wanted."""
        run, spec = self._run, self.spec
        if len(indices) != spec.tables * spec.probes:
            raise InvalidError(f"{spec.name}: was given {len(indices)} rows a token, and reads "
                               f"{spec.tables * spec.probes}: the hash of another layer?")
        out = np.zeros((tokens, spec.columns), np.float32)
        at, training = run.read_state(torch.is_grad_enabled())
        if training and tokens > run.tokens:
            raise InvalidError(f"{spec.name}: {tokens} tokens in one micro-batch; mf.Run(tokens=...) allows "
                               f"{run.tokens}")
        parts = []
        for begin in range(0, tokens, run.tokens):
            end = min(begin + run.tokens, tokens)
            cut = (np.ascontiguousarray(indices[:, begin:end]), np.ascontiguousarray(weights[:, begin:end]))
            part = run.guarded(lambda: run.native.forward(at, spec.id, end - begin, *cut, out[begin:end]))
            parts += [] if part is None else [part]
        return Request(self, out, parts, run.work.token if training and run.work is not None else None)

    def contribute(self, asked: Request, indices: NDArray[Any], weights: NDArray[np.float32], tokens: int,
                   gradient: NDArray[np.float32], dweights: NDArray[np.float32] | None) -> None:
        """After the request for their sums: contributes gradient [T, columns] to the rows; fills dweights [pairs, T]
        with dL/dw. Once in a micro-batch."""
        run, spec = self._run, self.spec
        work = run.work
        if work is None:
            raise Error(f"{spec.name}: a gradient outside of a micro-batch of its run; call work.backward() there",
                        "invalid")
        if asked.token is not None:
            self.check_current(asked.token)
        if self.sent(work):
            raise Error(f"{spec.name}: a second gradient in micro-batch {work.number} of step {work.step}; a layer is "
                        "used once in it: give each place a layer of its own, or put both inputs into one call",
                        "invalid")
        self._contributed = work.token
        if tokens == 0:
            work.push_nothing(self)
            return
        place = (work.epoch, work.step, work.number)
        request = run.guarded(
            lambda: run.native.backward(*place, spec.id, tokens, indices, weights, gradient, dweights))
        if dweights is None:
            work.wait_later(request)
            return
        if request is not None:
            run.guarded(request.wait)
        if not work.valid:
            dweights[:] = 0

    def sent(self, work: "Work") -> bool:
        return self._contributed is work.token

    def finish(self, work: "Work") -> None:
        if not self.sent(work):
            work.push_nothing(self)
