"""What all tables on the servers have in common."""

from __future__ import annotations

import dataclasses
import weakref
from typing import TYPE_CHECKING, Any, Callable, Mapping, TypeVar

import numpy as np
from numpy.typing import NDArray
import torch

from . import _native
from .checks import one_of, real, whole
from .errors import Error, InvalidError
from .optimizers import Optimizer

if TYPE_CHECKING:
    from .run import Run
    from .work import Work

_T = TypeVar("_T")
READ_BYTES = 64 << 20  # of a table at once


@dataclasses.dataclass(frozen=True)
class TableRules:
    """How rows begin and are updated; see `MemoryLayer` and `Embedding`."""

    columns: int
    std: float
    weight_decay: float | None
    lr_scale: float
    lazy: bool
    rows: str
    row_wise: bool = False
    admit: int = 1  # of embeddings, as the next two
    waiting: int = 0
    expire: int = 0

    def fill(self, spec: _native.TensorSpec, optimizer: Optimizer) -> None:
        """Says so to the servers."""
        one_of(f"{spec.name}: rows", self.rows, ("f32", "bf16"))
        spec.columns = whole("width", self.columns, 1, 1 << 20)
        spec.init, spec.init_value = _native.Init.normal, real("std", self.std, 0)
        spec.optimizer = optimizer.native(self.lazy, self.row_wise)
        decay = optimizer.weight_decay if self.weight_decay is None else self.weight_decay
        spec.weight_decay = real(f"{spec.name}: weight_decay", decay, 0)
        spec.rate_scale = real(f"{spec.name}: lr_scale", self.lr_scale, 0)
        if whole(f"{spec.name}: admit", self.admit, 1, 10 ** 9) > 1:
            spec.admit_hits = self.admit
            spec.waiting_keys = whole(f"{spec.name}: waiting", self.waiting, _native.KEY_RANGES, 1 << 32)
        spec.expire_steps = whole(f"{spec.name}: expire", self.expire, 0, 10 ** 9)
        if self.expire and not self.lazy:
            raise InvalidError(f"{spec.name}: expire needs lazy=True: otherwise no step leaves a row as it is")
        spec.row_type = _native.RowType.bf16 if self.rows == "bf16" else _native.RowType.f32


@dataclasses.dataclass(frozen=True)
class GivenRows:
    """Values with which a table begins: of all rows, or of those named, which rise."""

    values: NDArray[np.float32]
    rows: NDArray[np.uint64] | None = None


class Table:
    """A layer's rows, which are one tensor of the servers. Made by Run.new_tables and Run.new_keyed_table."""

    def __init__(self, run: "Run", spec: _native.TensorSpec) -> None:
        self._weak_run = weakref.ref(run)  # a run that nobody has any more ends, whatever becomes of its layers
        self.spec = spec

    @property
    def _run(self) -> "Run":
        run = self._weak_run()
        if run is None:
            raise Error(f"{self.spec.name}: its run is gone; keep the mf.Run, or mf.Reader, for as long as its layers "
                        "are used",
                        "invalid")
        return run

    # In a micro-batch.

    def guarded(self, call: Callable[[], _T]) -> _T | None:
        """See Run."""
        return self._run.guarded(call)

    def check_current(self, token: object) -> None:
        """Error unless the micro-batch with this token is the one under way: what was read in it was of its step."""
        work = self._run.work
        if work is None or work.token is not token:
            raise Error(f"{self.spec.name}: a look-up of an earlier micro-batch; look up again in each, also where a "
                        "graph is kept", "invalid")

    def sent(self, work: "Work") -> bool:
        """Whether servers have a gradient of it for the micro-batch already."""
        raise NotImplementedError

    def forget(self) -> None:
        """Lets go of what the micro-batch has read."""

    def finish(self, work: "Work") -> None:
        """Sends what the micro-batch's contribution still lacks: every table has one, if an empty one."""
        raise NotImplementedError

    # As a whole.

    def file_names(self) -> list[str]:
        """Of its tensors in `state` and in files."""
        return [self.spec.name]

    def state(self, epoch: int, step: int) -> dict[str, torch.Tensor]:
        """Its tensors in a finished state, by name."""
        native, spec = self._run.native, self.spec
        rows = spec.tables * spec.rows
        values = np.empty((rows, spec.columns), np.float32)
        at_once = max(1, READ_BYTES // (4 * spec.columns))
        for first in range(0, rows, at_once):
            part = values[first : first + at_once]
            native.pull_range(epoch, step, spec.id, first, len(part), part).wait()
        return {spec.name: torch.from_numpy(values.reshape(spec.shape))}

    def given(self, path: object, tensors: Mapping[str, NDArray[Any]]) -> GivenRows | None:
        """What a file's tensors have of it. InvalidError for other shapes."""
        name = self.spec.name
        if name not in tensors:
            return None
        check_shape(path, name, tensors[name], tuple(self.spec.shape))
        return GivenRows(np.ascontiguousarray(tensors[name], np.float32))

    def __deepcopy__(self, _: object) -> "Table":
        return self  # a copied layer reads the same table

    def __reduce__(self) -> Any:
        raise InvalidError(f"{self.spec.name}: a layer's tables are on the servers and cannot be pickled; "
                           "run.save(path) writes the whole model")


def check_shape(path: object, name: str, there: NDArray[Any], here: tuple[int, ...]) -> None:
    """InvalidError unless the file's tensor has the shape."""
    if tuple(there.shape) != here:
        raise InvalidError(f"{path}: {name} has shape {tuple(there.shape)} there and {here} here")
