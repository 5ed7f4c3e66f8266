"""Goal: whatever is wrong with the input of `worker`, it exits with 2 and says so in one line on
stderr that names the thing. Usage: bad_input_test.py PATH_OF_WORKER"""

import json
import math
import os
import re
import struct
import subprocess
import sys
import tempfile
import unittest

WORKER = sys.argv.pop(1) if len(sys.argv) > 1 else "worker"

# A model of a few kilobytes, so that a run which should have been refused ends soon.
TINY = """[model]
d = 64
layers = 1
heads = 2
K = 16
tau = 4
sequence = 16
[train]
steps = 1
micro_batches = 1
batch = 1
"""


def safetensors(tensors, config):
    """The bytes of a file with {name: shape} of f32 zeros."""
    header, at = {"__metadata__": {"config": config}}, 0
    for name, shape in tensors.items():
        count = 4
        for size in shape:
            count *= size
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [at, at + count]}
        at += count
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + bytes(at)


def model_file():
    """A whole export of a memory model of one block: tensors and configuration."""
    config = json.dumps({"model": {
        "d": 64, "layers": 1, "heads": 2, "K": 16, "tau": 4, "sequence": 16}})
    b = "blocks.0."
    tensors = {
        "embed.weight": [257, 64], b + "norm1.weight": [64], b + "qkv.tables": [16, 16, 192],
        b + "qkv.bias": [192], b + "norm2.weight": [64], b + "m1.tables": [16, 16, 96],
        b + "m1.bias": [96], b + "mid_norm.weight": [96], b + "mid_norm.bias": [96],
        b + "m2.tables": [16, 64, 64], b + "m2.bias": [64], "final_norm.weight": [64],
        "head.weight": [257, 64]}
    return tensors, config


