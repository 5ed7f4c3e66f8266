"""Goal: busy is not dead. Who waits for a server that reads its snapshot back slowly goes on waiting, and says for what,
though the server takes longer than a worker's patience; a disk that hangs stops snapshots and nothing else: training
goes on, /health says it, SIGTERM ends the process in its grace.
Usage: busy_test.py PATH_OF_WORKER PATH_OF_PSERVER, with MF_SICK_MACHINE the module of sick_machine.cpp."""

import os
import re
import signal
import subprocess
import sys
import time
import unittest

from cluster_case import DEADLINE, ClusterCase

ClusterCase.PSERVER = os.path.abspath(sys.argv.pop(2))
ClusterCase.WORKER = os.path.abspath(sys.argv.pop(1))
SICK = os.environ.get("MF_SICK_MACHINE", "")


@unittest.skipUnless(SICK, "MF_SICK_MACHINE is not set")
class Busy(ClusterCase):
    STEPS = 300  # long enough for a snapshot on a busy disk
    PATIENCE = 3  # seconds of a worker with a server that says nothing
    CONFIG = ClusterCase.CONFIG + f"[snapshot]\nevery_steps = 2\n[exchange]\ndeadline_seconds = {PATIENCE}\n"

    def serve_on(self, address: str = "tcp://127.0.0.1:0", **sick: str) -> tuple[subprocess.Popen, str]:
        """A server on a disk that is `sick`."""
        environment = {"LD_PRELOAD": SICK, **sick}
        before = {name: os.environ.get(name) for name in environment}
        os.environ.update(environment)
        try:
            return self.serve(0, 1, listen=address, state="state")
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def test_who_waits_for_a_loading_server_goes_on_waiting(self) -> None:
        expected = self.embedded()
        server, address = self.serve_on()
        first = self.train("first", [address], "--log", "info")
        self.wait_for("a snapshot", lambda: self.metric(0, "mf_snapshot_last_step") >= 10)
        server.kill()
        server.wait()
        since = time.monotonic()
        server, _ = self.serve_on(address, MF_READ_MS="300")
        # The second joins while the server loads.
        second = self.train("second", [address], "--log", "info")
        said = f"waiting since \\d+ s for server 0 \\({address}; loading step \\d+: \\d+%\\)"
        self.wait_for("a word of what it waits for", lambda: self.find(said, "first", "second"))
        self.finish("first", first)
        self.finish("second", second)
        self.assertGreater(time.monotonic() - since, 3 * self.PATIENCE)  # it was slow
        for name in ("first", "second"):
            self.assertEqual(self.result(name), expected)

    def find(self, pattern: str, *names: str) -> bool:
        return any(re.search(pattern, self.log(name)) for name in names)

    def test_a_disk_that_hangs(self) -> None:
        self.STEPS = 1_000_000
        hang = os.path.join(self.folder, "hang")
        self.SERVER_FLAGS = ["--grace-seconds", "2"]
        server, address = self.serve_on(MF_HANG=hang)
        worker = self.train("worker", [address])
        self.wait_for("a snapshot", lambda: self.metric(0, "mf_snapshot_last_step") >= 4)
        self.assertEqual(self.health(), (200, "ok\n"))
        with open(hang, "w", encoding="ascii"):
            pass
        self.wait_for("trouble", lambda: self.health()[0] == 503)
        self.assertRegex(self.health()[1], r"the disk of --data has not answered for \d+ s")
        self.assertGreaterEqual(self.metric(0, "mf_data_busy_seconds"), 10)
        steps, saved = self.steps("worker"), self.metric(0, "mf_snapshot_last_step")
        self.wait_for_steps("worker", steps + 20)
        self.assertEqual(self.metric(0, "mf_snapshot_last_step"), saved)
        # It is well again, and so are snapshots.
        os.remove(hang)
        self.wait_for("health", lambda: self.health() == (200, "ok\n"))
        self.wait_for("snapshots", lambda: self.metric(0, "mf_snapshot_last_step") > saved)
        with open(hang, "w", encoding="ascii"):
            pass
        self.wait_for_steps("worker", self.steps("worker") + 20)
        server.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        self.assertEqual(server.wait(DEADLINE), 1, self.log("pserver-0"))
        self.assertLess(time.monotonic() - begin, 10)
        self.assertIn("was not saved within 2 s", self.log("pserver-0"))
        worker.kill()


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], "-v"])
