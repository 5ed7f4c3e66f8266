"""The benchmarks' scripts run, and what they compare with is what they say. No time is asserted.
Usage: scripts_test.py PATH_OF_WORKER PATH_OF_PSERVER PATH_OF_REPLAY_BENCH"""

import contextlib
import dataclasses
import io
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

import gpu_training
import network
import scaling_bench
import scaling_model
import scaling_page
from cluster import Cluster, scrape, text
from report import Report
from scaling_model import Machine, Shape, largest_share, predict, visits

try:
    import torch
except ImportError:
    torch = None

WORKER = PSERVER = REPLAY = ""
SMALL = Shape(d=64, layers=1, K=8, tau=8, tokens=128)
MACHINE = Machine(worker_token=1e-5, forward_bytes=4e9, backward_bytes=2e9, commit_bytes=1e10, request=5e-5,
                  worker_port=1e9, server_port=1e9, payload=0.95, io_thread=1e9)


class ModelTest(unittest.TestCase):
    """scaling_model.py against what can be had by hand."""

    def test_alone_a_micro_batch_takes_the_sum_of_its_parts(self) -> None:
        for servers in (1, 2, 4):
            chain = visits(SMALL, MACHINE, servers)
            message = 8 / MACHINE.payload / MACHINE.worker_port * servers
            by_hand = sum(visit.worker + visit.server + MACHINE.request + (visit.up + visit.down) * message
                          for visit in chain)
            for micro_batches in (1, 3):
                step = predict(SMALL, MACHINE, 1, servers, micro_batches, in_flight=1, commit=0)
                self.assertAlmostEqual(step.seconds, micro_batches * by_hand, places=9)

    def test_a_step_lies_between_its_bounds(self) -> None:
        micro_batches = 16
        for workers in (1, 2, 5):
            for servers in (1, 2, 4):
                chain = visits(SMALL, MACHINE, servers)
                step = predict(SMALL, MACHINE, workers, servers, micro_batches, in_flight=4, commit=0).seconds
                alone = predict(SMALL, MACHINE, 1, servers, micro_batches, in_flight=1, commit=0).seconds
                busiest = micro_batches * max(
                    sum(visit.worker for visit in chain) / workers,
                    sum(visit.server + MACHINE.request for visit in chain),
                    sum(visit.up for visit in chain) * 8 / MACHINE.payload / MACHINE.server_port)
                self.assertGreaterEqual(step, busiest * (1 - 1e-9))
                self.assertLess(step, alone)

    def test_a_window_of_one_is_one_after_the_other(self) -> None:
        free = predict(SMALL, MACHINE, 2, 1, 6, in_flight=2, window=1, commit=0)
        alone = predict(SMALL, MACHINE, 1, 1, 6, in_flight=1, commit=0)
        self.assertAlmostEqual(free.seconds, alone.seconds, places=9)

    def test_shared_cores_do_no_more_than_they_can(self) -> None:
        shared = dataclasses.replace(MACHINE, cores=2, server_port=math.inf, worker_port=math.inf, io_thread=math.inf)
        chain = visits(SMALL, shared, 2)
        work = sum(visit.worker + 2 * (visit.server + MACHINE.request) for visit in chain)
        step = predict(SMALL, shared, 1, 2, 32, in_flight=8, commit=0).seconds
        self.assertGreaterEqual(step, 32 * work / 2 * (1 - 1e-9))
        self.assertLess(step, 32 * work)

    def test_columns_are_cut_as_the_servers_cut_them(self) -> None:
        self.assertEqual([largest_share(512, 0, servers) for servers in (1, 2, 3, 4, 8)], [512, 256, 192, 128, 64])
        self.assertEqual(largest_share(192, 4, 4), 48)
        self.assertEqual(largest_share(640, 0, 4), 192)  # 10 blocks: 2, 3, 2, 3


class PageTest(unittest.TestCase):
    """docs/SCALING.md is what the model says of the rates that are kept."""

    def test_page_and_plot_are_up_to_date(self) -> None:
        done = subprocess.run([sys.executable, "-B", scaling_page.__file__, "--check"], stderr=subprocess.PIPE,
                              text=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)


