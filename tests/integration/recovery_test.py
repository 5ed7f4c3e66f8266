"""Goal: nothing is lost. Servers and workers that are killed at random moments and started again, one, or all
servers at once, or held for longer than a lease, change nothing: the run goes back to the newest step that
every server has on disk, and the model is that of an undisturbed process, byte by byte.
Usage: recovery_test.py PATH_OF_WORKER PATH_OF_PSERVER [--trials N] [--seed S]"""

import argparse
import os
import random
import signal
import time
import unittest

from cluster_case import DEADLINE, ClusterCase, Place

SERVERS = 3
WORKERS = 3
FAULTS = 5  # a run
MARGIN = 6  # steps committed before, between and after faults; fewer than 5 fail
LEASE = 1.0
ARGUMENTS = argparse.Namespace(trials=25, seed=0)


class Recovery(ClusterCase):
    CONFIG = ClusterCase.CONFIG.replace("lease_seconds = 2", f"lease_seconds = {LEASE}") + (
        "[snapshot]\nevery_steps = 5\n[exchange]\ndeadline_seconds = 100\n")
    STEPS = 180

    def done(self) -> int:
        """The furthest step that a worker was told of."""
        return max(self.steps(name) for name in self.names)

    def reach(self, step: int) -> None:
        end = time.monotonic() + DEADLINE
        while self.done() < step:
            now = time.monotonic()
            self.assertLess(now, end, f"step {step} is not reached, {self.done()} are done")
            for place in self.places:
                if 0 < place.back <= now:
                    place.come_back()
            time.sleep(0.01)

    def fault(self, draw: random.Random) -> str:
        """One of everything that can happen to processes."""
        now = time.monotonic()
        kind = draw.choice(["server", "server", "server", "worker", "worker", "all servers", "hold server",
                            "hold worker", "everything"])
        servers, workers = self.places[:SERVERS], self.places[SERVERS:]
        if kind == "all servers":
            for place in servers:
                place.kill(now + draw.uniform(0, LEASE))
        elif kind == "everything":
            for place in self.places:
                place.kill(now + draw.uniform(0, LEASE))
        else:
            place = draw.choice(servers if "server" in kind else workers)
            if kind.startswith("hold"):
                place.hold(now + draw.uniform(1.2, 2) * LEASE)
            else:
                place.kill(now + draw.uniform(0, LEASE))
        return kind

    def run_once(self, draw: random.Random, number: int, faults: int, expected) -> None:
        state = f"state-{number}"
        listens = ["tcp://127.0.0.1:0"] * SERVERS

        def server(shard: int):
            process, listens[shard] = self.serve(shard, SERVERS, listens[shard], state)
            return process

        self.names = [f"worker-{number}-{i}" for i in range(WORKERS)]
        self.places = [Place(lambda shard=shard: server(shard)) for shard in range(SERVERS)]
        self.places += [Place(lambda name=name: self.train(name, listens)) for name in self.names]
        said = []
        share = self.STEPS // (faults + 1)
        for i in range(faults):
            self.reach(i * share + draw.randint(MARGIN, share))
            time.sleep(draw.uniform(0, 0.02))
            at = self.done()
            said.append(f"{self.fault(draw)} at {at}")
            self.assertGreaterEqual(at, 5)
            self.assertGreaterEqual(self.STEPS - at, 5, "the fault came too late to test anything")
            self.reach(at + 5)
            for place in self.places:
                place.come_back()
        for name, place in zip(self.names, self.places[SERVERS:]):
            self.finish(name, place.process)
            self.assertEqual(self.result(name), expected, said)
        recoveries = sum(self.metric(shard, "mf_recoveries_total") for shard in range(SERVERS))
        print(f"run {number}: {'; '.join(said)}; {recoveries:.0f} rollbacks", flush=True)
        for place in self.places[:SERVERS]:
            place.process.send_signal(signal.SIGTERM)
            self.assertEqual(place.process.wait(DEADLINE), 0)

    def test_processes_come_and_go(self) -> None:
        seed = ARGUMENTS.seed or int.from_bytes(os.urandom(4), "little")
        print(f"--seed {seed}", flush=True)
        expected = self.embedded()
        left = ARGUMENTS.trials
        for number in range((left + FAULTS - 1) // FAULTS):
            with self.subTest(seed=seed, run=number):
                self.run_once(random.Random(seed + number), number, min(FAULTS, left), expected)
            left -= FAULTS


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("worker")
    parser.add_argument("pserver")
    parser.add_argument("--trials", type=int, default=25, help="faults, each with steps before and after it")
    parser.add_argument("--seed", type=int, default=0, help="0: another one every time")
    parser.parse_args(namespace=ARGUMENTS)
    ClusterCase.WORKER, ClusterCase.PSERVER = ARGUMENTS.worker, ARGUMENTS.pserver
    unittest.main(argv=["recovery_test.py"])
