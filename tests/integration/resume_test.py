"""Goal: a run that was stopped goes on from its snapshots without being told, and snapshots can be used without
a cluster: resume embedded and as processes, another number of servers by `pserver reshard`, `worker export
--from`, `worker eval` on a folder. What would lose something is refused. The result is always that of an
undisturbed run, byte by byte. Usage: resume_test.py PATH_OF_WORKER PATH_OF_PSERVER"""

import glob
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
import unittest

from cluster_case import DEADLINE, ClusterCase

ClusterCase.PSERVER = sys.argv.pop(2)
ClusterCase.WORKER = sys.argv.pop(1)


class Resume(ClusterCase):
    CONFIG = ClusterCase.CONFIG + "[snapshot]\nevery_steps = 10\n"
    STEPS = 120

    def run_command(self, *command: str, code: int = 0) -> str:
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done.stdout + done.stderr

    def path(self, *names: str) -> str:
        return os.path.join(self.folder, *names)

    def sha256(self, path: str) -> str:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()

    def published(self, state: str, shard: int, shards: int) -> list[int]:
        folder = os.path.join(self.run_folder(state), f"shard-{shard}-of-{shards}")
        return sorted(int(name.removeprefix("step-")) for name in os.listdir(folder) if name.startswith("step-"))

    def stop(self, processes: list[subprocess.Popen], code: int) -> None:
        for process in processes:
            process.send_signal(signal.SIGTERM)
        for process in processes:
            self.assertEqual(process.wait(DEADLINE), code)

    def cluster(self, shards: int, state: str) -> tuple[list[subprocess.Popen], list[str]]:
        servers = [self.serve(shard, shards, state=state) for shard in range(shards)]
        return [process for process, _ in servers], [address for _, address in servers]

    def interrupted(self, shards: int, state: str, at: int) -> None:
        """A run of `shards` servers that ends, whole, at about step `at`."""
        processes, addresses = self.cluster(shards, state)
        name = f"first-{state}"
        worker = self.train(name, addresses)
        self.wait_for_steps(name, at)
        self.stop([worker], 128 + signal.SIGTERM)
        self.stop(processes, 0)
        self.assertLess(self.steps(name), self.STEPS - 5)

    def test_embedded(self) -> None:
        expected = self.embedded()
        worker = self.train("again", [])
        self.wait_for_steps("again", 30)
        self.stop([worker], 128 + signal.SIGTERM)
        lines = self.steps("again")
        self.assertLess(lines, self.STEPS - 5)
        self.finish("again", self.train("again", []))
        self.assertRegex(self.log("again"), r"the run goes on after step [1-9]\d\b")
        self.assertEqual(self.result("again"), expected)
        self.assertEqual(self.steps("again"), self.STEPS, "what was known is not written twice")
        # A finished run is exported once more, and nothing is trained.
        self.finish("again", self.train("again", []))
        self.assertIn("did 0 micro-batches", self.log("again"))
        self.assertEqual(self.result("again"), expected)
        # Another training does not take the folder over, nor does --fresh.
        for more, words in ((["--set", "train.lr=0.5"], ["train.lr", "folder"]), (["--fresh"], ["--fresh"])):
            worker = self.train("again", [], *more)
            self.assertEqual(worker.wait(DEADLINE), 2)
            for word in words:
                self.assertIn(word, self.log("again").splitlines()[-1])
        self.assertEqual(self.result("again"), expected)

    def test_all_processes_stop_and_start(self) -> None:
        expected = self.embedded()
        self.interrupted(2, "state", 25)
        _, addresses = self.cluster(2, "state")
        workers = {name: self.train(name, addresses) for name in ("first-state", "new")}
        for name, worker in workers.items():
            self.finish(name, worker)
            self.assertEqual(self.result(name), expected)
        self.assertRegex(self.log("new") + self.log("first-state"), r"the run goes on after step [1-9]\d\b")

    def test_another_number_of_servers(self) -> None:
        expected = self.embedded()
        self.interrupted(2, "state", 25)
        refused = self.run_command(self.PSERVER, "serve", "--listen", "tcp://127.0.0.1:0", "--shard", "0/3", "--data",
                                   self.path("state"), code=2)
        command = re.search(r"run: (pserver reshard .*)$", refused.strip())[1]
        self.assertEqual(sorted(os.listdir(self.run_folder("state"))),
                         ["description.json", "shard-0-of-2", "shard-1-of-2"])
        words = command.replace("NEW_FOLDER", self.path("state-3")).split()
        self.run_command(self.PSERVER, *words[1:])
        _, addresses = self.cluster(3, "state-3")
        self.finish("of-three", self.train("of-three", addresses))
        self.assertRegex(self.log("of-three"), r"the run goes on after step [1-9]\d\b")
        self.assertEqual(self.result("of-three"), expected)

    def test_reshard_all_pairs(self) -> None:
        digest, _ = self.embedded()
        of_one = self.path("embedded", "state")
        states = {1: of_one}
        for shards in (2, 3, 4):
            states[shards] = self.path(f"of-{shards}")
            self.run_command(self.PSERVER, "reshard", "--from", of_one, "--to", states[shards], "--shards", str(shards))
        for before in (1, 2, 3, 4):
            for after in (1, 2, 3, 4):
                state = self.path(f"{before}-to-{after}")
                self.run_command(self.PSERVER, "reshard", "--from", states[before], "--to", state, "--shards", str(after))
                out = self.path("resharded.safetensors")
                said = self.run_command(self.WORKER, "export", "--from", state, "--out", out)
                self.assertIn(f"step {self.STEPS} ", said)
                self.assertEqual(self.sha256(out), digest, f"{before} to {after}")
        self.run_command(self.PSERVER, "inspect", self.path("3-to-4"), "--verify")

    def test_offline(self) -> None:
        digest, lines = self.embedded()
        state = self.path("embedded", "state")
        shard = os.path.join(self.run_folder("embedded/state"), "shard-0-of-1")
        before = sorted(os.listdir(shard))
        out = self.path("offline.safetensors")
        self.run_command(self.WORKER, "export", "--from", state, "--out", out)
        self.assertEqual(self.sha256(out), digest)
        losses = [self.run_command(self.WORKER, "eval", "--model", model, "--data", self.data)
                  for model in (out, state)]
        self.assertEqual(losses[0], losses[1])
        self.assertEqual(sorted(os.listdir(shard)), before)
        self.assertIn("val_loss", lines[-1])
        self.assertIn(str(self.STEPS), self.run_command(self.PSERVER, "inspect", state, "--verify"))
        # A damaged file is named, and nothing is exported.
        newest = os.path.join(shard, f"step-{self.STEPS}")
        table = os.path.join(newest, max(name for name in os.listdir(newest) if name.endswith(".sst")))
        with open(table, "r+b") as file:
            file.seek(os.path.getsize(table) // 3)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 4]))
        os.remove(out)
        for command in ([self.WORKER, "export", "--from", state, "--out", out],
                        [self.PSERVER, "inspect", state, "--verify"]):
            said = self.run_command(*command, code=1)
            self.assertIn(os.path.basename(table), said)
        self.assertFalse(os.path.exists(out))

    def test_a_server_on_an_empty_folder_costs_nothing(self) -> None:
        self.interrupted(2, "state", 25)
        before = self.published("state", 0, 2)
        self.assertTrue(before)
        first = self.serve(0, 2, state="state")[1]
        second = self.serve(1, 2, state="elsewhere")[1]
        worker = self.train("refused", [first, second])
        self.assertEqual(worker.wait(DEADLINE), 1)
        self.assertRegex(self.log("refused").splitlines()[-1],
                         r"the servers had step \d+ in common and have none any more: .*server 1 has none")
        self.assertEqual(self.published("state", 0, 2), before)

    def test_damage_in_all_that_one_server_has(self) -> None:
        """Increments share their base: one bad byte there is in every step. The others keep what they have."""
        self.interrupted(2, "state", 35)
        kept = self.published("state", 0, 2)
        folder = os.path.join(self.run_folder("state"), "shard-1-of-2")
        for step in self.published("state", 1, 2):
            for name in os.listdir(os.path.join(folder, f"step-{step}")):
                if name.endswith(".sst"):
                    with open(os.path.join(folder, f"step-{step}", name), "r+b") as file:
                        file.write(b"\xff\x00\xff")
        _, addresses = self.cluster(2, "state")
        worker = self.train("refused", addresses)
        self.assertEqual(worker.wait(DEADLINE), 1, self.log("refused"))
        self.assertRegex(self.log("refused").splitlines()[-1], "in common and have none any more.*server 1 has none")
        self.assertTrue(any(name.startswith("damaged-step-") for name in os.listdir(folder)))
        self.assertIn(".sst", self.log("pserver-1"))
        # Damage to the newest of server 1 made the other go back step by step; the oldest is there.
        self.assertEqual(self.published("state", 0, 2), kept[:1])

    def test_minutes(self) -> None:
        """Snapshots by time: one comes although no number of steps asks for it."""
        config = ClusterCase.CONFIG + "[snapshot]\nevery_minutes = 0.01\n"
        self.config = self.write("minutes.toml", config)
        worker = self.train("minutes", [])
        end = time.monotonic() + DEADLINE
        while not glob.glob(self.path("minutes", "state", "run-*", "shard-0-of-1", "step-*")):
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)
        worker.kill()
        worker.wait()
        self.finish("minutes", self.train("minutes", []))
        self.result("minutes")


if __name__ == "__main__":
    unittest.main()
