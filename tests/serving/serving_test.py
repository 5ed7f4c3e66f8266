"""Goal: read-only servers give what a run's snapshots hold, whatever comes in meanwhile: no request is refused, and
every answer is of one whole step, for any number of servers that trained and any that serve.
Usage: serving_test.py FOLDER_OF_PACKAGE PATH_OF_PSERVER PATH_OF_LOAD [--requests N]"""

import os
import re
import signal
import subprocess
import sys
import time
import unittest

try:
    import torch
except ImportError:
    print(f"SKIPPED: torch is missing for {sys.executable} (apt-get install python3-torch)")
    sys.exit(77)

REQUESTS = 20000
if "--requests" in sys.argv:
    at = sys.argv.index("--requests")
    REQUESTS = int(sys.argv[at + 1])
    del sys.argv[at:at + 2]
LOAD = os.path.abspath(sys.argv.pop(3))
PSERVER = os.path.abspath(sys.argv.pop(2))
PACKAGE = sys.argv.pop(1)
sys.path.insert(0, PACKAGE)
sys.argv.insert(1, PACKAGE)  # for training.py
import memoryformer as mf
from training import KEYS, OUTPUTS, TABLES, TAU, WIDTH, Model

del sys.argv[1]
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../integration"))
from cluster_case import DEADLINE, ClusterCase

ClusterCase.PSERVER = PSERVER
SCRIPT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "training.py")
SNAPSHOT_STEPS = 4  # of training.py


