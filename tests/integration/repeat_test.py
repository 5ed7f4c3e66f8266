"""Goal: OUT/run.json is enough to do a run once more and end with the same model, byte by byte; what contradicts it,
is no run.json, or is other data, is refused with one line. Usage: repeat_test.py PATH_OF_WORKER PATH_OF_PSERVER"""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import unittest

from cluster_case import DEADLINE, ClusterCase, words

ClusterCase.PSERVER = os.path.abspath(sys.argv.pop(2))
ClusterCase.WORKER = os.path.abspath(sys.argv.pop(1))


class Repeat(ClusterCase):
    STEPS = 12

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def command(self, *arguments: str, code: int = 0, **how) -> str:
        """What it says on stderr."""
        result = subprocess.run([self.WORKER, *arguments], capture_output=True, text=True, timeout=DEADLINE,
                                check=False, **how)
        self.assertEqual(result.returncode, code, f"{arguments}\n{result.stdout}\n{result.stderr}")
        return result.stderr

    def refused(self, arguments: list[str], *named: str) -> str:
        said = self.command(*arguments, code=2)
        errors = [line for line in said.splitlines() if line.startswith("error: ")]
        self.assertEqual(errors, said.splitlines()[-1:], said)
        for word in named:
            self.assertIn(word, errors[0])
        return errors[0]

    def first(self, *more: str, name: str = "first") -> str:
        """Path of the run.json of a run, whose model is `name`.safetensors."""
        self.command("train", "--config", self.config, "--data", self.data, "--out", self.path(name), "--steps",
                     str(self.STEPS), "--threads", "1", "--export", self.model(name), *more)
        return self.path(f"{name}/run.json")

    def again(self, run: str, *more: str, name: str = "again") -> list[str]:
        return ["train", "--repeat", run, "--threads", "1", "--export", self.model(name), *more]

    def sha256(self, path: str) -> str:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()

    def same_model(self, name: str, other: str = "first") -> None:
        self.assertEqual(self.sha256(self.model(name)), self.sha256(self.model(other)))

    def read(self, path: str) -> dict:
        with open(path, encoding="utf-8") as file:
            return json.load(file)

    def change(self, path: str, change) -> str:
        """Path of a copy that `change` has changed."""
        root = self.read(path)
        change(root)
        copy = self.path("changed.json")
        with open(copy, "w", encoding="utf-8") as file:
            json.dump(root, file)
        return copy


