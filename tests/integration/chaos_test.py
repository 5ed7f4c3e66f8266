"""Goal: workers that are killed, held for longer than their leases and started again at random moments do
not change the result by a bit, nor do they hang the run. Faults come when the run has reached steps that
are drawn before; in the end every worker has the whole run and the model of an undisturbed process.
Usage: chaos_test.py PATH_OF_WORKER PATH_OF_PSERVER [--trials N] [--seed S]"""

import argparse
import os
import random
import signal
import time
import unittest

from cluster_case import DEADLINE, ClusterCase, Place

SERVERS = 2
WORKERS = 3
FAULTS = 20
MARGIN = 8  # steps before the first and after the last fault; fewer than 5 done there fail
LEASE = 1.0
ARGUMENTS = argparse.Namespace(trials=1, seed=0)


class Chaos(ClusterCase):
    CONFIG = ClusterCase.CONFIG.replace("lease_seconds = 2", f"lease_seconds = {LEASE}")
    STEPS = 240

    def done(self, victims: list[Place]) -> int:
        return max(self.steps(victim.name) for victim in victims)

    def reach(self, step: int, victims: list[Place]) -> None:
        """Waits until the run has done `step` steps, and brings back workers whose time has come."""
        end = time.monotonic() + DEADLINE
        while self.done(victims) < step:
            now = time.monotonic()
            self.assertLess(now, end, f"step {step} is not reached, {self.done(victims)} are done")
            for victim in victims:
                if 0 < victim.back <= now:
                    victim.come_back()
            time.sleep(0.01)

    def trial(self, draw: random.Random, number: int, expected: tuple[str, list[str]]) -> None:
        servers = [self.serve(shard, SERVERS) for shard in range(SERVERS)]
        addresses = [address for _, address in servers]
        names = [f"worker-{number}-{i}" for i in range(WORKERS)]
        victims = [Place(lambda name=name: self.train(name, addresses), name) for name in names]
        moments = sorted(draw.randint(MARGIN, self.STEPS - 3 * MARGIN) for _ in range(FAULTS))
        kills = holds = 0
        first = last = 0
        for moment in moments:
            self.reach(moment, victims)
            last = self.done(victims)
            first = first or last
            victim = draw.choice(victims)
            now = time.monotonic()
            if victim.back > 0 and (victim.dead or draw.random() < 0.5):
                victim.come_back()  # and falls at once
            if victim.back > 0 or draw.random() < 0.4:
                victim.kill(now + draw.uniform(0, LEASE))  # also while it is held
                kills += 1
            else:
                victim.hold(now + draw.uniform(1.2, 2) * LEASE)
                holds += 1
        self.assertGreaterEqual(first, 5, "the first fault came too early to test anything")
        self.assertGreaterEqual(self.STEPS - last, 5, "the last fault came too late to test anything")
        for victim in victims:
            victim.come_back()
        for victim in victims:
            self.finish(victim.name, victim.process)
            self.assertEqual(self.result(victim.name), expected)
        print(f"trial {number}: {kills} killed, {holds} held, between steps {first} and {last}", flush=True)
        for process, _ in servers:
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(DEADLINE), 0)

    def test_workers_come_and_go(self) -> None:
        seed = ARGUMENTS.seed or int.from_bytes(os.urandom(4), "little")
        print(f"--seed {seed}", flush=True)
        expected = self.embedded()
        for number in range(ARGUMENTS.trials):
            with self.subTest(seed=seed, trial=number):
                self.trial(random.Random(seed + number), number, expected)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("worker")
    parser.add_argument("pserver")
    parser.add_argument("--trials", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0, help="0: another one every time")
    parser.parse_args(namespace=ARGUMENTS)
    ClusterCase.WORKER, ClusterCase.PSERVER = ARGUMENTS.worker, ARGUMENTS.pserver
    unittest.main(argv=["chaos_test.py"])
