"""A run: a model that is trained by any number of processes, whose parameters and tables are on servers."""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import signal
import tempfile
import weakref
from typing import Any, Callable, Iterator, Mapping, Sequence, TypeVar

import numpy as np
from numpy.typing import NDArray
import torch

from . import _native, safetensors
from .errors import Error, InvalidError, OtherRunError, SupersededError
from .optimizers import Optimizer, checked
from .progress import Progress
from .seeds import seed_all
from .shared_parameters import Rules, SharedParameters
from .table import Table
from .work import Work

_T = TypeVar("_T")
_EVALUATION = -1  # in the place of a micro-batch's number, where generators are seeded
_LEAVE_SECONDS = 600.0  # for the last snapshot
_READ_BYTES = 64 << 20  # of a table at once


@dataclasses.dataclass(frozen=True)
class Embedded:
    """Servers inside this process; see `embedded`."""

    shards: int
    state: str
    threads: int
    memory: int


def embedded(shards: int = 1, state: str | os.PathLike[str] = "", threads: int = 1, memory: int = 0) -> Embedded:
    """In the place of addresses: servers inside this process, for one process without others.

    shards: how many; it changes no bit of the result. threads: of each of them.
    state: folder of their snapshots, from which the same script goes on; "": a temporary one.
    memory: bytes of tables that are allowed; 0: as the machine has.
    """
    if shards < 1 or threads < 1:
        raise InvalidError(f"embedded: shards = {shards} and threads = {threads} have to be 1 or more")
    return Embedded(shards, os.fspath(state), threads, memory)


