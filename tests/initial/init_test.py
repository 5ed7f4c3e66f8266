"""Goal: a run that begins with a trained model is what it would be if that had never stopped, whatever is killed;
with other text or another schedule it begins where the model was; what does not fit is refused with one line.
Usage: init_test.py PATH_OF_WORKER PATH_OF_PSERVER"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../integration"))
from cluster_case import DEADLINE, ClusterCase, words  # pylint: disable=wrong-import-position

ClusterCase.PSERVER = os.path.abspath(sys.argv.pop(2))
ClusterCase.WORKER = os.path.abspath(sys.argv.pop(1))

BEFORE, AFTER = 20, 80  # steps; the second run lasts long enough to be disturbed
SCHEDULE = ["--set", f"train.schedule_steps={BEFORE + AFTER}"]
SAVE = ["--set", "snapshot.every_steps=10"]


class Initial(ClusterCase):
    STEPS = AFTER

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def run_to_end(self, name: str, *more: str, steps: int = AFTER, servers: tuple[str, ...] = ()) -> None:
        process = self.train(name, list(servers), "--steps", str(steps), *more)
        self.finish(name, process)

    def command(self, *arguments: str) -> str:
        done = subprocess.run([self.WORKER, *arguments], capture_output=True, text=True, timeout=DEADLINE, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def sha256(self, name: str) -> str:
        with open(self.model(name), "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()

    def lines(self, name: str) -> list[dict]:
        with open(self.path(f"{name}/metrics.jsonl"), encoding="ascii") as file:
            return [json.loads(line) for line in file]

    def refused(self, name: str, *more: str) -> str:
        self.assertEqual(self.train(name, [], *more).wait(DEADLINE), 2, self.log(name))
        errors = [line for line in self.log(name).splitlines() if line.startswith("error: ")]
        self.assertEqual(len(errors), 1, self.log(name))
        return errors[0]


class GoesOn(Initial):
    """With the optimizer: to the bit what one run of all steps gives."""

    def test_inside_the_process_and_through_kills(self) -> None:
        self.run_to_end("whole", steps=BEFORE + AFTER)
        first, first_address = self.serve(0, 2)
        second, second_address = self.serve(1, 2)
        self.run_to_end("before", *SCHEDULE, *SAVE, steps=BEFORE, servers=(first_address, second_address))
        for server in (first, second):
            server.terminate()
            self.assertEqual(server.wait(DEADLINE), 0)
        begin = ["--init", self.path("state-1"), "--keep-optimizer", *SCHEDULE]

        self.run_to_end("embedded", *begin)
        self.assertEqual(self.sha256("embedded"), self.sha256("whole"))
        self.assertIn("the optimizer goes on, the schedule and the order of the data at step "
                      f"{BEFORE + 1} of {BEFORE + AFTER}", self.log("embedded"))
        rates = [line["lr"] for line in self.lines("embedded")]
        self.assertEqual(rates, [line["lr"] for line in self.lines("whole")][BEFORE:])

        # Three servers and two workers, of which one is killed, as is a server, long before any snapshot.
        servers = [self.serve(shard, 3) for shard in range(3)]
        addresses = [address for _, address in servers]
        workers = {name: self.train(name, addresses, *begin) for name in ("one", "two")}
        self.wait_for("step 3", lambda: self.metric(0, "mf_step") >= 3)
        workers["two"].kill()
        servers[1][0].kill()
        servers[1][0].wait()
        self.serve(1, 3, listen=addresses[1], state="state-2")
        self.finish("one", workers["one"])
        self.assertIn("servers were recovered: the run goes back to step 0", self.log("one"))
        self.assertEqual(self.sha256("one"), self.sha256("whole"))

    def test_it_is_repeated(self) -> None:
        self.run_to_end("before", *SCHEDULE, *SAVE, steps=BEFORE)
        after = ["--init", self.path("before/state"), "--keep-optimizer", *SCHEDULE]
        self.run_to_end("after", *after, steps=BEFORE)
        result = subprocess.run([self.WORKER, "train", "--repeat", self.path("after/run.json"), "--out",
                                 self.path("again"), "--export", self.model("again")],
                                capture_output=True, text=True, timeout=DEADLINE, check=False)
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertEqual(self.sha256("again"), self.sha256("after"))
        # And gone on with, once more: nothing is left to do, and the model is the same.
        before = self.sha256("after")
        self.run_to_end("after", *after, steps=BEFORE)
        self.assertEqual(self.sha256("after"), before)


    def test_a_step_is_chosen(self) -> None:
        self.run_to_end("whole", steps=BEFORE + 10)
        schedule = ["--set", f"train.schedule_steps={BEFORE + 10}"]
        self.run_to_end("before", *schedule, *SAVE, steps=BEFORE)
        begin = ["--init", self.path("before"), "--keep-optimizer", *schedule]
        self.run_to_end("after", *begin, "--init-step", "10", steps=BEFORE)
        self.assertEqual(self.sha256("after"), self.sha256("whole"))
        # The run that is there goes on from what it began with, whatever is newest now.
        self.run_to_end("after", *begin, steps=BEFORE)
        self.assertEqual(self.sha256("after"), self.sha256("whole"))
        self.assertIn("have step 15", self.refused("none", *begin, "--init-step", "15"))


class Weights(Initial):
    """Without the optimizer: other text, another schedule, another batch."""

    def test_the_model_is_the_same_at_first(self) -> None:
        self.run_to_end("before", *SAVE, steps=BEFORE)
        for name, size in (("hf", "5"), ("files", "0.001")):
            self.command("export", "--from", self.path("before/state"), "--format", "hf", "--out", self.path(name),
                         "--file-gigabytes", size)
        parts = [name for name in os.listdir(self.path("files")) if name.endswith(".safetensors")]
        self.assertGreater(len(parts), 2, parts)
        scores = [self.command("eval", "--model", model, "--data", self.data, "--windows", "2")
                  for model in (self.model("before"), self.path("hf"), self.path("files"))]
        self.assertEqual(scores[1:], scores[:1] * 2)
        last = self.lines("before")[-1]["val_loss"]
        stand_still = ["--set", "train.lr=0", "--set", "train.batch=1", "--set", "train.eval_every=1"]
        for name, source in (("file", self.model("before")), ("folder", self.path("hf")), ("several", self.path("files")),
                             ("snapshots", self.path("before/state"))):
            self.run_to_end(name, "--init", source, *stand_still, steps=2)
            self.assertIn("the optimizer begins anew", self.log(name))
            for line in self.lines(name):
                self.assertAlmostEqual(line["val_loss"], last, delta=1e-6)
        self.assertEqual(self.sha256("file"), self.sha256("before"))
        self.assertEqual(self.sha256("folder"), self.sha256("before"))
        self.assertEqual(self.sha256("several"), self.sha256("before"))
        # A file of another step's export between the others.
        self.run_to_end("later", *SAVE, steps=BEFORE + 10)
        self.command("export", "--from", self.path("later/state"), "--format", "hf", "--out", self.path("other"),
                     "--file-gigabytes", "0.001")
        shutil.copy(self.path(f"other/{parts[0]}"), self.path(f"files/{parts[0]}"))
        self.assertIn("of another export", self.refused("mixed", "--init", self.path("files")))

    def test_it_learns_other_text(self) -> None:
        self.run_to_end("before", steps=BEFORE)
        self.data = self.write("other.txt", words(6000, 2).replace("river", "forest"))
        self.run_to_end("anew", steps=BEFORE)
        self.run_to_end("after", "--init", self.model("before"), steps=BEFORE)
        first, last = self.lines("after")[0]["loss"], self.lines("after")[-1]["loss"]
        self.assertLess(first, self.lines("anew")[0]["loss"] - 1)
        self.assertLess(last, first)
        self.assertLess(last, self.lines("anew")[-1]["loss"])


class Refused(Initial):
    STEPS = 4

    def test_what_does_not_fit(self) -> None:
        self.run_to_end("before", *SAVE, steps=4)
        state = self.path("before/state")
        self.assertIn("[model] has to be as it was",
                      self.refused("other", "--init", self.model("before"), "--set", "model.expand_bits=1"))
        self.assertIn("another rule", self.refused("rule", "--init", state, "--keep-optimizer", "--set",
                                                   "train.weight_decay=0.2"))
        self.assertIn("has none", self.refused("none", "--init", self.model("before"), "--keep-optimizer"))
        self.assertIn("--init", self.refused("alone", "--keep-optimizer"))
        self.assertIn("is the --init", self.refused("before", "--init", self.model("before")))
        self.assertIn("nothing: cannot open", self.refused("missing", "--init", self.path("nothing")))
        self.assertIn("no shard", self.refused("empty", "--init", self.folder))


if __name__ == "__main__":
    unittest.main()
