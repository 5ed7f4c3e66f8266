"""Embeddings of any keys: tables on the servers without a number of rows, whose rows come to be when they are first
trained. Until then a key reads as the row that it would begin with, drawn from the run's seed and the key.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from .checks import layer_name, one_of, whole
from .errors import InvalidError
from .keyed_rows import rows_of
from .opaque import opaque
from .table import TableRules

if TYPE_CHECKING:
    from .keyed_table import KeyedTable
    from .row_table import Rows
    from .run import Run

_MODES = ("sum", "mean")


class _KeyedLayer(torch.nn.Module):
    """What both have in common: the table."""

    def __init__(self, run: "Run", name: str, width: int, std: float, weight_decay: float | None, lr_scale: float,
                 lazy: bool, row_wise: bool, rows: str, about: dict[str, Any]) -> None:
        super().__init__()
        self.name, self.width = layer_name(name), whole("width", width, 1, 1 << 20)
        self.table: KeyedTable = run.new_keyed_table(
            self, self.name, TableRules(width, std, weight_decay, lr_scale, lazy, rows, row_wise), about)

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
    InvalidError for sizes that do not fit, a name that is taken, or a run that has begun.

    A layer may be used any number of times in a micro-batch. Outside of training (torch.no_grad()) reads leave no
    trace on the servers.
    """

    def __init__(self, run: "Run", name: str, width: int, *, std: float = 0.01, weight_decay: float | None = None,
                 lr_scale: float = 1.0, lazy: bool = True, row_wise: bool = False, rows: str = "f32") -> None:
        super().__init__(run, name, width, std, weight_decay, lr_scale, lazy, row_wise, rows, {})

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

    mode: "sum" or "mean" over a bag; an empty bag gives zeros. The other arguments are those of `Embedding`.
    """

    def __init__(self, run: "Run", name: str, width: int, *, mode: str = "sum", std: float = 0.01,
                 weight_decay: float | None = None, lr_scale: float = 1.0, lazy: bool = True, row_wise: bool = False,
                 rows: str = "f32") -> None:
        mode = one_of("mode", mode, _MODES)
        super().__init__(run, name, width, std, weight_decay, lr_scale, lazy, row_wise, rows, {"mode": mode})
        self.mode = mode

    def forward(self, keys: Any, offsets: Any = None, per_sample_weights: torch.Tensor | None = None) -> torch.Tensor:
        """float32 [bags, width].

        keys: [bags, N], a bag a row; or [N] with offsets [bags], at which bags begin (the first at 0).
        per_sample_weights: float [like keys], by which rows are multiplied before they are summed (mode "sum"); it may
        need a gradient.
        """
        return self.start(keys, offsets, per_sample_weights).wait()

    @opaque
    def start(self, keys: Any, offsets: Any = None, per_sample_weights: torch.Tensor | None = None) -> "BagLookup":
        """Asks the servers and returns at once."""
        rows = rows_of(keys)
        if offsets is None and rows.ndim != 2 or offsets is not None and rows.ndim != 1:
            raise InvalidError(f"EmbeddingBag {self.name}: keys of shape {rows.shape}: give [bags, N], or [N] with "
                               "offsets")
        if per_sample_weights is not None:
            if self.mode != "sum":
                raise InvalidError(f"EmbeddingBag {self.name}: per_sample_weights go with mode \"sum\"")
            if tuple(per_sample_weights.shape) != rows.shape:
                raise InvalidError(f"EmbeddingBag {self.name}: per_sample_weights of shape "
                                   f"{tuple(per_sample_weights.shape)} for keys of shape {rows.shape}")
        if offsets is not None:
            offsets = torch.as_tensor(np.asarray(offsets.cpu() if isinstance(offsets, torch.Tensor) else offsets),
                                      dtype=torch.int64)
            in_order = len(offsets) == 0 or (int(offsets[0]) == 0 and int(offsets[-1]) <= len(rows)
                                             and bool((offsets[1:] >= offsets[:-1]).all()))
            if offsets.ndim != 1 or not in_order or len(offsets) == 0 and len(rows) > 0:
                raise InvalidError(f"EmbeddingBag {self.name}: offsets have to rise from 0 to at most {len(rows)}")
        return BagLookup(self.table.start(rows), _device_of(keys), offsets, per_sample_weights, self.mode)


class BagLookup:
    """A look-up that is under way: `wait()` gives the layer's output."""

    def __init__(self, rows: "Rows", device: torch.device, offsets: torch.Tensor | None,
                 weights: torch.Tensor | None, mode: str) -> None:
        self._rows = rows
        self._device = device
        self._offsets = None if offsets is None else offsets.to(device)
        self._weights = weights
        self._mode = mode

    @opaque
    def wait(self) -> torch.Tensor:
        """[bags, width], on the keys' device."""
        values = self._rows.wait().to(self._device)
        positions = self._rows.positions.to(self._device)
        if self._offsets is not None and len(self._offsets) == 0 or positions.numel() == 0:
            bags = len(positions) if self._offsets is None else len(self._offsets)
            return values.new_zeros((bags, values.shape[1]))
        weights = None if self._weights is None else self._weights.float()
        return F.embedding_bag(positions, values, self._offsets, mode=self._mode, per_sample_weights=weights)


def _device_of(keys: Any) -> torch.device:
    return keys.device if isinstance(keys, torch.Tensor) else torch.device("cpu")
