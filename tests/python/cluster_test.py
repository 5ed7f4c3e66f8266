"""Goal: Python processes and servers that are killed at random moments and started again change no bit of the result,
and every contribution counts once. Processes end in order on SIGTERM and Ctrl-C, and lose nothing; who comes with
another model, data or seed is refused in words.
Usage: cluster_test.py FOLDER_OF_PACKAGE PATH_OF_PSERVER [--kills N] [--seed S]"""

import argparse
import hashlib
import os
import random
import re
import signal
import subprocess
import sys
import time
import unittest

try:
    import numpy as np
    import torch  # noqa: F401  the processes need it
except ImportError:
    print(f"SKIPPED: torch is missing for {sys.executable} (apt-get install python3-torch)")
    sys.exit(77)

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "..", "integration"))
from cluster_case import DEADLINE, ClusterCase, Place  # noqa: E402

SCRIPT = os.path.join(os.path.dirname(__file__), "training.py")
ARGUMENTS = argparse.Namespace(package="", kills=8, seed=0)
SERVERS = WORKERS = 3


class PythonCase(ClusterCase):
    def train_python(self, name: str, kind: str, servers: str, steps: int, script: str = SCRIPT):
        log = os.path.join(self.folder, name + ".log")
        with open(log, "a", encoding="utf-8") as errors:
            out = os.path.join(self.folder, name + ".safetensors")
            process = self.popen([sys.executable, "-B", script, ARGUMENTS.package, kind, servers, str(steps), out],
                                 os.path.join(self.folder, name + ".steps"), errors)
        return process

    def popen(self, command: list[str], out: str, errors):
        with open(out, "a", encoding="utf-8") as lines:
            process = subprocess.Popen(command, stdout=lines, stderr=errors)

        def end() -> None:
            if process.poll() is None:
                process.kill()
            process.wait()

        self.addCleanup(end)
        process.stdout = lines  # closed; for Place
        return process

    def steps_of(self, name: str) -> list[str]:
        """The last line of every step; a process that was killed may have left a part of one."""
        try:
            with open(os.path.join(self.folder, name + ".steps"), encoding="utf-8") as file:
                lines = [line.rstrip("\n") for line in file if re.fullmatch(r"\d+ \S+ \S+\n", line)]
        except FileNotFoundError:
            return []
        return list({int(line.split()[0]): line for line in lines}.values())

    def digest(self, name: str) -> str:
        with open(os.path.join(self.folder, name + ".safetensors"), "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()

    def ended(self, name: str, process, code: int = 0) -> None:
        self.assertEqual(process.wait(DEADLINE), code, self.log(name))


class Chaos(PythonCase):
    def chaos(self, kind: str, steps: int, kills: int, draw: random.Random) -> list[str]:
        """Names of the processes, each of which then has the state of the end."""
        servers = [self.serve(shard, SERVERS) for shard in range(SERVERS)]
        addresses = [address for _, address in servers]
        names = [f"{kind}-{i}" for i in range(WORKERS)]
        places = [Place(lambda name=name: self.train_python(name, kind, ",".join(addresses), steps), name)
                  for name in names]
        state = f"state-{self.clusters}"
        places += [Place(lambda shard=shard: servers[shard][0]) for shard in range(SERVERS)]
        for shard, place in enumerate(places[WORKERS:]):
            place.start = lambda shard=shard: self.serve(shard, SERVERS, addresses[shard], state=state)[0]
        moments = sorted(draw.randint(2, steps - 8) for _ in range(kills))
        killed = {"worker": 0, "server": 0}
        end = time.monotonic() + DEADLINE + 10 * kills
        while moments:
            self.assertLess(time.monotonic(), end, "".join(self.log(name) for name in names))
            now = time.monotonic()
            for place in places:
                if 0 < place.back <= now:
                    place.come_back()
            done = max((len(self.steps_of(name)) for name in names), default=0)
            if done >= moments[0]:
                moments.pop(0)
                place = draw.choice([place for place in places if not place.dead])
                place.kill(now + draw.uniform(0, 1))
                killed["worker" if place.name else "server"] += 1
            time.sleep(0.01)
        for place in places:
            place.come_back()
        for place in places[:WORKERS]:
            self.ended(place.name, place.process)
        print(f"{kind}: {killed} killed in {steps} steps", flush=True)
        return names

    def test_one_result(self) -> None:
        seed = ARGUMENTS.seed or int.from_bytes(os.urandom(4), "little")
        print(f"--seed {seed}", flush=True)
        steps = 12 + 5 * ARGUMENTS.kills
        self.ended("alone", self.train_python("alone", "model", "embedded", steps))
        names = self.chaos("model", steps, ARGUMENTS.kills, random.Random(seed))
        for name in names:
            self.assertEqual(self.digest(name), self.digest("alone"), f"seed {seed}")
            self.assertEqual(self.steps_of(name), self.steps_of("alone"))

    def test_every_contribution_counts_once(self) -> None:
        seed = ARGUMENTS.seed or int.from_bytes(os.urandom(4), "little")
        print(f"--seed {seed}", flush=True)
        kills = max(2, ARGUMENTS.kills // 2)
        steps = 12 + 5 * kills
        names = self.chaos("count", steps, kills, random.Random(seed))
        sys.path.insert(0, ARGUMENTS.package)
        sys.argv[1:] = [ARGUMENTS.package]
        import training

        from memoryformer import safetensors

        rows = np.zeros((training.TABLES, 2**training.TAU, training.OUTPUTS), np.int64)
        numbers = np.zeros(training.NUMBERS, np.int64)
        bags = np.zeros((training.KEYS, training.OUTPUTS), np.int64)
        for step in range(1, steps + 1):
            for number in range(training.MICRO_BATCHES):
                values = training.integers(step, number)
                numbers += values["numbers"]
                for table in range(training.TABLES):
                    np.add.at(rows[table], values["buckets"][table], values["weights"][table][:, None] * values["dy"])
                for i in range(2):
                    np.add.at(bags, values["keys"][:, i] // training.KEY_STRIDE, values["dy"])
        for name in names:
            state = safetensors.read(os.path.join(self.folder, name + ".safetensors"))
            self.assertTrue(np.array_equal(state["counts.tables"], -rows))
            self.assertTrue(np.array_equal(state["numbers"], -numbers))
            self.assertEqual(state["bags.keys"].tolist(), [key * training.KEY_STRIDE for key in range(training.KEYS)])
            self.assertTrue(np.array_equal(state["bags.rows"], -bags))


class Ends(PythonCase):
    STEPS = 60

    def test_signals_lose_nothing(self) -> None:
        self.ended("alone", self.train_python("alone", "model", "embedded", self.STEPS))
        servers = [self.serve(shard, 2) for shard in range(2)]
        addresses = ",".join(address for _, address in servers)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            before = len(self.steps_of("stopped"))
            process = self.train_python("stopped", "model", addresses, self.STEPS)
            self.wait_for("steps", lambda: len(self.steps_of("stopped")) > before + 5)
            process.send_signal(number)
            # Python ends by Ctrl-C as if the signal had ended it; so do the others here.
            self.ended("stopped", process, -number)
            log = self.log("stopped")
            self.assertNotIn("the run goes back", log)
            saved = max(int(name.removeprefix("step-")) for name in os.listdir(
                os.path.join(self.run_folder(f"state-{self.clusters}"), "shard-0-of-2")) if name.startswith("step-"))
            self.assertGreaterEqual(saved, len(self.steps_of("stopped")))
        self.ended("stopped", self.train_python("stopped", "model", addresses, self.STEPS))
        self.assertEqual(self.digest("stopped"), self.digest("alone"))

    def test_resharded(self) -> None:
        """Keys that wait and rows that will expire go along to other servers."""
        self.ended("alone", self.train_python("alone", "model", "embedded", self.STEPS))
        servers = [self.serve(shard, 2) for shard in range(2)]
        process = self.train_python("moved", "model", ",".join(address for _, address in servers), self.STEPS)
        self.wait_for("steps", lambda: len(self.steps_of("moved")) > 20)
        process.send_signal(signal.SIGTERM)
        self.ended("moved", process, -signal.SIGTERM)
        for server, _ in servers:
            server.send_signal(signal.SIGTERM)
            self.assertEqual(server.wait(DEADLINE), 0)
        state = os.path.join(self.folder, f"state-{self.clusters}")
        there = subprocess.run([self.PSERVER, "inspect", state], check=True, capture_output=True, text=True).stdout
        self.assertRegex(there, "rare, keys that wait +[1-9]")
        subprocess.run([self.PSERVER, "reshard", "--from", state, "--to", os.path.join(self.folder, "three"), "--shards",
                        "3"], check=True, capture_output=True)
        servers = [self.serve(shard, 3, state="three") for shard in range(3)]
        self.ended("moved", self.train_python("moved", "model", ",".join(address for _, address in servers),
                                              self.STEPS))
        self.assertEqual(self.digest("moved"), self.digest("alone"))

    def test_a_server_that_is_started_again_before_the_model_is_read(self) -> None:
        with open(SCRIPT, encoding="utf-8") as file:
            text = file.read()
        waits = "    while not os.path.exists(out + '.go'):\n        time.sleep(0.05)\n    run.save(out)\n"
        script = self.write("waits.py", text.replace("    run.save(out)\n", waits).replace(
            "import sys\n", "import os\nimport sys\nimport time\n", 1))
        servers = [self.serve(shard, 2) for shard in range(2)]
        addresses = [address for _, address in servers]
        process = self.train_python("waits", "model", ",".join(addresses), 12, script)
        state = self.run_folder_when_there()
        self.wait_for("the last snapshot", lambda: os.path.exists(os.path.join(state, "shard-1-of-2", "step-12")))
        self.wait_for("the end", lambda: len(self.steps_of("waits")) == 12)
        servers[1][0].kill()
        servers[1][0].wait()
        self.serve(1, 2, addresses[1], state=f"state-{self.clusters}")
        self.write("waits.safetensors.go", "")
        self.ended("waits", process)
        self.ended("alone", self.train_python("alone", "model", "embedded", 12))
        self.assertEqual(self.digest("waits"), self.digest("alone"))

    def run_folder_when_there(self) -> str:
        state = f"state-{self.clusters}"
        self.wait_for("a run", lambda: any(name.startswith("run-") for name in
                                           os.listdir(os.path.join(self.folder, state))))
        return self.run_folder(state)

    def test_keys(self) -> None:
        keys = os.path.join(self.folder, "keys")
        subprocess.run([self.PSERVER, "keygen", "--out", keys], check=True, stdout=subprocess.DEVNULL)
        servers = [self.serve(shard, 2, keys=os.path.join(keys, "server")) for shard in range(2)]
        os.environ["KEYS"] = os.path.join(keys, "client")
        self.addCleanup(os.environ.pop, "KEYS", None)
        addresses = ",".join(address for _, address in servers)
        self.ended("locked", self.train_python("locked", "model", addresses, 5))
        os.environ["KEYS"] = self.folder
        self.ended("none", self.train_python("none", "model", addresses, 5), 1)
        self.assertRegex(self.log("none").splitlines()[-1], "InvalidError: .*client.key")

    def test_nobody_answers(self) -> None:
        """The first error is the last that is said, and no second deadline is waited for."""
        with open(SCRIPT, encoding="utf-8") as file:
            script = self.write("short.py", file.read().replace("lease_seconds=1.0", "deadline_seconds=2"))
        begin = time.monotonic()
        self.ended("nobody", self.train_python("nobody", "model", "tcp://127.0.0.1:9", 12, script), 1)
        self.assertLess(time.monotonic() - begin, 30)
        self.assertRegex(self.log("nobody").splitlines()[-1], r"^memoryformer\.errors\.Error: .*tcp://127\.0\.0\.1:9")

    def test_others_are_refused(self) -> None:
        servers = [self.serve(shard, 2) for shard in range(2)]
        addresses = ",".join(address for _, address in servers)
        first = self.train_python("first", "model", addresses, 4000)
        self.wait_for("steps", lambda: self.steps_of("first"))
        with open(SCRIPT, encoding="utf-8") as file:
            text = file.read()
        for name, old, new, words in (
                ("threads", "set_num_threads(1)", "set_num_threads(2)", "threads: 1 here, 2 there"),
                ("data", "1000 * step", "1001 * step", "trained on other data|data"),
                ("values", "torch.nn.Linear(64, 2)", "torch.nn.Linear(64, 2).half().float()", "values of digest"),
                ("layer", "tau=12", "tau=6", "c.tables"),
                ("rule", '"weight_decay": 0.0', '"weight_decay": 0.5', "weight_decay|parameters")):
            script = self.write(f"{name}.py", text.replace(old, new))
            self.assertNotEqual(text, text.replace(old, new))
            process = self.train_python(name, "model", addresses, 4000, script)
            self.ended(name, process, 1)
            self.assertRegex(self.log(name).splitlines()[-1], f"OtherRunError: .*({words})", name)
        self.assertIsNone(first.poll(), self.log("first"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("package")
    parser.add_argument("pserver")
    parser.add_argument("--kills", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0, help="0: another one every time")
    _, rest = parser.parse_known_args(namespace=ARGUMENTS)
    ClusterCase.PSERVER = ARGUMENTS.pserver
    unittest.main(argv=["cluster_test.py", *rest])
