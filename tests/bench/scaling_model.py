"""The model of docs/SCALING.md: the time of a training step from bytes (DESIGN 2.1), link rates and the rates
of one machine.

It plays a step through: every micro-batch is a chain of visits to a memory layer, forward and then backward, and
a visit is some compute on its worker, a request to every server, their kernels, and their replies. Each worker's
processor, each server's, and each direction of each network port is a queue that does one thing at a time, in the
order of arrival. All servers do the same work at the same time (DESIGN 2.2), so one is played for all; a
port passes a message while the other end's port takes it in. What all micro-batches wait for is commit.

    scaling_model.py            prints the predictions of docs/SCALING.md
    scaling_model.py --update   writes them into docs/SCALING.md and docs/scaling.svg
    scaling_model.py --check    exits with 1 if those are not what the model says

`run.sh --scaling` holds the same functions against runs with links of limited rate.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
from typing import Generator


@dataclasses.dataclass(frozen=True)
class Shape:
    """Of a model with memory layers, and of its micro-batches."""

    d: int
    layers: int
    K: int
    tau: int
    expand_bits: int = 2
    probes: int = 1
    column_blocks: int = 0
    tokens: int = 512  # of a micro-batch
    wire: int = 4      # bytes of a number of a vector

    def block(self) -> list[tuple[int, int]]:
        """(bits, columns) of the memory layers of a block: qkv, m1, m2."""
        bits = self.tau + self.expand_bits
        return [(self.tau, 3 * self.d), (self.tau, bits * self.K), (bits, self.d)]

    def memory_layers(self) -> list[tuple[int, int]]:
        """Of all blocks, in forward order."""
        return self.block() * self.layers

    def numbers(self) -> float:
        """Parameters of all tables."""
        return sum(float(self.K) * 2**bits * columns for bits, columns in self.memory_layers())


def largest_share(columns: int, column_blocks: int, servers: int) -> int:
    """Columns of the server that has most of them (common/run/column_blocks.cpp)."""
    units = (columns + 15) // 16
    blocks = column_blocks or min(max((columns + 32) // 64, 4), 64)
    blocks = min(blocks, max(1, columns // 16))
    widths = [16 * (units // blocks + (block < units % blocks)) for block in range(blocks)]
    return max(sum(widths[shard * blocks // servers:(shard + 1) * blocks // servers])
               for shard in range(servers))


@dataclasses.dataclass(frozen=True)
class Bytes:
    """Of one token and memory layer, to and from one server."""

    forward_request: float
    forward_reply: float
    backward_request: float
    backward_reply: float


def wire_bytes(shape: Shape, bits: int, columns: float) -> Bytes:
    """DESIGN 2.1 for a server that has so many of the columns."""
    pairs = shape.K * shape.probes
    address = 1 if bits <= 8 else 2 if bits <= 16 else 4
    there = pairs * (address + 4)
    return Bytes(there, shape.wire * columns, there + 1 + shape.wire * columns, 8 * pairs)


@dataclasses.dataclass(frozen=True)
class Machine:
    """Seconds and rates of one worker and of one server."""

    worker_token: float    # seconds of a token of the whole model, forward and backward
    forward_bytes: float   # of rows a second in a server's kernel, forward
    backward_bytes: float  # the same of dots and row gradients, each row counted once
    commit_bytes: float    # of table state a second, 32 a number: norm and Adam
    request: float = 0     # seconds of a request and its reply that carry nothing
    pair: float = 0        # seconds of a server for a pair forward, however few columns it has
    worker_port: float = float("inf")  # bits a second each way
    server_port: float = float("inf")
    payload: float = 1     # share of a link's bits that are a message's
    io_thread: float = float("inf")  # bytes a second that a process's I/O thread passes, all its connections
    cores: int = 0         # all programs share so many; 0: each has its own


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A step of some workers and servers."""

    seconds: float
    tokens_per_second: float
    bottleneck: str  # "worker", "server", "commit", "link", "i/o", or "latency": nothing is busy most of the time


