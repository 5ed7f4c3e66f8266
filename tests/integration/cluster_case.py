"""Processes of one cluster for the integration tests: started in a temporary folder, on ports that the
system chose, and ended by their id. Programs set WORKER and PSERVER before they start."""

import atexit
import hashlib
import json
import os
import random
import re
import signal
import subprocess
import tempfile
import time
import unittest
import urllib.error
import urllib.request

DEADLINE = 120  # seconds for any one thing to happen

# Who runs the tests under nohup or behind "&" has these ignored, and processes inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)

CONFIG = """[model]
d = 64
layers = 2
heads = 4
K = 8
tau = 8
sequence = 64
[train]
micro_batches = 4
batch = 2
eval_every = 20
eval_batches = 4
lease_seconds = 2
"""
COMPARED = re.compile(r'"(?:step|loss|lr|grad_norm|tokens|val_loss|dropped)":[^,}]*')


def words(count: int, seed: int) -> str:
    draw = random.Random(seed)
    known = "the a small river runs under old stones and never stops for rain or wind".split()
    return " ".join(draw.choice(known) for _ in range(count)) + ".\n"


class Place:
    """Where a process runs, is held, or will be started again."""

    def __init__(self, start, name: str = "") -> None:
        self.start, self.name = start, name
        self.process: subprocess.Popen = start()
        self.back = 0.0  # when it is started again or goes on; 0: it runs
        self.dead = False

    def kill(self, back: float) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.dead, self.back = True, back

    def hold(self, back: float) -> None:
        self.process.send_signal(signal.SIGSTOP)
        self.back = back

    def come_back(self) -> None:
        if self.back == 0:
            return
        if self.dead:
            self.process = self.start()
        else:
            self.process.send_signal(signal.SIGCONT)
        self.dead, self.back = False, 0.0


class ClusterCase(unittest.TestCase):
    """Starts processes and ends, by their id, those that still run."""

    WORKER = "worker"
    PSERVER = "pserver"
    CONFIG = CONFIG
    STEPS = 60
    DEADLINE = DEADLINE  # seconds, for a run of so many steps
    SERVER_FLAGS: list[str] = []

    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.clusters = 0
        self.metrics: dict[int, str] = {}  # where each server's are, by shard
        self.config = self.write("run.toml", self.CONFIG)
        self.data = self.write("data.txt", words(6000, 1))

    def write(self, name: str, content: str) -> str:
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="ascii") as file:
            file.write(content)
        return path

    def start(self, command: list[str], log: str) -> subprocess.Popen:
        with open(os.path.join(self.folder, log), "a", encoding="utf-8") as errors:
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True)

        def end() -> None:
            if process.poll() is None:
                process.kill()
            process.wait()
            process.stdout.close()

        self.addCleanup(end)
        atexit.register(end)  # Ctrl-C leaves no time for cleanups
        return process

    def serve(self, shard: int, shards: int, listen: str = "tcp://127.0.0.1:0",
              state: str = "", keys: str = ""):
        """A server and the address that it says it listens on; a first one on any port begins a new cluster,
        with folders of its own. `keys`: a folder of a server's."""
        if not state:
            self.clusters += shard == 0 and listen.endswith(":0")
            state = f"state-{self.clusters}"
        process = self.start([self.PSERVER, "serve", "--listen", listen, "--shard", f"{shard}/{shards}",
                              "--data", os.path.join(self.folder, state), "--threads", "1",
                              "--metrics", "127.0.0.1:0", *self.SERVER_FLAGS,
                              *(["--keys", keys] if keys else [])],
                             f"pserver-{shard}.log")
        line = process.stdout.readline()
        self.assertRegex(line, r"^listening tcp://127\.0\.0\.1:\d+$")
        self.metrics[shard] = process.stdout.readline().removeprefix("metrics ").strip()
        self.assertRegex(self.metrics[shard], r"^127\.0\.0\.1:\d+$")
        return process, line.split()[1]

    def scrape(self, address: str) -> dict[str, float]:
        """All series that a program exports, by name and labels."""
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=DEADLINE) as answer:
            lines = answer.read().decode().splitlines()
        return {series: float(value) for series, _, value in
                (line.rpartition(" ") for line in lines if not line.startswith("#"))}

    def health(self) -> tuple[int, str]:
        """What server 0 says at /health."""
        try:
            with urllib.request.urlopen(f"http://{self.metrics[0]}/health", timeout=DEADLINE) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def metric(self, shard: int, series: str) -> float:
        """A server's series; 0 if it is not there."""
        return self.scrape(self.metrics[shard]).get(series, 0)

    def run_folder(self, state: str) -> str:
        """The folder of the one run that is stored in a --data folder."""
        names = [name for name in os.listdir(os.path.join(self.folder, state)) if name.startswith("run-")]
        self.assertEqual(len(names), 1, names)
        return os.path.join(self.folder, state, names[0])

    def train(self, name: str, servers: list[str], *more: str) -> subprocess.Popen:
        where = ["--pservers", ",".join(servers)] if servers else []
        out = os.path.join(self.folder, name)
        return self.start([self.WORKER, "train", "--config", self.config, "--data", self.data, "--out", out,
                           "--steps", str(self.STEPS), "--threads", "1", "--export", self.model(name), *where,
                           *more], f"{name}.log")

    def model(self, name: str) -> str:
        return os.path.join(self.folder, name + ".safetensors")

    def log(self, name: str) -> str:
        with open(os.path.join(self.folder, name + ".log"), encoding="utf-8") as file:
            return file.read()

    def has_begun(self, name: str, since: int = 0) -> bool:
        """A worker whose log had `since` letters when it was started: a signal ends it in order. One that has only
        been started falls at once, which loses nothing."""
        return "computes on: " in self.log(name)[since:]

    def finish(self, name: str, process: subprocess.Popen) -> None:
        self.assertEqual(process.wait(self.DEADLINE), 0, self.log(name))

    def result(self, name: str) -> tuple[str, list[str]]:
        """The model's hash, and of every step the last line that metrics.jsonl has."""
        with open(self.model(name), "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        lines = {}
        with open(os.path.join(self.folder, name, "metrics.jsonl"), encoding="ascii") as file:
            for line in file:
                lines[json.loads(line)["step"]] = " ".join(COMPARED.findall(line))
        self.assertEqual(sorted(lines), list(range(1, self.STEPS + 1)))
        return digest, [lines[step] for step in sorted(lines)]

    def embedded(self) -> tuple[str, list[str]]:
        self.finish("embedded", self.train("embedded", []))
        return self.result("embedded")

    def steps(self, name: str) -> int:
        """Lines of metrics.jsonl so far."""
        try:
            with open(os.path.join(self.folder, name, "metrics.jsonl"), "rb") as file:
                return file.read().count(b"\n")
        except FileNotFoundError:
            return 0

    def wait_for(self, what: str, condition) -> None:
        end = time.monotonic() + DEADLINE
        while not condition():
            if time.monotonic() > end:
                logs = [name for name in sorted(os.listdir(self.folder)) if name.endswith(".log")]
                self.fail("\n".join([f"{what} does not come", *(self.log(name[:-len(".log")]) for name in logs)]))
            time.sleep(0.02)

    def wait_for_steps(self, name: str, steps: int) -> None:
        end = time.monotonic() + DEADLINE
        while self.steps(name) < steps:
            self.assertLess(time.monotonic(), end, f"{name} does not reach step {steps}")
            time.sleep(0.01)
