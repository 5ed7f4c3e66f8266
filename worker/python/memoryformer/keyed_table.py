"""Tables with a row for every key that is trained."""

from __future__ import annotations

from typing import Any, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
import torch

from .errors import InvalidError
from .keyed_rows import keys_of, rows_of
from .row_table import RowTable
from .table import READ_BYTES, GivenRows, check_shape

_LISTED = 1 << 22  # rows that servers list at once


class KeyedTable(RowTable):
    """Rows by key: key k has the row mix(k), see common/run/keyed_rows.h."""

    def file_names(self) -> list[str]:
        return [f"{self.spec.name}.keys", f"{self.spec.name}.rows"]

    def state(self, epoch: int, step: int) -> dict[str, torch.Tensor]:
        native, spec = self._run.native, self.spec
        parts = list(self._listed(epoch, step))
        rows = np.concatenate(parts) if parts else np.zeros(0, np.uint64)
        values = np.empty((len(rows), spec.columns), np.float32)
        at_once = max(1, READ_BYTES // (4 * spec.columns))
        for first in range(0, len(rows), at_once):
            part = values[first : first + at_once]
            native.pull((epoch, step, False), spec.id, rows[first : first + at_once], part).wait()
        keys = keys_of(rows)
        order = np.argsort(keys)
        return {f"{spec.name}.keys": torch.from_numpy(keys[order].view(np.int64)),
                f"{spec.name}.rows": torch.from_numpy(values[order])}

    def _listed(self, epoch: int, step: int) -> Iterator[NDArray[np.uint64]]:
        """All trained rows, rising."""
        first = 0
        while first < 1 << 64:
            rows = np.empty(_LISTED, np.uint64)
            count = self._run.native.list_rows(epoch, step, self.spec.id, first, rows)
            if count == 0:
                return
            yield rows[:count].copy()
            first = int(rows[count - 1]) + 1

    def given(self, path: object, tensors: Mapping[str, NDArray[Any]]) -> GivenRows | None:
        name = self.spec.name
        there = [file_name for file_name in self.file_names() if file_name in tensors]
        if not there:
            return None
        if len(there) == 1:
            raise InvalidError(f"{path}: has only {there[0]} of {' and '.join(self.file_names())}")
        keys, values = tensors[f"{name}.keys"], tensors[f"{name}.rows"]
        if keys.dtype.kind not in "iu" or keys.ndim != 1:
            raise InvalidError(f"{path}: {name}.keys is {keys.dtype} {keys.shape}; it has to be integers [N]")
        check_shape(path, f"{name}.rows", values, (len(keys), self.spec.columns))
        rows = rows_of(np.array(keys))
        order = np.argsort(rows)
        if (rows[order][1:] == rows[order][:-1]).any():
            raise InvalidError(f"{path}: {name}.keys has a key twice")
        return GivenRows(np.ascontiguousarray(values[order], np.float32), np.ascontiguousarray(rows[order]))
