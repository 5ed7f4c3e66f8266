"""Embeddings of any keys: tables on the servers without a number of rows, whose rows come to be when they are first
trained. Until then a key reads as the row that it would begin with, drawn from the run's seed and the key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
import torch
import torch.nn.functional as F

from .checks import layer_name, one_of, whole
from .errors import InvalidError
from .keyed_rows import key, rows_of
from .opaque import opaque
from .table import TableRules

if TYPE_CHECKING:
    from .keyed_table import KeyedTable
    from .row_table import Rows
    from .run import Run

_MODES = ("sum", "mean")


class _KeyedLayer(torch.nn.Module):
    """What both have in common: the table."""

    def __init__(self, run: "Run", name: str, rules: TableRules, about: dict[str, Any]) -> None:
        super().__init__()
        self.name, self.width = layer_name(name), whole("width", rules.columns, 1, 1 << 20)
        self.table: KeyedTable = run.new_keyed_table(self, self.name, rules, about)

    def extra_repr(self) -> str:
        return f"{self.name!r}, width={self.width}"


class Embedding(_KeyedLayer):
    """Keys [...] to rows [..., width], where `torch.nn.Embedding` stood.

    run: the run whose servers hold the table. name: of it; all processes of a run use the same.
    std: standard deviation of the rows' initial values.
    weight_decay, lr_scale: None: the run's; its learning rate as a multiple of the run's.
    lazy: rows that a step did not hit stay as they are; False: they have what the dense optimizer would give them.
    row_wise: the optimizer keeps one number for the squares of each 16 or more columns of a row in the place of one
        for every column (`AdamW`, `Adagrad`).
    rows: "f32" or "bf16", as readers see the rows.
    admit: a key gets its row in the step in which it has been hit so often, by all processes together; until then it
        reads as its row would begin, and its gradients are dropped. So keys that hardly ever come take no row.
    waiting: with admit > 1, for how many keys hits are counted, about 48 bytes each; of more those that were hit
        longest ago are forgotten.
    expire: rows that no step has hit for so many steps are dropped, within a sixteenth of that time; a key that comes
        again begins anew. 0: never.
    InvalidError for sizes that do not fit, a name that is taken, or a run that has begun.

    A layer may be used any number of times in a micro-batch. Outside of training (torch.no_grad()) reads leave no
    trace on the servers.
    """

    def __init__(self, run: "Run", name: str, width: int, *, std: float = 0.01, weight_decay: float | None = None,
                 lr_scale: float = 1.0, lazy: bool = True, row_wise: bool = False, rows: str = "f32", admit: int = 1,
                 waiting: int = 1 << 20, expire: int = 0) -> None:
        super().__init__(run, name, TableRules(width, std, weight_decay, lr_scale, lazy, rows, row_wise, admit,
                                               waiting, expire), {})

    def forward(self, keys: Any) -> torch.Tensor:
        """float32 [..., width] for keys [...]: a tensor or array of integers of up to 64 bits, or a list of integers
        and texts (see `key`)."""
        return self.start(keys).wait()

    @opaque
    def start(self, keys: Any) -> "EmbeddingLookup":
        """Asks the servers and returns at once: several look-ups can be under way before the first `wait()`."""
        return EmbeddingLookup(self.table.start(rows_of(keys)), _device_of(keys))


class EmbeddingLookup:
    """A look-up that is under way: `wait()` gives the layer's output."""

    def __init__(self, rows: "Rows", device: torch.device) -> None:
        self._rows = rows
        self._device = device

    @opaque
    def wait(self) -> torch.Tensor:
        """[..., width], on the keys' device."""
        values = self._rows.wait().to(self._device)
        return F.embedding(self._rows.positions.to(self._device), values)


