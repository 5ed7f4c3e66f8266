"""Goal: a server whose memory ends in the middle of a run goes on when there is some again: two real servers,
one of which is given less than it asks for, again and again, for a second each time. The model is the one of
an undisturbed run, to the bit. A server may be ended by what is not ours (libzmq and RocksDB's own threads end
the process where they find no memory): then it is started again, as whoever runs it would.

Usage: short_memory_test.py PATH_OF_WORKER PATH_OF_PSERVER [--trials N]"""

import argparse
import random
import resource
import sys
import time
import unittest

from cluster_case import CONFIG, DEADLINE, ClusterCase

TRIALS = 6


def address_space(pid: int) -> int:
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


class ShortMemory(ClusterCase):
    # Sparse tables grow, and larger messages need memory that was not there before.
    CONFIG = CONFIG.replace("K = 8", "K = 4").replace("tau = 8", "tau = 16").replace("micro_batches = 4", "micro_batches = 2") + \
        "[snapshot]\nevery_steps = 5\n"
    STEPS = 40
    SERVER_FLAGS = ["--memory", "1000000"]

    def test_memory_that_ends_and_comes_back(self) -> None:
        seed = SEED or random.randrange(1 << 32)
        print(f"--seed {seed}", flush=True)
        draw = random.Random(seed)
        expected = self.embedded()
        servers = [self.serve(shard, 2) for shard in (0, 1)]
        addresses = [address for _, address in servers]
        processes = [process for process, _ in servers]

        def begin_worker():
            return self.train("worker", addresses, "--set", "exchange.deadline_seconds=20")

        worker = begin_worker()
        cut = ended = worker_ends = 0

        def start_again() -> bool:
            """Whoever has ended; True once the run is over."""
            nonlocal worker, ended, worker_ends
            for shard in (0, 1):
                if processes[shard].poll() is not None:
                    ended += 1
                    processes[shard], _ = self.serve(shard, 2, addresses[shard], "state-1")
            if worker.poll() in (None, 0):
                return worker.poll() == 0
            self.assertEqual(worker.returncode, 1, self.log("worker"))  # it was told that there is no memory
            worker_ends += 1
            worker = begin_worker()
            return False

        for _ in range(TRIALS):
            shard = draw.randrange(2)
            time.sleep(draw.uniform(0.2, 1))
            if start_again():
                break
            cut += 1
            pid = processes[shard].pid
            room = draw.choice([0, 64 << 10, 1 << 20, 8 << 20])
            try:
                _, most = resource.prlimit(pid, resource.RLIMIT_AS)
                resource.prlimit(pid, resource.RLIMIT_AS, (address_space(pid) + room, most))
                time.sleep(draw.uniform(0.2, 1))
                resource.prlimit(pid, resource.RLIMIT_AS, (most, most))
            except (ProcessLookupError, FileNotFoundError, ValueError):
                pass  # it has ended
        end = time.monotonic() + DEADLINE
        while not start_again():
            self.assertLess(time.monotonic(), end, self.log("worker"))
            time.sleep(0.1)
        self.assertEqual(self.result("worker"), expected)
        said = [line.split("] ", 2)[-1] for shard in (0, 1) for line in self.log(f"pserver-{shard}").splitlines()
                if "memory" in line and "GiB of memory" not in line]
        print(f"{cut} times; {ended} servers and {worker_ends} workers were started again; the servers said:",
              *sorted(set(said)), sep="\n  ", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("worker")
    parser.add_argument("pserver")
    parser.add_argument("--trials", type=int, default=TRIALS)
    parser.add_argument("--seed", type=int, default=0)
    arguments, rest = parser.parse_known_args()
    ShortMemory.WORKER, ShortMemory.PSERVER = arguments.worker, arguments.pserver
    TRIALS, SEED = arguments.trials, arguments.seed
    unittest.main(argv=sys.argv[:1] + rest)