class BadInput(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.config = self.write("run.toml", TINY)
        self.data = self.write("data.txt", "The quick brown fox jumps over the lazy dog.\n" * 20)

    def path(self, name):
        return os.path.join(self.folder.name, name)

    def write(self, name, content):
        with open(self.path(name), "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
        return self.path(name)

    def run_worker(self, *arguments, program=WORKER):
        return subprocess.run([program, *arguments], capture_output=True, timeout=120, check=False,
                              encoding="utf-8", errors="replace")

    def refused(self, arguments, *named, program=WORKER):
        result = self.run_worker(*arguments, program=program)
        about = f"{arguments}\nstdout: {result.stdout}\nstderr: {result.stderr}"
        self.assertEqual(result.returncode, 2, about)
        lines = result.stderr.split("\n")
        self.assertEqual(lines[1:], [""], about)
        self.assertIsNone(re.search(r"[\x00-\x1f\x7f]", lines[0]), about)
        self.assertTrue(lines[0].startswith("error: "), about)
        for word in named:
            self.assertIn(word, lines[0], about)

    def train(self, *more, config=None, data=None, out=None):
        return ["train", "--config", config or self.config, "--data", data or self.data,
                "--out", out or self.path("out"), *more]

    def test_missing_data(self):
        self.refused(self.train(data=self.path("none.txt")), "none.txt", "no such file")
        self.refused(self.train("--val", self.path("none.txt")), "none.txt", "no such file")

    def test_empty_data(self):
        self.refused(self.train(data=self.write("empty.txt", "")), "empty.txt", "empty")
        os.mkdir(self.path("void"))
        self.refused(self.train(data=self.path("void")), "void", "empty")

    def test_binary_data(self):
        noise = bytes(range(256)) * 8
        self.refused(self.train(data=self.write("noise.txt", noise)), "noise.txt",
                     "binary data where text is needed")

    def test_too_short_data(self):
        self.refused(self.train(data=self.write("short.txt", "hello")), "short.txt", "too short")

    def test_ids_above_the_vocabulary(self):
        ids = [1] * 500
        ids[123] = 300
        data = self.write("ids.bin", struct.pack("<500H", *ids))
        self.refused(self.train(data=data), "ids.bin", "300", "position 123", "vocabulary of 257")

    def test_missing_or_broken_configuration(self):
        self.refused(self.train(config=self.path("none.toml")), "none.toml")
        self.refused(self.train(config=self.write("broken.toml", "[model\n")), "broken.toml:1")

    def test_d_is_not_k_times_tau(self):
        config = self.write("d.toml", TINY.replace("d = 64", "d = 72"))
        self.refused(self.train(config=config), "d.toml", "model.d", "72", "K * tau")
        self.refused(self.train("--set", "model.K=15"), "model.d", "15 * 4")

    def test_unknown_key(self):
        config = self.write("key.toml", TINY + "stepz = 3\n")
        self.refused(self.train(config=config), "key.toml:", "train.stepz")
        config = self.write("section.toml", TINY + "[trian]\nsteps = 3\n")
        self.refused(self.train(config=config), "section.toml:", "trian")
        self.refused(self.train("--set", "model.probez=2"), "model.probez")
        self.refused(self.train("--set", "probes"), "probes", "section.key=value")

    def test_what_is_quoted_commands_no_terminal(self):
        odd = "\x1b[2Jodd\nname\r\x07"
        self.refused(self.train("--set", f"model.{odd}=2"), "[2Jodd name")
        config = self.write("odd.toml", TINY + f"{json.dumps(odd)} = 3\n")
        self.refused(self.train(config=config), "odd.toml:", "[2Jodd name")
        model = self.write("odd.safetensors", safetensors({odd: [1]}, model_file()[1])[:-1])
        self.refused(["eval", "--model", model, "--data", self.data], "[2Jodd name")
        pserver = os.path.join(os.path.dirname(WORKER), "pserver")
        self.refused(["serve", "--shard", "0/1", "--data", self.path("state"),
                      "--listen", f"tcp://{odd}:0"], "[2Jodd name",
                     program=pserver)

    def test_unknown_flag_or_command(self):
        self.refused(self.train("--no-such-flag"), "--no-such-flag")
        self.refused(["no-such-command"], "no-such-command")
        self.refused([], "subcommand")
        self.refused(["train"], "--config")

    def test_values_out_of_range(self):
        for tau in ("0", "40"):
            self.refused(self.train("--set", f"model.tau={tau}"), "model.tau", tau, "1 to 24")
        self.refused(self.train("--set", "train.lr=fast"), "train.lr", "fast", "number")
        self.refused(self.train("--set", "exchange.wire=f64"), "exchange.wire", "f64", "bf16")
        self.refused(self.train("--set", "exchange.placement=gpu"), "exchange.placement", "device")
        for command in (self.train(), ["eval", "--model", "m", "--data", "d"],
                        ["score", "--model", "m", "--text", "t"]):
            self.refused([*command, "--backend", "gpu"], "--backend", "cuda")

    def test_numbers_of_flags(self):
        """They are read as they stand or refused: no octal number, no nan, nothing that wraps."""
        pserver = os.path.join(os.path.dirname(WORKER), "pserver")
        servers = ["--pservers", "tcp://127.0.0.1:1"]
        serve = ["serve", "--listen", "tcp://127.0.0.1:0", "--shard", "0/1", "--data", self.path("state")]
        generate = ["generate", "--model", "m", "--prompt", "x"]
        reshard = ["reshard", "--from", self.path("a"), "--to", self.path("b"), "--shards", "1"]
        eval_ = ["eval", "--model", "m", "--data", self.data]
        whole = [(WORKER, self.train(), ("--steps", 1, 10**9), ("--seed", 0, 2**53), ("--threads", 0, 1024),
                      ("--server-threads", 0, 1024), ("--memory", 0, 10**15), ("--shards", 1, 4096)),
                 (WORKER, generate, ("--seed", 0, 2**64 - 1), ("--tokens", 0, 10**12), ("--threads", 0, 1024)),
                 (WORKER, eval_, ("--windows", 0, 10**12)),
                 (WORKER, ["flops", "--config", self.config], ("--sequence", 0, 2**20)),
                 (pserver, serve, ("--memory", 0, 10**15), ("--waiting-bytes", 0, 10**15), ("--threads", 0, 1024)),
                 (pserver, reshard, ("--shards", 1, 4096), ("--step", 0, 10**9))]
        strange = ["0x10", "1e1", "+1", "1.5", "nan", "1 ", str(2**64)]
        for program, command, *flags in whole:
            for flag, low, high in flags:
                for value in ["-1", str(high + 1), *(strange if flag in ("--steps", "--memory") else [])]:
                    self.refused([*command, f"{flag}={value}"], f"{flag} {value}: it must be a whole number from "
                                 f"{low} to {high}; see", program=program)
        for program, command, flag, high in (
                (WORKER, self.train(), "--grace-seconds", 10**9), (WORKER, generate, "--temperature", 1000),
                (WORKER, ["stop", *servers], "--grace-seconds", 10**9), (pserver, serve, "--grace-seconds", 10**9),
                (pserver, serve, "--idle-seconds", 10**9)):
            more = ["inf", "-nan", "1e300", "1e999", "0x1p3", "5s"] if flag == "--temperature" else []
            for value in ("nan", "-1", *more):
                self.refused([*command, f"{flag}={value}"], f"{flag} {value}: it must be a number from 0 to "
                             f"{high}; see", program=program)
        for shard in ("4294967296/2", "-1/2", "2/2", "0/4097", "0/0", "0/4294967297", "0/2/3", "0/ 2", "0", "/2"):
            self.refused([*serve, "--shard", shard], f"--shard {shard}: not of the form 0/2", program=pserver)
        self.assertFalse(os.path.exists(self.path("state")))
        self.assertFalse(os.path.exists(self.path("out")))
        # The zero in front of a number makes nothing else of it.
        result = self.run_worker(*self.train("--steps", "010"))
        self.assertEqual(result.returncode, 0, result.stderr)
        with open(os.path.join(self.path("out"), "metrics.jsonl"), "rb") as file:
            self.assertEqual(file.read().count(b"\n"), 10)

    def test_numbers_that_are_too_fine(self):
        self.refused(self.train("--set", "train.seed=9007199254740993"), "train.seed: 9007199254740993")
        self.refused(self.train("--set", "train.eps=1e-40"), "train.eps: 1e-40", "float32")
        self.refused(self.train("--set", "model.temperature=1e-60"), "model.temperature: 1e-60", "float32")

    def test_deeper_than_a_configuration(self):
        deep = self.write("deep.toml", "[model]\n" + "a." * 35000 + "b=1\n")
        self.refused(["flops", "--config", deep], "deep.toml:2", "nested deeper")

    def test_more_servers_than_column_blocks(self):
        self.refused(self.train("--shards", "99"), "99", "column blocks")

    def test_output_that_can_not_be_written(self):
        # Below a regular file nobody can make a folder, not even root.
        self.refused(self.train(out=self.data + "/out"), "data.txt/out")

    def test_model_cut_short(self):
        whole = safetensors(*model_file())
        for size in (0, 4, 100, len(whole) // 2, len(whole) - 1):
            model = self.write("cut.safetensors", whole[:size])
            self.refused(["eval", "--model", model, "--data", self.data], "cut.safetensors",
                         "cut short")

    def test_model_with_a_wrong_shape(self):
        tensors, config = model_file()
        tensors["blocks.0.m2.tables"] = [16, 64, 80]
        model = self.write("shape.safetensors", safetensors(tensors, config))
        for command in (["eval", "--data", self.data], ["score", "--text", self.data],
                        ["generate", "--prompt", "x"]):
            self.refused([*command, "--model", model], "shape.safetensors", "blocks.0.m2.tables",
                         "[16, 64, 80]", "[16, 64, 64]")

    def test_other_bad_models(self):
        tensors, config = model_file()
        arguments = ["eval", "--data", self.data, "--model"]
        self.refused([*arguments, self.path("none")], "none", "No such file")
        self.refused([*arguments, self.folder.name],
                     "shard-<i>-of-<S>" if "eval" in arguments else "not a safetensors file")
        self.refused([*arguments, self.data], "data.txt", "not a safetensors file")
        no_tau = config.replace('"tau": 4', '"tau": 0')
        bad = self.write("tau.safetensors", safetensors(tensors, no_tau))
        self.refused([*arguments, bad], "tau.safetensors", "model.tau")
        del tensors["head.weight"]
        bad = self.write("head.safetensors", safetensors(tensors, config))
        self.refused([*arguments, bad], "head.safetensors", "head.weight", "missing")

    def test_bad_text_to_score(self):
        model = self.write("zero.safetensors", safetensors(*model_file()))
        binary = self.write("nul.txt", b"text\0text")
        self.refused(["score", "--model", model, "--text", binary], "nul.txt", "binary data")

    def test_good_input_is_not_refused(self):
        model = self.write("zero.safetensors", safetensors(*model_file()))
        result = self.run_worker("score", "--model", model, "--text", self.data, "--per-token")
        self.assertEqual(result.returncode, 0, result.stderr)
        line = json.loads(result.stdout)
        self.assertEqual(line["tokens"], len(line["logprobs"]))
        with open(self.data, "rb") as file:
            self.assertEqual(line["token_ids"], list(file.read())[1:])
        # A model of zeros holds all 257 tokens to be equally likely.
        self.assertAlmostEqual(line["nll"] / line["tokens"], math.log(257), places=4)
        self.assertAlmostEqual(line["nll"], -sum(line["logprobs"]), places=3)
        result = self.run_worker("eval", "--model", model, "--data", self.data, "--windows", "2")
        self.assertEqual(result.returncode, 0, result.stderr)
        name, loss, rest = result.stdout.split(" ", 2)
        self.assertEqual((name, rest), ("val_loss", "nats/token over 32 tokens\nperplexity 257.0000\n"))
        self.assertAlmostEqual(float(loss), math.log(257), places=4)
        result = self.run_worker("generate", "--model", model, "--prompt", "caf\u00e9 ",
                                 "--tokens", "40", "--temperature", "0")
        self.assertEqual(result.returncode, 0, result.stderr)
        self.assertTrue(result.stdout.startswith("caf\u00e9 "), result.stdout)


if __name__ == "__main__":
    unittest.main()
