"""Memory layers: hash tables in the place of a fully connected layer (MemoryFormer, NeurIPS 2024).

An input of K * tau numbers is cut into K pieces z of tau numbers. The signs of a piece are the number of a row in
the piece's table (eq. 2-4), the output is the sum of the rows found, each times a weight of z (eq. 5, 9, 10), plus a
bias. The rows are on the servers, which do the sums. Formulas: section 3 of docs/DESIGN.md.
"""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F

from . import _native
from .checks import layer_name, one_of, real, whole
from .errors import InvalidError
from .opaque import opaque
from .row_table import RowTable
from .sum_table import SumTable, index_type
from .table import TableRules

if TYPE_CHECKING:
    from .run import Run

_SCORES = ("scaled", "softmax")
_TOKENS_LOOKED_AT = 32  # at least, to say that they fall alike


class Hashed:
    """Where an input falls: for each of T tokens K * probes rows and weights, and the shape to give back.

    buckets: integers [K * probes, T]; those that `Hash` makes have the narrowest type that holds tau bits, of which
    16 and 32 are signed, so that rows from 2 ** 15 or 2 ** 31 on are negative there.
    weights: float32 [K * probes, T], through which gradients reach the input.
    """

    def __init__(self, buckets: torch.Tensor, weights: torch.Tensor, leading: torch.Size, dtype: torch.dtype) -> None:
        self.buckets = buckets
        self.weights = weights
        self.leading = leading
        self.dtype = dtype

    @property
    def tokens(self) -> int:
        """T."""
        return self.buckets.shape[1]


