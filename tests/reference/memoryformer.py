"""The model of DESIGN section 3 in plain PyTorch: tables are dense parameters, gradients are autograd's.

It shares no code with the C++ program and follows the formulas, not the program's order of work, so
that an error has to be made twice to go unseen. Shapes: T tokens of a batch, d wide, K tables of 2^bits
rows. Bucket indices are [K * probes, T], pair-major, as the program dumps them.

Indices come from signs of activations, so rounding can flip one whose number is almost zero, and then the
results differ by much more than rounding. `Indices` therefore REPLAYS given indices: the weights are still
computed from this model's own activations, but for the given buckets. Every given index is checked: it may
differ from the model's own choice only where that choice is within a tolerance of a tie.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Mapping

import numpy as np
import torch
import torch.nn.functional as F

import tensorfile

EPS = 1e-5  # of every norm
ROTARY_BASE = 10000.0


@dataclasses.dataclass(frozen=True)
class Config:
    """The keys of [model] that decide the mathematics."""

    d: int
    layers: int
    heads: int
    K: int
    tau: int
    expand_bits: int
    vocabulary: int
    score: str = "scaled"
    probes: int = 1
    temperature: float = 1.0
    norm: str = "rmsnorm"
    projection: str = "memory"
    rotary_pct: float = 0.25

    @staticmethod
    def from_json(text: str) -> "Config":
        """From an export's `__metadata__.config`; keys that do not touch the mathematics are ignored."""
        model = json.loads(text)["model"]
        config = Config(**{field.name: model[field.name] for field in dataclasses.fields(Config)})
        for name, allowed in (("score", ("softmax", "scaled")), ("norm", ("rmsnorm", "layernorm")),
                              ("projection", ("memory", "dense"))):
            if getattr(config, name) not in allowed:
                raise ValueError(f"model.{name} is '{getattr(config, name)}', not one of {allowed}")
        if config.projection == "memory" and config.d != config.K * config.tau:
            raise ValueError(f"d = {config.d} is not K * tau = {config.K * config.tau}")
        return config

    @property
    def expanded(self) -> int:
        """Width between M1 and M2."""
        return (self.tau + self.expand_bits) * self.K

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the export, in its order."""
        d, K, wide = self.d, self.K, self.expanded
        shapes: dict[str, tuple[int, ...]] = {"embed.weight": (self.vocabulary, d)}

        def norm(name: str, width: int, kind: str) -> None:
            shapes[f"{name}.weight"] = (width,)
            if kind == "layernorm":
                shapes[f"{name}.bias"] = (width,)

        def memory(name: str, bits: int, width: int) -> None:
            shapes[f"{name}.tables"] = (K, 2**bits, width)
            shapes[f"{name}.bias"] = (width,)

        def linear(name: str, inputs: int, outputs: int) -> None:
            shapes[f"{name}.weight"] = (inputs, outputs)
            shapes[f"{name}.bias"] = (outputs,)

        for layer in range(self.layers):
            block = f"blocks.{layer}"
            norm(f"{block}.norm1", d, self.norm)
            if self.projection == "memory":
                memory(f"{block}.qkv", self.tau, 3 * d)
                norm(f"{block}.norm2", d, self.norm)
                memory(f"{block}.m1", self.tau, wide)
                norm(f"{block}.mid_norm", wide, "layernorm")
                memory(f"{block}.m2", self.tau + self.expand_bits, d)
            else:
                linear(f"{block}.qkv", d, 3 * d)
                linear(f"{block}.out", d, d)
                norm(f"{block}.norm2", d, self.norm)
                linear(f"{block}.fc1", d, 4 * d)
                linear(f"{block}.fc2", 4 * d, d)
        norm("final_norm", d, self.norm)
        shapes["head.weight"] = (self.vocabulary, d)
        return shapes

    def decayed(self) -> set[str]:
        """The tensors under weight decay: tables and matrices, not gains and biases."""
        return {name for name, shape in self.shapes().items() if len(shape) > 1}


class ReadAsBf16(torch.autograd.Function):
    """Numbers rounded to the nearest bf16, halves away from zero; the gradient passes as if they were not."""

    @staticmethod
    def forward(ctx, values: torch.Tensor) -> torch.Tensor:
        bits = values.to(torch.float32).view(torch.int32)
        return ((bits + 0x8000) & -0x10000).view(torch.float32).to(values.dtype)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
        return gradient


class ReplayError(Exception):
    """A given bucket index is not explained by rounding."""


class Indices:
    """Where the bucket indices of a forward pass come from, and what was seen of them.

    `given` maps "<layer>.qkv|m1|m2" to [K * probes, T]; None: the model's own choice. After a pass `used`
    holds the indices in the same form, `flips` counts (token, table) places where the given differ.
    """

    def __init__(self, given: Mapping[str, np.ndarray] | None = None, tolerance: float = 1e-5) -> None:
        self.given = given
        self.tolerance = tolerance
        self.used: dict[str, np.ndarray] = {}
        self.places = 0
        self.flips = 0

    def choose(self, name: str, z: torch.Tensor, probes: int) -> torch.Tensor:
        """Buckets [T, K, probes] for z [T, K, bits]."""
        own = own_buckets(z, probes)
        if self.given is None:
            buckets = own
        else:
            buckets = torch.from_numpy(self.given[name].astype(np.int64))
            if buckets.shape != (own.shape[1] * probes, own.shape[0]):
                raise ReplayError(f"indices of {name} have shape {tuple(buckets.shape)}")
            buckets = buckets.reshape(own.shape[1], probes, own.shape[0]).permute(2, 0, 1)
            self._check(name, z, own, buckets)
        self.used[name] = buckets.permute(1, 2, 0).reshape(-1, own.shape[0]).numpy().astype(np.uint64)
        return buckets

    def _check(self, name: str, z: torch.Tensor, own: torch.Tensor, given: torch.Tensor) -> None:
        """Accepts `given` where it differs from `own` only by ties within the tolerance."""
        bits = z.shape[2]
        self.places += own.shape[0] * own.shape[1]
        if bool(((given < 0) | (given >= 2**bits)).any()):
            raise ReplayError(f"indices of {name} are out of range")
        for token, table in (own != given).any(dim=2).nonzero().tolist():
            self.flips += 1
            size = z[token, table].abs()
            rising = size.sort().values
            first = int(given[token, table, 0])
            where = f"{name}, token {token}, table {table}"
            for bit in flipped_bits(first ^ int(own[token, table, 0])):
                if size[bit] > self.tolerance:
                    raise ReplayError(f"{where}: sign of bit {bit} differs at |z| = {float(size[bit]):.3g}")
            seen = set()
            for probe, bucket in enumerate(given[token, table, 1:].tolist()):
                flipped = flipped_bits(first ^ bucket)
                if len(flipped) != 1 or flipped[0] in seen:
                    raise ReplayError(f"{where}: probe {probe + 1} is no new neighbour of the bucket")
                seen.add(flipped[0])
                gap = abs(float(size[flipped[0]] - rising[probe]))
                if gap > self.tolerance:
                    raise ReplayError(f"{where}: probe {probe + 1} flips a |z| that is {gap:.3g} off")


def flipped_bits(mask: int) -> list[int]:
    """The set bits of a number."""
    return [bit for bit in range(mask.bit_length()) if mask >> bit & 1]


def own_buckets(z: torch.Tensor, probes: int) -> torch.Tensor:
    """[T, K, probes]: the bucket of z, then those with one of the smallest |z_i| flipped."""
    values = 2 ** torch.arange(z.shape[2])
    first = ((z >= 0).long() * values).sum(dim=2, keepdim=True)
    smallest = z.abs().sort(dim=2, stable=True).indices[:, :, : probes - 1]
    return torch.cat([first, first ^ values[smallest]], dim=2).detach()


def pair_weights(z: torch.Tensor, buckets: torch.Tensor, score: str, temperature: float) -> torch.Tensor:
    """w_b of eq. 9 for z [T, K, bits] and buckets [T, K, probes]; gradients flow to z.

    p_b = exp(<z, s>/t) / prod(exp(z_i/t) + exp(-z_i/t)) is the product of sigmoid(2 s_i z_i / t).
    """
    bits = torch.arange(z.shape[2])
    signs = ((buckets.unsqueeze(3) >> bits) & 1).to(z.dtype) * 2 - 1
    agreement = signs * z.unsqueeze(2)
    p = F.logsigmoid(2 * agreement / temperature).sum(dim=3).exp()
    return p if score == "softmax" else p * agreement.sum(dim=3)


class MemoryFormer:
    """Parameters by export name, and the loss of a batch as a function of them."""

    def __init__(self, config: Config, tensors: Mapping[str, np.ndarray], dtype: torch.dtype) -> None:
        shapes = config.shapes()
        if set(shapes) != set(tensors):
            raise ValueError(f"missing tensors {sorted(set(shapes) - set(tensors))}, "
                             f"unknown {sorted(set(tensors) - set(shapes))}")
        self.config = config
        self.bf16_tables = False  # or their rows are rounded when they are read
        self.parameters: dict[str, torch.Tensor] = {}
        for name, shape in shapes.items():
            if tensors[name].shape != shape:
                raise ValueError(f"{name} has shape {tensors[name].shape}, not {shape}")
            value = torch.from_numpy(np.array(tensors[name])).to(dtype)
            self.parameters[name] = value.requires_grad_(True)

    @staticmethod
    def load(path: Path, dtype: torch.dtype = torch.float64) -> "MemoryFormer":
        """From an export."""
        tensors, metadata = tensorfile.read(path)
        return MemoryFormer(Config.from_json(metadata["config"]), tensors, dtype)

    def logits(self, inputs: torch.Tensor, indices: Indices) -> torch.Tensor:
        """[T, vocabulary] for inputs [sequences, length]; T counts sequence by sequence."""
        sequences, length = inputs.shape
        x = self.parameters["embed.weight"][inputs.reshape(-1)]
        for layer in range(self.config.layers):
            block = f"blocks.{layer}"
            memory = self.config.projection == "memory"
            name = f"{layer}.qkv"
            normed = self._norm(f"{block}.norm1", x)
            qkv = (self._memory(block, name, normed, indices) if memory
                   else self._linear(f"{block}.qkv", normed))
            mixed = self._attention(qkv, sequences, length)
            x = x + (mixed if memory else self._linear(f"{block}.out", mixed))
            normed = self._norm(f"{block}.norm2", x)
            if memory:
                wide = self._memory(block, f"{layer}.m1", normed, indices)
                wide = self._norm(f"{block}.mid_norm", wide, kind="layernorm")
                x = x + self._memory(block, f"{layer}.m2", wide, indices)
            else:
                x = x + self._linear(f"{block}.fc2", F.gelu(self._linear(f"{block}.fc1", normed)))
        return self._norm("final_norm", x) @ self.parameters["head.weight"].T

    def loss(self, inputs: torch.Tensor, targets: torch.Tensor, indices: Indices,
             reduction: str = "mean") -> tuple[torch.Tensor, torch.Tensor]:
        """(cross entropy in nats over all positions, logits)."""
        logits = self.logits(inputs, indices)
        return F.cross_entropy(logits, targets.reshape(-1), reduction=reduction), logits

    def _norm(self, name: str, x: torch.Tensor, kind: str | None = None) -> torch.Tensor:
        gain = self.parameters[f"{name}.weight"]
        if (kind or self.config.norm) == "layernorm":
            return F.layer_norm(x, gain.shape, gain, self.parameters[f"{name}.bias"], EPS)
        return x / (x.square().mean(dim=1, keepdim=True) + EPS).sqrt() * gain

    def _linear(self, name: str, x: torch.Tensor) -> torch.Tensor:
        return x @ self.parameters[f"{name}.weight"] + self.parameters[f"{name}.bias"]

    def _memory(self, block: str, name: str, x: torch.Tensor, indices: Indices) -> torch.Tensor:
        """y = sum over pairs of w_b T_k[b] + bias."""
        part = f"{block}.{name.split('.')[1]}"
        tables = self.parameters[f"{part}.tables"]
        K, rows, _ = tables.shape
        z = x.reshape(x.shape[0], K, -1)
        assert 2 ** z.shape[2] == rows
        buckets = indices.choose(name, z.detach(), self.config.probes)
        weights = pair_weights(z, buckets, self.config.score, self.config.temperature)
        if self.bf16_tables:
            tables = ReadAsBf16.apply(tables)
        # All tables at once: the gradient of tables[k] would be as large as all tables, for each k.
        rows_read = tables[torch.arange(K)[:, None], buckets]  # [T, K, probes, width]
        return (weights[..., None] * rows_read).sum(dim=(1, 2)) + self.parameters[f"{part}.bias"]

    def _attention(self, qkv: torch.Tensor, sequences: int, length: int) -> torch.Tensor:
        heads = self.config.heads
        head_dim = self.config.d // heads
        q, k, v = qkv.reshape(sequences, length, 3, heads, head_dim).permute(2, 0, 3, 1, 4)
        q, k = self._rotary(q), self._rotary(k)
        scores = q @ k.transpose(2, 3) / math.sqrt(head_dim)
        future = torch.ones(length, length, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(future, -math.inf).softmax(dim=3) @ v
        return mixed.transpose(1, 2).reshape(sequences * length, self.config.d)

    def _rotary(self, x: torch.Tensor) -> torch.Tensor:
        """Rotates pairs (i, i + half) of the first 2 * half numbers of each head by position * freq_i."""
        half = int(math.floor(x.shape[3] * self.config.rotary_pct / 2))
        if half == 0:
            return x
        frequency = ROTARY_BASE ** (-torch.arange(half, dtype=torch.float64) / half)
        angle = torch.arange(x.shape[2], dtype=torch.float64)[:, None] * frequency
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        return torch.cat([a * cos - b * sin, b * cos + a * sin, rest], dim=3)