class EmbeddingBag(_KeyedLayer):
    """Bags of keys to the sums or means of their rows, where `torch.nn.EmbeddingBag` stood.

    mode: "sum" or "mean" over a bag; an empty bag gives zeros.
    padding_key: this key is no part of any bag. include_last_offset: offsets have one more at their end, the number of
    keys. The other arguments are those of `Embedding`.
    """

    def __init__(self, run: "Run", name: str, width: int, *, mode: str = "sum", padding_key: int | str | None = None,
                 include_last_offset: bool = False, std: float = 0.01, weight_decay: float | None = None,
                 lr_scale: float = 1.0, lazy: bool = True, row_wise: bool = False, rows: str = "f32", admit: int = 1,
                 waiting: int = 1 << 20, expire: int = 0) -> None:
        mode = one_of("mode", mode, _MODES)
        padding = None if padding_key is None else key(padding_key)
        super().__init__(run, name, TableRules(width, std, weight_decay, lr_scale, lazy, rows, row_wise, admit,
                                               waiting, expire), {"mode": mode, "padding_key": padding})
        self.mode, self.include_last_offset = mode, include_last_offset
        self._padding_row = None if padding is None else rows_of(padding)

    def forward(self, keys: Any, offsets: Any = None, per_sample_weights: Any = None) -> torch.Tensor:
        """float32 [bags, width].

        keys: [bags, N], a bag a row; or [N] with offsets, integers [bags] that rise from 0 on, at which bags begin.
        per_sample_weights: float [like keys], by which rows are multiplied before they are summed (mode "sum"); they
        may need a gradient.
        """
        return self.start(keys, offsets, per_sample_weights).wait()

    @opaque
    def start(self, keys: Any, offsets: Any = None, per_sample_weights: Any = None) -> "BagLookup":
        """Asks the servers and returns at once."""
        rows = rows_of(keys)
        if offsets is None and rows.ndim != 2 or offsets is not None and rows.ndim != 1:
            raise InvalidError(f"EmbeddingBag {self.name}: keys of shape {rows.shape}: give [bags, N], or [N] with "
                               "offsets")
        weights = None if per_sample_weights is None else self._weights(per_sample_weights, rows.shape)
        begins = (np.arange(len(rows), dtype=np.int64) * rows.shape[1] if offsets is None
                  else self._offsets(offsets, len(rows)))
        if self._padding_row is not None:
            kept = (rows != self._padding_row).reshape(-1)
            before = np.concatenate([[0], np.cumsum(kept)])  # of those kept
            begins = before[begins]
            rows = rows.reshape(-1)[kept]
            weights = None if weights is None else weights.reshape(-1)[torch.from_numpy(kept).to(weights.device)]
        return BagLookup(self.table.start(rows.reshape(-1)), _device_of(keys), torch.from_numpy(begins),
                         None if weights is None else weights.reshape(-1), self.mode)

    def _weights(self, weights: Any, shape: tuple[int, ...]) -> torch.Tensor:
        if self.mode != "sum":
            raise InvalidError(f"EmbeddingBag {self.name}: per_sample_weights go with mode \"sum\"")
        if not isinstance(weights, torch.Tensor):
            weights = torch.as_tensor(np.asarray(weights))
        if tuple(weights.shape) != shape:
            raise InvalidError(f"EmbeddingBag {self.name}: per_sample_weights of shape {tuple(weights.shape)} for keys "
                               f"of shape {shape}")
        floats: torch.Tensor = weights.float()
        return floats

    def _offsets(self, offsets: Any, count: int) -> NDArray[np.int64]:
        """Where bags of `count` keys begin."""
        array = offsets.cpu().numpy() if isinstance(offsets, torch.Tensor) else np.asarray(offsets)
        if array.ndim != 1 or array.dtype.kind not in "iu" and array.size > 0:
            raise InvalidError(f"EmbeddingBag {self.name}: offsets of {array.dtype} {array.shape}; they are integers "
                               "[bags]")
        begins: NDArray[np.int64] = array.astype(np.int64)
        ends = count if len(begins) == 0 else int(begins[-1])
        in_order = len(begins) > 0 and begins[0] == 0 and ends <= count and bool((begins[1:] >= begins[:-1]).all())
        if self.include_last_offset and in_order and ends == count:
            begins = begins[:-1]
            return begins
        if self.include_last_offset or not in_order and (len(begins) > 0 or count > 0):
            raise InvalidError(f"EmbeddingBag {self.name}: offsets have to rise from 0 to "
                               f"{'' if self.include_last_offset else 'at most '}{count}")
        return begins


class BagLookup:
    """A look-up that is under way: `wait()` gives the layer's output."""

    def __init__(self, rows: "Rows", device: torch.device, begins: torch.Tensor, weights: torch.Tensor | None,
                 mode: str) -> None:
        self._rows = rows
        self._device = device
        self._begins = begins
        self._weights = weights
        self._mode = mode

    @opaque
    def wait(self) -> torch.Tensor:
        """[bags, width], on the keys' device."""
        values = self._rows.wait().to(self._device)
        positions = self._rows.positions.to(self._device)
        if positions.numel() == 0:  # with the gradients that there are, of nothing
            nothing = values.sum() + (0.0 if self._weights is None else self._weights.sum().to(self._device))
            return values.new_zeros((len(self._begins), values.shape[1])) + nothing
        weights = None if self._weights is None else self._weights.to(self._device)
        return F.embedding_bag(positions, values, self._begins.to(self._device), mode=self._mode,
                               per_sample_weights=weights)


def _device_of(keys: Any) -> torch.device:
    return keys.device if isinstance(keys, torch.Tensor) else torch.device("cpu")
