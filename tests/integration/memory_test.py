"""Goal: memory follows what was trained, not what could be: a model of more than a terabyte trains on a
machine of a few gigabytes, and a small model takes little more than its state. Peaks are the resident
set size of the whole process, worker and embedded servers. Usage: memory_test.py PATH_OF_WORKER"""

import hashlib
import json
import os
import random
import struct
import subprocess
import sys
import tempfile
import time
import unittest

WORKER = sys.argv.pop(1) if len(sys.argv) > 1 else "worker"
TINY = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../deploy/configs/tiny.toml")
MIB = 1 << 20

# 2^24 rows in each of 10 tables a layer, 2^26 in M2's.
HUGE = """[model]
d = 240
layers = 1
heads = 4
K = 10
tau = 24
expand_bits = 2
sequence = 128
vocabulary = 257
[train]
steps = 20
micro_batches = 2
batch = 2
eval_batches = 2
"""
HUGE_COLUMNS = {"qkv": 3 * 240, "m1": 26 * 10, "m2": 240}
HUGE_TABLES = 10
HUGE_TOKENS_PER_STEP = 2 * 2 * 128


def memory_layers(config_model):
    """[(rows, columns)] of all memory tensors."""
    m = config_model
    expanded = (m["tau"] + m["expand_bits"]) * m["K"]
    low, high = m["K"] << m["tau"], m["K"] << (m["tau"] + m["expand_bits"])
    return [(low, 3 * m["d"]), (low, expanded), (high, m["d"])] * m["layers"]


def header_of(path):
    with open(path, "rb") as file:
        size = struct.unpack("<Q", file.read(8))[0]
        return json.loads(file.read(size))


def sha256_of(path):
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for piece in iter(lambda: file.read(MIB), b""):
            digest.update(piece)
    return digest.hexdigest()


class Memory(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        # Letters without sense: the more contexts differ, the more rows are hit.
        draw = random.Random(3)
        self.data = self.write("data.txt", "".join(draw.choices("abcdefghijklmnopqrstuvwxyz .,\n",
                                                                k=200_000)))

    def write(self, name, content):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="ascii") as file:
            file.write(content)
        return path

    def train(self, name, config, *more):
        """Trains; returns the peak in bytes."""
        start = time.monotonic()
        child = subprocess.Popen(
            [WORKER, "train", "--config", config, "--data", self.data, "--out",
             os.path.join(self.folder, name), *more],
            stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        errors = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        child.stderr.close()
        self.assertEqual(child.returncode, 0, errors)
        peak = usage.ru_maxrss * 1024
        print(f"{name}: peak {peak / MIB:.0f} MiB, {time.monotonic() - start:.1f} s", flush=True)
        return peak

    def test_over_a_terabyte(self):
        config = self.write("huge.toml", HUGE)
        model = {"d": 240, "K": 10, "tau": 24, "expand_bits": 2, "layers": 1}
        logical = sum(4 * rows * columns for rows, columns in memory_layers(model))
        self.assertGreater(logical, 10**12)
        digests = set()
        for shards in (2, 1):
            path = os.path.join(self.folder, f"huge-{shards}.safetensors")
            peak = self.train(f"huge-{shards}", config, "--shards", str(shards), "--export", path,
                              "--rows", "touched")
            digests.add(sha256_of(path))
            header = header_of(path)
            state, gradients, updated = 0, 0, 0
            for layer, columns in HUGE_COLUMNS.items():
                rows = header[f"blocks.0.{layer}.tables.rows"]["shape"][0]
                self.assertGreater(rows, 0)
                updated += rows
                state += rows * (12 * columns + 32)
                # No step hits more rows than it reads, nor more than were ever updated.
                gradients += min(rows, HUGE_TOKENS_PER_STEP * HUGE_TABLES) * columns * 4
            limit = 1.25 * state + gradients + 300 * MIB
            print(f"  {updated} rows updated, {logical / 1e12:.2f} TB logical; "
                  f"state {state / MIB:.0f} MiB, limit {limit / MIB:.0f} MiB", flush=True)
            self.assertLessEqual(peak, limit)
            os.remove(path)
        self.assertEqual(len(digests), 1)

    def test_tiny(self):
        settings = ["model.vocabulary=257", "model.sequence=256", "train.batch=1"]
        arguments = [word for setting in settings for word in ("--set", setting)]
        peak = self.train("tiny", TINY, "--steps", "3", *arguments)
        model = {"d": 512, "K": 64, "tau": 8, "expand_bits": 2, "layers": 6}
        numbers = sum(rows * columns for rows, columns in memory_layers(model))
        numbers += 2 * 257 * 512  # embedding and head; gains and biases are nothing beside them
        limit = 1.15 * 4 * 4 * numbers + 500 * MIB  # w, m, v and the gradient
        print(f"  {numbers / 1e6:.0f} M numbers, limit {limit / MIB:.0f} MiB", flush=True)
        self.assertLessEqual(peak, limit)


if __name__ == "__main__":
    unittest.main()
