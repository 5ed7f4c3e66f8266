"""Goal: servers and workers as processes over TCP give the model that one process gives, byte for byte,
whatever is killed on the way; and what does not belong together is refused by name. Every process
listens on a port that the system chose. Usage: cluster_test.py PATH_OF_WORKER PATH_OF_PSERVER"""

import os
import signal
import subprocess
import sys
import unittest

from cluster_case import DEADLINE, ClusterCase as Cluster, words

if len(sys.argv) > 2:
    Cluster.PSERVER = sys.argv.pop(2)
    Cluster.WORKER = sys.argv.pop(1)
STEPS = Cluster.STEPS


class OneResult(Cluster):
    def test_any_number_of_servers_and_workers(self) -> None:
        expected = self.embedded()
        for servers, workers in ((1, 1), (2, 2), (3, 3)):
            with self.subTest(servers=servers, workers=workers):
                running = [self.serve(shard, servers) for shard in range(servers)]
                names = [f"w{servers}-{i}" for i in range(workers)]
                started = [self.train(name, [address for _, address in running]) for name in names]
                for name, process in zip(names, started):
                    self.finish(name, process)
                    self.assertEqual(self.result(name), expected)
                for process, _ in running:
                    process.send_signal(signal.SIGTERM)
                    self.assertEqual(process.wait(DEADLINE), 0)

    def test_a_late_worker_gets_the_whole_run(self) -> None:
        expected = self.embedded()
        address = self.serve(0, 1)[1]
        self.finish("first", self.train("first", [address]))
        self.finish("late", self.train("late", [address]))
        self.assertEqual(self.result("late"), expected)


class Faults(Cluster):
    def test_a_killed_worker_is_replaced(self) -> None:
        expected = self.embedded()
        servers = [self.serve(shard, 2)[1] for shard in range(2)]
        victim = self.train("victim", servers)
        stays = self.train("stays", servers)
        self.wait_for_steps("victim", 10)
        victim.kill()
        done = self.steps("stays")
        self.assertLess(done, STEPS - 5)
        self.finish("stays", stays)
        self.assertEqual(self.result("stays"), expected)

    def test_a_restarted_server_is_noticed(self) -> None:
        expected = self.embedded()
        for which in (1, 0):
            with self.subTest(server=which):
                servers = [self.serve(shard, 2) for shard in range(2)]
                addresses = [address for _, address in servers]
                name = f"survivor-{which}"
                worker = self.train(name, addresses)
                self.wait_for_steps(name, 10)
                self.assertLess(self.steps(name), STEPS - 5)
                servers[which][0].kill()
                servers[which][0].wait()
                again = self.serve(which, 2, addresses[which])[0]
                self.finish(name, worker)
                self.assertEqual(self.result(name), expected)
                self.assertIn("goes back to step 0", self.log(name))
                for process in (servers[1 - which][0], again):
                    process.send_signal(signal.SIGTERM)
                    self.assertEqual(process.wait(DEADLINE), 0)


class Refusals(Cluster):
    def refused(self, name: str, process: subprocess.Popen, code: int, *words_of_message: str) -> None:
        self.assertEqual(process.wait(DEADLINE), code, self.log(name))
        line = self.log(name).strip().splitlines()[-1]
        for word in words_of_message:
            self.assertIn(word, line)

    def test_another_configuration(self) -> None:
        address = self.serve(0, 1)[1]
        self.STEPS = 1_000_000  # another run is refused for as long as this one goes on
        first = self.train("first", [address])
        self.wait_for_steps("first", 1)
        other = self.train("other", [address], "--set", "train.lr=0.5")
        self.refused("other", other, 2, "train.lr", "0.5")
        self.data = self.write("other.txt", words(5000, 7))
        self.refused("data", self.train("data", [address]), 2, "other data")
        self.assertIsNone(first.poll())
        first.kill()

    def test_servers_in_the_wrong_order_or_number(self) -> None:
        servers = [self.serve(shard, 2)[1] for shard in range(2)]
        self.refused("order", self.train("order", servers[::-1]), 2, servers[1], "shard 1 of 2")
        self.refused("few", self.train("few", servers[:1]), 2, servers[0], "0 of 2")
        self.refused("twice", self.train("twice", [servers[0]] * 2), 2, servers[0], "named twice")

    def test_a_missing_server_is_named(self) -> None:
        address = self.serve(0, 2)[1]
        nobody = "tcp://127.0.0.1:1"
        worker = self.train("waits", [address, nobody], "--set", "exchange.deadline_seconds=7")
        self.refused("waits", worker, 1, "server 1", nobody, "hello")
        self.assertIn("waiting since", self.log("waits"))

    def serve_refused(self, name: str, code: int, word: str, *flags: str) -> None:
        result = subprocess.run([self.PSERVER, "serve", *flags], capture_output=True, text=True, check=False,
                                timeout=DEADLINE)
        self.assertEqual(result.returncode, code, name)
        self.assertIn(word, result.stderr)
        self.assertEqual(result.stderr.count("\n"), 1, result.stderr)
        self.assertEqual(result.stdout, "")

    def test_servers_that_may_not_start(self) -> None:
        state = os.path.join(self.folder, "state")
        here = ["--listen", "tcp://127.0.0.1:0", "--data", state]
        self.serve_refused("beyond loopback", 2, "--insecure", "--listen", "tcp://0.0.0.0:0", "--shard",
                           "0/1", "--data", state)
        self.serve_refused("shard", 2, "--shard 2/2", *here, "--shard", "2/2")
        self.serve_refused("address", 2, "--listen", "--listen", "tcp://127.0.0.1:99999", "--shard",
                           "0/1", "--data", state)
        self.serve_refused("no folder", 2, self.config, "--listen", "tcp://127.0.0.1:0", "--shard", "0/1",
                           "--data", os.path.join(self.config, "below"))
        _, address = self.serve(0, 1, state="state")
        self.serve_refused("folder in use", 1, state, *here, "--shard", "0/1")
        self.serve_refused("port in use", 1, address, "--listen", address, "--shard", "0/1", "--data",
                           os.path.join(self.folder, "elsewhere"))


if __name__ == "__main__":
    unittest.main()
