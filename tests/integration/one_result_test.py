"""Goal: the program as a user runs it gives one result: 60 steps of nano's shape, made smaller, for 1, 2
and 3 embedded servers, 1 and 2 threads of each and 1 and 2 threads of the worker end with the same model
file, the same metrics and the same scores, byte for byte. Usage: one_result_test.py PATH_OF_WORKER"""

import hashlib
import itertools
import os
import subprocess
import sys
import tempfile
import unittest

from cluster_case import COMPARED, CONFIG, words

WORKER = sys.argv.pop(1) if len(sys.argv) > 1 else "worker"
STEPS = 60


class OneResult(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.config = self.write("run.toml", CONFIG)
        self.data = self.write("data.txt", words(6000, 1))
        self.text = self.write("score.txt", words(100, 2))

    def write(self, name, content):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="ascii") as file:
            file.write(content)
        return path

    def run_worker(self, *arguments):
        result = subprocess.run([WORKER, *arguments], capture_output=True, text=True, timeout=120,
                                check=False)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def result_of(self, name, shards, server_threads, threads, *more):
        """(sha256 of the model, comparable metrics, output of score) of one run."""
        out = os.path.join(self.folder, name)
        model = out + ".safetensors"
        self.run_worker("train", "--config", self.config, "--data", self.data, "--out", out,
                        "--steps", str(STEPS), "--export", model, "--shards", str(shards),
                        "--server-threads", str(server_threads), "--threads", str(threads), *more)
        with open(model, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        with open(os.path.join(out, "metrics.jsonl"), encoding="ascii") as file:
            metrics = [COMPARED.findall(line) for line in file]
        self.assertEqual(len(metrics), STEPS)
        scores = self.run_worker("score", "--model", model, "--text", self.text, "--per-token",
                                 "--threads", str(threads))
        self.assertIn('"logprobs"', scores)
        os.remove(model)
        return digest, metrics, scores

    def test_matrix(self):
        matrix = list(itertools.product((1, 2, 3), (1, 2), (1, 2)))
        expected = self.result_of("first", *matrix[0])
        for shards, server_threads, threads in matrix[1:]:
            # Every second run keeps its tables behind an index instead of in plain memory.
            memory = ["--memory", "1"] if (server_threads + threads) % 2 else []
            with self.subTest(shards=shards, server_threads=server_threads, threads=threads):
                self.assertEqual(self.result_of(f"{shards}{server_threads}{threads}", shards,
                                                server_threads, threads, *memory), expected)

    def test_another_seed_is_another_result(self):
        one = self.result_of("one", 1, 1, 1)
        other = self.result_of("other", 1, 1, 1, "--seed", "2")
        for ours, theirs in zip(one, other):
            self.assertNotEqual(ours, theirs)


if __name__ == "__main__":
    unittest.main()
