"""Goal: servers outlive a run. Runs with other tables one after the other on the same servers, one of them left
half-way and finished later, end with the models that servers of their own give, byte for byte; who comes while a run
is trained is refused and harms nothing; what is stored is listed and deleted by `pserver runs`, and read by its
folder. Usage: runs_test.py PATH_OF_WORKER PATH_OF_PSERVER"""

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

RUNS = {"first": [], "second": ["--set", "model.K=16", "--set", "model.tau=4"],
        "third": ["--set", "model.projection=dense"]}


class Runs(ClusterCase):
    CONFIG = ClusterCase.CONFIG + "[snapshot]\nevery_steps = 10\n"
    STEPS = 120
    SERVER_FLAGS = ["--idle-seconds", "2"]

    def cluster(self) -> list[str]:
        """Addresses of two servers that share a new --data folder."""
        return [self.serve(shard, 2)[1] for shard in range(2)]

    def command(self, *command: str, code: int = 0) -> str:
        """What it prints; the last line is the error where `code` is not 0."""
        done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        if code != 0:
            self.assertEqual(done.stderr.count("error: "), 1, done.stderr)
        return done.stdout + done.stderr

    def runs(self, *where: str) -> dict[str, str]:
        """Lines of `pserver runs`, by id."""
        lines = self.command(self.PSERVER, "runs", *where).splitlines()
        return dict(line.split("  ", 1) for line in lines)

    def trained(self, name: str, servers: list[str], *more: str) -> tuple[str, list[str]]:
        self.finish(name, self.train(name, servers, *more))
        return self.result(name)

    def refused(self, name: str, servers: list[str], *more: str) -> None:
        worker = self.train(name, servers, *more)
        self.assertEqual(worker.wait(DEADLINE), 2, self.log(name))
        self.assertIn("this server runs another training: train.lr: ", self.log(name).splitlines()[-1])

    def wait_for_log(self, name: str, text: str) -> None:
        end = time.monotonic() + DEADLINE
        while text not in self.log(name):
            self.assertLess(time.monotonic(), end, self.log(name))
            time.sleep(0.02)

    def wait_until_listed(self, where: list[str], run: str, text: str) -> None:
        """A snapshot of a run may come a little later than its step or its workers end. `text`: a regular expression."""
        end = time.monotonic() + DEADLINE
        while not re.match(text, self.runs(*where)[run]):
            self.assertLess(time.monotonic(), end, self.runs(*where)[run])
            time.sleep(0.1)

    def test_three_runs_on_the_same_servers(self) -> None:
        expected = {name: self.trained(f"{name}-alone", self.cluster(), *more) for name, more in RUNS.items()}
        self.assertEqual(len({digest for digest, _ in expected.values()}), len(RUNS))
        servers = self.cluster()
        listed, state = ["--pservers", ",".join(servers)], os.path.join(self.folder, f"state-{self.clusters}")
        self.assertEqual(self.trained("first", servers), expected["first"])
        (first,) = self.runs(*listed)
        self.wait_until_listed(listed, first, f"step {self.STEPS} of {self.STEPS}, served now  ")
        # The second run is left half-way.
        workers = [self.train(name, servers, *RUNS["second"]) for name in ("second", "beside")]
        self.wait_for_steps("second", 25)
        self.refused("foreign", servers, "--set", "train.lr=0.5", *RUNS["second"])
        there = self.runs(*listed)
        (second,) = set(there) - {first}
        self.assertRegex(there[first], f"^step {self.STEPS} of {self.STEPS}  ")
        self.wait_until_listed(listed, second, rf"step [1-9]\d* of {self.STEPS}, served now  ")
        self.assertIn(", served now", self.runs(state)[second])
        for where in (listed, [state]):
            self.assertIn(" is served now", self.command(self.PSERVER, "runs", *where, "--delete", second, code=2))
        self.assertLess(self.steps("second"), self.STEPS - 5)
        for worker in workers:
            worker.kill()
            worker.wait()
        left = self.steps("second")
        time.sleep(4)
        self.assertEqual(self.trained("third", servers, *RUNS["third"]), expected["third"])
        self.assertEqual(len(self.runs(*listed)), 3)
        self.assertEqual(self.trained("second", servers, *RUNS["second"]), expected["second"])
        self.assertRegex(self.log("second"), r"waiting for the servers: .*the run before has ended and")
        self.assertRegex(self.log("second"), r"the run goes on after step [1-9]\d\b")
        self.assertGreater(left, 0)
        # One that is over is read again, and nothing is trained.
        self.assertEqual(self.trained("first", servers), expected["first"])
        self.assertRegex(self.log("first"), r"did 0 micro-batches")
        self.wait_until_listed(listed, first, f"step {self.STEPS} of {self.STEPS}, served now")
        self.read_two_runs(state, {first: expected["first"][0], second: expected["second"][0]})
        self.delete(state, listed, first, second)

    def read_two_runs(self, state: str, digests: dict[str, str]) -> None:
        out = os.path.join(self.folder, "offline.safetensors")
        said = self.command(self.WORKER, "export", "--from", state, "--out", out, code=2)
        self.assertIn("holds 3 runs; name one: ", said)
        self.assertEqual(len(self.runs(state)), 3)
        for run, digest in digests.items():
            folder = os.path.join(state, f"run-{run}")
            self.assertIn(folder, said)
            self.command(self.WORKER, "export", "--from", folder, "--out", out)
            with open(out, "rb") as file:
                self.assertEqual(hashlib.sha256(file.read()).hexdigest(), digest)

    def delete(self, state: str, listed: list[str], served: str, other: str) -> None:
        for code, which in ((2, served), (2, "no-such-run"), (2, ""), (0, other)):
            self.command(self.PSERVER, "runs", *listed, "--delete", which, code=code)
        self.assertNotIn(f"run-{other}", os.listdir(state))
        self.assertNotIn(other, self.runs(*listed))
        (third,) = set(self.runs(state)) - {served}
        self.command(self.PSERVER, "runs", state, "--delete", served, code=2)
        self.command(self.PSERVER, "runs", state, "--delete", third)
        self.assertEqual(set(self.runs(*listed)), {served})

    def test_a_restarted_server_0_is_not_taken_from_the_run(self) -> None:
        """Another run's worker reaches it first; the one that the other server is trained on goes on."""
        expected = self.embedded()
        self.SERVER_FLAGS = ["--idle-seconds", "60"]
        running = [self.serve(shard, 2) for shard in range(2)]
        servers = [address for _, address in running]
        worker = self.train("worker", servers)
        self.wait_for_steps("worker", 15)
        worker.send_signal(signal.SIGSTOP)
        self.assertLess(self.steps("worker"), self.STEPS - 5)
        running[0][0].kill()
        running[0][0].wait()
        self.serve(0, 2, servers[0], state=f"state-{self.clusters}")
        foreign = self.train("foreign", servers, "--set", "train.lr=0.5")
        self.wait_for_log("foreign", "waiting for the servers: server 1")
        worker.send_signal(signal.SIGCONT)
        self.assertEqual(foreign.wait(DEADLINE), 2, self.log("foreign"))
        self.assertRegex(self.log("foreign").splitlines()[-1],
                         r"server 0 .*this server runs another training: train.lr: ")
        self.finish("worker", worker)
        self.assertEqual(self.result("worker"), expected)

    def test_a_worker_that_waits_can_be_stopped(self) -> None:
        self.SERVER_FLAGS = ["--idle-seconds", "60"]
        address = self.serve(0, 1)[1]
        self.trained("first", [address])
        other = self.train("other", [address], "--set", "train.lr=0.5")
        self.wait_for_log("other", "waiting for the servers")
        other.send_signal(signal.SIGTERM)
        self.assertEqual(other.wait(DEADLINE), 128 + signal.SIGTERM, self.log("other"))
        self.assertEqual(len(self.runs("--pservers", address)), 1)

    def test_snapshots_of_an_older_layout(self) -> None:
        for state in ("old", "out/state"):
            os.makedirs(os.path.join(self.folder, state, "shard-0-of-1", "step-10"))
        said = self.command(self.PSERVER, "serve", "--listen", "tcp://127.0.0.1:0", "--shard", "0/1", "--data",
                            os.path.join(self.folder, "old"), code=2)
        self.assertRegex(said, r"^error: .*old/shard-0-of-1: a snapshot of an older version of this program, .*\n$")
        worker = self.train("out", [])
        self.assertEqual(worker.wait(DEADLINE), 2)
        self.assertRegex(self.log("out").splitlines()[-1], "error: .*shard-0-of-1: a snapshot of an older version")

    def test_a_folder_of_one_training_refuses_another(self) -> None:
        expected = self.trained("out", [])
        worker = self.train("out", [], "--set", "train.lr=0.5")
        self.assertEqual(worker.wait(DEADLINE), 2)
        for word in ("train.lr", "folder"):
            self.assertIn(word, self.log("out").splitlines()[-1])
        self.assertEqual(self.trained("out", []), expected)


if __name__ == "__main__":
    unittest.main()
