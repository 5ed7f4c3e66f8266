"""A trained model, read at its servers: by whoever serves answers of it, while it may be trained on elsewhere."""

from __future__ import annotations

import json
import os
import weakref
from typing import TYPE_CHECKING, Any, Callable, Mapping, Sequence, TypeVar, cast

import numpy as np
from numpy.typing import NDArray
import torch

from . import _native
from .checks import SECONDS_MAX, addresses, one_of, real
from .errors import Error, InvalidError, SupersededError
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
        snapshot or two, and newer ones later if they --follow; or of those of a run, which have its last state alone.
    All that is read is of one step, `reader.step`, until then. One thread at a time; any number of readers.
    """

    work = None  # as of a Run: there is none

    def __init__(self, servers: str | Sequence[str], *, keys: str | os.PathLike[str] | None = None,
                 deadline_seconds: float = 10.0, log: str = "warn") -> None:
        self._native = _native.Reader(
            servers=addresses(servers), keys="" if keys is None else os.fspath(keys),
            deadline_seconds=real("deadline_seconds", deadline_seconds, 0.01, SECONDS_MAX),
            log=one_of("log", log, ("debug", "info", "warn", "error", "off")))
        self._process = os.getpid()
        self._specs = {spec.name: spec for spec in self._native.run.tensors}
        self._loaded: weakref.WeakKeyDictionary[torch.nn.Module, str] = weakref.WeakKeyDictionary()  # prefixes
        self._filled: tuple[int, int] | None = None  # the state that the loaded modules have
        self._answering = False
        try:
            about = json.loads(self._native.run.about)
        except ValueError:
            about = None
        if not isinstance(about, dict) or not {"layers", "parameters"} <= set(about):
            raise InvalidError("servers: their run is of no PyTorch model; `worker generate --pservers` and others read "
                               "those of the language model")
        self._about: Mapping[str, Any] = about

    @property
    def native(self) -> _native.Reader:
        """The native reader. Error in a process that was forked from the one that made it."""
        if os.getpid() != self._process:
            raise Error("this process was forked from the one that has the reader: make an mf.Reader in each")
        return self._native

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
        if self._answering:
            raise Error("refresh: an answer is of one state; refresh before or after it")
        before = self.native.at
        self.native.refresh()
        self.answer(lambda: None)
        return self.native.at != before

    def answer(self, function: Callable[[], _T]) -> _T:
        """`function()` without gradients, all of it of one state: it is called again, with a newer one, if servers let
        go of the state meanwhile, or were started again. Within it `parameters`, `load` and other answers are of that
        state, too."""
        if self._answering:
            return function()
        self._answering = True
        try:
            for last in [False] * _TRIES + [True]:
                try:
                    with torch.no_grad():
                        self._fill_loaded()
                        return function()
                except SupersededError:
                    if last:
                        raise
                self.native.refresh()
        finally:
            self._answering = False
        raise AssertionError

    def parameters(self) -> dict[str, torch.Tensor]:
        """The parameters that the run shares, by name: float32, as they are in the state that is read."""
        return self.answer(self._parameters)

    def load(self, module: torch.nn.Module, prefix: str = "", strict: bool = True) -> None:
        """Fills the module's parameters with those of the run, now and at every `refresh`. Those that the run does not
        train, and buffers, stay as the script has made them.

        InvalidError if the run has one of them in another shape, or lacks one that needs a gradient; and, if `strict`,
        where the run has one (whose name begins with `prefix`) that the module lacks.
        """
        if not isinstance(module, torch.nn.Module):
            raise InvalidError(f"load: {module!r} is no module")
        self.answer(lambda: self._fill(module, prefix, self._parameters(), strict))
        self._loaded[module] = prefix
        self._filled = self.native.at  # as those that were loaded before: the answer has seen to that

    def _fill_loaded(self) -> None:
        if self._loaded and self._filled != self.native.at:
            found = self._parameters()
            for module, prefix in self._loaded.items():
                self._fill(module, prefix, found, strict=False)
            self._filled = self.native.at

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

    @staticmethod
    def _fill(module: torch.nn.Module, prefix: str, found: Mapping[str, torch.Tensor], strict: bool) -> None:
        here = {prefix + name: parameter for name, parameter in module.named_parameters()}
        lacking = [name for name in found if name.startswith(prefix) and name not in here]
        if strict and lacking:
            raise InvalidError(f"load: the module lacks {', '.join(lacking[:5])}, which the run trains (strict=False "
                               "allows it)")
        for name, parameter in here.items():
            values = found.get(name)
            if values is None:
                if parameter.requires_grad:
                    raise InvalidError(f"load: the run has no parameter {name}, but "
                                       f"{', '.join(list(found)[:5]) or 'none'}")
            elif values.shape != parameter.shape:
                raise InvalidError(f"load: {name} has shape {tuple(values.shape)} in the run and "
                                   f"{tuple(parameter.shape)} here")
        with torch.no_grad():
            for name, parameter in here.items():
                if name in found:
                    parameter.copy_(found[name])

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
