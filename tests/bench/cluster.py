"""Servers and workers of a benchmark as processes of their own, on ports that the system chose, ended by
their id. A process may run in another network namespace: its command is then put behind a prefix."""

import dataclasses
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

OPS = ("forward", "backward", "pull", "push")
PATIENCE = 300  # seconds for any one thing to happen


def end_cleanly() -> None:
    """From now on a program that is told to end (SIGTERM) ends what it has started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))


def text(size: int) -> bytes:
    """Words of a fixed small vocabulary, drawn with a fixed seed: the same bytes everywhere."""
    draw = random.Random(1)
    letters = "etaoinshrdlucmfwypvbgkjqxz"
    known = ["".join(draw.choices(letters, range(26, 0, -1), k=draw.randint(2, 9))) for _ in range(2000)]
    line = " ".join(draw.choices(known, [1 / (i + 1) for i in range(len(known))], k=size // 4))
    return line.encode("ascii")[:size]


@dataclasses.dataclass(frozen=True)
class Observed:
    """A step of a running cluster with one worker: the median of its seconds, and means a step of the rest."""

    step: float
    worker: float    # seconds of a processor, of the worker's threads but those that move messages
    messages: float  # of those
    servers: float   # of all servers, with everything
    commit: float    # seconds of the coordinator's phase
    up: float        # bytes of the worker's requests to all servers
    down: float      # bytes of their replies


@dataclasses.dataclass(frozen=True)
class ProcessorTime:
    """Seconds of a processor that a process has taken so far."""

    own: float
    messages: float  # of ZeroMQ's threads


def processor_time(process: int) -> ProcessorTime:
    """Of all threads that still live."""
    own = messages = 0
    folder = f"/proc/{process}/task"
    for thread in os.listdir(folder):
        with open(f"{folder}/{thread}/comm", encoding="ascii") as file:
            name = file.read()
        with open(f"{folder}/{thread}/schedstat", encoding="ascii") as file:
            on_processor = int(file.read().split()[0])
        if name.startswith("ZMQ"):
            messages += on_processor
        else:
            own += on_processor
    return ProcessorTime(own / 1e9, messages / 1e9)


class Cluster:
    """One run's processes and files, in a temporary folder; a context manager."""

    def __init__(self, worker: str, pserver: str) -> None:
        self.worker, self.pserver = worker, pserver
        self.running: list[subprocess.Popen] = []
        self.addresses: list[str] = []
        self.metrics: list[str] = []  # HOST:PORT of the servers, then of the workers with them
        self.keep = tempfile.TemporaryDirectory(prefix="mf-bench-")
        self.folder = self.keep.name

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *unused: object) -> None:
        # Nobody needs what they would still write.
        for process in self.running:
            process.kill()
        for process in self.running:
            process.wait()
            process.stdout.close()
        self.keep.cleanup()

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def write(self, name: str, content: bytes) -> str:
        with open(self.path(name), "wb") as file:
            file.write(content)
        return self.path(name)

    def log(self, name: str) -> str:
        with open(self.path(name + ".log"), encoding="utf-8") as file:
            return file.read()

    def start(self, name: str, command: list[str]) -> subprocess.Popen:
        with open(self.path(name + ".log"), "w", encoding="utf-8") as log:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
        self.running.append(process)
        return process

    def serve(self, shard: int, shards: int, threads: int = 1, host: str = "127.0.0.1",
              prefix: list[str] | None = None) -> subprocess.Popen:
        """A server on an empty folder; appends its address."""
        command = [*(prefix or []), self.pserver, "serve", "--listen", f"tcp://{host}:0", "--shard",
                   f"{shard}/{shards}", "--data", self.path("state"), "--threads", str(threads), "--metrics",
                   f"{host}:0"]
        name = f"pserver-{shard}"
        process = self.start(name, command + ([] if host == "127.0.0.1" else ["--insecure"]))
        lines = [process.stdout.readline().split(), process.stdout.readline().split()]
        if [line[:1] for line in lines] != [["listening"], ["metrics"]]:
            raise RuntimeError(f"{name} does not start: {self.log(name)}")
        self.addresses.append(lines[0][1])
        self.metrics.append(lines[1][1])
        return process

    def train(self, name: str, config: str, data: str, sets: list[str], threads: int = 1,
              prefix: list[str] | None = None, more: tuple[str, ...] = ()) -> subprocess.Popen:
        """A worker of all servers; its metrics.jsonl is in the folder `name`."""
        command = [*(prefix or []), self.worker, "train", "--config", config, "--data", data, "--out",
                   self.path(name), "--threads", str(threads), "--pservers", ",".join(self.addresses), *more]
        for setting in sets:
            command += ["--set", setting]
        return self.start(name, command)

    def finish(self, name: str, process: subprocess.Popen) -> None:
        """Waits for a worker's end."""
        # Its last words are few: they fit the pipe.
        if process.wait(PATIENCE) != 0:
            raise RuntimeError(f"{name} failed: {self.log(name)}")

    def steps(self, name: str) -> int:
        """Lines of a worker's metrics.jsonl so far."""
        try:
            with open(os.path.join(self.path(name), "metrics.jsonl"), "rb") as file:
                return file.read().count(b"\n")
        except FileNotFoundError:
            return 0

    def observe(self, name: str, worker: subprocess.Popen, servers: list[subprocess.Popen], warm_up: int,
                steps: int) -> "Observed":
        """What steps cost after `warm_up` of them, of a run that is long enough; does not end it."""

        def await_steps(wanted: int) -> int:
            end = time.monotonic() + PATIENCE
            while (done := self.steps(name)) < wanted:
                if worker.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"{name} does not reach step {wanted}: {self.log(name)}")
                time.sleep(0.005)
            return done

        def look() -> tuple[list[dict[str, float]], ProcessorTime, float]:
            of_servers = [processor_time(server.pid) for server in servers]
            return ([scrape(address) for address in self.metrics], processor_time(worker.pid),
                    sum(taken.own + taken.messages for taken in of_servers))

        first = await_steps(warm_up)
        before = look()
        last = await_steps(first + steps)
        after = look()
        count = last - first

        def total(prefix: str, servers_of: slice = slice(None)) -> float:
            return sum(now[series] - then.get(series, 0)
                       for then, now in zip(before[0][servers_of], after[0][servers_of])
                       for series in now if series.startswith(prefix))

        def bytes_of(direction: str) -> float:
            return sum(total(f'mf_wire_bytes_total{{direction="{direction}",op="{op}"}}') for op in OPS)

        return Observed(step=statistics.median(self.step_seconds(name, first, last)),
                        worker=(after[1].own - before[1].own) / count,
                        messages=(after[1].messages - before[1].messages) / count,
                        servers=(after[2] - before[2]) / count,
                        commit=total('mf_step_seconds_sum{phase="commit"}', slice(1)) / count,
                        up=bytes_of("received") / count, down=bytes_of("sent") / count)

    def step_seconds(self, name: str, first: int = 0, last: int | None = None) -> list[float]:
        """Of each step that the worker timed, in order: of all so far, or of lines `first` to `last` of its report."""
        with open(os.path.join(self.path(name), "metrics.jsonl"), encoding="ascii") as file:
            lines = [json.loads(line) for line in file if line.endswith("\n")]
        step_tokens = lines[0]["tokens"] / lines[0]["step"]
        return [step_tokens / line["tokens_per_second"] for line in lines[first:last] if line["tokens_per_second"]]


def scrape(address: str) -> dict[str, float]:
    """All series that a program exports, by name and labels."""
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE) as answer:
        lines = answer.read().decode().splitlines()
    return {series: float(value) for series, _, value in
            (line.rpartition(" ") for line in lines if not line.startswith("#"))}