class SameRun(Repeat):
    def test_what_is_in_it(self) -> None:
        relative = os.path.relpath(self.data, self.folder)
        self.data = relative
        self.config = os.path.relpath(self.config, self.folder)
        self.command("train", "--config", self.config, "--data", self.data, "--out", "first", "--seed", "7", "--steps",
                     "2", "--set", "exchange.wire=bf16", cwd=self.folder)
        root = self.read(self.path("first/run.json"))
        self.assertEqual(list(root), ["format", "run", "program", "cpu", "data", "config"])
        self.assertEqual(root["format"], 1)
        with open(self.path("first/run"), encoding="ascii") as file:
            self.assertEqual(root["run"], file.read().strip())
        self.assertEqual(root["data"]["path"], self.path(relative))
        self.assertRegex(root["data"]["digest"], "^[0-9a-f]{64}$")
        self.assertEqual((root["config"]["model"]["seed"], root["config"]["train"]["seed"]), (7, 7))
        self.assertEqual(root["config"]["train"]["steps"], 2)
        self.assertEqual(root["config"]["exchange"]["wire"], "bf16")
        version = subprocess.run([self.WORKER, "--version"], capture_output=True, text=True, check=True).stdout
        for part in root["program"].values():
            self.assertIn(part, version)
        self.assertIn(root["cpu"]["kernels"], ("AVX3", "AVX2", "NEON", "SCALAR"))
        self.assertIn("OpenBLAS", root["cpu"]["matrix_library"])
        self.assertEqual(root["cpu"]["computes_on"], "CPU")
        self.assertTrue(all(isinstance(feature, str) for feature in root["cpu"]["features"]))

    def repeats(self, *more: str) -> None:
        run = self.first(*more)
        # From anywhere, with other servers and threads; the place is that of the run.
        said = self.command(*self.again(run), "--shards", "2", "--threads", "2", cwd="/")
        self.same_model("again")
        self.assertNotIn("may differ", said)
        self.assertIn("run.json", os.listdir(self.path("first/repeat")))
        # A repetition is a run like any other.
        self.command(*self.again(self.path("first/repeat/run.json"), "--out", self.path("third"), name="third"))
        self.same_model("third")
        self.assertEqual(self.read(self.path("third/run.json")), self.read(run))

    def test_memory(self) -> None:
        self.repeats("--seed", "5", "--set", "model.probes=2")

    def test_dense(self) -> None:
        self.repeats("--set", "model.projection=dense", "--set", "train.optimizer=sgd")

    def test_with_held_out_data(self) -> None:
        held_out = self.write("heldout.txt", words(500, 9))
        run = self.first("--val", held_out)
        self.command(*self.again(run))
        self.same_model("again")
        os.rename(held_out, self.path("moved.txt"))
        self.refused(self.again(run, "--out", self.path("o")), "heldout.txt: no such file")
        self.command(*self.again(run, "--val", self.path("moved.txt"), "--out", self.path("o"), name="o"))
        self.same_model("o")
        self.refused(self.again(run, "--val", self.data, "--out", self.path("p")), "digest")

    def test_through_servers(self) -> None:
        for more in ([], ["--set", "model.projection=dense"]):
            with self.subTest(more):
                shutil.rmtree(self.path("first"), ignore_errors=True)
                run = self.first(*more)
                servers = ",".join(self.serve(shard, 2)[1] for shard in range(2))
                self.command(*self.again(run, "--pservers", servers, "--out", self.path(f"w{len(more)}"), name="w"))
                self.same_model("w")

    def test_servers_that_have_the_run(self) -> None:
        """They would compute nothing, so the user is told; after the advice is followed it is computed again."""
        for more in ([], ["--set", "snapshot.every_minutes=0"]):
            processes, addresses = zip(*(self.serve(shard, 2) for shard in range(2)))
            servers = ",".join(addresses)
            shutil.rmtree(self.path("first"), ignore_errors=True)
            run = self.first("--pservers", servers, *more)
            # In their memory, and from their disks.
            again = self.again(run, "--pservers", servers, "--out", self.path("w"), name="w")
            self.refused(again, "up to its last step, 12", "another --data")
            self.assertFalse(os.path.exists(self.path("w/run.json")))
            self.end(processes)
        # These have no snapshots; the others have.
        processes, addresses = zip(*(self.serve(shard, 2, state="state-1") for shard in range(2)))
        servers = ",".join(addresses)
        again = self.again(run, "--pservers", servers, "--out", self.path("w"), name="w")
        self.refused(again, "up to its last step, 12")
        # Whoever had part in it is told nothing new.
        self.command(*self.again(run, "--pservers", servers, "--out", self.path("other"), name="t"), code=2)
        shutil.copytree(self.path("first"), self.path("other"), dirs_exist_ok=True)
        self.command(*self.again(run, "--pservers", servers, "--out", self.path("other"), name="t"))
        self.same_model("t")
        # The advice: they serve it now, so it cannot be deleted before they are started again.
        self.end(processes)
        servers = ",".join(self.serve(shard, 2, state="state-1")[1] for shard in range(2))
        again = self.again(run, "--pservers", servers, "--out", self.path("w"), name="w")
        advice = self.refused(again, "restart these and delete it there").split("pserver runs ")[1].split()
        self.assertEqual(advice[:3], ["--pservers", "LIST", "--delete"])
        subprocess.run([self.PSERVER, "runs", "--pservers", servers, "--delete", advice[3]], check=True)
        self.assertNotIn("it goes on there", self.command(*again))
        self.same_model("w")

    def end(self, processes) -> None:
        for process in processes:
            process.send_signal(signal.SIGTERM)
            process.wait(DEADLINE)

    def test_two_workers_of_one_repetition(self) -> None:
        self.STEPS = 150
        run = self.first()
        servers = ",".join(self.serve(shard, 2)[1] for shard in range(2))
        one = self.start([self.WORKER, *self.again(run, "--pservers", servers, "--out", self.path("w1"), name="w1")],
                         "w1.log")
        self.wait_for_steps("w1", 2)
        two = self.start([self.WORKER, *self.again(run, "--pservers", servers, "--out", self.path("w2"), name="w2")],
                         "w2.log")
        self.finish("w1", one)
        self.finish("w2", two)
        self.assertRegex(self.log("w2"), r"the servers have the run of \S+ at step \d+ of 150: it goes on there")
        for name in ("w1", "w2"):
            self.same_model(name)
            root = self.read(self.path(f"{name}/run.json"))
            self.assertEqual(root, self.read(run))

    def test_one_that_is_stopped_goes_on(self) -> None:
        self.STEPS = 150
        run = self.first()
        one = self.start([self.WORKER, *self.again(run)], "again.log")
        self.wait_for_steps("first/repeat", 3)
        one.send_signal(signal.SIGTERM)
        self.assertEqual(one.wait(DEADLINE), 128 + signal.SIGTERM, self.log("again"))
        self.assertRegex(self.command(*self.again(run)), "the run goes on after step")
        self.same_model("again")


