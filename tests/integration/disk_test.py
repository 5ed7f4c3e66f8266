"""Goal: a full disk costs nothing but the snapshots that it refused. One of three servers stands on a disk that
is full for more than ten snapshots: training goes on, the log says it once, the last common step stays on all
disks; the server is killed, the disk is freed, and the run resumes from the common step with the model of an
undisturbed run, snapshots included. The disk is a tmpfs of a few megabytes, mounted in a namespace of the test's own.
Usage: disk_test.py PATH_OF_WORKER PATH_OF_PSERVER"""

import glob
import os
import subprocess
import sys
import threading
import time
import unittest

import own_mounts
from cluster_case import DEADLINE, ClusterCase

if not own_mounts.enter():
    print("disk_test: this machine lets nobody here mount a tmpfs, not even in a namespace", file=sys.stderr)
    sys.exit(77)
ClusterCase.PSERVER = sys.argv.pop(2)
ClusterCase.WORKER = sys.argv.pop(1)
SICK = 1  # the server on the small disk
EVERY = 4


class Filler(threading.Thread):
    """Takes all room on a disk, also what becomes free again, until it is stopped."""

    def __init__(self, disk: str) -> None:
        super().__init__()
        self.path = os.path.join(disk, "filler")
        self.ending = threading.Event()
        self.start()

    def run(self) -> None:
        with open(self.path, "wb", buffering=0) as file:
            while not self.ending.is_set():
                try:
                    file.write(bytes(1 << 16))
                except OSError:
                    time.sleep(0.001)

    def stop(self) -> None:
        if self.ending.is_set():
            return
        self.ending.set()
        self.join()
        os.remove(self.path)


class FullDisk(ClusterCase):
    CONFIG = ClusterCase.CONFIG + f"[snapshot]\nevery_steps = {EVERY}\n[exchange]\ndeadline_seconds = 100\n"
    STEPS = 400

    def disk(self) -> str:
        path = os.path.join(self.folder, "disk")
        os.mkdir(path)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", path], check=True)
        self.addCleanup(subprocess.run, ["umount", "--lazy", path], check=True)
        return path

    def serve_on(self, shard: int, listen: str = "tcp://127.0.0.1:0"):
        return self.serve(shard, 3, listen, state="disk" if shard == SICK else "state")

    def published(self, shard: int) -> set[int]:
        state = os.path.join(self.folder, "disk" if shard == SICK else "state")
        names = glob.glob(os.path.join(state, "run-*", f"shard-{shard}-of-3", "step-*"))
        return {int(os.path.basename(name).removeprefix("step-")) for name in names}

    def common(self) -> set[int]:
        return set.intersection(*(self.published(shard) for shard in range(3)))

    def wait_for(self, what: str, happened) -> None:
        end = time.monotonic() + DEADLINE
        while not happened():
            self.assertLess(time.monotonic(), end, what)
            time.sleep(0.01)

    def test_full_then_killed_then_freed(self) -> None:
        expected = self.embedded()
        disk = self.disk()
        servers = [self.serve_on(shard) for shard in range(3)]
        addresses = [address for _, address in servers]
        workers = {f"w{i}": self.train(f"w{i}", addresses) for i in range(2)}
        self.wait_for("a first common snapshot", self.common)

        filler = Filler(disk)
        self.addCleanup(filler.stop)
        failures = lambda: self.metric(SICK, "mf_snapshot_failures_total")
        # One that had its room when the disk became full may still become common.
        self.wait_for("two snapshots that fail", lambda: failures() >= 2)
        kept, at = max(self.common()), self.steps("w0")
        failed = failures()
        self.wait_for("ten snapshot intervals", lambda: self.steps("w0") >= at + 10 * EVERY)
        self.assertGreater(failures(), failed, "nothing was refused in them")
        self.assertEqual(max(self.common()), kept, "the newest common step")
        for shard in (0, 2):
            self.assertLessEqual(len(self.published(shard)), 4, "steps that can never be common pile up")
        servers[SICK][0].kill()
        servers[SICK][0].wait()
        with open(os.path.join(self.folder, f"pserver-{SICK}.log"), encoding="utf-8") as file:
            said = [line for line in file if "snapshot of step" in line]
        self.assertEqual(len(said), 1, said)
        self.assertIn("No space left", said[0])
        self.assertIn("the run goes on", said[0])
        self.assertLess(self.steps("w0"), self.STEPS - 5, "it came too late to test anything")
        self.assertGreaterEqual(kept, 1)

        filler.stop()
        self.serve_on(SICK, addresses[SICK])
        for name, worker in workers.items():
            self.finish(name, worker)
            self.assertEqual(self.result(name), expected)
        self.assertIn(f"the run goes back to step {kept}", self.log("w0") + self.log("w1"))
        self.wait_for("snapshots work again", lambda: max(self.common()) == self.STEPS)

    def test_another_server_is_killed_while_one_disk_is_full(self) -> None:
        """Going back needs no room: nobody takes a full disk for a damaged snapshot."""
        expected = self.embedded()
        disk = self.disk()
        servers = [self.serve_on(shard) for shard in range(3)]
        addresses = [address for _, address in servers]
        worker = self.train("w", addresses)
        self.wait_for("a first common snapshot", self.common)
        filler = Filler(disk)
        self.addCleanup(filler.stop)
        self.wait_for("two snapshots that fail", lambda: self.metric(SICK, "mf_snapshot_failures_total") >= 2)
        kept = max(self.common())
        servers[2][0].kill()
        servers[2][0].wait()
        self.assertLess(self.steps("w"), self.STEPS - 5)
        self.serve_on(2, addresses[2])
        self.finish("w", worker)
        self.assertIn(f"the run goes back to step {kept}", self.log("w"))
        self.assertEqual(self.result("w"), expected)
        self.assertEqual([name for name in os.listdir(os.path.join(self.run_folder("disk"), f"shard-{SICK}-of-3"))
                          if name.startswith("damaged")], [])

    def test_a_disk_that_recovers_while_it_trains(self) -> None:
        """The same without a kill: common snapshots come again."""
        disk = self.disk()
        addresses = [self.serve_on(shard)[1] for shard in range(3)]
        worker = self.train("w", addresses)
        self.wait_for("a first common snapshot", self.common)
        filler = Filler(disk)
        self.addCleanup(filler.stop)
        self.wait_for("snapshots that fail", lambda: self.metric(SICK, "mf_snapshot_failures_total") >= 3)
        before = max(self.common())
        filler.stop()
        self.wait_for("common snapshots", lambda: max(self.common()) > before)
        self.finish("w", worker)
        with open(os.path.join(self.folder, f"pserver-{SICK}.log"), encoding="utf-8") as file:
            self.assertIn("they work again", file.read())


if __name__ == "__main__":
    unittest.main()