class Serving(ClusterCase):
    def train_served(self, shards: int, steps: int, seconds: float = 0.0) -> "tuple[subprocess.Popen, str]":
        """A training, and the folder of its snapshots."""
        servers = [self.serve(shard, shards)[1] for shard in range(shards)]
        out = os.path.join(self.folder, "state.safetensors")
        process = self.start([sys.executable, "-B", SCRIPT, PACKAGE, ",".join(servers), str(steps), str(seconds), out],
                             "training.log")
        return process, os.path.join(self.folder, f"state-{self.clusters}")

    def read_only(self, folder: str, shard: int, shards: int, *more: str, listen: str = "tcp://127.0.0.1:0"):
        process = self.start([PSERVER, "serve", "--read-only", "--from", folder, "--listen", listen, "--shard",
                              f"{shard}/{shards}", "--threads", "1", *more], f"read-only-{shard}.log")
        line = process.stdout.readline()
        self.assertRegex(line, r"^listening ", self.log(f"read-only-{shard}"))
        return process, line.split()[1]

    def wait_for_snapshot(self, folder: str, step: int) -> None:
        until = time.monotonic() + DEADLINE
        while time.monotonic() < until:
            done = subprocess.run([PSERVER, "inspect", folder], capture_output=True, text=True, check=False)
            if re.search(rf"\b{step}\b", done.stdout) and done.returncode == 0:
                return
            time.sleep(0.1)
        self.fail(f"no step {step} in {folder}")

    def refused(self, words: str, *flags: str) -> None:
        done = subprocess.run([PSERVER, "serve", "--listen", "tcp://127.0.0.1:0", "--shard", "0/1", *flags],
                              capture_output=True, text=True, timeout=DEADLINE, check=False)
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertIn(words, done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)

    def test_while_snapshots_come(self) -> None:
        training, folder = self.train_served(3, 10_000, 0.2)
        self.wait_for_snapshot(folder, SNAPSHOT_STEPS)
        servers = [self.read_only(folder, shard, 2, "--follow", "2") for shard in range(2)]
        reader = mf.Reader([address for _, address in servers])
        pinned = mf.Reader([address for _, address in servers])
        requests, steps_read, seen = 0, 0, {reader.step}
        while max(len(seen), steps_read) < 6:  # five that came in
            done = subprocess.run([LOAD, "--servers", ",".join(address for _, address in servers), "--requests",
                                   str(REQUESTS)], capture_output=True, text=True, timeout=10 * DEADLINE, check=False)
            print(done.stdout, end="")
            self.assertEqual(done.returncode, 0, done.stderr)
            requests += REQUESTS
            steps_read = max(steps_read, int(done.stdout.splitlines()[-1].split("|")[4]))
            reader.refresh()
            seen.add(reader.step)
            self.assertLess(requests, 1000 * REQUESTS)
        self.assertTrue(all(step % SNAPSHOT_STEPS == 0 for step in seen), seen)
        print(f"{requests} requests while steps {sorted(seen)} were the newest")
        # One that is killed and started again: whoever reads goes on.
        servers[1][0].kill()
        servers[1][0].wait()
        servers[1] = self.read_only(folder, 1, 2, "--follow", "2", listen=servers[1][1])
        before = pinned.step  # has gone by now
        for one in (reader, pinned):
            model = Model(one)
            one.load(model)
            total = one.answer(lambda model=model: float(model()))
            self.assertEqual(total, -one.step * (KEYS * WIDTH + TABLES * 2 ** TAU * OUTPUTS + 5))
        self.assertGreater(pinned.step, before)
        training.send_signal(signal.SIGTERM)
        training.wait(DEADLINE)
        for server, _ in servers:
            server.send_signal(signal.SIGTERM)
            self.assertEqual(server.wait(DEADLINE), 0)

    def test_a_model_is_read(self) -> None:
        training, folder = self.train_served(2, 9, 0.2)
        self.assertEqual(training.wait(DEADLINE), 0, self.log("training"))
        for shards, step in ((1, 9), (3, 9), (2, 8)):
            with self.subTest(shards=shards, step=step):
                more = () if step == 9 else ("--step", str(step))
                servers = [self.read_only(folder, shard, shards, *more)[1] for shard in range(shards)]
                reader = mf.Reader(",".join(servers))
                self.assertEqual(reader.step, step)
                self.assertFalse(reader.refresh())
                model = Model(reader)
                reader.load(model)
                self.assertEqual(model.number.tolist(), [-step] * 5)
                self.assertEqual(set(reader.parameters()), {"number"})
                self.assertTrue((model.items(torch.arange(KEYS)) == -step).all())
                self.assertTrue((model.items([KEYS + 1]) == 0).all())  # never trained
                pulled = mf.MemoryLayer(reader, "memory", TABLES * TAU, OUTPUTS, tau=TAU, bias=False, std=0.0,
                                        mode="pull")
                x = torch.randn(7, TABLES * TAU)
                with torch.no_grad():
                    self.assertTrue(torch.equal(pulled(x), model.memory(x)))
                for words, make in (
                        ("no such layer, but items", lambda r: mf.Embedding(r, "users", WIDTH)),
                        ("width 64 in the run", lambda r: mf.Embedding(r, "items", WIDTH + 1)),
                        ("3 tables of 8 rows", lambda r: mf.MemoryLayer(r, "memory", 8, OUTPUTS, tau=4)),
                        ("in the run", lambda r: mf.MemoryLayer(r, "memory", TABLES * TAU, OUTPUTS, tau=TAU,
                                                                temperature=3.0)),
                        ("no parameter weight", lambda r: r.load(torch.nn.Linear(2, 2), strict=False)),
                        ("lacks number", lambda r: r.load(torch.nn.Linear(2, 2)))):
                    with self.assertRaisesRegex(mf.InvalidError, words):
                        make(reader)
                run = mf.Run(servers, steps=1, optimizer=mf.SGD(lr=1.0), progress=False)
                run.share(torch.nn.Linear(2, 2))
                with self.assertRaisesRegex(mf.InvalidError, "read-only: it serves snapshots"):
                    list(run)

    def test_answers_are_of_one_state(self) -> None:
        """Frozen modules are filled, an answer in an answer is of its state, and what failed half way is done again."""
        training, folder = self.train_served(2, 9, 0.2)
        self.assertEqual(training.wait(DEADLINE), 0, self.log("training"))
        server, address = self.read_only(folder, 0, 1, "--step", "8")
        reader = mf.Reader(address)
        model = Model(reader)
        model.requires_grad_(False)
        reader.load(model)
        self.assertEqual(model.number.tolist(), [-8] * 5)

        def moved() -> None:  # to step 9, where it was
            nonlocal server
            server.kill()
            server.wait()
            server, _ = self.read_only(folder, 0, 1, listen=address)

        calls = []

        def read() -> "tuple[float, float, float]":
            first = float(model.items([1])[0, 0])
            if not calls:
                moved()
            calls.append(first)
            return first, float(reader.parameters()["number"][0]), float(model.number[0])
        self.assertEqual(reader.answer(read), (-9, -9, -9))
        self.assertEqual(calls, [-8, -9])
        with self.assertRaisesRegex(mf.Error, "one state"):
            reader.answer(reader.refresh)
        child = os.fork()
        if child == 0:
            try:
                reader.answer(model)
            except mf.Error as error:
                os._exit(0 if "forked" in str(error) else 2)
            os._exit(1)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        # Another run in the same place.
        other, folder = self.train_served(1, 4, 0.2)
        self.assertEqual(other.wait(DEADLINE), 0, self.log("training"))
        server.kill()
        server.wait()
        self.read_only(folder, 0, 1, listen=address)
        with self.assertRaisesRegex(mf.Error, "another training has begun"):
            reader.answer(model)

    def test_flags(self) -> None:
        self.refused("--data is required")
        self.refused("give --from", "--read-only")
        self.refused("writes nothing", "--read-only", "--from", self.folder, "--data", self.folder)
        self.refused("are for --read-only", "--data", self.folder, "--follow", "1")
        self.refused("leave --step out", "--read-only", "--from", self.folder, "--follow", "1", "--step", "3")
        self.refused("none", "--read-only", "--from", os.path.join(self.folder, "none"))


if __name__ == "__main__":
    unittest.main()