class ScriptsTest(unittest.TestCase):
    """The parts of the scripts on the smallest of runs."""

    def test_bytes_are_those_of_the_design(self) -> None:
        """As in the benchmark, with the headers' share that small messages have."""
        for servers in (1, 3):
            with Cluster(WORKER, PSERVER) as cluster:
                path = cluster.write("run.toml", scaling_bench.config(dataclasses.replace(SMALL, tokens=1024)))
                data = cluster.write("data.txt", text(30_000))
                for shard in range(servers):
                    cluster.serve(shard, servers)
                cluster.finish("worker", cluster.train("worker", path, data, ["train.steps=1"]))
                counted = [scrape(address) for address in cluster.metrics]
            for line in scaling_bench.bytes_lines(SMALL, servers, counted, scaling_bench.MICRO_BATCHES * 1024):
                self.assertGreaterEqual(line.measured, line.formula)
                self.assertLess(line.measured, 1.1 * line.formula, line)

    def test_steps_are_observed_over_links(self) -> None:
        """In a program of its own, which moves to a network namespace."""
        try:
            subprocess.run(["unshare", "--map-root-user", "--net", "true"], check=True, stderr=subprocess.DEVNULL)
        except (OSError, subprocess.CalledProcessError):
            self.skipTest("no network namespaces here")
        with tempfile.TemporaryDirectory() as folder:
            lines = os.path.join(folder, "lines")
            subprocess.run([sys.executable, "-B", os.path.join(os.path.dirname(network.__file__), "overlap_bench.py"),
                            WORKER, PSERVER, REPLAY, "--steps", "1", "--small", "--json", lines], check=True,
                           stdout=subprocess.DEVNULL)
            with open(lines, encoding="utf-8") as file:
                names = [json.loads(line)["name"] for line in file]
        self.assertIn("overlap: a step", names)

    def test_a_line_is_printed_and_kept(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "lines")
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                Report(path).line("name", 12.34, "MB/s", {"other": 0.5}, "note")
            self.assertRegex(out.getvalue(), r"^name +12\.3 MB/s +0\.50 x other; note\n$")
            with open(path, encoding="utf-8") as file:
                self.assertEqual(json.loads(file.read()), {"name": "name", "value": 12.34, "unit": "MB/s",
                                                           "ratios": {"other": 0.5}})

    def test_training_on_a_gpu_is_told_in_a_table(self) -> None:
        """With what can be had without one: a worker's steps, and one that cannot run."""
        with tempfile.TemporaryDirectory() as folder:
            config, data = os.path.join(folder, "run.toml"), os.path.join(folder, "tokens.bin")
            with open(config, "wb") as file:
                file.write(scaling_bench.config(dataclasses.replace(SMALL, tokens=512)))
            gpu_training.write_tokens(data, 200, 20_000)
            command = [WORKER, "train", "--config", config, "--data", data, "--steps", "2"]
            rows = [gpu_training.train(name, [*command, *more], {}, os.path.join(folder, name), 120)
                    for name, more in (("worker, dense baseline", ()), ("other", ("--set", "model.d=0")))]
        self.assertEqual([row.steps for row in rows], [2, 0])
        self.assertRegex(rows[1].note, "^FAILED, exit code 2: .*model.d")
        lines = gpu_training.table([rows[0], rows[0]._replace(name="twice", rate=2 * rows[0].rate), rows[1]]).splitlines()
        self.assertEqual([line.split()[-7:-3] for line in lines[2:3]], [[f"{2 * rows[0].rate:,.0f}", "2.00", "-", "2"]])
        self.assertRegex(lines[3], "^other +FAILED")

    @unittest.skipIf(shutil.which("nvidia-smi"), "there may be a GPU here")
    def test_without_a_gpu_nothing_is_done(self) -> None:
        done = subprocess.run([os.path.join(os.path.dirname(network.__file__), "gpu.sh"), "--quick"],
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (77, "", 1), done.stderr)

    @unittest.skipIf(torch is None, "no PyTorch here")
    def test_the_peer_on_a_gpu_is_the_same_model(self) -> None:
        """What gpu_torch.py times has the reference's loss and gradients."""
        import gpu_torch as peer
        torch.manual_seed(1)
        tokens = torch.randint(257, (2, 17))
        for projection, score in (("memory", "scaled"), ("memory", "softmax"), ("dense", "scaled")):
            config = peer.Config(d=32, layers=2, heads=4, K=4, tau=8, expand_bits=2, vocabulary=257, score=score,
                                 temperature=0.5, projection=projection)
            results = []
            for model in (peer.MemoryFormer(config, peer.initial(config), torch.float64),
                          peer.GpuMemoryFormer(config, "cpu", torch.float64)):
                loss, _ = model.loss(tokens[:, :-1], tokens[:, 1:], peer.Indices())
                loss.backward()
                results.append({"loss": loss.detach(), **{name: value.grad for name, value in model.parameters.items()}})
            for name, value in results[0].items():
                self.assertTrue(torch.allclose(value, results[1][name], rtol=1e-11, atol=1e-12), name)

    @unittest.skipIf(torch is None, "no PyTorch here")
    def test_the_peer_is_the_same_model(self) -> None:
        """What PyTorch is timed with has the reference's loss and gradients."""
        import torch_training as peer
        config = peer.Config(d=32, layers=2, heads=4, K=4, tau=8, expand_bits=2, vocabulary=257, probes=2)
        torch.manual_seed(1)
        tokens = torch.randint(257, (2, 17))
        results = []
        for kind in (peer.MemoryFormer, peer.BagMemoryFormer):
            model = kind(config, peer.initial(config), torch.float64)
            loss, _ = model.loss(tokens[:, :-1], tokens[:, 1:], peer.Indices())
            loss.backward()
            results.append({"loss": loss.detach(), **{name: value.grad for name, value in model.parameters.items()}})
        for name, value in results[0].items():
            self.assertTrue(torch.allclose(value, results[1][name], rtol=1e-12, atol=1e-12), name)


if __name__ == "__main__":
    WORKER, PSERVER, REPLAY = sys.argv[1:4]
    unittest.main(argv=sys.argv[:1])