@dataclasses.dataclass(frozen=True)
class Visit:
    """A micro-batch at a memory layer: seconds of processors, bytes of messages of one server."""

    worker: float
    up: float
    server: float
    down: float


FORWARD_SHARE = 1 / 3  # of a worker's compute; a matrix product's backward pass is two of its forward
BACKWARD_COST = 2.6  # of a server: dots and row gradients take so many times a forward pass (exchange_bench)


def visits(shape: Shape, machine: Machine, servers: int) -> list[Visit]:
    """Of a micro-batch, in order."""
    chain: dict[bool, list[Visit]] = {False: [], True: []}
    layers = shape.memory_layers()
    worker = shape.tokens * machine.worker_token / len(layers)
    for bits, columns in layers:
        share = largest_share(columns, shape.column_blocks, servers)
        size = wire_bytes(shape, bits, share)
        pairs = shape.K * shape.probes * shape.tokens
        rows = 4.0 * pairs * share
        chain[False].append(Visit(FORWARD_SHARE * worker, size.forward_request * shape.tokens,
                                  rows / machine.forward_bytes + pairs * machine.pair, size.forward_reply * shape.tokens))
        chain[True].append(Visit((1 - FORWARD_SHARE) * worker, size.backward_request * shape.tokens,
                                 rows / machine.backward_bytes + pairs * machine.pair * BACKWARD_COST,
                                 size.backward_reply * shape.tokens))
    return chain[False] + chain[True][::-1]


BUSY = 0.6  # share of a step that what limits it is busy, at least


def measured_machine(shape: Shape, tokens: int, worker: float, kernels: float, pair: float = 0,
                     **rest: float) -> Machine:
    """Programs that were seen to take so many seconds of a processor for so many tokens: a worker, and a server that has
    all columns, without commit. What pairs do not take of a server's time is the columns', and is divided between
    forward and backward as `BACKWARD_COST` has it. `rest`: other members of a Machine."""
    layers = shape.memory_layers()
    pairs = shape.K * shape.probes * tokens
    cost = 1 + BACKWARD_COST
    columns = kernels - len(layers) * pairs * pair * cost
    forward_bytes = sum(4.0 * pairs * wide for _, wide in layers) * cost / max(columns, 1e-9)
    return Machine(worker_token=worker / tokens, forward_bytes=forward_bytes,
                   backward_bytes=forward_bytes / BACKWARD_COST, commit_bytes=math.inf, pair=pair, **rest)


class Queue:
    """Something that does one thing at a time, in the order of asking."""

    def __init__(self) -> None:
        self.free = self.busy = 0.0

    def take(self, now: float, seconds: float) -> float:
        """When what is asked for now is done."""
        self.free = max(now, self.free) + seconds
        self.busy += seconds
        return self.free


class Cores:
    """What all programs of a machine share: a program does one thing at a time, and only on a free core."""

    def __init__(self, count: int) -> None:
        self.free = [0.0] * count

    def take(self, now: float, program: Queue, seconds: float) -> Generator[float, float, float]:
        """Waits for the program and for a core; returns when it is done."""
        while (ready := max(program.free, min(self.free))) > now:
            now = yield ready
        self.free[self.free.index(min(self.free))] = now + seconds
        return program.take(now, seconds)


