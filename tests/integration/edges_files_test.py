"""Goal: whatever the files are like that `worker` is given, nothing is lost, misread or unexplained, and nothing
ends in an abort or a signal. Usage: edges_files_test.py PATH_OF_WORKER PATH_OF_PSERVER"""

import glob
import hashlib
import json
import math
import os
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
import unittest

from cluster_case import DEADLINE, ClusterCase as Cluster, words

if len(sys.argv) > 2:
    Cluster.PSERVER = sys.argv.pop(2)
    Cluster.WORKER = sys.argv.pop(1)

# A model of a few kilobytes.
TINY = """[model]
d = 64
layers = 1
heads = 2
K = 16
tau = 4
sequence = 16
[train]
steps = 2
micro_batches = 1
batch = 1
eval_every = 0
"""
NOBODY = 65534


class Files(Cluster):
    CONFIG = TINY

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def write(self, name: str, content) -> str:
        os.makedirs(os.path.dirname(self.path(name)), exist_ok=True)
        with open(self.path(name), "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        return self.path(name)

    def training(self, *more: str, data: str = "", out: str = "out") -> list[str]:
        return [self.WORKER, "train", "--config", self.config, "--data", data or self.data,
                "--out", self.path(out), "--threads", "1", *more]

    def run_it(self, command: list[str], **how) -> subprocess.CompletedProcess:
        return subprocess.run(command, capture_output=True, timeout=DEADLINE, check=False, encoding="utf-8",
                              errors="replace", **how)

    def ends(self, code: int, command: list[str], *named: str, **how) -> None:
        """It ends with this code and one line, which names these things."""
        result = self.run_it(command, **how)
        about = f"{command}\nexit code: {result.returncode}\nstdout: {result.stdout}\nstderr: {result.stderr}"
        self.assertEqual(result.returncode, code, about)
        lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        self.assertEqual(len(lines), 1, about)
        self.assertEqual(result.stderr.splitlines()[-1], lines[0], about)
        self.assertNotIn("terminate", result.stderr, about)
        for word in named:
            self.assertIn(word, lines[0], about)

    def works(self, command: list[str], **how) -> subprocess.CompletedProcess:
        result = self.run_it(command, **how)
        self.assertEqual(result.returncode, 0, f"{command}\n{result.stderr}")
        return result

    def trained(self, data: str, *more: str, name: str) -> str:
        """The hash of the model that is trained on it."""
        self.works(self.training("--export", self.model(name), *more, data=data, out=name))
        with open(self.model(name), "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()

    def running(self, data: str, *more: str) -> subprocess.Popen:
        """A run that does not end, after its first steps."""
        process = self.start(self.training("--steps", "1000000", *more, data=data, out="on"), "on.log")
        self.wait_for_steps("on", 3)
        return process

    def fails(self, process: subprocess.Popen, *named: str) -> None:
        self.assertEqual(process.wait(DEADLINE), 1, self.log("on"))
        last = self.log("on").splitlines()[-1]
        self.assertTrue(last.startswith("error: "), last)
        for word in named:
            self.assertIn(word, last)

    def overwrite(self, path: str, at: int, content: bytes) -> None:
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(content)


class WhichData(Files):
    def test_other_data_is_another_run(self) -> None:
        text = words(400_000, 2).encode()
        data = self.write("one.txt", text)
        other = self.write("two.txt", text)
        self.overwrite(other, len(text) // 3 + 4321, b"12345678")
        address = self.serve(0, 1)[1]
        first = self.start(self.training("--pservers", address, "--steps", "1000000", data=data, out="w1"), "w1.log")
        self.wait_for_steps("w1", 1)
        self.ends(2, self.training("--pservers", address, "--steps", "1000000", data=other, out="w2"), "another training")
        self.assertIsNone(first.poll())
        # The same bytes under another name are the same run.
        copy = self.write("three.txt", text)
        second = self.start(self.training("--pservers", address, "--steps", "1000000", data=copy, out="w3"), "w3.log")
        self.wait_for_steps("w3", 1)
        self.assertIsNone(second.poll())

    def test_a_text_that_changes_is_noticed(self) -> None:
        data = self.write("text.txt", words(20_000, 2))
        process = self.running(data)
        self.overwrite(data, 4321, b"12345678")
        self.fails(process, "text.txt", "was changed while it is in use")

    def test_a_text_that_is_cut_is_noticed(self) -> None:
        data = self.write("text.txt", words(20_000, 2))
        process = self.running(data)
        os.truncate(data, 5000)
        self.fails(process, "text.txt", "was changed while it is in use")

    def test_a_bin_that_is_cut_is_an_error(self) -> None:
        data = self.write("ids.bin", struct.pack("<100000H", *(i % 250 for i in range(100_000))))
        process = self.running(data)
        os.truncate(data, 1000)
        self.fails(process, "ids.bin", "was changed while it is in use", "ends at byte 1000")

    def test_what_changes_no_byte_ends_nothing(self) -> None:
        data = self.write("text.txt", words(20_000, 2))
        process = self.running(data)
        os.utime(data)
        with open(data, "ab") as file:
            file.write(b"more words")
        self.wait_for_steps("on", self.steps("on") + 5)
        os.rename(self.write("new.txt", "another text"), data)
        self.wait_for_steps("on", self.steps("on") + 5)
        self.assertIsNone(process.poll(), self.log("on"))
        self.assertIn("is checked again", self.log("on"))

    def test_large_files_are_hashed_once(self) -> None:
        block = random.Random(3).randbytes(1 << 20)
        even = bytes(b if i % 2 == 0 else 0 for i, b in enumerate(block))
        data = self.write("large.bin", b"")
        with open(data, "wb") as file:
            for _ in range(130):
                file.write(even)
        self.works(self.training(data=data))
        with open(self.path("out/data-digests"), encoding="utf-8") as file:
            lines = file.read().splitlines()
        self.assertEqual(len(lines), 6)  # 130 MiB are three pieces
        with open(data, "rb") as file:
            self.assertEqual(lines[2], hashlib.sha256(file.read(64 << 20)).hexdigest())
        self.works(self.training(data=data))
        # What is written there is what is used, and what it cannot be is another run.
        body = "\n".join(lines[:3] + [hashlib.sha256(b"other").hexdigest()] + lines[4:5]) + "\n"
        self.write("out/data-digests", body + hashlib.sha256(body.encode()).hexdigest() + "\n")
        self.ends(2, self.training(data=data), "another training")
        os.remove(self.path("out/data-digests"))
        self.works(self.training(data=data))
        # A change that hides behind the old time is found, too.
        info = os.stat(data)
        self.overwrite(data, 1 << 20, b"1\x002\x00")
        os.utime(data, ns=(info.st_atime_ns, info.st_mtime_ns))
        self.ends(2, self.training(data=data), "another training")

    def test_held_out_data_that_is_trained_on_is_told(self) -> None:
        with open(self.data, "rb") as file:
            digest = hashlib.sha256(file.read()).hexdigest()
        result = self.works(self.training("--val", self.data))
        self.assertIn("--val holds what is trained on", result.stderr)
        self.assertIn(digest, result.stderr)
        other = self.write("val.txt", words(500, 9))
        self.assertNotIn("--val holds", self.works(self.training("--val", other, out="b")).stderr)


class Folders(Files):
    def test_own_output_is_no_data(self) -> None:
        self.write("in/a.txt", words(2000, 1))
        folder = self.path("in")
        self.ends(2, self.training(data=folder, out="in/run"), "--out", "lies in the data")
        self.ends(2, self.training(data=folder, out="in"), "--out", "lies in the data")
        self.ends(2, self.training("--export", self.path("in/m.safetensors"), data=folder), "--export", "lies in the data")
        self.assertEqual(os.listdir(folder), ["a.txt"])
        self.works(self.training(data=folder, out="in/.run"))
        self.works(self.training(data=folder, out="out"))
        self.ends(2, self.training(data=self.path("out/state"), out="out"), "what the run writes")
        self.ends(2, self.training(data=self.path("out"), out="elsewhere"), "holds what a run has written")

    def test_links_are_followed(self) -> None:
        self.write("plain/a.txt", words(1000, 1))
        self.write("plain/b/c.txt", words(1000, 2))
        self.write("far/c.txt", words(1000, 2))
        self.write("linked/a.txt", words(1000, 1))
        os.symlink(self.path("far"), self.path("linked/b"))
        os.symlink(self.path("linked"), self.path("far/back"))
        self.assertEqual(self.trained(self.path("plain"), name="p"), self.trained(self.path("linked"), name="l"))
        os.symlink("nowhere", self.path("linked/gone"))
        self.ends(2, self.training(data=self.path("linked")), "linked/gone", "a link to nowhere, which is not there")

    def test_what_is_no_file_is_named(self) -> None:
        self.write("in/a.txt", words(1000, 1))
        os.mkfifo(self.path("in/pipe"))
        self.ends(2, self.training(data=self.path("in")), "in/pipe: is a pipe")
        os.remove(self.path("in/pipe"))
        with socket.socket(socket.AF_UNIX) as listener:
            here = os.getcwd()
            os.chdir(self.path("in"))
            listener.bind("socket")
            os.chdir(here)
            self.ends(2, self.training(data=self.path("in")), "in/socket: is a socket")
        os.remove(self.path("in/socket"))
        for command in (self.training(data="/dev/zero"), [self.WORKER, "eval", "--model", "/dev/zero", "--data", self.data]):
            self.ends(2, command, "/dev/zero: cannot open", "a device")
        os.mkfifo(self.path("pipe"))
        self.ends(2, [self.WORKER, "eval", "--model", self.path("pipe"), "--data", self.data], "a pipe")
        command = self.training()
        command[3] = self.path("pipe")
        self.ends(2, command, "a pipe")

    def test_a_pipe_of_a_shell_is_read(self) -> None:
        with open(self.data, "rb") as file:
            result = subprocess.run(self.training("--export", self.model("pipe"), data="/dev/stdin", out="pipe"),
                                    input=file.read(), capture_output=True, timeout=DEADLINE, check=False)
        self.assertEqual(result.returncode, 0, result.stderr)
        expected = self.trained(self.data, name="file")
        with open(self.model("pipe"), "rb") as file:
            self.assertEqual(hashlib.sha256(file.read()).hexdigest(), expected)

    @unittest.skipIf(os.getuid() != 0, "needs to become somebody who may not read")
    def test_what_may_not_be_read_is_named(self) -> None:
        self.write("in/a.txt", words(1000, 1))
        self.write("in/secret.txt", words(1000, 1))
        os.chmod(self.folder, 0o777)
        os.chmod(self.path("in/secret.txt"), 0)
        shutil.copy(self.WORKER, self.path("worker"))

        def run(*named: str, data: str) -> None:
            command = self.training(data=data, out="o")
            self.ends(2, [self.path("worker"), *command[1:]], *named, user=NOBODY, group=NOBODY, extra_groups=[])

        run("in/secret.txt", "Permission denied", data=self.path("in"))
        os.remove(self.path("in/secret.txt"))
        self.write("in/closed/a.txt", words(1000, 1))
        os.chmod(self.path("in/closed"), 0)
        run("in/closed", "Permission denied", data=self.path("in"))
        run("closed/a.txt", "Permission denied", data=self.path("in/closed/a.txt"))
        run("closed/deep", "Permission denied", data=self.path("in/closed/deep/x"))


class Formats(Files):
    CONFIG = TINY + "[data]\nvalidation_ratio = 0.1\n"
    WIDE = ["--set", "model.vocabulary=5000"]

    def ids(self) -> list[int]:
        draw = random.Random(4)
        return [draw.randrange(5000) for _ in range(4000)]

    def test_formats_of_ids(self) -> None:
        ids = self.ids()
        raw = struct.pack("<4000H", *ids)
        plain = self.trained(self.write("plain.bin", raw), *self.WIDE, name="plain")
        header = struct.pack("<256I", 20240520, 1, 4000, *[0] * 253)
        self.assertEqual(self.trained(self.write("llmc.bin", header + raw), *self.WIDE, name="llmc"), plain)
        self.write("shards/train_0.bin", struct.pack("<256I", 20240520, 1, 1000, *[0] * 253) + raw[:2000])
        self.write("shards/train_1.bin", raw[2000:])
        self.assertEqual(self.trained(self.path("shards"), *self.WIDE, name="sharded"), plain)
        wide = self.write("wide.bin", struct.pack("<4000I", *ids))
        self.ends(2, self.training(*self.WIDE, data=wide), "wide.bin", "ids of 32 bits", "data.ids=u16 or u32")
        self.assertEqual(self.trained(wide, *self.WIDE, "--set", "data.ids=u32", name="wide"), plain)
        self.ends(2, self.training(*self.WIDE, data=self.write("cut.bin", header + raw[:-10])), "cut.bin", "llm.c", "copy it again")
        self.write("shards/notes.txt", "text")
        self.ends(2, self.training(*self.WIDE, data=self.path("shards")), "shards/notes.txt", "not of both")
        self.assertEqual(self.trained(self.path("shards/*.bin"), *self.WIDE, name="pattern"), plain)
        os.remove(self.path("shards/notes.txt"))
        self.write("shards/val_0.bin", raw)
        self.ends(2, self.training(*self.WIDE, data=self.path("shards")), "train_0.bin", "val_0.bin", "held-out")

    def test_bytes_that_are_no_text(self) -> None:
        text = bytearray(words(20_000, 1).encode())
        text[100] = text[5000] = text[50_000] = 0
        data = self.write("crawl.txt", bytes(text))
        self.ends(2, self.training(data=data), "crawl.txt: 3 NUL bytes (byte 100, 5000, 50000)", "data.binary=true")
        self.works(self.training("--set", "data.binary=true", data=data))
        model = self.model("m")
        self.trained(self.data, name="m")
        for command in ([self.WORKER, "eval", "--model", model, "--windows", "4", "--data", data],
                        [self.WORKER, "score", "--model", model, "--text", data]):
            self.ends(2, command, "3 NUL bytes", "--binary")
            self.works([*command, "--binary"])
        wide = self.write("wide.txt", words(2000, 1).encode("utf-16"))
        self.ends(2, self.training(data=wide), "wide.txt: UTF-16 text", "iconv -f UTF-16")
        self.ends(2, self.training(data=self.write("big.txt", words(2000, 1).encode("utf-16-be"))), "UTF-16BE")


class Models(Files):
    def tensors(self) -> tuple[dict, str]:
        """A model's tensors as lists of numbers that bf16 and f16 hold exactly, and its configuration."""
        config = json.dumps({"model": {"d": 64, "layers": 1, "heads": 2, "K": 16, "tau": 4, "sequence": 16}})
        b = "blocks.0."
        shapes = {"embed.weight": [257, 64], b + "norm1.weight": [64], b + "qkv.tables": [16, 16, 192],
                  b + "qkv.bias": [192], b + "norm2.weight": [64], b + "m1.tables": [16, 16, 96], b + "m1.bias": [96],
                  b + "mid_norm.weight": [96], b + "mid_norm.bias": [96], b + "m2.tables": [16, 64, 64],
                  b + "m2.bias": [64], "final_norm.weight": [64], "head.weight": [257, 64]}
        draw = random.Random(5)
        return {name: (shape, [draw.randrange(-64, 65) / 64 for _ in range(math.prod(shape))])
                for name, shape in shapes.items()}, config

    def file(self, name: str, tensors: dict, config: str, dtype: str = "F32", padding: int = 0) -> str:
        header, parts, at = {}, [], 0
        if config:
            header["__metadata__"] = {"config": config}
        for tensor, (shape, values) in tensors.items():
            part = struct.pack(f"<{len(values)}{'e' if dtype == 'F16' else 'f'}", *values)
            if dtype == "BF16":
                part = b"".join(part[i + 2:i + 4] for i in range(0, len(part), 4))
            header[tensor] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(part)]}
            at += len(part)
            parts.append(part)
        text = json.dumps(header).encode()
        text += b" " * ((padding - len(text)) % 8)
        return self.write(name, struct.pack("<Q", len(text)) + text + b"".join(parts))

    def test_files_of_other_programs(self) -> None:
        tensors, config = self.tensors()
        bare_config = self.write("bare.toml", TINY)

        def loss(model: str, *more: str) -> str:
            return self.works([self.WORKER, "eval", "--model", model, "--data", self.data, "--windows", "20",
                               "--threads", "1", *more]).stdout

        expected = loss(self.file("whole", tensors, config))
        for dtype in ("F16", "BF16"):
            self.assertEqual(loss(self.file(dtype, tensors, config, dtype)), expected)
        for padding in range(1, 8):
            self.assertEqual(loss(self.file("odd", tensors, config, padding=padding)), expected)
        bare = self.file("bare", tensors, "")
        for command in (["eval", "--data", self.data], ["score", "--text", self.data], ["generate", "--prompt", "x"]):
            self.ends(2, [self.WORKER, *command, "--model", bare], "bare", "--config FILE")
            self.works([self.WORKER, *command, "--model", bare, "--config", bare_config])
        self.assertEqual(loss(bare, "--config", bare_config), expected)
        other = self.write("other.toml", TINY.replace("heads = 2", "heads = 4"))
        self.ends(2, [self.WORKER, "eval", "--model", self.path("whole"), "--data", self.data, "--config", other],
                  "describes another model")

    def test_a_model_that_is_cut_while_it_is_used(self) -> None:
        tensors, config = self.tensors()
        model = self.file("whole", tensors, config)
        data = self.write("long.txt", words(1_000_000, 3))
        process = self.start([self.WORKER, "eval", "--model", model, "--data", data, "--threads", "1"], "on.log")
        time.sleep(1)
        self.assertIsNone(process.poll())
        os.truncate(model, 5000)
        self.fails(process, "whole", "cut short")


class NothingAborts(Files):
    def test_places_that_cannot_be(self) -> None:
        os.symlink(self.path("loop"), self.path("loop"))
        long = self.path("n" * 300)
        state = self.path("state")
        for model in (long, self.path("loop"), self.path("loop/x"), self.data + "/x"):
            for command in (["eval", "--data", self.data], ["score", "--text", self.data], ["generate", "--prompt", "x"]):
                self.ends(2, [self.WORKER, *command, "--model", model])
        for data in (long, self.path("loop"), self.path("loop/x"), self.data + "/x"):
            self.ends(2, self.training(data=data))
            self.ends(2, self.training("--val", data))
        self.ends(2, self.training(out="loop"))
        for out in ("n" * 300, "loop/x", "data.txt/x"):
            self.ends(2, self.training(out=out))
            self.ends(2, self.training("--export", self.path(out)), "--export")
            self.ends(2, [self.WORKER, "export", "--from", state, "--out", self.path(out)], "--out")
            command = self.training()
            command[3] = self.path(out)
            self.ends(2, command)
        self.ends(2, [self.WORKER, "export", "--from", state, "--out", ""], "--out")
        for place in (long, self.path("loop"), self.data + "/x"):
            self.ends(2, [self.WORKER, "export", "--from", place, "--out", self.model("m")])
            for command in (["inspect", place], ["runs", place], ["keygen", "--out", place],
                            ["reshard", "--from", place, "--to", self.path("to"), "--shards", "2"],
                            ["serve", "--data", place, "--listen", "tcp://127.0.0.1:0", "--shard", "0/1"]):
                result = self.run_it([self.PSERVER, *command])
                self.assertIn(result.returncode, (1, 2), f"{command} {result.stderr}")
                self.assertEqual(len(result.stderr.splitlines()), 1, f"{command} {result.stderr}")

    def test_memory_that_is_not_there(self) -> None:
        self.trained(self.data, name="m")
        text = self.write("long.txt", b"words and " * 30_000_000)
        limit = 1 << 30

        def limited() -> None:
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

        self.ends(1, [self.WORKER, "score", "--model", self.model("m"), "--text", text, "--per-token", "--threads", "1"],
                  "out of memory", preexec_fn=limited)

    def test_more_files_than_may_be_open(self) -> None:
        self.trained(self.data, name="m")
        for i in range(300):
            self.write(f"many/{i}.txt", words(30, i))

        def limited() -> None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))

        self.works([self.WORKER, "eval", "--model", self.model("m"), "--data", self.path("many"), "--threads", "1"],
                   preexec_fn=limited)

    def test_text_takes_no_memory_of_its_own(self) -> None:
        def resident(data: str, out: str) -> int:
            process = subprocess.Popen(self.training(data=data, out=out), stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            self.assertEqual(process.returncode, 0)
            return usage.ru_maxrss << 10

        size = 200 << 20
        small = resident(self.data, "small")
        large = resident(self.write("large.txt", b"words and " * (size // 10)), "large")
        self.assertLess(large - small, size // 10)


class WhatIsWritten(Files):
    def test_only_files_are_replaced(self) -> None:
        os.mkfifo(self.path("pipe"))
        self.trained(self.data, name="m")
        for name in ("pipe", "no/such/../", "out/metrics.jsonl", "out/run", "out/run.json"):
            self.ends(2, self.training("--export", self.path(name)), "--export", "another name" if "out/" in name else "")
        self.ends(2, self.training("--export", self.config), "is the --config")
        for flag, data in (("--val", self.write("val.txt", words(3000, 2))), ("--data", self.data)):
            with open(data, "rb") as file:
                before = file.read()
            more = [flag, data] if flag == "--val" else []
            self.ends(2, self.training(*more, "--export", data), "is what the run writes to --export")
            with open(data, "rb") as file:
                self.assertEqual(file.read(), before)
        self.ends(2, [self.WORKER, "buckets", "--pservers", "tcp://127.0.0.1:1", "--svg", self.path("pipe")], "--svg",
                  "a pipe")
        digest = glob.glob(self.path("m/state/run-*/shard-0-of-1/step-*/DIGEST"))[0]
        for target in (digest, self.path("m/run.json"), self.data):
            with open(target, "rb") as file:
                before = file.read()
            self.ends(2, [self.WORKER, "export", "--from", self.path("m/state"), "--out", target], "--out",
                      "no model; remove it")
            self.ends(2, [self.WORKER, "buckets", "--pservers", "tcp://127.0.0.1:1", "--svg", target], "no plot")
            with open(target, "rb") as file:
                self.assertEqual(file.read(), before)
        self.works([self.WORKER, "export", "--from", self.path("m/state"), "--out", self.model("m")])
        self.ends(2, self.training(out="pipe"), "pipe")
        os.makedirs(self.path("mine"))
        os.mkfifo(self.path("mine/run"))
        self.ends(2, self.training(out="mine"), "mine/run", "a pipe")

    def test_a_link_stays(self) -> None:
        os.makedirs(self.path("far"))
        os.symlink(self.path("far/model"), self.model("link"))
        digest = self.trained(self.data, name="link")
        self.assertTrue(os.path.islink(self.model("link")))
        with open(self.path("far/model"), "rb") as file:
            self.assertEqual(hashlib.sha256(file.read()).hexdigest(), digest)

    def test_an_export_that_is_ended_leaves_nothing(self) -> None:
        large = self.write("large.toml", TINY.replace("tau = 4", "tau = 4\nexpand_bits = 4").replace("d = 64", "d = 512")
                           .replace("K = 16", "K = 128"))
        command = self.training()
        command[3] = large
        self.works(command)
        names = set(os.listdir(self.folder))
        for wait in (0.02, 0.05, 0.1, 0.2):
            process = self.start([self.WORKER, "export", "--from", self.path("out/state"), "--out", self.path("e"),
                                  "--threads", "1"], "export.log")
            time.sleep(wait)
            process.send_signal(signal.SIGTERM)
            self.assertIn(process.wait(DEADLINE), (0, -signal.SIGTERM))
            self.assertEqual(set(os.listdir(self.folder)) - names - {"e", "export.log"}, set())

    @unittest.skipIf(os.getuid() != 0, "needs to mount a small disk")
    def test_a_last_step_that_is_not_saved_is_a_failure(self) -> None:
        os.mkdir(self.path("small"))
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", self.path("small")], check=True)
        self.addCleanup(subprocess.run, ["umount", "--lazy", self.path("small")], check=True)
        self.ends(1, self.training(out="small"), "its last step, 2, is not saved")

    def test_a_signal_while_data_is_read_ends_at_once(self) -> None:
        sparse = self.path("sparse.bin")
        with open(sparse, "wb") as file:
            file.truncate(16 << 30)
        process = self.start(self.training(data=sparse), "sparse.log")
        time.sleep(1)
        self.assertIsNone(process.poll())
        process.send_signal(signal.SIGTERM)
        self.assertEqual(process.wait(5), -signal.SIGTERM)

    def test_a_pipe_whose_writer_comes_later(self) -> None:
        os.mkfifo(self.path("late"))
        writer = subprocess.Popen(["sh", "-c", f"sleep 1; cat {self.data} > {self.path('late')}"])
        self.addCleanup(writer.wait)
        self.assertEqual(self.trained(self.path("late"), name="pipe"), self.trained(self.data, name="file"))


class Limits(Files):
    def test_libraries_that_get_no_memory(self) -> None:
        """OpenBLAS would try for ever."""
        self.trained(self.data, name="m")
        for mebibytes in (96, 128, 160, 200):
            limit = mebibytes << 20
            result = self.run_it([self.WORKER, "eval", "--model", self.model("m"), "--data", self.data, "--windows", "2",
                                  "--threads", "1"],
                                 preexec_fn=lambda most=limit: resource.setrlimit(resource.RLIMIT_AS, (most, most)))
            self.assertIn(result.returncode, (0, 1, 127), result.stderr)  # 127: its libraries do not fit
            self.assertNotIn("gave no reason", result.stderr)

    def test_threads_for_the_files_of_a_snapshot(self) -> None:
        """RocksDB ends a process that gets none."""
        self.works(self.training())
        for mebibytes in (200, 250, 300, 400):
            limit = mebibytes << 20
            result = self.run_it([self.PSERVER, "reshard", "--from", self.path("out/state"), "--to",
                                  self.path(f"to-{mebibytes}"), "--shards", "2"],
                                 preexec_fn=lambda most=limit: resource.setrlimit(resource.RLIMIT_AS, (most, most)))
            self.assertIn(result.returncode, (0, 1, 127), result.stderr)
            self.assertNotIn("gave no reason", result.stderr)


if __name__ == "__main__":
    # A test that fails leaves no core behind.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    unittest.main()
