"""Goal: a model is used at the servers of its run as its export is: the same text, losses and answers, for any number
of servers and either exchange; while the run goes on, text comes of it and the run's result is what it would be.
Usage: served_test.py PATH_OF_WORKER PATH_OF_PSERVER"""

import json
import os
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../integration"))
from cluster_case import DEADLINE, ClusterCase, words  # pylint: disable=wrong-import-position

ClusterCase.PSERVER = os.path.abspath(sys.argv.pop(2))
ClusterCase.WORKER = os.path.abspath(sys.argv.pop(1))

PROMPT = ["--prompt", "the small river"]
# A choice of 90 bytes and one of 80: more tokens in a pass than servers take at once.
TASK = {"context": "the small river", "answer": 0,
        "choices": [" runs under old stones" * 4, " never stops for rain" * 4]}


class Served(ClusterCase):
    CONFIG = ClusterCase.CONFIG.replace("batch = 2", "batch = 1").replace("sequence = 64", "sequence = 128")
    STEPS = 40

    def used(self, *command: str, code: int = 0) -> subprocess.CompletedProcess:
        done = subprocess.run([self.WORKER, *command], capture_output=True, text=True, errors="surrogateescape",
                              timeout=DEADLINE, check=False)  # the text of a young model of bytes is anything
        self.assertEqual(done.returncode, code, (command, done.stderr))
        return done

    def trained(self, shards: int, *more: str) -> list[str]:
        addresses = [self.serve(shard, shards)[1] for shard in range(shards)]
        self.finish("run", self.train("run", addresses, *more))
        return addresses

    def same(self, servers: list[str], *more: str) -> None:
        task = self.write("task.jsonl", json.dumps(TASK) + "\n")
        for command in (["generate", *PROMPT, "--tokens", "300", "--temperature", "0"],
                        ["generate", *PROMPT, "--tokens", "40", "--seed", "7", "--samples", "2"],
                        ["eval", "--data", self.data, "--windows", "3", "--stride", "50"],
                        ["score", "--text", self.config, "--per-token"],
                        ["tasks", "--tasks", task, "--each", "--json"]):
            command = [*command, "--threads", "1"]
            of_export = self.used(*command, "--model", self.model("run")).stdout
            self.assertGreater(len(of_export), 20)
            self.assertEqual(self.used(*command, "--pservers", ",".join(servers), *more).stdout, of_export, command)
        self.used("export", "--pservers", ",".join(servers), *more, "--out", self.model("exported"))
        with open(self.model("run"), "rb") as expected, open(self.model("exported"), "rb") as exported:
            self.assertEqual(expected.read(), exported.read())


class AsTheExport(Served):
    def test_three_servers(self) -> None:
        self.same(self.trained(3))

    def test_read_only_servers(self) -> None:
        """Of a snapshot, three servers' by two."""
        self.trained(3)
        folder = os.path.join(self.folder, f"state-{self.clusters}")
        servers = []
        for shard in range(2):
            process = self.start([self.PSERVER, "serve", "--read-only", "--from", folder, "--shard", f"{shard}/2",
                                  "--listen", "tcp://127.0.0.1:0"], f"read-only-{shard}.log")
            servers.append(process.stdout.readline().split()[1])
        self.same(servers)

    def test_one_server_with_rows_that_workers_pull(self) -> None:
        self.same(self.trained(1, "--set", "exchange.mode=\"pull\""))

    def test_with_keys(self) -> None:
        keys = os.path.join(self.folder, "keys")
        subprocess.run([self.PSERVER, "keygen", "--out", keys], check=True, capture_output=True, timeout=DEADLINE)
        address = self.serve(0, 1, keys=os.path.join(keys, "server"))[1]
        client = ["--keys", os.path.join(keys, "client")]
        self.finish("run", self.train("run", [address], *client))
        self.same([address], *client)