class Run:
    """What a script and the servers agree on, and the loop over this process's work.

    servers: addresses "tcp://HOST:PORT" of all servers in their order, in a list or separated by commas; or
        `embedded(...)`. keys: folder with client.key and server.pub, for servers with keys.
    steps, micro_batches: the run's length, and the micro-batches of each step. The step's loss is their mean.
    optimizer: AdamW, Adagrad or SGD, with its learning rate over the run.
    clip: of the gradient's global norm; 0: none.
    seed: of tables, and of the generators of torch, NumPy and Python: they are seeded here, so that models that are
        made next begin alike everywhere, and again for every micro-batch.
    data: what is trained on, so that nobody joins with other data: a text such as a digest; or a function
        (step, number) whose value is a micro-batch (tensors, arrays, and lists and dicts of them), which is tried:
        it has to give the same each time.
    evaluate_every: steps between evaluations (see `evaluate`); 0: after the last only.
    snapshot_steps, snapshot_minutes, keep: when servers save their state, and how many states they keep.
    reproducible: the result does not depend on who computes what. torch uses deterministic algorithms, and processes
        with another version of torch, kind of device or number of threads are refused. False: they may differ.
    tokens: the most tokens of a memory layer in one micro-batch.
    wire: "f32" or "bf16" vectors between here and the servers.
    lease_seconds: after which the work of a silent process is given to another one. window: micro-batches that may
        be under way ahead of the lowest unfinished one. deadline_seconds: of a server's silence, then calls fail.
    progress: shows steps on stderr. log: what the library says there: "debug", "info", "warn", "error" or "off".
    """

    def __init__(self, servers: str | Sequence[str] | Embedded, *, steps: int, optimizer: Optimizer,
                 micro_batches: int = 1, keys: str | os.PathLike[str] | None = None, clip: float = 0.0, seed: int = 1,
                 data: str | Callable[[int, int], Any] = "", evaluate_every: int = 0, snapshot_steps: int = 0,
                 snapshot_minutes: float = 5.0, keep: int = 2, reproducible: bool = True, tokens: int = 1 << 20,
                 wire: str = "f32", lease_seconds: float = 30.0, window: int = 8, deadline_seconds: float = 60.0,
                 progress: bool = True, log: str = "warn") -> None:
        self._native: _native.Run | None = None
        self._temporary = ""
        if wire not in ("f32", "bf16"):
            raise InvalidError(f"wire: {wire!r} is none of f32 and bf16")
        self.optimizer = checked(optimizer)
        self.steps, self.micro_batches, self.tokens, self.seed = steps, micro_batches, tokens, seed
        self.work: Work | None = None
        self.tables: list[Table] = []
        self._servers = servers
        self._keys = "" if keys is None else os.fspath(keys)
        self._deadline_seconds, self._log, self._reproducible = deadline_seconds, log, reproducible
        self._parameters = SharedParameters()
        self._layers: list[torch.nn.Module] = []
        self._layer_abouts: dict[str, Mapping[str, Any]] = {}
        self._initial_tables: dict[str, NDArray[np.float32]] = {}
        self._state: tuple[int, int] | None = None  # finished (epoch, step) that the parameters are of
        self._at: tuple[int, int, bool] | None = None  # what layers read; open: a micro-batch's step
        self._finished: tuple[int, int] | None = None
        self._evaluate: Callable[[], float] | None = None
        self._callbacks: list[Callable[[_native.StepRecord], Any]] = []
        self._progress = Progress(steps) if progress else None
        self._left = False
        rules = _native.RunRules()
        rules.steps, rules.micro_batches, rules.tokens_per_micro_batch = steps, micro_batches, tokens
        rules.window, rules.lease_seconds, rules.clip, rules.seed = window, lease_seconds, clip, seed
        rules.eval_every = evaluate_every
        rules.schedule = self.optimizer.schedule().native(steps)
        rules.wire = _native.Wire.bf16 if wire == "bf16" else _native.Wire.f32
        snapshots = _native.SnapshotRules()
        snapshots.every_steps, snapshots.every_minutes, snapshots.keep = snapshot_steps, snapshot_minutes, keep
        rules.snapshots = snapshots
        self._rules = rules
        self._saves = snapshot_steps > 0 or snapshot_minutes > 0
        if reproducible:
            torch.use_deterministic_algorithms(True)
        self._data = data if isinstance(data, str) else _digest_of(data, steps, micro_batches, seed)
        seed_all(seed)

    # What is trained.

    def new_table(self, layer: torch.nn.Module, name: str, *, tables: int, bits: int, probes: int, columns: int,
                  std: float, weight_decay: float | None, lr_scale: float, lazy: bool, rows: str,
                  about: Mapping[str, Any]) -> Table:
        """For layers: tables that the servers are to hold."""
        self._still_open(f"layer {name}")
        if name in self._layer_abouts:
            raise InvalidError(f"{name}: there is a layer of this name already")
        if rows not in ("f32", "bf16"):
            raise InvalidError(f"{name}: rows = {rows!r} is none of f32 and bf16")
        spec = _native.TensorSpec()
        spec.id, spec.name, spec.kind = len(self.tables), name, _native.TensorKind.memory
        spec.tables, spec.rows, spec.columns, spec.probes = tables, 1 << bits, columns, probes
        spec.shape = [tables, 1 << bits, columns]
        spec.init, spec.init_value = _native.Init.normal, std
        spec.optimizer = self.optimizer.native(lazy)
        spec.weight_decay = self.optimizer.weight_decay if weight_decay is None else weight_decay
        spec.rate_scale = lr_scale
        spec.row_type = _native.RowType.bf16 if rows == "bf16" else _native.RowType.f32
        spec.mode = _native.ExchangeMode.sums
        table = Table(self, spec, bits)
        self.tables.append(table)
        self._layers.append(layer)
        self._layer_abouts[name] = about
        return table

    def share(self, module: torch.nn.Module, prefix: str = "", rules: Rules | None = None) -> None:
        """The module's own parameters live on the servers, too, and all processes train them together.

        They begin as they are now; every process has to begin with the same ones. `rules(name, parameter)` may
        return {"weight_decay": ..., "lr_scale": ...} for those that the run's optimizer is not to treat alike.
        Parameters that need no gradient, and buffers, are constants: one that changes in training is refused.
        """
        self._still_open("share")
        self._parameters.add(module, prefix, rules, self.optimizer)

    def load(self, path: str | os.PathLike[str]) -> None:
        """The run begins with the parameters and tables of a file that `save` has written, or with those of them that
        it has. The model is shared already. InvalidError for tensors of other shapes, or if it has none of the run's.
        """
        self._still_open("load")
        tensors = safetensors.read(path)
        found = 0
        with torch.no_grad():
            for name, parameter in self._parameters.names().items():
                if name in tensors:
                    _check_shape(path, name, tensors[name].shape, tuple(parameter.shape))
                    parameter.copy_(torch.from_numpy(np.array(tensors[name])))
                    found += 1
        for table in self.tables:
            name = table.spec.name
            if name in tensors:
                _check_shape(path, name, tensors[name].shape, tuple(table.spec.shape))
                self._initial_tables[name] = np.ascontiguousarray(tensors[name], np.float32)
                found += 1
        if found == 0:
            raise InvalidError(f"{path}: has nothing of this run, but {', '.join(list(tensors)[:5])}")

    def parameters(self) -> Iterator[torch.nn.Parameter]:
        """What is shared."""
        return iter(self._parameters.names().values())

    # What a script hears.

    def evaluate(self, function: Callable[[], float]) -> Callable[[], float]:
        """Sets the function that gives the mean loss on held-out data; also as a decorator. It is called in one
        process, without gradients and with the shared modules in eval mode."""
        self._evaluate = function
        return function

    def on_step(self, callback: Callable[[_native.StepRecord], Any]) -> Callable[[_native.StepRecord], Any]:
        """`callback` hears of every finished step, whoever did it: record.step, loss, lr, grad_norm, val_loss (or
        None) and dropped. After a recovery steps are told again."""
        self._callbacks.append(callback)
        return callback

    # The loop.

    def __iter__(self) -> Iterator[Work]:
        """The micro-batches that this process is given, until the run is over or was stopped."""
        with self._ends_by_signal():
            try:
                self._begin()
                yield from self._works()
            except BaseException:
                self.close()
                raise
            finally:
                self.work = None
                if self._progress is not None:
                    self._progress.end()
                if self._finished is None:
                    self.close()  # also if the loop was left by break

    def _works(self) -> Iterator[Work]:
        while True:
            kind, epoch, step, number = self.native.next()
            self._tell()
            if kind == "micro_batch":
                work = Work(self, epoch, step, number)
                if not self._enter(work):
                    continue
                yield work
                if not work.done:
                    raise Error(f"micro-batch {number} of step {step}: neither work.backward(loss) nor work.skip() was "
                                "called for it, so the step could never end", "invalid")
            elif kind == "evaluation":
                self._do_evaluation(epoch, step)
            else:
                if kind == "finished":
                    self._end(epoch, step)
                return

    def _end(self, epoch: int, step: int) -> None:
        """The run is over; its last state can be read."""
        self._finished = (epoch, step)
        self._at = (epoch, step, False)
        for last in [False] * 20 + [True]:
            try:
                self._pull(epoch, step)
                if isinstance(self._servers, Embedded) and self._servers.state and self._saves:
                    self.native.save(step, _LEAVE_SECONDS)  # servers inside end with this process, which may come soon
                return
            except SupersededError:  # a server is just being started again
                if last or self.native.next()[0] != "finished":
                    raise

    def _enter(self, work: Work) -> bool:
        self.work = work
        for parameter in self.parameters():
            parameter.grad = None  # of a micro-batch that was thrown away
        self._at = (work.epoch, work.step, True)
        self.guarded(lambda: self._pull(work.epoch, work.step - 1))
        if not work.valid:
            self.end_work(work, 0.0)
            return False
        seed_all(self.seed, work.step, work.number)
        return True

    def end_work(self, work: Work, loss: float) -> None:
        """For Work: hands it in, or gives it back."""
        if work.valid:
            self.native.done(loss * self.tokens)  # servers divide by the step's tokens
        else:
            # By the server's own word: after some of them this process has to join again.
            error = work.given_up or SupersededError("the script gave it up", "stale")
            self.native.give_back(error.code, str(error))
        self.work = self._at = None

    def _do_evaluation(self, epoch: int, step: int) -> None:
        if self._evaluate is None:
            self.native.done(float("nan"))
            return
        self._at = (epoch, step, False)
        modes = [(module, module.training) for root in self._parameters.modules for module in root.modules()]
        try:
            self._pull(epoch, step)
            for module, _ in modes:
                module.training = False
            seed_all(self.seed, step, _EVALUATION)
            with torch.no_grad():
                value = float(self._evaluate())
        except SupersededError as error:
            self.native.give_back(error.code, str(error))
        else:
            self.native.done(value)
        finally:
            for module, mode in modes:
                module.training = mode
            self._at = None
        self._tell()

    def stop(self) -> None:
        """From any thread or callback: the loop ends after the work that this process has. Others go on."""
        if self._native is not None:
            self._native.stop()

    def close(self) -> None:
        """Leaves the run, which may go on without this process; the last one has the last finished step saved. Called
        when the loop is left before the run's end, by `with`, and when Python ends."""
        if self._native is None or self._left:
            return
        self._left = True
        if self._finished is None:
            self._leave(self._native)
        self._let_go()

    def _leave(self, native: _native.Run) -> None:
        try:
            reached, others, saved = native.leave(_LEAVE_SECONDS)
        except InvalidError:
            if self._saves:
                raise
            reached, others, saved = True, 0, 0  # snapshots are turned off
        if self._progress is not None:
            self._progress.say("left the run: " + (
                "server 0 does not answer; servers that end save what they have" if not reached
                else f"it goes on with {others} other processes" if others
                else f"step {saved} is saved, and the same script goes on from there" if saved
                else "nothing is saved"))

    def _let_go(self) -> None:
        self._native = None  # ends servers inside
        if self._temporary:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def __del__(self) -> None:
        self._let_go()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Reading the model.

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Parameters and tables by name, after the run's last step or, in an evaluation, of the state that is
        evaluated. A table is [K, 2 ** tau, outputs]."""
        epoch, step = self._readable()
        state = {name: parameter.detach().cpu().clone() for name, parameter in self._parameters.names().items()}
        for table in self.tables:
            spec = table.spec
            rows = spec.tables * spec.rows
            values = np.empty((rows, spec.columns), np.float32)
            at_once = max(1, _READ_BYTES // (4 * spec.columns))
            for first in range(0, rows, at_once):
                part = values[first : first + at_once]
                self.native.pull_range(epoch, step, spec.id, first, len(part), part).wait()
            state[spec.name] = torch.from_numpy(values.reshape(spec.shape))
        return state

    def save(self, path: str | os.PathLike[str]) -> None:
        """`state_dict()` as a safetensors file, the same bytes for any number of servers and processes."""
        _, step = self._readable()
        state = {name: values.numpy() for name, values in sorted(self.state_dict().items())}
        safetensors.write(path, state, {"step": str(step), "about": self._about()})

    def _readable(self) -> tuple[int, int]:
        if self._finished is not None:
            return self._finished
        if self._at is not None and not self._at[2]:
            return self._at[:2]
        raise Error("the model can be read after the loop has come to its end, or in an evaluation", "invalid")

    # For layers and Work.

    @property
    def native(self) -> _native.Run:
        """The native run, which has begun."""
        if self._native is None:
            raise Error("the run has not begun, or is over for this process: use layers inside the loop over it")
        return self._native

    def reading(self, gradients: bool) -> tuple[tuple[int, int, bool], bool]:
        """What a layer reads now, and whether it is a read of training."""
        if self._at is None:
            raise Error("nothing can be read between two micro-batches; use layers inside the loop, in an evaluation, "
                        "or after the loop has come to its end")
        epoch, step, is_open = self._at
        if is_open and not gradients:
            return (epoch, step - 1, False), False
        return self._at, is_open

    def guarded(self, call: Callable[[], _T]) -> _T | None:
        """The call's value; None if the micro-batch is nobody's any more, which it then notes. Outside of a micro-batch
        errors are raised."""
        work = self.work
        if work is not None and not work.valid:
            return None
        try:
            return call()
        except SupersededError as error:
            if work is None:
                raise
            work.valid, work.given_up = False, error
            return None

    def check_constants(self) -> None:
        """See SharedParameters."""
        self._parameters.check_constants()

    def push_parameters(self, work: Work) -> list[_native.Pending]:
        """See SharedParameters."""
        return self._parameters.push(self.native, work.epoch, work.step, work.number)

    # Inside.

    def _still_open(self, what: str) -> None:
        if self._native is not None or self._left:
            raise InvalidError(f"{what}: the run has begun; describe the whole model before the loop")

    def _about(self) -> str:
        about: dict[str, Any] = {"kind": "pytorch", "layers": self._layer_abouts,
                                 "parameters": self._parameters.layout(), "constants": self._parameters.constants()}
        if self._reproducible:
            devices = sorted({parameter.device.type for parameter in self.parameters()} or {"cpu"})
            about["reproducible"] = {"torch": torch.__version__, "threads": torch.get_num_threads(),
                                     "devices": ", ".join(devices)}
        return json.dumps(about, sort_keys=True)

    def _describe(self) -> tuple[_native.RunDescription, list[tuple[int, NDArray[np.float32]]]]:
        """The run's description and what it begins with."""
        for layer in self._layers:
            for name, parameter in layer.named_parameters():
                if parameter.requires_grad and parameter not in self._parameters:
                    raise InvalidError(f"layer {layer.name}: nobody shares its {name}; call run.share(model) before the "
                                       "loop")
        description = _native.RunDescription()
        description.rules = self._rules
        parameters = self._parameters.describe(len(self.tables), self.optimizer)
        description.tensors = [table.spec for table in self.tables] + parameters
        if not description.tensors:
            raise InvalidError("the run has nothing to train: no layers, and no module was shared")
        description.about = self._about()
        description.data = self._data
        initial = self._parameters.initial()
        for table in self.tables:
            if table.spec.name in self._initial_tables:
                initial.append((table.spec.id, self._initial_tables[table.spec.name]))
        if initial:
            digest = hashlib.sha256()
            for tensor, values in initial:
                digest.update(f"{tensor} {values.shape}".encode())
                digest.update(values.data)
            description.initial = f"values of digest {digest.hexdigest()}"
        return description, initial

    def _begin(self) -> None:
        if self._native is not None or self._left:
            raise Error("this run's loop has been begun before; make a new mf.Run")
        description, initial = self._describe()
        servers = self._servers
        if isinstance(servers, Embedded) and not servers.state:
            self._temporary = tempfile.mkdtemp(prefix="memoryformer-")
            servers = dataclasses.replace(servers, state=self._temporary)
        inside = servers if isinstance(servers, Embedded) else Embedded(1, "", 1, 0)
        addresses = ([] if isinstance(servers, Embedded) else [servers] if isinstance(servers, str) else list(servers))
        if not addresses and not isinstance(servers, Embedded):
            raise InvalidError("servers: no address; for servers inside this process use mf.embedded()")
        self._native = _native.Run(servers=addresses, keys=self._keys, shards=inside.shards, threads=inside.threads,
                                   memory_bytes=inside.memory, state=inside.state, run=description,
                                   deadline_seconds=self._deadline_seconds, log=self._log)
        _close_at_exit(self)
        try:
            self._native.join(initial)
        except OtherRunError as error:
            raise OtherRunError(f"{error}. All processes of a run have the same script, data, seed, version of torch and "
                                "number of threads (torch.set_num_threads; reproducible=False allows others)",
                                error.code) from None

    def _pull(self, epoch: int, step: int) -> None:
        if self._state != (epoch, step):
            self._state = None
            self._parameters.pull(self.native, epoch, step)
            self._state = (epoch, step)

    def _tell(self) -> None:
        for record in self.native.records():
            for callback in self._callbacks:
                callback(record)
            if self._progress is not None:
                self._progress.show(record)

    @contextlib.contextmanager
    def _ends_by_signal(self) -> Iterator[None]:
        """SIGTERM and SIGHUP, if the script has nothing else for them, end the loop after the work in hand, so that
        nothing is lost; then the process ends as it would have."""
        got: list[int] = []
        before: dict[int, Any] = {}

        def handle(number: int, _: object) -> None:
            got.append(number)
            signal.signal(number, signal.SIG_DFL)  # a second one ends at once
            self.stop()

        with contextlib.suppress(ValueError):  # not the main thread
            for which in (signal.SIGTERM, signal.SIGHUP):
                if signal.getsignal(which) == signal.SIG_DFL:
                    before[which] = signal.signal(which, handle)
        try:
            yield
        finally:
            for number, handler in before.items():
                if number not in got:
                    signal.signal(number, handler)
            if got:
                self.close()
                signal.signal(got[0], signal.SIG_DFL)
                os.kill(os.getpid(), got[0])


