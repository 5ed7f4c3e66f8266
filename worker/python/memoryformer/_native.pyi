"""Types of the module that worker/python/native makes.

Arrays are NumPy arrays in C order, which are read or filled in place: of float32 but for rows (uint64), hits (uint32)
and bucket numbers (1, 2 or 4 bytes, unsigned). A request keeps its arrays until `Pending.wait()` has returned.
"""

from typing import Any, ClassVar, final, type_check_only

import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float32]
_State = tuple[int, int, bool]  # (epoch, step, whether the step is open)

@type_check_only
class _Enumeration:
    """What pybind11 gives every enumeration."""

    def __init__(self, value: int) -> None: ...
    @property
    def name(self) -> str: ...
    @property
    def value(self) -> int: ...
    def __eq__(self, other: object) -> bool: ...
    def __ne__(self, other: object) -> bool: ...
    def __hash__(self) -> int: ...
    def __int__(self) -> int: ...
    def __index__(self) -> int: ...

class TensorKind(_Enumeration):
    memory: ClassVar[TensorKind]
    dense: ClassVar[TensorKind]
    keyed: ClassVar[TensorKind]

class Init(_Enumeration):
    normal: ClassVar[Init]
    constant: ClassVar[Init]

class RowType(_Enumeration):
    f32: ClassVar[RowType]
    bf16: ClassVar[RowType]

class ExchangeMode(_Enumeration):
    sums: ClassVar[ExchangeMode]
    pull: ClassVar[ExchangeMode]

class SparseUpdate(_Enumeration):
    exact: ClassVar[SparseUpdate]
    lazy: ClassVar[SparseUpdate]

class OptimizerKind(_Enumeration):
    sgd: ClassVar[OptimizerKind]
    adam: ClassVar[OptimizerKind]
    adagrad: ClassVar[OptimizerKind]
    row_adam: ClassVar[OptimizerKind]
    row_adagrad: ClassVar[OptimizerKind]

class Wire(_Enumeration):
    f32: ClassVar[Wire]
    bf16: ClassVar[Wire]

class OptimizerSettings:
    kind: OptimizerKind
    beta1: float
    beta2: float
    eps: float
    sparse_update: SparseUpdate
    def __init__(self) -> None: ...

class TensorSpec:
    id: int
    name: str
    kind: TensorKind
    tables: int
    rows: int
    columns: int
    probes: int
    init: Init
    init_value: float
    optimizer: OptimizerSettings  # the same object as inside: its fields can be set
    rate_scale: float
    weight_decay: float
    row_type: RowType
    mode: ExchangeMode
    admit_hits: int
    waiting_keys: int
    expire_steps: int
    shape: list[int]  # a copy: set as a whole
    def __init__(self) -> None: ...

class RateSchedule:
    peak: float
    warmup_ratio: float
    min_ratio: float
    steps: int
    def __init__(self) -> None: ...

class SnapshotRules:
    every_steps: int
    every_minutes: float
    keep: int
    def __init__(self) -> None: ...

class RunRules:
    steps: int
    micro_batches: int
    tokens_per_micro_batch: int
    window: int
    lease_seconds: float
    schedule: RateSchedule
    clip: float
    eval_every: int
    snapshots: SnapshotRules
    wire: Wire
    seed: int
    def __init__(self) -> None: ...

class RunDescription:
    tensors: list[TensorSpec]  # a copy: set as a whole
    rules: RunRules
    about: str
    data: str
    initial: str
    def __init__(self) -> None: ...
    def run_id(self) -> str: ...

@final
class StepRecord:
    """What is known of a finished step."""

    @property
    def step(self) -> int: ...
    @property
    def loss(self) -> float: ...
    @property
    def lr(self) -> float: ...
    @property
    def grad_norm(self) -> float: ...
    @property
    def dropped(self) -> bool: ...
    @property
    def val_loss(self) -> float | None: ...

@final
class Pending:
    """A request in flight. What went wrong is raised by `wait`, as an error of memoryformer.errors."""

    def wait(self) -> None: ...

class Tables:
    """What has tables to read."""

    def forward(self, at: _State, tensor: int, tokens: int, indices: NDArray[Any], weights: _Floats, y: _Floats,
                /) -> Pending: ...
    def pull(self, at: _State, tensor: int, rows: NDArray[np.uint64], values: _Floats, /) -> Pending: ...
    def pull_range(self, epoch: int, step: int, tensor: int, first: int, count: int, values: _Floats,
                   /) -> Pending: ...
    def list_rows(self, epoch: int, step: int, tensor: int, first: int, rows: NDArray[np.uint64], /) -> int:
        """Updated rows from `first` on, as many as there is room for; how many there were."""

class Reader(Tables):
    def __init__(self, *, servers: list[str], keys: str, deadline_seconds: float, log: str) -> None: ...
    @property
    def run(self) -> RunDescription: ...
    @property
    def at(self) -> tuple[int, int]:
        """(epoch, step) of the state that is read."""
    def refresh(self) -> bool: ...

class Run(Tables):
    def __init__(self, *, servers: list[str], keys: str, shards: int, threads: int, memory_bytes: int, state: str,
                 run: RunDescription, deadline_seconds: float, log: str) -> None: ...
    def join(self, initial: list[tuple[int, _Floats, NDArray[np.uint64] | None]]) -> None:
        """`initial`: tensor, values of all its rows or of the rows named, which rise."""
    def ask_again(self) -> None: ...
    def next(self) -> tuple[str, int, int, int]:
        """(kind, epoch, step, micro-batch); kind: "micro_batch", "evaluation", "finished" or "stopped"."""
    def done(self, arg0: float, /) -> None: ...
    def give_back(self, code: str, why: str, /) -> None: ...
    def stop(self) -> None: ...
    def leave(self, arg0: float, /) -> tuple[bool, int, int]:
        """(whether server 0 answered, how many other processes go on, the step that is saved or 0)."""
    def save(self, arg0: int, arg1: float, /) -> None:
        """After the run's last step, with the seconds to wait: all servers have it on their disks."""
    def records(self) -> list[StepRecord]: ...
    def backward(self, epoch: int, step: int, micro_batch: int, tensor: int, tokens: int, indices: NDArray[Any],
                 weights: _Floats, dy: _Floats, dweights: _Floats | None, /) -> Pending: ...
    def push(self, epoch: int, step: int, micro_batch: int, tensor: int, rows: NDArray[np.uint64],
             hits: NDArray[np.uint32] | None, values: _Floats, /) -> Pending: ...
    def push_whole(self, epoch: int, step: int, micro_batch: int, tensor: int, values: _Floats, /) -> Pending: ...

KEY_RANGES: int
ROWS_PER_KEY_RANGE: int

def rows_of_keys(keys: NDArray[np.uint64], rows: NDArray[np.uint64], /) -> None: ...
def keys_of_rows(rows: NDArray[np.uint64], keys: NDArray[np.uint64], /) -> None: ...
def hash_rows(tables: int, bits: int, probes: int, score: str, temperature: float, threads: int, z: object,
              indices: object, weights: object, /) -> None: ...
def hash_backward_rows(tables: int, bits: int, probes: int, score: str, temperature: float, threads: int, z: object,
                       dweights: object, dz: object, /) -> None: ...
