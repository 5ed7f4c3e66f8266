"""Goal: an experiment runs what is missing and nothing twice, whatever ends it; what it reports is what its trials
have written; a file that is wrong or has changed is refused with one line.
Usage: experiment_test.py PATH_OF_WORKER FOLDER_OF_EXPERIMENTS"""

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../integration"))
from cluster_case import CONFIG, DEADLINE, words  # pylint: disable=wrong-import-position

EXPERIMENTS = os.path.abspath(sys.argv.pop(2))
WORKER = os.path.abspath(sys.argv.pop(1))

FILE = """config = "run.toml"
data = "data.txt"
seeds = [3, 5]
steps = 20
set = ["train.eval_every=5"]
[[variant]]
name = "memory"
[[variant]]
name = "dense"
set = ["model.projection=dense"]
"""


class Experiment(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.out = self.path("out")
        self.write("run.toml", CONFIG)
        self.write("data.txt", words(6000, 1))
        self.file = self.write("compare.toml", FILE)

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def write(self, name: str, content: str) -> str:
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(content)
        return self.path(name)

    def read(self, name: str) -> str:
        with open(self.path(name), encoding="utf-8") as file:
            return file.read()

    def command(self, *more: str) -> list[str]:
        return [WORKER, "experiment", self.file, "--out", self.out, *more]

    def run_it(self, *more: str, code: int = 0) -> subprocess.CompletedProcess:
        result = subprocess.run(self.command(*more), capture_output=True, text=True, timeout=DEADLINE, check=False,
                                cwd=EXPERIMENTS)  # paths of the file are relative to it
        self.assertEqual(result.returncode, code, result.stderr)
        return result

    def refused(self, content: str, *named: str) -> None:
        self.write("compare.toml", content)
        said = self.run_it(code=2).stderr.splitlines()
        self.assertEqual(len([line for line in said if line.startswith("error: ")]), 1, said)
        for word in named:
            self.assertIn(word, said[-1])

    def last_val_loss(self, trial: str) -> float:
        lines = [json.loads(line) for line in self.read(f"out/{trial}/metrics.jsonl").splitlines()]
        self.assertEqual([line["step"] for line in lines], list(range(1, 21)))
        return lines[-1]["val_loss"]

    def check_results(self) -> None:
        results = json.loads(self.read("out/results.json"))
        self.assertEqual([variant["name"] for variant in results["variants"]], ["memory", "dense"])
        self.assertEqual((results["finished"], results["trials"]), (4, 4))
        for variant in results["variants"]:
            losses = [self.last_val_loss(f"{variant['name']}/seed-{seed}") for seed in (3, 5)]
            self.assertEqual([trial["val_loss"] for trial in variant["trials"]], losses)
            self.assertAlmostEqual(variant["val_loss"]["mean"], statistics.mean(losses), places=12)
            self.assertAlmostEqual(variant["val_loss"]["spread"], statistics.stdev(losses), places=12)
            for trial in variant["trials"]:
                self.assertGreater(trial["seconds"], 0)
                self.assertGreater(trial["peak_bytes"], 1 << 20)
                self.assertEqual(trial["tokens"], 20 * 4 * 2 * 64)
            row = [cell.strip() for line in self.read("out/results.md").splitlines()
                   if line.startswith(f"| {variant['name']} ") for cell in line.split("|")]
            self.assertEqual(row[2], "2 of 2")
            self.assertEqual(row[5], f"{statistics.mean(losses):.4f} ± {statistics.stdev(losses):.4f}")
        for what in ("tokens", "seconds", "flops", "bytes"):
            picture = xml.etree.ElementTree.fromstring(self.read(f"out/loss-by-{what}.svg"))
            lines = [item for item in picture.iter() if item.tag.endswith("polyline")]
            self.assertEqual(len(lines), 0 if what == "bytes" else 2, what)
            for line in lines:
                self.assertEqual(len(line.get("points").split()), 4)  # evaluations

    def test_compares(self) -> None:
        said = self.run_it("--jobs", "2").stdout
        self.check_results()
        self.assertIn("| memory | 2 of 2 |", said)
        # Once more: nothing is trained, and the results are the same.
        before = {name: os.stat(self.path(f"out/{name}/seed-3/metrics.jsonl")).st_mtime_ns
                  for name in ("memory", "dense")}
        results = self.read("out/results.json")
        self.run_it()
        self.assertEqual(self.read("out/results.json"), results)
        for name, at in before.items():
            self.assertEqual(os.stat(self.path(f"out/{name}/seed-3/metrics.jsonl")).st_mtime_ns, at)
        # Another seed is only added.
        self.write("compare.toml", FILE.replace("[3, 5]", "[3, 5, 7]"))
        self.run_it()
        self.assertEqual(len(json.loads(self.read("out/results.json"))["variants"][1]["trials"]), 3)
        self.assertEqual(os.stat(self.path("out/memory/seed-3/metrics.jsonl")).st_mtime_ns, before["memory"])

    def test_goes_on_whatever_ended_it(self) -> None:
        self.write("compare.toml", FILE)
        for how in (signal.SIGTERM, signal.SIGINT, signal.SIGKILL):
            with open(self.path("said"), "a", encoding="utf-8") as said:
                process = subprocess.Popen(self.command("--jobs", "1"), stdout=said, stderr=said)
            end = time.monotonic() + DEADLINE
            begun = self.trials_begun()
            while self.trials_begun() == begun and process.poll() is None:
                self.assertLess(time.monotonic(), end)
                time.sleep(0.01)
            process.send_signal(how)
            code = process.wait(DEADLINE)
            self.assertIn(code, (0, 128 + how, -how), self.read("said"))
        self.run_it()  # and waits for the trial that the killed one has left, which still saves
        self.check_results()

    def trials_begun(self) -> int:
        return sum(name == "trial.json" for _, _, files in os.walk(self.out) for name in files)

    def test_one_that_fails_costs_itself(self) -> None:
        self.write("compare.toml", FILE.replace("[3, 5]", "[3]"))
        os.makedirs(self.path("out/memory/seed-3"))
        os.makedirs(self.path("out/memory/seed-3/metrics.jsonl"))  # cannot be written
        said = self.run_it(code=1).stderr
        self.assertIn("out/memory/seed-3/log says why", said)
        self.assertEqual(json.loads(self.read("out/results.json"))["finished"], 1)
        os.rmdir(self.path("out/memory/seed-3/metrics.jsonl"))
        self.run_it()
        self.assertEqual(json.loads(self.read("out/results.json"))["finished"], 2)

    def test_what_is_wrong(self) -> None:
        self.refused("config = [", "compare.toml:1", "TOML")
        self.refused("", "variant")
        self.refused(FILE + "[[variant]]\nname = 'dense'\n", "compare.toml:11", "dense")
        self.refused(FILE.replace('"dense"', '"../dense"'), "compare.toml:8", "name")
        self.refused(FILE.replace('"dense"', '"results.md"'), "compare.toml:8", "name")
        self.refused(FILE.replace('data = "data.txt"', 'data = "nothing.txt"'), "nothing.txt")
        self.refused(FILE.replace("projection=dense", "projection=sparse"), "variant dense", "projection")
        self.refused(FILE.replace("seeds", "seed"), "unknown key seed")
        self.refused(FILE.replace("[3, 5]", "[3, 3]"), "twice")
        self.refused(FILE.replace("steps = 20", "steps = 'many'"), "steps")
        self.refused(FILE.replace('config = "run.toml"\n', ""), "no config")
        self.refused(FILE.replace('data = "data.txt"\n', ""), "--data")
        self.assertFalse(os.path.exists(self.out))

    def test_a_file_that_has_changed(self) -> None:
        self.write("compare.toml", FILE.replace("[3, 5]", "[3]"))
        self.run_it()
        self.refused(FILE.replace("[3, 5]", "[3]").replace("eval_every=5", "eval_every=10"), "out/memory/seed-3",
                     "another configuration")
        self.write("run.toml", CONFIG.replace("heads = 4", "heads = 2"))
        self.refused(FILE.replace("[3, 5]", "[3]"), "out/memory/seed-3", "another configuration")
        self.write("run.toml", CONFIG)
        self.write("data.txt", words(6000, 2))
        self.write("compare.toml", FILE)
        said = self.run_it(code=2).stderr
        self.assertIn("were trained on different data", said)
        os.remove(self.path("out/memory/seed-3/metrics.jsonl"))
        self.refused(FILE, "out/memory/seed-3", "metrics.jsonl is gone")

    def test_a_configuration_that_changes_while_it_runs(self) -> None:
        self.write("compare.toml", FILE)
        process = subprocess.Popen(self.command("--jobs", "1"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + DEADLINE
        while self.trials_begun() == 0:
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)
        self.write("run.toml", CONFIG.replace("heads = 4", "heads = 2"))
        self.assertEqual(process.wait(DEADLINE), 0)
        self.check_results()
        for trial in ("memory/seed-3", "dense/seed-5"):
            self.assertEqual(json.loads(self.read(f"out/{trial}/run.json"))["config"]["model"]["heads"], 4)

    def test_one_that_diverges_wins_nothing(self) -> None:
        self.write("compare.toml", FILE.replace("[3, 5]", "[3]").replace("steps = 20", "steps = 8") + """
[[variant]]
name = "wild"
set = ["train.optimizer=sgd", "train.lr=100", "train.clip=0", "train.weight_decay=0"]
""")
        self.run_it()
        variants = json.loads(self.read("out/results.json"))["variants"]
        self.assertIn("val_loss", variants[0])
        self.assertNotIn("val_loss", variants[2])
        self.assertTrue(variants[2]["trials"][0]["diverged"])
        self.assertGreater(variants[2]["trials"][0]["dropped_steps"], 0)
        self.assertRegex(self.read("out/results.md"), r"\| wild \| 1 of 1 \|[^|]*\|[^|]*\| diverged in 1")
        self.assertIn("held-out", self.read("out/results.md"))

    def test_those_of_the_repository_can_be_read(self) -> None:
        files = [name for name in os.listdir(EXPERIMENTS) if name.endswith(".toml")]
        self.assertTrue(files)
        for name in files:
            self.file = os.path.join(EXPERIMENTS, name)
            said = self.run_it(code=2).stderr.splitlines()[-1]
            self.assertIn("--data is required", said)


if __name__ == "__main__":
    unittest.main()