class Play:
    """The queues of a step and what a micro-batch does in them."""

    def __init__(self, shape: Shape, machine: Machine, workers: int, servers: int) -> None:
        self.machine, self.servers = machine, servers
        self.chain = visits(shape, machine, servers)
        self.cores = Cores(machine.cores) if machine.cores else None
        self.worker = [Queue() for _ in range(workers)]
        # Where cores are shared all servers are played, elsewhere one for all.
        self.server = [Queue() for _ in range(servers if self.cores else 1)]
        self.sends, self.receives = ([Queue() for _ in range(workers)] for _ in range(2))
        self.up, self.down = Queue(), Queue()
        self.worker_io, self.server_io = [Queue() for _ in range(workers)], Queue()

    def pass_message(self, now: float, size: float, worker: int, near: Queue, far: Queue) -> float:
        """When a message of this size to or from every server has passed both ends' ports and I/O threads."""
        bits = 8 * size / self.machine.payload
        return max(near.take(now, self.servers * bits / self.machine.worker_port),
                   far.take(now, bits / self.machine.server_port),
                   self.worker_io[worker].take(now, self.servers * size / self.machine.io_thread),
                   self.server_io.take(now, size / self.machine.io_thread))

    def compute(self, now: float, program: Queue, seconds: float) -> Generator[float, float, float]:
        """Returns when a program has done something."""
        if self.cores:
            return (yield from self.cores.take(now, program, seconds))
        return program.take(now, seconds)

    def micro_batch(self, worker: int) -> Generator[float, float, None]:
        """Yields when its next part is done; is given the time when that is."""
        now = yield 0.0
        for visit in self.chain:
            now = yield (yield from self.compute(now, self.worker[worker], visit.worker))
            now = yield self.pass_message(now, visit.up, worker, self.sends[worker], self.up)
            done = now
            for server in self.server:
                ended = yield from self.compute(now, server, visit.server + self.machine.request)
                done = max(done, ended)
            now = yield done
            now = yield self.pass_message(now, visit.down, worker, self.receives[worker], self.down)

    def run(self, micro_batches: int, in_flight: int, window: int) -> float:
        """Seconds until all are in; micro-batch j begins only while j < the lowest unfinished + window."""
        waiting: list[tuple[float, int, int, int]] = []  # time, order, micro-batch, worker
        running: dict[int, Generator[float, float, None]] = {}
        idle = [worker for _ in range(in_flight) for worker in range(len(self.worker))]
        unfinished = set(range(micro_batches))
        begun, order, now = 0, 0, 0.0
        while unfinished:
            while idle and begun < min(micro_batches, min(unfinished) + window):
                running[begun] = self.micro_batch(idle[0])
                next(running[begun])
                heapq.heappush(waiting, (now, order, begun, idle.pop(0)))
                begun, order = begun + 1, order + 1
            now, _, number, worker = heapq.heappop(waiting)
            try:
                done = running[number].send(now)
            except StopIteration:
                del running[number]
                unfinished.discard(number)
                idle.append(worker)
                continue
            heapq.heappush(waiting, (done, order, number, worker))
            order += 1
        return now


def commit_seconds(shape: Shape, machine: Machine, servers: int, micro_batches: int) -> float:
    """Of the two sweeps over the state of the rows that a step hits, if buckets are even."""
    reads = micro_batches * shape.tokens * shape.probes
    hit = sum(shape.K * columns * -math.expm1(-reads / 2**bits) * 2**bits
              for bits, columns in shape.memory_layers())
    at_once = min(servers, machine.cores) if machine.cores else servers
    return 32 * hit / at_once / machine.commit_bytes


def predict(shape: Shape, machine: Machine, workers: int, servers: int, micro_batches: int, in_flight: int = 4,
            window: int | None = None, commit: float | None = None) -> Prediction:
    """A step. `window`: no limit by default; `commit`: its seconds where they are known."""
    play = Play(shape, machine, workers, servers)
    batches = play.run(micro_batches, in_flight, window or micro_batches)
    if commit is None:
        commit = commit_seconds(shape, machine, servers, micro_batches)
    seconds = batches + commit
    kernels = play.server[0].busy
    shares = {"worker": play.worker[0].busy,
              "commit" if commit > kernels else "server": kernels + commit,
              "link": max(queue.busy for queue in (play.up, play.down, play.sends[0], play.receives[0])),
              "i/o": max(play.worker_io[0].busy, play.server_io.busy)}
    # Micro-batches that began together go forward, then backward together: a port's directions take turns.
    turns = {"link": max(play.up.busy + play.down.busy, play.sends[0].busy + play.receives[0].busy)}
    name = next((max(busy, key=busy.__getitem__) for busy in (shares, shares | turns)
                 if max(busy.values()) > BUSY * seconds), "latency")
    return Prediction(seconds, micro_batches * shape.tokens / seconds, name)