def _close_at_exit(run: Run) -> None:
    """A script that ends by an error, or keeps the run in a global variable, leaves the run, too."""
    weak = weakref.ref(run)

    def close() -> None:
        alive = weak()
        if alive is not None:
            alive.close()

    atexit.register(close)


def _check_shape(path: object, name: str, there: tuple[int, ...], here: tuple[int, ...]) -> None:
    if tuple(there) != here:
        raise InvalidError(f"{path}: {name} has shape {tuple(there)} there and {here} here")


def _digest_of(batch: Callable[[int, int], Any], steps: int, micro_batches: int, seed: int) -> str:
    """Digest of some micro-batches. InvalidError if one is not the same each time: a batch that is taken from an
    iterator, say, would depend on what a process did before."""
    places = sorted({(1, 0), (1, micro_batches - 1), (steps, micro_batches - 1)})
    first: list[str] = []
    again: list[str] = []
    for digests, order in ((first, places), (again, places[::-1])):
        for step, number in order:
            seed_all(seed, step, number)
            digest = hashlib.sha256(f"{step} {number}".encode())
            _add(digest, batch(step, number))
            digests.append(digest.hexdigest())
    if first != again[::-1]:
        raise InvalidError("data: the function gave two different micro-batches for the same (step, number); it has to "
                           "follow from them alone, as any process may compute any micro-batch, at any time and again")
    return "batches of digest " + hashlib.sha256("".join(first).encode()).hexdigest()


def _add(digest: Any, value: Any) -> None:
    """The bytes of tensors and arrays, and of what holds them."""
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        digest.update(f"{value.dtype} {value.shape}".encode())
        digest.update(np.ascontiguousarray(value).tobytes())
    elif isinstance(value, Mapping):
        for key in sorted(value):
            digest.update(repr(key).encode())
            _add(digest, value[key])
    elif isinstance(value, (list, tuple)):
        for part in value:
            _add(digest, part)
    else:
        digest.update(repr(value).encode())
