"""A trained model, read at its servers: by whoever serves answers of it, while it may be trained on elsewhere."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any, Callable, Mapping, Sequence, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
import torch

from . import _native
from .checks import one_of, real
from .errors import InvalidError, SupersededError
from .keyed_table import KeyedTable
from .row_table import RowTable
from .sum_table import SumTable
from .table import TableRules

if TYPE_CHECKING:
    from .run import Run

_T = TypeVar("_T")
_TRIES = 20


class Reader:
    """In the place of a `Run` where a model is only used: its layers are made of it with the names and options of the
    run, and their tables are read where they are.

        reader = mf.Reader("tcp://a:7000,tcp://b:7000")
        model = MyModel(items=mf.Embedding(reader, "items", width=64))
        reader.load(model)                              # its own parameters
        scores = reader.answer(lambda: model(batch))

    servers, keys, deadline_seconds, log: as of a Run; of read-only servers (pserver serve --read-only), which have a
        snapshot or two, or of those of a run, which have its last state. With the first, `follow` of the servers
        decides whether newer ones come; `refresh()` goes to the newest.
    All that is read is of one step, `reader.step`, until then. One thread at a time; any number of readers.
    """

    work = None  # as of a Run: there is none

    def __init__(self, servers: str | Sequence[str], *, keys: str | os.PathLike[str] | None = None,
                 deadline_seconds: float = 10.0, log: str = "warn") -> None:
        servers = [servers] if isinstance(servers, str) else list(servers)
        if not servers or not all(isinstance(server, str) for server in servers):
            raise InvalidError(f"servers: {servers!r}: give addresses tcp://HOST:PORT")
        self.native = _native.Reader(
            servers=servers, keys="" if keys is None else os.fspath(keys),
            deadline_seconds=real("deadline_seconds", deadline_seconds, 0.01),
            log=one_of("log", log, ("debug", "info", "warn", "error", "off")))
        self._specs = {spec.name: spec for spec in self.native.run.tensors}
        self._loaded: list[tuple[str, torch.nn.Module]] = []
        try:
            self._about: Mapping[str, Any] = json.loads(self.native.run.about)
        except ValueError:
            self._about = {}
        if self._about.get("kind") != "pytorch":
            raise InvalidError("servers: their run is of no PyTorch model; `worker generate --pservers` and others read "
                               "those of the language model")

    @property
    def step(self) -> int:
        """Finished steps of the state that is read."""
        return self.native.at[1]

    @property
    def tokens(self) -> int:
        """As of a Run."""
        return int(self.native.run.rules.tokens_per_micro_batch)

    def refresh(self) -> bool:
        """Goes to the newest state that all servers have; modules that were loaded get its parameters. Whether it is
        another one than before."""
        moved = self.native.refresh()
        if moved and self._loaded:
            self._fill(self._loaded)
        return moved

    def answer(self, function: Callable[[], _T]) -> _T:
        """`function()` without gradients, all of it of one state: it is called again, with a newer one, if servers let
        go of the state meanwhile, or were started again."""
        for last in [False] * _TRIES + [True]:
            try:
                with torch.no_grad():
                    return function()
            except SupersededError:
                if last:
                    raise
            self.refresh()
        raise AssertionError

    def parameters(self) -> dict[str, torch.Tensor]:
        """The parameters that the run shares, by name: float32, as they are in the state that is read."""
        return self.answer(self._parameters)

    def load(self, module: torch.nn.Module, prefix: str = "") -> None:
        """Fills the module's parameters with those of the run, now and at every `refresh`. What the run does not train,
        frozen parameters and buffers, stays as the script has made it. InvalidError if the run lacks one of them or has
        it in another shape."""
        self.answer(lambda: self._fill([(prefix, module)]))
        self._loaded.append((prefix, module))

    def _parameters(self) -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = {}
        for number, group in enumerate(self._about["parameters"]):
            flat, at = torch.from_numpy(self._vector(f"parameters.{number}.")), 0
            for name, shape in group:
                count = int(np.prod(shape, dtype=np.int64))
                found[name] = flat[at : at + count].view(shape).clone()
                at += count
        return found

    def _vector(self, prefix: str) -> NDArray[np.float32]:
        """The numbers of the tensors whose names begin so, one after the other."""
        pieces, pending, piece = [], [], 0
        while (spec := self._specs.get(f"{prefix}{piece}")) is not None:
            values = np.empty((spec.rows, spec.columns), np.float32)
            pending.append(self.native.pull_range(*self.native.at, spec.id, 0, spec.rows, values))
            pieces.append(values.reshape(-1))
            piece += 1
        for request in pending:
            request.wait()
        return np.concatenate(pieces) if pieces else np.zeros(0, np.float32)

    def _fill(self, modules: Sequence[tuple[str, torch.nn.Module]]) -> None:
        found = self._parameters()
        with torch.no_grad():
            for prefix, module in modules:
                for name, parameter in module.named_parameters():
                    if not parameter.requires_grad:
                        continue
                    values = found.get(prefix + name)
                    if values is None:
                        raise InvalidError(f"load: the run has no parameter {prefix + name}, but "
                                           f"{', '.join(list(found)[:5]) or 'none'}")
                    if values.shape != parameter.shape:
                        raise InvalidError(f"load: {prefix + name} has shape {tuple(values.shape)} in the run and "
                                           f"{tuple(parameter.shape)} here")
                    parameter.copy_(values)

    # As of a Run, for layers.

    def new_tables(self, _: torch.nn.Module, name: str, *, tables: int, bits: int, probes: int, sums: bool,
                   rules: TableRules, about: Mapping[str, Any]) -> SumTable | RowTable:
        """The run's tables of this name; servers sum them, or this process, whatever the run does."""
        spec = self._spec(name, _native.TensorKind.memory, rules)
        if (spec.tables, spec.rows, spec.probes) != (tables, 1 << bits, probes):
            raise InvalidError(f"{name}: the run has {spec.tables} tables of {spec.rows} rows and {spec.probes} probes, "
                               f"here are {tables} of {1 << bits} and {probes}")
        self._check_about(name, about)
        run = cast("Run", self)  # it has of one what reads need
        return SumTable(run, spec, bits) if sums else RowTable(run, spec)

    def new_keyed_table(self, _: torch.nn.Module, name: str, rules: TableRules, about: Mapping[str, Any]) -> KeyedTable:
        """The run's table of this name."""
        spec = self._spec(name, _native.TensorKind.keyed, rules)
        self._check_about(name, about)
        return KeyedTable(cast("Run", self), spec)

    def _spec(self, name: str, kind: _native.TensorKind, rules: TableRules) -> _native.TensorSpec:
        spec = self._specs.get(name)
        if spec is None or spec.kind != kind:
            there = [other.name for other in self._specs.values() if other.kind == kind]
            raise InvalidError(f"{name}: the run has no such layer, but {', '.join(there) or 'none of this kind'}")
        if spec.columns != rules.columns:
            raise InvalidError(f"{name}: has width {spec.columns} in the run and {rules.columns} here")
        return spec

    def _check_about(self, name: str, here: Mapping[str, Any]) -> None:
        there = self._about["layers"].get(name)
        if there != json.loads(json.dumps(here)):
            raise InvalidError(f"{name}: is {there} in the run and {dict(here)} here")

    def read_state(self, _: bool) -> tuple[tuple[int, int, bool], bool]:
        """What a layer reads, and that it is no read of training."""
        return (*self.native.at, False), False

    def guarded(self, call: Callable[[], _T]) -> _T | None:
        """The call's value."""
        return call()
