"""Goal: eight workers on two servers, more than the machine has cores, share the work evenly: what each did
is within a factor of two of the mean, no lease ends before its work is handed in, and fewer than 1 in 100
requests were sent again. The result is that of one process. Usage: overload_test.py PATH_OF_WORKER PATH_OF_PSERVER"""

import re
import sys
import unittest

from cluster_case import ClusterCase

ClusterCase.PSERVER = sys.argv.pop(2)
ClusterCase.WORKER = sys.argv.pop(1)
WORKERS = 8


class Overload(ClusterCase):
    # Enough micro-batches for all lanes of all workers; a wide window, so that none waits for it.
    CONFIG = ClusterCase.CONFIG.replace("micro_batches = 4", "micro_batches = 32\nwindow = 32").replace(
        "lease_seconds = 2", "lease_seconds = 30")
    STEPS = 60  # long beside the time that workers take to start

    def test_the_work_is_shared(self) -> None:
        expected = self.embedded()
        servers = [self.serve(shard, 2)[1] for shard in range(2)]
        workers = {f"w{i}": self.train(f"w{i}", servers) for i in range(WORKERS)}
        for name, process in workers.items():
            self.finish(name, process)
            self.assertEqual(self.result(name), expected)
        done, again = [], 0
        for name in workers:
            found = re.search(r"did (\d+) micro-batches; (\d+) requests were sent again", self.log(name))
            done.append(int(found[1]))
            again += int(found[2])
        expired = self.metric(0, "mf_lease_expired_total")
        print(f"micro-batches {done}, {again} requests sent again, {expired:.0f} leases expired", flush=True)
        self.assertEqual(self.metric(0, 'mf_step_seconds_count{phase="commit"}'), self.STEPS)
        self.assertEqual(expired, 0)
        mean = sum(done) / len(done)
        self.assertGreaterEqual(sum(done), 32 * self.STEPS)
        self.assertLessEqual(max(done), 2 * mean)
        self.assertGreaterEqual(min(done), mean / 2)
        # A micro-batch is at least ten requests to each server.
        self.assertLess(again, sum(done) * 20 / 100)


if __name__ == "__main__":
    unittest.main()
