"""Goal: bucket statistics of a running cluster are exact and the same for 1, 2 and 3 servers, for pull and
pushdown, and with workers that are killed on the way; evaluation is not counted. /metrics of both programs
tells the same. Usage: buckets_test.py PATH_OF_WORKER PATH_OF_PSERVER"""

import json
import subprocess
import sys
import time
import unittest

from cluster_case import DEADLINE, ClusterCase

ClusterCase.PSERVER = sys.argv.pop(2)
ClusterCase.WORKER = sys.argv.pop(1)
TABLES, TOKENS, PER_STEP = 8, 64 * 2, 4  # of CONFIG: K, tokens of a micro-batch, micro-batches
LAYERS = [f"blocks.{block}.{layer}" for block in range(2) for layer in ("qkv", "m1", "m2")]


class Buckets(ClusterCase):
    CONFIG = ClusterCase.CONFIG.replace("eval_every = 20", "eval_every = 3")
    STEPS = 30

    def hits(self) -> int:
        """Of every table."""
        return TOKENS * PER_STEP * self.STEPS

    def buckets(self, addresses: list[str]) -> dict:
        done = subprocess.run([self.WORKER, "buckets", "--pservers", ",".join(addresses), "--json"],
                              capture_output=True, text=True, timeout=DEADLINE, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def check_exact(self, seen: dict) -> None:
        self.assertEqual(seen["step"], self.STEPS)
        self.assertEqual([layer["layer"] for layer in seen["layers"]], LAYERS)
        for layer in seen["layers"]:
            self.assertEqual(len(layer["tables"]), TABLES)
            for table in layer["tables"]:
                self.assertEqual(table["hits"], self.hits(), layer["layer"])
                self.assertEqual(sum(table["bins"]), self.hits())
                self.assertEqual(table["rows"], 1024 if layer["layer"].endswith("m2") else 256)
                self.assertGreater(table["coverage_ratio"], 0)
                self.assertAlmostEqual(table["dead"], table["rows"] * (1 - table["coverage_ratio"]))
                self.assertTrue(0 < table["entropy_ratio"] <= 1)
                self.assertTrue(table["entropy_ratio"] + table["top1_ratio"] > 1 / table["rows"])

    def serve(self, shard: int, shards: int):
        started = super().serve(shard, shards)
        self.servers.append(started[0])
        return started

    def setUp(self) -> None:
        super().setUp()
        self.servers: list[subprocess.Popen] = []

    def end_servers(self) -> None:
        for process in self.servers:
            process.terminate()
            self.assertEqual(process.wait(DEADLINE), 0)
        self.servers.clear()

    def run_once(self, shards: int, mode: str, kill: bool = False) -> tuple[dict, list[str]]:
        self.end_servers()
        addresses = [self.serve(shard, shards)[1] for shard in range(shards)]
        name = f"{mode}-{shards}{'-killed' if kill else ''}"
        if kill:
            victim = self.train(name + "-victim", addresses, "--set", f"exchange.mode={mode}")
            self.wait_for_steps(name + "-victim", 5)
            victim.kill()
        self.finish(name, self.train(name, addresses, "--set", f"exchange.mode={mode}"))
        return self.buckets(addresses), addresses

    def test_the_same_for_any_number_of_servers(self) -> None:
        for mode in ("pushdown", "pull"):
            one, _ = self.run_once(1, mode)
            self.check_exact(one)
            for shards in (2, 3):
                self.assertEqual(self.run_once(shards, mode)[0], one, f"{mode}, {shards} servers")
            killed, _ = self.run_once(2, mode, kill=True)
            self.assertEqual(killed, one, f"{mode}, a worker killed")

    def test_what_the_table_shows(self) -> None:
        _, addresses = self.run_once(2, "pushdown")
        done = subprocess.run([self.WORKER, "buckets", "--pservers", ",".join(addresses), "--tables"],
                              capture_output=True, text=True, timeout=DEADLINE, check=False)
        lines = done.stdout.splitlines()
        self.assertEqual(len(lines), 2 + len(LAYERS) * (1 + TABLES), done.stdout)
        self.assertIn(f"step {self.STEPS};", lines[0])
        self.assertEqual(lines[2].split()[:4], ["blocks.0.qkv", "8", "2048", str(TABLES * self.hits())])

    def test_who_can_not_be_asked(self) -> None:
        addresses = [self.serve(shard, 2)[1] for shard in range(2)]
        for servers, code, said in ((addresses, 1, "no training has begun"),
                                    (addresses[:1], 2, "shard 0 of 1"),
                                    (addresses[::-1], 2, "shard 0 of 2, this is shard 1 of 2")):
            done = subprocess.run([self.WORKER, "buckets", "--pservers", ",".join(servers)],
                                  capture_output=True, text=True, timeout=DEADLINE, check=False)
            self.assertEqual((done.returncode, done.stderr.count("\n")), (code, 1), done.stderr)
            self.assertIn(said, done.stderr)

    def test_metrics_of_both_programs(self) -> None:
        self.STEPS = 300  # long enough to look at the worker while it works
        servers = [self.serve(shard, 2)[1] for shard in range(2)]
        worker = self.train("worker", servers, "--metrics", "127.0.0.1:0")
        self.wait_for_steps("worker", 3)
        port = self.log("worker").split("metrics on 127.0.0.1:")[1].split()[0]
        seen = self.scrape(f"127.0.0.1:{port}")
        for series in ("mf_step", "mf_train_loss", "mf_train_tokens_total",
                       'mf_wire_bytes_total{direction="sent",op="forward"}',
                       'mf_request_seconds_count{op="backward"}'):
            self.assertGreater(seen[series], 0, series)
        self.assertEqual(self.metric(0, "mf_workers_live"), 1)
        self.finish("worker", worker)
        for shard in range(2):
            self.assertEqual(self.metric(shard, "mf_step"), self.STEPS)
            self.assertEqual(self.metric(shard, "mf_recoveries_total"), 1)
            self.assertEqual(self.metric(shard, "mf_steps_dropped_total"), 0)
            forwards = self.metric(shard, 'mf_request_seconds_count{op="forward"}')
            self.assertGreaterEqual(forwards, self.STEPS * PER_STEP * len(LAYERS))
            self.assertGreater(self.metric(shard, 'mf_wire_bytes_total{direction="received",op="forward"}'),
                               forwards * TABLES * TOKENS * 5)
        self.assertEqual(self.metric(0, "mf_lease_expired_total"), 0)
        for phase in ("micro_batches", "commit"):
            self.assertEqual(self.metric(0, f'mf_step_seconds_count{{phase="{phase}"}}'), self.STEPS)
        # Tables are looked at one after the other.
        end = time.monotonic() + DEADLINE
        series_of = [f'mf_bucket_hits_total{{layer="{layer}"}}' for layer in LAYERS]
        while any(self.metric(0, series) != TABLES * self.hits() for series in series_of):
            self.assertLess(time.monotonic(), end, str(self.scrape(self.metrics[0])))
            time.sleep(0.1)
        of_one, of_other = (set(self.scrape(self.metrics[shard])) for shard in range(2))
        self.assertEqual([s for s in of_other if s.startswith(("mf_bucket", "mf_lease", "mf_workers"))], [])
        self.assertEqual(len({s for s in of_one if s.startswith("mf_bucket_bin_hits_total")}),
                         len(LAYERS) * 2 * 64)
        for layer in LAYERS:
            self.assertGreater(self.metric(0, f'mf_table_rows{{layer="{layer}"}}'), 0)
            self.assertGreater(self.metric(0, f'mf_bucket_entropy_ratio{{layer="{layer}",stat="worst"}}'), 0)


if __name__ == "__main__":
    unittest.main()