class WhileTheRunGoesOn(Served):
    STEPS = 100

    def test_text_and_the_same_result(self) -> None:
        expected = self.embedded()
        addresses = [self.serve(shard, 2)[1] for shard in range(2)]
        servers = ["--pservers", ",".join(addresses)]
        process = self.train("run", addresses)
        self.wait_for_steps("run", 2)
        texts = moved = 0
        while process.poll() is None:
            said = self.used("generate", *PROMPT, "--tokens", "3", "--threads", "1", *servers).stdout
            self.assertTrue(said.startswith("the small river"), said)
            texts += process.poll() is None
            loss = subprocess.run([self.WORKER, "eval", "--data", self.data, "--windows", "20", "--threads", "1",
                                   *servers], capture_output=True, text=True, timeout=DEADLINE, check=False)
            if loss.returncode != 0:
                self.assertEqual(loss.returncode, 1, loss.stderr)
                self.assertIn("the run went on while its state was read; wait until it ends", loss.stderr)
                moved += 1
        self.finish("run", process)
        self.assertGreater(texts, 0)
        self.assertGreater(moved, 0)
        self.assertEqual(self.result("run"), expected)


class Forgotten(Served):
    STEPS = 4

    def test_by_the_servers_among_many(self) -> None:
        servers = ["--pservers", ",".join(self.trained(2))]
        score = ["score", "--threads", "1", "--text", self.write("long.txt", words(70_000, 2))]
        expected = self.used(*score, "--model", self.model("run")).stdout
        process = self.start([self.WORKER, *score, *servers], "score.log")
        for _ in range(13):  # 260 observers
            others = [self.start([self.WORKER, "buckets", *servers], "buckets.log") for _ in range(20)]
            for other in others:
                self.assertEqual(other.wait(DEADLINE), 0, self.log("buckets"))
        self.assertEqual(process.communicate(timeout=DEADLINE)[0], expected, self.log("score"))

    def test_by_a_server_that_was_killed(self) -> None:
        first, second = self.serve(0, 2), self.serve(1, 2)
        addresses = [first[1], second[1]]
        more = ["--steps", "100000", "--set", "snapshot.every_steps=5"]
        worker = self.train("run", addresses, *more)
        self.wait_for_steps("run", 12)
        generate = self.start([self.WORKER, "generate", "--pservers", ",".join(addresses), *PROMPT, "--tokens",
                               "100000", "--threads", "1"], "generate.log")
        generate.stdout.buffer.read(40)
        second[0].kill()
        second[0].wait()
        self.serve(1, 2, listen=addresses[1], state="state-1")
        self.wait_for("a recovery", lambda: "were recovered" in self.log("run"))
        steps = self.steps("run")
        self.wait_for_steps("run", steps + 5)
        self.assertIsNone(generate.poll(), self.log("generate"))
        self.assertTrue(generate.stdout.buffer.read(4))
        for process in (generate, worker):
            process.kill()
            process.wait()


class Refused(Served):
    def test_in_words(self) -> None:
        addresses = [self.serve(shard, 2)[1] for shard in range(2)]
        generate = ["generate", *PROMPT]
        servers = ["--pservers", ",".join(addresses)]
        self.assertIn("no training has begun on this server", self.used(*generate, *servers, code=1).stderr)
        self.assertIn("--model or --pservers is required", self.used(*generate, code=2).stderr)
        self.assertIn("--from or --pservers is required", self.used("export", "--out", "x.safetensors", code=2).stderr)
        self.assertIn("--model", self.used(*generate, *servers, "--model", "x", code=2).stderr)
        self.assertIn("--keys", self.used(*generate, "--keys", "x", code=2).stderr)
        self.finish("run", self.train("run", addresses, "--steps", "2"))
        swapped = ["--pservers", ",".join(reversed(addresses))]
        self.assertIn("asked for shard 0 of 2, this is shard 1 of 2", self.used(*generate, *swapped, code=2).stderr)
        self.assertIn("this is shard 0 of 2", self.used(*generate, "--pservers", addresses[0], code=2).stderr)


if __name__ == "__main__":
    unittest.main()