class OtherData(Repeat):
    def test_moved_data(self) -> None:
        run = self.first()
        os.rename(self.data, self.path("moved.txt"))
        self.refused(self.again(run), "data.txt: no such file", run, "--data")
        self.command(*self.again(run, "--data", self.path("moved.txt")))
        self.same_model("again")

    def test_other_content(self) -> None:
        run = self.first()
        other = self.write("other.txt", words(6000, 2))
        line = self.refused(self.again(run, "--data", other), "other.txt", run)
        self.assertIn(self.read(run)["data"]["digest"], line)
        self.assertRegex(line, "of digest [0-9a-f]{64}, .* of digest [0-9a-f]{64}")
        with open(self.data, "r+b") as file:
            file.write(b"X")
        self.refused(self.again(run), "data.txt", "of digest")
        self.assertFalse(os.path.exists(self.path("first/repeat/state")))

    def test_a_name_that_is_not_utf8(self) -> None:
        folder = os.fsencode(self.folder)
        odd = os.path.join(folder, b"da\xffta\n.txt")
        os.rename(self.data, odd)
        self.data = odd
        run = self.first()
        self.read(run)
        self.refused(self.again(run), "no such file", "--data")
        self.command(*self.again(run, "--data", odd))
        self.same_model("again")


class Contradictions(Repeat):
    def test_flags_that_contradict_it(self) -> None:
        run = self.first("--seed", "3")
        for flags, *named in ((["--steps", "9"], "train.steps = 9", "where it is 12"),
                              (["--seed", "4"], "model.seed = 4", "where it is 3"),
                              (["--set", "train.lr=0.5"], "train.lr = 0.5", "where it is 0.003"),
                              (["--set", "model.projection=dense"], 'model.projection = "dense"'),
                              (["--config", self.config], "--repeat", "--config")):
            self.refused(self.again(run, *flags), *named)
        self.refused(self.again(run, "--out", self.path("first")), "--out", "holds the run that is to be repeated")
        self.refused(self.again(run, "--out", self.path("first/../first/.")), "--out")
        self.refused(["train"], "--config is required")
        self.refused(["train", "--config", self.config, "--data", self.data], "--out is required")

    def test_flags_that_do_not(self) -> None:
        run = self.first("--seed", "3")
        self.command(*self.again(run, "--steps", "12", "--seed", "3", "--set", "snapshot.every_steps=2", "--set",
                                 "exchange.in_flight=1"))
        self.same_model("again")

    def test_a_file_that_was_changed(self) -> None:
        def one_step_more(root: dict) -> None:
            root["config"]["train"]["steps"] += 1

        self.refused(self.again(self.change(self.first(), one_step_more)), "the file was changed")

    def test_another_version_or_cpu_is_a_warning(self) -> None:
        def other(root: dict) -> None:
            root["program"]["version"] = "0.0.9"
            root["cpu"].update(processor="Abacus", kernels="BEADS")

        run = self.change(self.first(), other)
        said = self.command(*self.again(run))
        lines = [line for line in said.splitlines() if "may differ" in line]
        self.assertEqual(len(lines), 1, said)
        for word in ("0.0.9", "Abacus there", "BEADS there", " W "):
            self.assertIn(word, lines[0])
        self.same_model("again")

    def test_no_run_file(self) -> None:
        run = self.first()
        with open(run, encoding="utf-8") as file:
            text = file.read()
        for size in (1, len(text) // 3, len(text) // 2, len(text) - 3):
            self.refused(self.again(self.write("cut.json", text[:size])), "cut.json: ", "not ")
        self.refused(self.again(self.write("empty.json", "")), "empty.json: empty")
        for foreign in ("[]", "7", '"format"', "{}", '{"format": "pt"}', '{"format": -1}', "seed = 1\n"):
            self.refused(self.again(self.write("foreign.json", foreign)), "foreign.json: not ")
        self.refused(self.again(self.path("first/metrics.jsonl")), "metrics.jsonl: not ")
        self.refused(self.again(self.path("first")), "a folder")
        self.refused(self.again(self.path("none.json")), "none.json", "No such file")
        self.refused(self.again(self.write("deep.json", '{"format": 1, "a": ' + "[" * 400_000)), "deep.json: not ")
        for bad, *named in ((lambda root: root.update(format=2), "written by a newer version"),
                            (lambda root: root.update(threads=3), "it has an unknown key threads"),
                            (lambda root: root["cpu"].update(cores=3), "cpu has an unknown key cores"),
                            (lambda root: root["config"]["train"].update(lrr=1), "unknown key train.lrr"),
                            (lambda root: root["config"].update(trian={}), "trian"),
                            (lambda root: root["config"]["train"].update(lr="fast"), "train.lr"),
                            (lambda root: root["config"]["train"].update(lr=[[1]]), "config is not one"),
                            (lambda root: root["config"]["model"].update(d=7), "model.d"),
                            (lambda root: root.update(config=3), "config is not one"),
                            (lambda root: root.pop("data"), "it has no data"),
                            (lambda root: root.update(data=[]), "data is not an object"),
                            (lambda root: root["data"].update(digest=3), "data has a digest that is no text"),
                            (lambda root: root["cpu"].update(features=[3]), "features"),
                            (lambda root: root.pop("program"), "it has no program")):
            self.refused(self.again(self.change(run, bad)), "changed.json: ", *named)
        nested = text.replace('"train": {', '"train": {"x": ' + "[" * 100_000 + "]" * 100_000 + ", ")
        self.refused(self.again(self.write("nested.json", nested)), "nested.json: ", "config is not one")


if __name__ == "__main__":
    unittest.main()
