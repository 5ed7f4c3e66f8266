"""A run: a model that is trained by any number of processes, whose parameters and tables are on servers."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import tempfile
import warnings
from typing import Any, Callable, Iterator, Mapping, Sequence, Tuple, TypeVar

import numpy as np
from numpy.typing import NDArray
import torch

from . import _native, safetensors
from .checks import SECONDS_MAX, addresses, one_of, real, whole
from .data_digest import digest_of
from .errors import Error, InvalidError, OtherRunError, SupersededError
from .keyed_table import KeyedTable
from .optimizers import Optimizer, checked
from .progress import Progress
from .seeds import seed_all
from .shared_parameters import Rules, SharedParameters
from .row_table import RowTable
from .signals import close_at_exit, ends_by_signal
from .sum_table import SumTable
from .table import GivenRows, Table, TableRules, check_shape
from .work import Work

_T = TypeVar("_T")
_EVALUATION = -1  # in the place of a micro-batch's number, where generators are seeded
_LEAVE_SECONDS = 600.0  # for the last snapshot
_Initial = Tuple[int, "NDArray[np.float32]", "NDArray[np.uint64] | None"]  # tensor, values, their rows if not all
_TableType = TypeVar("_TableType", bound=Table)


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

    _opened: _native.Run | None = None
    _temporary = ""

    def __init__(self, servers: str | Sequence[str] | Embedded, *, steps: int, optimizer: Optimizer,
                 micro_batches: int = 1, keys: str | os.PathLike[str] | None = None, clip: float = 0.0, seed: int = 1,
                 data: str | Callable[[int, int], Any] | None = None, evaluate_every: int = 0, snapshot_steps: int = 0,
                 snapshot_minutes: float = 5.0, keep: int = 2, reproducible: bool = True, tokens: int = 1 << 20,
                 wire: str = "f32", lease_seconds: float = 30.0, window: int = 8, deadline_seconds: float = 60.0,
                 progress: bool = True, log: str = "warn") -> None:
        steps, micro_batches = whole("steps", steps, 1), whole("micro_batches", micro_batches, 1, 65536)
        tokens, seed = whole("tokens", tokens, 1, 1 << 24), whole("seed", seed, 0, (1 << 53) - 1)
        if not isinstance(servers, Embedded):
            servers = addresses(servers)
        self.optimizer = checked(optimizer)
        self.steps, self.micro_batches, self.tokens, self.seed = steps, micro_batches, tokens, seed
        self.work: Work | None = None
        self.tables: list[Table] = []
        self._servers = servers
        self._keys = "" if keys is None else os.fspath(keys)
        self._deadline_seconds = real("deadline_seconds", deadline_seconds, 0.01, SECONDS_MAX)
        self._log = one_of("log", log, ("debug", "info", "warn", "error", "off"))
        self._reproducible = reproducible
        self._parameters = SharedParameters()
        self._layers: list[torch.nn.Module] = []
        self._layer_abouts: dict[str, Mapping[str, Any]] = {}
        self._initial_tables: dict[int, GivenRows] = {}
        self._state: tuple[int, int] | None = None  # finished (epoch, step) that the parameters are of
        self._at: tuple[int, int, bool] | None = None  # what layers read; open: a micro-batch's step
        self._finished: tuple[int, int] | None = None
        self._evaluate: Callable[[], float] | None = None
        self._callbacks: list[Callable[[_native.StepRecord], Any]] = []
        self._progress = Progress(steps) if progress else None
        self._begun = self._joined = self._left = False
        self._process = os.getpid()
        rules = _native.RunRules()
        rules.steps, rules.micro_batches, rules.tokens_per_micro_batch = steps, micro_batches, tokens
        rules.window, rules.seed = whole("window", window, 1, 1024), seed
        rules.lease_seconds, rules.clip = real("lease_seconds", lease_seconds, 0.01, 86400), real("clip", clip, 0, 1e9)
        rules.eval_every = whole("evaluate_every", evaluate_every, 0)
        rules.schedule = self.optimizer.schedule().native(steps)
        rules.wire = _native.Wire.bf16 if one_of("wire", wire, ("f32", "bf16")) == "bf16" else _native.Wire.f32
        snapshots = _native.SnapshotRules()
        snapshots.every_steps, snapshots.keep = whole("snapshot_steps", snapshot_steps, 0), whole("keep", keep, 1)
        snapshots.every_minutes = real("snapshot_minutes", snapshot_minutes, 0)
        rules.snapshots = snapshots
        self._rules = rules
        if data is not None and not isinstance(data, str) and not callable(data):
            raise InvalidError(f"data: a {type(data).__name__} is neither a text nor a function (step, number) that gives "
                               "a micro-batch")
        self._saves = snapshot_steps > 0 or snapshot_minutes > 0
        if reproducible:
            torch.use_deterministic_algorithms(True)
        self._data = (data or "" if data is None or isinstance(data, str)
                      else digest_of(data, steps, micro_batches, seed))
        seed_all(seed)

    # What is trained.

    def new_tables(self, layer: torch.nn.Module, name: str, *, tables: int, bits: int, probes: int, sums: bool,
                   rules: TableRules, about: Mapping[str, Any]) -> SumTable | RowTable:
        """For memory layers: `tables` tables of 2 ** `bits` rows, which servers sum, or this process if not `sums`."""
        spec = self._new_spec(name, rules)
        spec.kind = _native.TensorKind.memory
        spec.tables, spec.rows, spec.probes = tables, 1 << bits, probes
        spec.shape = [tables, 1 << bits, spec.columns]
        spec.mode = _native.ExchangeMode.sums if sums else _native.ExchangeMode.pull
        if sums:
            return self._added(layer, SumTable(self, spec, bits), about)
        return self._added(layer, RowTable(self, spec), about)

    def new_keyed_table(self, layer: torch.nn.Module, name: str, rules: TableRules,
                        about: Mapping[str, Any]) -> KeyedTable:
        """For embeddings: a table with a row for every key that is trained."""
        spec = self._new_spec(name, rules)
        spec.kind, spec.mode = _native.TensorKind.keyed, _native.ExchangeMode.pull
        spec.tables, spec.rows = _native.KEY_RANGES, _native.ROWS_PER_KEY_RANGE
        spec.shape = [spec.columns]
        return self._added(layer, KeyedTable(self, spec), about)

    def _new_spec(self, name: str, rules: TableRules) -> _native.TensorSpec:
        self._still_open(f"layer {name}")
        if name in self._layer_abouts:
            raise InvalidError(f"{name}: there is a layer of this name already")
        if name.startswith("parameters."):
            raise InvalidError(f"{name}: names that begin with parameters. are of what is shared")
        spec = _native.TensorSpec()
        spec.id, spec.name = len(self.tables), name
        rules.fill(spec, self.optimizer)
        return spec

    def _added(self, layer: torch.nn.Module, table: _TableType, about: Mapping[str, Any]) -> _TableType:
        self.tables.append(table)
        self._layers.append(layer)
        self._layer_abouts[table.spec.name] = about
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
        self._parameters.collect(self.optimizer)
        found = 0
        with torch.no_grad():
            for name, parameter in self._parameters.names().items():
                if name in tensors:
                    check_shape(path, name, tensors[name], tuple(parameter.shape))
                    parameter.copy_(torch.from_numpy(np.array(tensors[name])))
                    found += 1
        for table in self.tables:
            values = table.given(path, tensors)
            if values is not None:
                self._initial_tables[table.spec.id] = values
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
        """The micro-batches that this process is given, until the run is over or was stopped: one loop, one thread."""
        self._begin_once()
        return self._loop()

    def _begin_once(self) -> None:
        if self._begun:
            raise Error("this run's loop has been begun before; make a new mf.Run")
        self._begun = True

    def _loop(self) -> Iterator[Work]:
        with ends_by_signal(self.stop, self.close):
            try:
                self._begin()
                yield from self._works()
            except Error:
                self._leave_after_error()
                raise
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
        self._read(lambda epoch, step: self._pull(epoch, step))
        if isinstance(self._servers, Embedded) and self._servers.state and self._saves:
            self.native.save(step, _LEAVE_SECONDS)  # servers inside end with this process, which may come soon

    def _read(self, call: Callable[[int, int], _T]) -> _T:
        """call(epoch, step) of the state that can be read; again, after the run's end, where a server was started again
        meanwhile."""
        epoch, step = self._readable()
        for last in [False] * 20 + [True]:
            try:
                return call(epoch, step)
            except SupersededError:
                if last or self._finished is None:
                    raise
            self.native.ask_again()
            kind, epoch, at, _ = self.native.next()
            if kind != "finished":
                self.native.give_back("stale", "the run was at its end")
                raise Error(f"the servers have lost the run's last steps and went back to step {at}: start the script "
                            "again, which goes on from there")
            self._finished, self._at, self._state = (epoch, at), (epoch, at, False), None
        raise AssertionError

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
                value = _number(self._evaluate())
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
        if self._opened is not None:
            self._opened.stop()

    def close(self) -> None:
        """Leaves the run, which may go on without this process; the last one has the last finished step saved. Called
        when the loop is left before the run's end, by `with`, and when Python ends."""
        if self._opened is None or self._left or os.getpid() != self._process:
            return
        self._left = True
        if self._finished is None:
            self._leave(self._opened)
        self._let_go()

    def _leave_after_error(self) -> None:
        """Servers that do not answer are not waited for once more, and the first error stays the one that is told."""
        if self._opened is None:
            return
        if not self._joined:
            self._left = True
            self._let_go()
            return
        self._opened.stop()
        try:
            self.close()
        except Error as error:
            self._let_go()
            if self._progress is not None:
                self._progress.say(f"left the run: {error}")

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
        self._opened = None  # ends servers inside; in a forked process it does nothing
        if self._temporary and os.getpid() == self._process:
            shutil.rmtree(self._temporary, ignore_errors=True)

    def __del__(self) -> None:
        self._let_go()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Reading the model.

    @contextlib.contextmanager
    def reading(self) -> Iterator[None]:
        """In the place of the loop: the model can be called and read as it is, without training, in the block.

        With `load` and `embedded()` it is that of a file. On servers it is that of the run as it is there, which waits
        meanwhile for this process: for runs that nobody trains.
        """
        self._begin_once()
        try:
            self._begin()
            kind, epoch, step, _ = self.native.next()
            self._at = (epoch, step - (kind == "micro_batch"), False)
            self._pull(*self._at[:2])
            with torch.no_grad():
                yield
            if kind != "finished":
                self.native.give_back("stale", "it was only read")
        finally:
            self._at = None
            self._finished = self._finished or (0, 0)  # nothing to save
            self.close()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Parameters and tables by name, after the run's last step or, in an evaluation, of the state that is
        evaluated. The tables of a memory layer are [K, 2 ** tau, outputs]. Of an embedding, NAME.keys is int64 [N],
        rising as unsigned numbers, and NAME.rows float32 [N, width]: of all rows that were trained."""
        return self._read(self._state_at)

    def _state_at(self, epoch: int, step: int) -> dict[str, torch.Tensor]:
        self._pull(epoch, step)
        state = self._parameters.values()
        for table in self.tables:
            state.update(table.state(epoch, step))
        return state

    def save(self, path: str | os.PathLike[str]) -> None:
        """`state_dict()` as a safetensors file, the same bytes for any number of servers and processes."""
        _, step = self._readable()
        state = {name: values.contiguous().numpy() for name, values in sorted(self.state_dict().items())}
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
        if self._opened is None:
            raise Error("the run has not begun, or is over for this process: use layers inside the loop over it")
        if os.getpid() != self._process:
            raise Error("this process was forked from the one that has the run, and has no part in it; a script of its "
                        "own can join")
        return self._opened

    def read_state(self, gradients: bool) -> tuple[tuple[int, int, bool], bool]:
        """What a layer reads now, and whether it is a read of training."""
        if self._at is None:
            raise Error("nothing can be read between two micro-batches: use layers in the loop before work.backward(), "
                        "in an evaluation, or after the loop has come to its end")
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

    def check_unchanged(self) -> None:
        """See SharedParameters."""
        self._parameters.check_unchanged()

    def push_parameters(self, work: Work) -> list[_native.Pending]:
        """See SharedParameters."""
        return self._parameters.push(self.native, work.epoch, work.step, work.number)

    # Inside.

    def _still_open(self, what: str) -> None:
        if self._begun:
            raise InvalidError(f"{what}: the run has begun; describe the whole model before the loop")

    def _about(self) -> str:
        about: dict[str, Any] = {"kind": "pytorch", "layers": self._layer_abouts,
                                 "parameters": self._parameters.layout(), "constants": self._parameters.constants()}
        if self._reproducible:
            devices = sorted({parameter.device.type for parameter in self.parameters()} or {"cpu"})
            about["reproducible"] = {"torch": torch.__version__, "threads": torch.get_num_threads(),
                                     "devices": ", ".join(devices)}
        return json.dumps(about, sort_keys=True)

    def _describe(self) -> tuple[_native.RunDescription, list[_Initial]]:
        """The run's description and what it begins with."""
        self._parameters.collect(self.optimizer)
        if not self._parameters.modules:
            warnings.warn("no module is shared: parameters outside of memory layers are not trained; call "
                          "run.share(model)", stacklevel=5)
        for layer in self._layers:
            for name, parameter in layer.named_parameters():
                if parameter.requires_grad and parameter not in self._parameters:
                    raise InvalidError(f"layer {layer.name}: nobody shares its {name}; call run.share(model) before "
                                       "the loop")
        description = _native.RunDescription()
        description.rules = self._rules
        parameters = self._parameters.describe(len(self.tables), self.optimizer)
        description.tensors = [table.spec for table in self.tables] + parameters
        taken = set(self._parameters.names())
        for name in [name for table in self.tables for name in table.file_names()]:
            if name in taken:
                raise InvalidError(f"{name}: a parameter or another layer has this name in files; rename one of them")
            taken.add(name)
        if self._rules.eval_every > 0 and self._evaluate is None:
            warnings.warn("evaluate_every is set, but there is no function to evaluate: @run.evaluate sets it",
                          stacklevel=5)
        if not description.tensors:
            raise InvalidError("the run has nothing to train: no layers, and no module was shared")
        description.about = self._about()
        description.data = self._data
        initial: list[_Initial] = [(tensor, values, None) for tensor, values in self._parameters.initial()]
        initial += [(tensor, given.values, given.rows) for tensor, given in self._initial_tables.items()]
        if initial:
            digest = hashlib.sha256()
            for tensor, values, rows in initial:
                digest.update(f"{tensor} {values.shape}".encode())
                digest.update(values.data)
                if rows is not None:
                    digest.update(rows.data)
            description.initial = f"values of digest {digest.hexdigest()}"
        return description, initial

    def _begin(self) -> None:
        description, initial = self._describe()
        servers = self._servers
        if isinstance(servers, Embedded) and not servers.state:
            self._temporary = tempfile.mkdtemp(prefix="memoryformer-")
            servers = dataclasses.replace(servers, state=self._temporary)
        inside = servers if isinstance(servers, Embedded) else Embedded(1, "", 1, 0)
        addresses = [] if isinstance(servers, Embedded) else servers
        self._opened = _native.Run(servers=addresses, keys=self._keys, shards=inside.shards, threads=inside.threads,
                                   memory_bytes=inside.memory, state=inside.state, run=description,
                                   deadline_seconds=self._deadline_seconds, log=self._log)
        close_at_exit(self)
        try:
            self._opened.join(initial)
        except OtherRunError as error:
            raise OtherRunError(f"{error}. All processes of a run have the same script, data, seed, version of torch "
                                "and number of threads (torch.set_num_threads; reproducible=False allows others). To "
                                "train on with other steps or rules, run.save() and run.load() in a new run; servers "
                                "take it when this one has ended, or has had no process for a minute",
                                error.code) from None

        self._joined = True

    def _pull(self, epoch: int, step: int) -> None:
        if self._state != (epoch, step):
            self._state = None
            self._parameters.pull(self.native, epoch, step)
            self._state = (epoch, step)

    def _tell(self) -> None:
        records = self.native.records()
        if records and self._progress is not None:
            self._progress.joined(records[-1].step)
        for record in records:
            for callback in self._callbacks:
                callback(record)
            if self._progress is not None:
                self._progress.show(record)


def _number(value: Any) -> float:
    """What an evaluation gave."""
    try:
        return float(value)
    except (TypeError, ValueError):
        raise InvalidError(f"evaluate: the function gave {value!r}; it has to give the mean loss") from None
