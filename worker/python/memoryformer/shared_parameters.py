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
from .checks import real
from .errors import Error, InvalidError
from .optimizers import Optimizer

COLUMNS = 4096  # 64 blocks: on up to 64 servers
_ROWS_MAX = 1 << 14  # of one tensor: 256 MiB

#: (name, parameter) to {"weight_decay": ..., "lr_scale": ...}, or None for the run's own.
Rules = Callable[[str, torch.nn.Parameter], "Mapping[str, float] | None"]


def bytes_of(value: torch.Tensor) -> bytes:
    """Of a dense tensor of any type."""
    flat = value.detach().cpu().contiguous().reshape(-1)
    return bytes(flat.view(torch.uint8).numpy().data) if flat.numel() else b""


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
        self._modules: list[tuple[str, torch.nn.Module, Rules | None]] = []
        self._known: dict[int, str] = {}  # names by id
        self._constants: dict[str, tuple[torch.Tensor, int]] = {}  # with their versions, by name

    @property
    def modules(self) -> list[torch.nn.Module]:
        """What was added."""
        return [module for _, module, _ in self._modules]

    def __contains__(self, parameter: torch.nn.Parameter) -> bool:
        return id(parameter) in self._known

    def names(self) -> dict[str, torch.nn.Parameter]:
        """Trained parameters by name."""
        return {name: parameter for group in self._groups.values()
                for name, parameter in zip(group.names, group.parameters)}

    def add(self, module: torch.nn.Module, prefix: str, rules: Rules | None, optimizer: Optimizer) -> None:
        """Parameters that need gradients are shared; the others, and buffers, are constants of the run."""
        self._modules.append((prefix, module, rules))
        self.collect(optimizer)

    def collect(self, optimizer: Optimizer) -> None:
        """Takes the modules as they are now: parts may have been replaced, moved or frozen since they were added."""
        self._groups, self._known, self._constants = {}, {}, {}
        names: set[str] = set()
        for prefix, module, rules in self._modules:
            for name, parameter in self._trained(prefix, module):
                if id(parameter) in self._known:
                    continue
                if torch.nn.parameter.is_lazy(parameter):
                    raise InvalidError(f"share: {name} has no shape yet; call the model once before")
                if not parameter.is_floating_point():
                    raise InvalidError(f"share: {name} is of {parameter.dtype}; the servers hold real numbers")
                if name in names:
                    raise InvalidError(f"share: there is a parameter {name} already; give this module a prefix")
                names.add(name)
                rule = dict((rules(name, parameter) if rules is not None else None) or {})
                decay = real(f"share: weight_decay of {name}", rule.pop("weight_decay", optimizer.weight_decay), 0)
                scale = real(f"share: lr_scale of {name}", rule.pop("lr_scale", 1.0), 0)
                if rule:
                    raise InvalidError(f"share: rule of {name}: {sorted(rule)} is none of weight_decay and lr_scale")
                group = self._groups.setdefault((decay, scale), _Group(decay, scale, [], []))
                group.names.append(name)
                group.parameters.append(parameter)
                self._known[id(parameter)] = name
            self._constants.update({name: (value, value._version) for name, value in self._fixed(prefix, module)})

    @staticmethod
    def _trained(prefix: str, module: torch.nn.Module) -> Iterator[tuple[str, torch.nn.Parameter]]:
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                yield prefix + name, parameter

    @staticmethod
    def _fixed(prefix: str, module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
        for name, parameter in module.named_parameters():
            if not parameter.requires_grad:
                yield prefix + name, parameter
        for name, buffer in module.named_buffers():
            yield prefix + name, buffer

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
        for name, (value, _) in self._constants.items():
            digest.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            digest.update(bytes_of(value))
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        """Error if the modules have other parameters than the run trains, or if what is no parameter has changed: each
        process would have its own, and the result would depend on who did what."""
        for prefix, module, _ in self._modules:
            for name, parameter in self._trained(prefix, module):
                if id(parameter) not in self._known:
                    raise Error(f"{name} is new: nobody trains it; make the model as it is to be before the loop",
                                "invalid")
            for name, value in self._fixed(prefix, module):
                known = self._constants.get(name)
                if known is None and id(value) in self._known:
                    raise Error(f"{name} was frozen in the loop, but the run trains it: freeze it before", "invalid")
                if known is None or known[0] is not value or known[1] != value._version:
                    raise Error(f"{name}, which is no parameter, has changed in training: each process would have its "
                                "own. Make it one, or use layers without (GroupNorm or LayerNorm for BatchNorm, "
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

    def values(self) -> dict[str, torch.Tensor]:
        """Copies of the values as the servers have them, in float32, of the state that was pulled last."""
        return {self._known[id(parameter)]: span.clone() for group in self._groups.values()
                for parameter, span in group.spans(group.values)}

    def push(self, native: _native.Run, epoch: int, step: int, micro_batch: int) -> list[_native.Pending]:
        """Contributes the gradients, zeros where there is none, and lets go of them."""
        for group in self._groups.values():
            for parameter, span in group.spans(group.gradients):
                if parameter.grad is None:
                    span.zero_()
                else:
                    span.copy_(parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad)
                    parameter.grad = None
        return [native.push_whole(epoch, step, micro_batch, tensor, values)
                for group in self._groups.values() for tensor, values in group.pieces(group.gradients)]
