"""A model's own parameters on the servers.

Parameters under the same rule lie one after the other in one vector, which is cut into dense tensors of COLUMNS
columns: any number of servers can share them, however small each of them is, and a step reads and updates all of
them with few requests. The optimizers work on each number by itself, so this changes nothing that they compute.
"""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
import torch

from . import _native
from .errors import Error, InvalidError
from .optimizers import Optimizer

COLUMNS = 1024
_ROWS_MAX = 1 << 16  # of one tensor: 256 MiB

#: (name, parameter) to {"weight_decay": ..., "lr_scale": ...}, or None for the run's own.
Rules = Callable[[str, torch.nn.Parameter], "Mapping[str, float] | None"]


@dataclasses.dataclass
class _Group:
    """Parameters under one rule."""

    weight_decay: float
    lr_scale: float
    names: list[str]
    parameters: list[torch.nn.Parameter]
    tensors: list[int] = dataclasses.field(default_factory=list)  # their numbers in the description
    values: NDArray[np.float32] = dataclasses.field(default_factory=lambda: np.zeros(0, np.float32))
    gradients: NDArray[np.float32] = dataclasses.field(default_factory=lambda: np.zeros(0, np.float32))

    def numbers(self) -> int:
        """How many numbers it has."""
        return sum(parameter.numel() for parameter in self.parameters)

    def pieces(self, array: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        """(tensor, its part of the array)."""
        for index, tensor in enumerate(self.tensors):
            yield tensor, array[index * _ROWS_MAX : (index + 1) * _ROWS_MAX]

    def spans(self, array: NDArray[np.float32]) -> Iterator[tuple[torch.nn.Parameter, torch.Tensor]]:
        """(parameter, its part of the array in its shape)."""
        flat, at = torch.from_numpy(array.reshape(-1)), 0
        for parameter in self.parameters:
            yield parameter, flat[at : at + parameter.numel()].view(parameter.shape)
            at += parameter.numel()


class SharedParameters:
    """The parameters of all modules that a run shares."""

    def __init__(self) -> None:
        self._groups: dict[tuple[float, float], _Group] = {}
        self._modules: list[tuple[str, torch.nn.Module]] = []
        self._known: set[int] = set()
        self._constants: list[tuple[str, torch.Tensor, int]] = []  # buffers: (name, buffer, version)

    @property
    def modules(self) -> list[torch.nn.Module]:
        """What was added."""
        return [module for _, module in self._modules]

    def __contains__(self, parameter: torch.nn.Parameter) -> bool:
        return id(parameter) in self._known

    def names(self) -> dict[str, torch.nn.Parameter]:
        """Trained parameters by name."""
        return {name: parameter for group in self._groups.values()
                for name, parameter in zip(group.names, group.parameters)}

    def add(self, module: torch.nn.Module, prefix: str, rules: Rules | None, optimizer: Optimizer) -> None:
        """Parameters that need gradients are shared; the others, and buffers, are constants of the run."""
        before = self.names()
        for name, parameter in module.named_parameters():
            name = prefix + name
            if id(parameter) in self._known:
                continue
            if not parameter.requires_grad:
                self._constants.append((name, parameter, parameter._version))
                continue
            if not parameter.is_floating_point():
                raise InvalidError(f"share: {name} is of {parameter.dtype}; the servers hold real numbers")
            if name in before:
                raise InvalidError(f"share: there is a parameter {name} already; give this module a prefix")
            rule = dict((rules(name, parameter) if rules is not None else None) or {})
            decay = float(rule.pop("weight_decay", optimizer.weight_decay))
            scale = float(rule.pop("lr_scale", 1.0))
            if rule:
                raise InvalidError(f"share: rule of {name}: {sorted(rule)} is none of weight_decay and lr_scale")
            group = self._groups.setdefault((decay, scale), _Group(decay, scale, [], []))
            group.names.append(name)
            group.parameters.append(parameter)
            self._known.add(id(parameter))
        for name, buffer in module.named_buffers():
            self._constants.append((prefix + name, buffer, buffer._version))
        self._modules.append((prefix, module))

    def describe(self, first: int, optimizer: Optimizer) -> list[_native.TensorSpec]:
        """The tensors, numbered from `first` on."""
        specs: list[_native.TensorSpec] = []
        for number, group in enumerate(self._groups.values()):
            rows = -(-group.numbers() // COLUMNS)
            group.values = np.zeros((rows, COLUMNS), np.float32)
            group.gradients = np.zeros((rows, COLUMNS), np.float32)
            group.tensors = []
            for piece in range(-(-rows // _ROWS_MAX)):
                spec = _native.TensorSpec()
                spec.id = first + len(specs)
                spec.name = f"parameters.{number}.{piece}"
                spec.rows = min(_ROWS_MAX, rows - piece * _ROWS_MAX)
                spec.columns = COLUMNS
                spec.shape = [spec.rows, COLUMNS]
                spec.optimizer = optimizer.native()
                spec.weight_decay, spec.rate_scale = group.weight_decay, group.lr_scale
                group.tensors.append(spec.id)
                specs.append(spec)
        return specs

    def layout(self) -> list[list[object]]:
        """Where each parameter lies, for the run's description: per group, names and shapes in their order."""
        return [[[name, list(parameter.shape)] for name, parameter in zip(group.names, group.parameters)]
                for group in self._groups.values()]

    def constants(self) -> str:
        """Digest of what the run does not train; empty if there is nothing."""
        if not self._constants:
            return ""
        digest = hashlib.sha256()
        for name, value, _ in self._constants:
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes()
                          if value.numel() else b"")
        return digest.hexdigest()

    def check_constants(self) -> None:
        """Error if one has changed: each process would have its own, and the result would depend on who did what."""
        for name, value, version in self._constants:
            if value._version != version:
                raise Error(f"{name}, which is no parameter, has changed in training: each process would have its own. "
                            "Make it one, or use layers without (GroupNorm or LayerNorm for BatchNorm, "
                            "track_running_stats=False)", "invalid")

    def initial(self) -> list[tuple[int, NDArray[np.float32]]]:
        """The parameters as they are, (tensor, values)."""
        for group in self._groups.values():
            for parameter, span in group.spans(group.values):
                span.copy_(parameter.detach())
        return [piece for group in self._groups.values() for piece in group.pieces(group.values)]

    def pull(self, native: _native.Run, epoch: int, step: int) -> None:
        """Fills the parameters with the state after `step` steps."""
        pending = [native.pull_range(epoch, step, tensor, 0, len(values), values)
                   for group in self._groups.values() for tensor, values in group.pieces(group.values)]
        for request in pending:
            request.wait()
        with torch.no_grad():
            for group in self._groups.values():
                for parameter, span in group.spans(group.values):
                    parameter.copy_(span)

    def push(self, native: _native.Run, epoch: int, step: int, micro_batch: int) -> list[_native.Pending]:
        """Contributes the gradients, zeros where there is none, and lets go of them."""
        for group in self._groups.values():
            for parameter, span in group.spans(group.gradients):
                if parameter.grad is None:
                    span.zero_()
                else:
                    span.copy_(parameter.grad)
                    parameter.grad = None
        return [native.push_whole(epoch, step, micro_batch, tensor, values)
                for group in self._groups.values() for tensor, values in group.pieces(group.gradients)]
