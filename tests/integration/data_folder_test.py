"""Goal: a server's data folder may be moved, come back, lose snapshots or a description, and a server may have little
room for requests: nothing is made anew in silence, what is wrong is named, and what can go on does.
Usage: data_folder_test.py PATH_OF_WORKER PATH_OF_PSERVER"""

import glob
import os
import shutil
import subprocess
import sys
import unittest

from cluster_case import DEADLINE, ClusterCase

ClusterCase.PSERVER = os.path.abspath(sys.argv.pop(2))
ClusterCase.WORKER = os.path.abspath(sys.argv.pop(1))


class DataFolder(ClusterCase):
    """What happens to the folder of a server's data while it is used."""
    STEPS = 1_000_000
    CONFIG = ClusterCase.CONFIG + "[snapshot]\nevery_steps = 2\n"

    def snapshot(self) -> float:
        return self.metric(0, "mf_snapshot_last_step")

    def test_a_folder_that_is_moved(self) -> None:
        server, address = self.serve(0, 1)
        state = os.path.join(self.folder, "state-1")
        worker = self.train("worker", [address])
        self.wait_for("a snapshot", lambda: self.snapshot() >= 2)
        os.rename(state, state + "-moved")
        self.wait_for("trouble", lambda: "moved or removed" in self.health()[1])
        steps = self.steps("worker")
        self.wait_for_steps("worker", steps + 20)
        self.assertFalse(os.path.exists(state), "nothing is made anew")
        os.rename(state + "-moved", state)
        saved = self.snapshot()
        self.wait_for("health", lambda: self.health() == (200, "ok\n"))
        self.wait_for("a snapshot again", lambda: self.snapshot() > saved)
        # Another folder in its place, and the server is started again: the worker says what that means.
        server.kill()
        server.wait()
        os.rename(state, state + "-moved")
        self.serve(0, 1, listen=address, state="state-1")
        said = "the servers have nothing of this run, which had come to step"
        self.wait_for("a word of it", lambda: said in self.log("worker"))
        worker.kill()

    def test_snapshots_that_somebody_removes(self) -> None:
        _, address = self.serve(0, 1)
        self.train("worker", [address])
        self.wait_for("a snapshot", lambda: self.snapshot() >= 4)
        for folder in glob.glob(os.path.join(self.folder, "state-1/run-*/shard-0-of-1/step-*")):
            shutil.rmtree(folder, ignore_errors=True)
        step, saved = self.steps("worker"), self.snapshot()
        self.wait_for_steps("worker", step + 40)
        self.wait_for("a snapshot again", lambda: self.snapshot() > saved)
        self.assertLess(self.log("pserver-0").count("\n"), 20, self.log("pserver-0"))

    def test_descriptions_that_are_missing_are_named(self) -> None:
        out = os.path.join(self.folder, "out")
        train = [self.WORKER, "train", "--config", self.config, "--data", self.data, "--threads", "1", "--out", out]

        def run(*command: str) -> subprocess.CompletedProcess:
            return subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE, check=False)

        self.assertEqual(run(*train, "--steps", "6").returncode, 0)
        description = glob.glob(os.path.join(out, "state/run-*/description.json"))[0]
        os.remove(description)
        said = description + ": cannot read: No such file"
        self.assertIn(said, run(self.PSERVER, "runs", os.path.join(out, "state")).stdout)
        other = run(*train, "--steps", "8")  # another number of steps is another run
        self.assertEqual(other.returncode, 2, other.stderr)
        self.assertIn(said, other.stderr)
        self.assertEqual(run(*train, "--steps", "6").returncode, 0)  # the snapshots know it, too
        self.assertTrue(os.path.exists(description))


class Room(ClusterCase):
    STEPS = 8

    def test_little_room_for_requests_is_slow_and_not_the_end(self) -> None:
        expected = self.embedded()
        self.SERVER_FLAGS = ["--waiting-bytes", "1"]
        servers = [self.serve(shard, 2)[1] for shard in range(2)]
        self.finish("little", self.train("little", servers))
        self.assertEqual(self.result("little"), expected)
        self.assertRegex(self.log("little"), r"server \d \(.*\) has no room for a request, which is sent again")


if __name__ == "__main__":
    unittest.main()