class Hash(torch.nn.Module):
    """The hash of one or more memory layers: layers that get the same `Hash` share the work and the gradient of it.

    inputs: width of the input, K * tau.
    tau: bits of a bucket's number; a table has 2 ** tau rows.
    probes: rows that a token reads in each table, 1 to tau: also those whose numbers differ in the sign of one of
        the smallest |z_i|.
    score: "scaled" (what the authors' code computes: p * <z, s>) or "softmax" (the paper's eq. 9).
    temperature: t of eq. 9.
    InvalidError for sizes that do not fit.
    """

    def __init__(self, inputs: int, tau: int = 8, probes: int = 1, score: str = "scaled",
                 temperature: float = 1.0) -> None:
        super().__init__()
        tau, inputs = whole("tau", tau, 1, 24), whole("inputs", inputs, 1)
        probes, score = whole("probes", probes, 1, tau), one_of("score", score, _SCORES)
        temperature = real("temperature", temperature, 1e-30)
        if inputs % tau:
            raise InvalidError(f"inputs: {inputs} is no multiple of tau = {tau}")
        self.inputs, self.tau, self.probes, self.score, self.temperature = inputs, tau, probes, score, temperature

    @property
    def tables(self) -> int:
        """K."""
        return self.inputs // self.tau

    def settings(self) -> dict[str, Any]:
        """What decides where an input falls."""
        return {"inputs": self.inputs, "tau": self.tau, "probes": self.probes, "score": self.score,
                "temperature": self.temperature}

    def forward(self, x: torch.Tensor) -> Hashed:
        """x: [..., inputs] of any real type; computed in float32."""
        if not x.is_floating_point():
            raise InvalidError(f"Hash: an input of {x.dtype}; it has to be of real numbers")
        if x.shape[-1:] != (self.inputs,):
            raise InvalidError(f"Hash: an input of shape {tuple(x.shape)}; the last dimension has to be {self.inputs}")
        with torch.autocast(x.device.type, enabled=False):
            z = x.float().reshape(-1, self.inputs)
            buckets, weights = _hash_here(z, self) if z.device.type == "cpu" else self.by_torch(z)
            return Hashed(buckets, weights, x.shape[:-1], x.dtype)

    def by_torch(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Buckets and weights of z [T, inputs] on any device, by torch's own operations and gradients."""
        z = z.reshape(-1, self.tables, self.tau)
        positive = z.detach() >= 0
        values = 2 ** torch.arange(self.tau, device=z.device)
        bucket = (positive * values).sum(dim=2)  # [T, K]
        agreement = torch.where(positive, z, -z)  # |z|, with the gradient of sign(0) = 1
        logs = F.logsigmoid(2 / self.temperature * agreement).sum(dim=2)
        total = agreement.sum(dim=2)
        buckets, weights = [bucket], [self._weight(logs, total)]
        if self.probes > 1:
            order = agreement.detach().sort(dim=2, stable=True).indices[:, :, : self.probes - 1]
            flipped = agreement.gather(2, order)
            for probe in range(self.probes - 1):
                buckets.append(bucket ^ values[order[:, :, probe]])
                weights.append(self._weight(logs - 2 / self.temperature * flipped[:, :, probe],
                                            total - 2 * flipped[:, :, probe]))
        tokens = z.shape[0]
        pairs = self.tables * self.probes
        return (torch.stack(buckets, dim=2).permute(1, 2, 0).reshape(pairs, tokens).to(index_type(self.tau)),
                torch.stack(weights, dim=2).permute(1, 2, 0).reshape(pairs, tokens))

    def _weight(self, logs: torch.Tensor, agreement: torch.Tensor) -> torch.Tensor:
        """w_b of eq. 9: p_b = exp(<z, s> / t) / prod(exp(z_i / t) + exp(-z_i / t)) is a product of sigmoids."""
        return logs.exp() if self.score == "softmax" else logs.exp() * agreement

    def extra_repr(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self.settings().items())


class _HashHere(torch.autograd.Function):
    """The same by the worker's kernels, on a CPU: a tenth of the time."""

    @staticmethod
    def forward(  # type: ignore[override]
            ctx: Any, z: torch.Tensor, hash: Hash) -> tuple[torch.Tensor, torch.Tensor]:
        pairs, tokens = hash.tables * hash.probes, z.shape[0]
        z = z.detach().contiguous()
        buckets = torch.empty((pairs, tokens), dtype=index_type(hash.tau))
        weights = torch.empty((pairs, tokens))
        _native.hash_rows(hash.tables, hash.tau, hash.probes, hash.score, hash.temperature, torch.get_num_threads(),
                          z.numpy(), buckets.numpy(), weights.numpy())
        ctx.hash = hash
        ctx.save_for_backward(z)
        ctx.mark_non_differentiable(buckets)
        return buckets, weights

    @staticmethod
    def backward(  # type: ignore[override]
            ctx: Any, _: torch.Tensor, dweights: torch.Tensor) -> tuple[torch.Tensor, None]:
        (z,), hash = ctx.saved_tensors, ctx.hash
        dz = torch.empty_like(z)
        _native.hash_backward_rows(hash.tables, hash.tau, hash.probes, hash.score, hash.temperature,
                                   torch.get_num_threads(), z.numpy(), dweights.detach().contiguous().numpy(),
                                   dz.numpy())
        return dz, None


@opaque
def _hash_here(z: torch.Tensor, hash: Hash) -> tuple[torch.Tensor, torch.Tensor]:
    buckets, weights = _HashHere.apply(z, hash)
    return buckets, weights


class _Sums(torch.autograd.Function):
    """The servers' weighted sums, and their gradients."""

    @staticmethod
    def forward(  # type: ignore[override]
            ctx: Any, weights: torch.Tensor, anchor: torch.Tensor, lookup: "Lookup") -> torch.Tensor:
        ctx.lookup = lookup
        return lookup.sums()

    @staticmethod
    def backward(  # type: ignore[override]
            ctx: Any, dy: torch.Tensor) -> tuple[torch.Tensor | None, None, None]:
        return ctx.lookup.contribute(dy, ctx.needs_input_grad[0]), None, None


class Lookup:
    """A look-up that is under way: `wait()` gives the layer's output."""

    def __init__(self, layer: "MemoryLayer", table: SumTable, hashed: Hashed) -> None:
        self._layer = layer
        self._hashed = hashed
        self._table = table
        weights = hashed.weights.detach().cpu().contiguous()
        self._arrays = (self._table.indices(hashed.buckets), weights.numpy())
        self._request = self._table.start(*self._arrays, hashed.tokens)

    def wait(self) -> torch.Tensor:
        """[..., outputs], on the input's device and of its type."""
        return self._layer.finished(_Sums.apply(self._hashed.weights, self._layer.anchor, self), self._hashed)

    def sums(self) -> torch.Tensor:
        """[T, outputs], when they are there."""
        return torch.from_numpy(self._request.values()).to(self._hashed.weights.device)

    def contribute(self, dy: torch.Tensor, wanted: bool) -> torch.Tensor | None:
        """Adds the rows' gradients to the step's, and returns dL/dw [K * probes, T] if it is wanted."""
        gradient = dy.detach().float().cpu().contiguous().numpy()
        dweights = np.empty(self._arrays[1].shape, np.float32) if wanted else None
        self._table.contribute(self._request, *self._arrays, self._hashed.tokens, gradient, dweights)
        return None if dweights is None else torch.from_numpy(dweights).to(dy.device)


class PulledLookup:
    """The same where this process sums the rows (mode "pull")."""

    def __init__(self, layer: "MemoryLayer", table: RowTable, hashed: Hashed) -> None:
        self._layer = layer
        self._hashed = hashed
        bits, spec = layer.hash.tau, table.spec
        buckets = hashed.buckets.cpu().contiguous().numpy()
        if len(buckets) != spec.tables * spec.probes:
            raise InvalidError(f"{spec.name}: was given {len(buckets)} rows a token, and reads "
                               f"{spec.tables * spec.probes}: the hash of another layer?")
        if buckets.dtype in (np.int16, np.int32):  # numbers from half the type's range on are negative in it
            buckets = buckets.view(buckets.dtype.str.replace("i", "u"))
        buckets = buckets.astype(np.int64)
        if buckets.size and not 0 <= buckets.min() <= buckets.max() < 1 << bits:
            raise InvalidError(f"{spec.name}: a bucket number is not from 0 to {(1 << bits) - 1}")
        first = (np.arange(len(buckets)) // layer.hash.probes << bits)[:, None]
        self._rows = table.start(np.ascontiguousarray((buckets + first).T.astype(np.uint64)))

    def wait(self) -> torch.Tensor:
        """[..., outputs], on the input's device and of its type."""
        hashed = self._hashed
        values = self._rows.wait().to(hashed.weights.device)
        positions = self._rows.positions.to(hashed.weights.device)
        with torch.autocast(hashed.weights.device.type, enabled=False):
            y = (F.embedding_bag(positions, values, mode="sum", per_sample_weights=hashed.weights.t().contiguous())
                 if hashed.tokens else values.new_zeros((0, values.shape[1])))
        return self._layer.finished(y, hashed)


class MemoryLayer(torch.nn.Module):
    """[..., inputs] to [..., outputs] through K = inputs / tau tables on the servers, where `torch.nn.Linear` stood.

    run: the run whose servers hold the tables.
    name: of the layer; all processes of a run use the same.
    inputs, outputs: widths. tau, probes, score, temperature: see `Hash`; or `hash`, which other layers may share.
    bias: with one, a parameter of the module (`run.share` brings it to the servers).
    std: standard deviation of the rows' initial values; None: sqrt(2 / (5 inputs)).
    weight_decay, lr_scale: None: the run's; its learning rate as a multiple of the run's.
    lazy: rows that a step did not hit stay as they are; else they have what the dense optimizer would give them.
    rows: "f32" or "bf16", as readers see the rows.
    mode: "sums": servers sum the rows that tokens address. "pull": they send the rows, each once, which are summed
        here: cheaper where many tokens meet few rows.
    InvalidError for sizes that do not fit, a name that is taken, or a run that has begun.

    With "sums" a layer may be used once in a micro-batch (and as often as you like without gradients): its gradient
    is one contribution. With "pull" any number of times. Outside of training (torch.no_grad()) reads leave no trace
    on the servers.
    """

    def __init__(self, run: "Run", name: str, inputs: int | None = None, outputs: int = 0, *, tau: int = 8,
                 probes: int = 1, score: str = "scaled", temperature: float = 1.0, hash: Hash | None = None,
                 bias: bool = True, std: float | None = None, weight_decay: float | None = None,
                 lr_scale: float = 1.0, lazy: bool = False, rows: str = "f32",
                 mode: str = "sums") -> None:
        super().__init__()
        name, outputs = layer_name(name), whole("outputs", outputs, 1)
        if hash is None:
            if inputs is None:
                raise InvalidError(f"MemoryLayer {name}: give inputs, or a hash")
            hash = Hash(inputs, tau, probes, score, temperature)
        elif inputs is not None and inputs != hash.inputs:
            raise InvalidError(f"MemoryLayer {name}: inputs = {inputs}, but its hash has {hash.inputs}")
        self.name, self.outputs, self.hash = name, outputs, hash
        self.bias = torch.nn.Parameter(torch.zeros(outputs)) if bias else None
        self._looked = False
        # Something that needs a gradient, so that the rows get theirs where the input needs none.
        self.anchor = torch.zeros((), requires_grad=True)
        std = math.sqrt(2 / (5 * hash.inputs)) if std is None else std
        self.table: SumTable | RowTable = run.new_tables(
            self, name + ".tables", tables=hash.tables, bits=hash.tau, probes=hash.probes,
            sums=one_of("mode", mode, ("sums", "pull")) == "sums",
            rules=TableRules(outputs, std, weight_decay, lr_scale, lazy, rows), about=hash.settings())

    def forward(self, x: "torch.Tensor | Hashed") -> torch.Tensor:
        """[..., outputs] for x [..., inputs], or for what the layer's hash made of it."""
        return self.start(x).wait()

    @opaque
    def start(self, x: "torch.Tensor | Hashed") -> "Lookup | PulledLookup":
        """Asks the servers and returns at once: several look-ups can be under way before the first `wait()`."""
        hashed = x if isinstance(x, Hashed) else self.hash(x)
        if not self._looked and hashed.tokens >= _TOKENS_LOOKED_AT:
            self._looked = True
            self._warn_of_one_row(hashed)
        if isinstance(self.table, RowTable):
            return PulledLookup(self, self.table, hashed)
        return Lookup(self, self.table, hashed)

    def _warn_of_one_row(self, hashed: Hashed) -> None:
        first = hashed.buckets[:: self.hash.probes]  # of each table; other probes lie around it
        if bool((first == first[:, :1]).all()):
            warnings.warn(f"memory layer {self.name}: all {hashed.tokens} tokens of a micro-batch fall into one row of "
                          "each table. Rows are chosen by signs: an input whose numbers have one sign, as after a ReLU, "
                          "chooses the same ones always; a LayerNorm before the layer gives it both", stacklevel=2)

    def finished(self, y: torch.Tensor, hashed: Hashed) -> torch.Tensor:
        """The output that sums [T, outputs] make."""
        if self.bias is not None:
            y = y + self.bias
        return y.reshape(*hashed.leading, self.outputs).to(hashed.dtype)

    def extra_repr(self) -> str:
        return f"{self.name!r}, outputs={self.outputs}, bias={self.bias is not None}"
