"""Goal: the examples for PyTorch learn, in short form, with two processes on two servers.
Usage: examples_test.py FOLDER_OF_PACKAGE PATH_OF_PSERVER"""

import os
import re
import shutil
import subprocess
import sys
import unittest

try:
    import torch  # noqa: F401  the examples need it
except ImportError:
    print(f"SKIPPED: torch is missing for {sys.executable} (apt-get install python3-torch)")
    sys.exit(77)

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "integration"))
from cluster_case import DEADLINE, ClusterCase  # noqa: E402

ClusterCase.PSERVER = sys.argv.pop(2)
PACKAGE = os.path.abspath(sys.argv.pop(1))
EXAMPLES = os.path.join(HERE, "..", "..", "worker", "examples")
IMAGES = "/usr/share/datasets/fashion-mnist"
RATINGS = "/usr/lib/R/site-library/lme4"


class Examples(ClusterCase):
    def run_example(self, name: str, *options: str) -> str:
        """Two processes; what they print together."""
        addresses = ",".join(self.serve(shard, 2)[1] for shard in range(2))
        environment = dict(os.environ, PYTHONPATH=PACKAGE, OMP_NUM_THREADS="1")
        command = [sys.executable, "-B", os.path.join(EXAMPLES, name + ".py"), "--servers", addresses, *options]
        processes = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                      env=environment) for _ in range(2)]
        said = ""
        for process in processes:
            self.addCleanup(process.wait)
            self.addCleanup(process.kill)
        for process in processes:
            out, errors = process.communicate(timeout=DEADLINE)
            self.assertEqual(process.returncode, 0, errors)
            said += out
        return said

    def test_gpt(self) -> None:
        said = self.run_example("gpt/gpt", "--data", self.data, "--steps", "40", "--prompt", "the river ")
        self.assertLess(float(re.search(r"^memory: ([\d.]+) bits a byte$", said, re.MULTILINE)[1]), 4.2, said)
        self.assertEqual(said.count("the river "), 2, said)

    @unittest.skipUnless(os.path.isdir(IMAGES), f"no {IMAGES} (apt-get install dataset-fashion-mnist)")
    def test_fine_tuning(self) -> None:
        said = self.run_example("fashion_mnist/fine_tuning", "--pretrain", "60", "--steps", "60")
        (before, after), = set(re.findall(r"accuracy ([\d.]+)% before, ([\d.]+)% with the memory layer", said))
        self.assertLess(float(before), 50, said)  # it knows half of the classes
        self.assertGreater(float(after), 65, said)

    @unittest.skipUnless(os.path.isdir(IMAGES), f"no {IMAGES} (apt-get install dataset-fashion-mnist)")
    def test_image_classifier(self) -> None:
        for model in ("memory", "dense"):
            said = self.run_example("fashion_mnist/image_classifier", "--model", model, "--steps", "60")
            accuracy = float(re.search(rf"{model}, seed 1: accuracy ([\d.]+)%", said)[1])
            self.assertGreater(accuracy, 65, said)  # a tenth by chance

    @unittest.skipUnless(shutil.which("Rscript") and os.path.isdir(RATINGS),
                         f"no {RATINGS} (apt-get install r-cran-lme4)")
    def test_recommender(self) -> None:
        ratings = os.path.join(self.folder, "ratings.csv")
        subprocess.run(["Rscript", os.path.join(EXAMPLES, "recommender", "ratings.R"), ratings], check=True,
                       stdout=subprocess.DEVNULL)
        with open(ratings, encoding="utf-8") as file:
            self.assertEqual(sum(1 for _ in file), 1 + 73421)
        said = self.run_example("recommender/recommender", "--ratings", ratings, "--steps", "60")
        errors = [float(error) for error in re.findall(r"keyed: root mean squared error ([\d.]+)", said)]
        self.assertEqual(len(errors), 2, said)
        self.assertEqual(errors[0], errors[1], "both read the same model")
        self.assertLess(errors[0], 1.25, said)  # 1.33 is the spread of the ratings


if __name__ == "__main__":
    unittest.main()
