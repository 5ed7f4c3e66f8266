"""Goal: text becomes the shards that its documents are, the same bytes for any number of threads, and nothing is left
of what went wrong. What is prepared is trained on, and what is cut, changed or of another kind is refused in words.
Usage: prepare_test.py PATH_OF_WORKER"""

import gzip
import hashlib
import json
import math
import os
import pathlib
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

import make_json

WORKER = ""
CONFIG = b"""[model]
d = 16
layers = 1
heads = 2
K = 2
sequence = 16
[snapshot]
every_minutes = 0
"""
HEAD = struct.Struct("<8sIIQQ32s32sI")


def shards(folder: pathlib.Path) -> list[pathlib.Path]:
    return sorted(folder.glob("tokens-*.bin"))


class Shard:
    def __init__(self, path: pathlib.Path) -> None:
        content = path.read_bytes()
        (self.magic, self.version, self.width, self.vocabulary, self.count, self.tokenizer, self.digest,
         self.end) = HEAD.unpack_from(content)
        self.payload = content[128:]
        self.ids = list(struct.unpack(f"<{self.count}{'H' if self.width == 2 else 'I'}", self.payload))


class Prepare(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        draw = random.Random(1)
        words = ["".join(draw.choices("etaoinshrdlucmfwyp", k=draw.randrange(2, 9))) for _ in range(200)]
        self.documents = [" ".join(draw.choices(words, k=draw.randrange(3, 200))) + f" {i}\n" for i in range(300)]

    def run_worker(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess:
        done = subprocess.run([WORKER, *arguments], capture_output=True, text=True, timeout=120, check=False)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done

    def write(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        return str(path)

    def json_lines(self, documents: list[str], field: str = "text") -> bytes:
        return "".join(json.dumps({field: text, "other": 1}) + "\n" for text in documents).encode()

    def prepare(self, out: str, *arguments: str) -> tuple[pathlib.Path, str]:
        done = self.run_worker("prepare", "--out", str(self.folder / out), *arguments)
        self.assertEqual(done.stderr, "")
        return self.folder / out, done.stdout

    def bytes_of(self, documents: list[str]) -> list[int]:
        return [byte for text in documents for byte in [*text.encode(), 256]]

    def test_documents_of_all_kinds_in_their_order(self) -> None:
        part = len(self.documents) // 3
        self.write("in/a.jsonl", self.json_lines(self.documents[:part]))
        self.write("in/b.jsonl.gz", gzip.compress(self.json_lines(self.documents[part:2 * part])))
        for number, text in enumerate(self.documents[2 * part:]):
            self.write(f"in/text-{number:03}.txt", text.encode())
        out, said = self.prepare("out", "--data", str(self.folder / "in"))
        shard = Shard(shards(out)[0])
        self.assertEqual(shard.ids, self.bytes_of(self.documents))
        self.assertEqual((shard.magic, shard.version, shard.width, shard.vocabulary, shard.end),
                         (b"MFTOKENS", 1, 2, 257, 256))
        self.assertEqual((shard.tokenizer, shard.digest), (bytes(32), hashlib.sha256(shard.payload).digest()))
        text_bytes = sum(len(text) for text in self.documents)
        self.assertIn(f"{len(self.documents)} documents of {2 + part} files, {shard.count} tokens", said)
        self.assertIn(f"{text_bytes / shard.count:.3f} bytes a token, {text_bytes} bytes of text in 1 shards", said)
        other = self.write("other.jsonl", self.json_lines(["x", "y"], "content"))
        out, _ = self.prepare("out-2", "--data", other, "--field", "content")
        self.assertEqual(Shard(shards(out)[0]).ids, self.bytes_of(["x", "y"]))

    def test_the_same_bytes_for_any_number_of_threads(self) -> None:
        tokenizer = make_json.write(str(self.folder))[1]
        data = self.write("in.jsonl", self.json_lines(self.documents * 40))
        long = self.write("long.txt", "".join(self.documents * 40).encode())
        found = set()
        for threads in ("1", "2", "5"):
            out, said = self.prepare(f"out-{threads}", "--data", data, long, "--tokenizer", tokenizer, "--threads",
                                     threads, "--shard-tokens", "100000")
            self.assertIn("(byte-level BPE)", said)
            self.assertEqual((out / "tokenizer.json").read_bytes(), pathlib.Path(tokenizer).read_bytes())
            paths = shards(out)
            self.assertGreater(len(paths), 3)
            for path in paths[:-1]:
                self.assertEqual(Shard(path).count, 100000)
            self.assertEqual(Shard(paths[0]).tokenizer.hex(),
                             hashlib.sha256(pathlib.Path(tokenizer).read_bytes()).hexdigest())
            found.add(hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest())
        self.assertEqual(len(found), 1)

    def test_duplicates(self) -> None:
        data = self.write("in.jsonl", self.json_lines(["a", "b", "a", "c", "b", "a"]))
        out, said = self.prepare("out", "--data", data, "--drop-duplicates")
        self.assertEqual(Shard(shards(out)[0]).ids, self.bytes_of(["a", "b", "c"]))
        self.assertIn("3 documents were there before", said)
        out, _ = self.prepare("all", "--data", data)
        self.assertEqual(Shard(shards(out)[0]).ids, self.bytes_of(["a", "b", "a", "c", "b", "a"]))

    def test_what_goes_wrong_leaves_nothing(self) -> None:
        good = self.write("good.txt", b"text\n")
        cases = {
            "line 2: is no JSON (from byte ": self.write("bad.jsonl", b'{"text": "a"}\n{"text": \n'),
            'line 1: has no text "text"; name the field': self.write("field.jsonl", b'{"content": "a"}\n'),
            "ends in the middle": self.write("cut.txt.gz", gzip.compress(b"text" * 1000)[:-9]),
            "binary data where text is needed": self.write("binary.txt", bytes(range(256)) * 10),
            "no such file": str(self.folder / "missing"),
            "no text is in it": self.write("empty.txt", b""),
        }
        for why, path in cases.items():
            data = [path] if "no text" in why else [good, path]
            done = self.run_worker("prepare", "--data", *data, "--out", str(self.folder / "out"), code=2)
            self.assertIn(why, done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
            self.assertIn(path, done.stderr)
            self.assertFalse((self.folder / "out").exists() and os.listdir(self.folder / "out"), why)
        done = self.run_worker("prepare", "--data", good, "--field", "body", "--out", str(self.folder / "f"), code=2)
        self.assertIn("--field body: no file is of JSON lines", done.stderr)
        out, _ = self.prepare("out", "--data", good)
        done = self.run_worker("prepare", "--data", good, "--out", str(out), code=2)
        self.assertIn("something is in it", done.stderr)
        done = self.run_worker("prepare", "--data", good, "--out", str(self.folder / "t"), "--tokenizer", good, code=2)
        self.assertIn("neither a tokenizer.json nor a model of SentencePiece", done.stderr)

    def test_files_of_other_programs_hold_the_same_ids(self) -> None:
        """nanoGPT's, llm.c's and Megatron's, as their own code writes them: the same ids train the same model."""
        draw = random.Random(3)
        lengths = [draw.randrange(1, 90) for _ in range(60)]
        ids = [draw.randrange(250) for _ in range(sum(lengths))]
        narrow, wide = struct.pack(f"<{len(ids)}H", *ids), struct.pack(f"<{len(ids)}i", *ids)

        def megatron(name: str, payload: bytes, dtype: int) -> str:
            width = len(payload) // len(ids)
            starts = [sum(lengths[:i]) * width for i in range(len(lengths))]
            index = (b"MMIDIDX\0\0" + struct.pack("<QBQQ", 1, dtype, len(lengths), len(lengths) + 1)
                     + struct.pack(f"<{len(lengths)}i", *lengths) + struct.pack(f"<{len(lengths)}q", *starts)
                     + struct.pack(f"<{len(lengths) + 1}q", *range(len(lengths) + 1)))
            self.write(name + ".idx", index)
            return self.write(name + ".bin", payload)

        header = struct.pack("<256i", 20240520, 1, len(ids), *[0] * 253)
        files = {"nanogpt": self.write("nanogpt.bin", narrow), "llmc": self.write("llmc.bin", header + narrow),
                 "megatron": megatron("megatron", narrow, 8), "neox": megatron("neox", wide, 4)}
        models = set()
        for name, path in files.items():
            export = self.folder / f"{name}.safetensors"
            self.train(path, "--export", str(export), out=name)
            models.add(hashlib.sha256(export.read_bytes()).hexdigest())
        self.assertEqual(len(models), 1)
        # Cut, of another width, and with the index of another file.
        for name, cut, why in (("llmc", -2, "its header (llm.c) says"), ("megatron", -2, "its index (.idx) says")):
            path = pathlib.Path(files[name])
            path.write_bytes(path.read_bytes()[:cut])
            said = self.train(str(path), out=name + "-cut", code=2)
            self.assertIn(f"{path}: {why}", said)
        self.write("megatron.bin", wide)
        self.assertIn("its index (.idx) says", self.train(files["megatron"], out="foreign", code=2))
        index = self.folder / "neox.idx"
        index.write_bytes(index.read_bytes()[:200])
        self.assertIn(f"{index}: ends in the middle", self.train(files["neox"], out="cut-index", code=2))

    def test_a_mixture_of_corpora(self) -> None:
        """Two workers' worth of files become one run; the tokenizer is found beside any of them."""
        tokenizer = make_json.write(str(self.folder))[1]
        data = self.write("in.jsonl", self.json_lines(self.documents[:150]))
        shards_of, _ = self.prepare("one", "--data", data, "--tokenizer", tokenizer)
        self.write("text/a.txt", "".join(self.documents[150:]).encode())
        mixture = self.write("all.mix", b"0.75 one\n0.25 text/\n")
        vocabulary = ("--set", "model.vocabulary=1100")
        said = self.train(mixture, *vocabulary, out="mixed")
        self.assertRegex(said, r"/one, 75\.0% of all: \d+ tokens to train on; 2 steps are \S+ epochs")
        self.assertRegex(said, r"/text/, 25\.0% of all: \d+ tokens")
        repeated = self.run_worker("train", "--repeat", str(self.folder / "mixed" / "run.json"))
        self.assertNotIn("may differ", repeated.stderr)
        self.write("all.mix", b"0.5 one\n0.5 text/\n")
        self.train(mixture, *vocabulary, out="other")
        runs = {json.loads((self.folder / out / "run.json").read_text())["run"] for out in ("mixed", "other")}
        self.assertEqual(len(runs), 2)
        export = str(self.folder / "model.safetensors")
        self.train(mixture, *vocabulary, "--export", export, out="exported")
        for command in (["eval", "--data"], ["score", "--text"]):
            done = self.run_worker(*command, mixture, "--model", export, code=2)
            self.assertIn("only worker train --data takes", done.stderr)
        shutil.rmtree(shards_of)
        self.assertIn("no such file", self.train(mixture, *vocabulary, out="missing", code=2))

    def test_a_corpus_in_part_is_none(self) -> None:
        data = self.write("in.jsonl", self.json_lines(self.documents))
        out, _ = self.prepare("out", "--data", data, "--shard-tokens", "30000")
        paths = shards(out)
        self.assertGreater(len(paths), 3)
        for missing in (0, 1, len(paths) - 1):
            kept = paths[missing].read_bytes()
            paths[missing].unlink()
            self.assertIn(f"{out}/: shard {missing} of {len(paths)} (from 0) is missing", self.train(str(out), code=2))
            paths[missing].write_bytes(kept)
        # Those that are named are meant.
        self.train(str(out / "tokens-0000[0-2].bin"))
        self.train(str(paths[1]))
        last = paths[-1].read_bytes()
        paths[-1].write_bytes(paths[0].read_bytes())
        self.assertIn("is the same shard as", self.train(str(out), code=2))
        paths[-1].write_bytes(last)
        self.train(str(out))
        again = self.run_worker("prepare", "--data", str(out), "--out", str(self.folder / "again"), code=2)
        self.assertIn("is prepared already", again.stderr)

    def test_long_documents_have_the_same_ids_wherever_they_stand(self) -> None:
        """Of a text file, of a line of JSON, with lines or without any."""
        words = " ".join(self.documents).replace("\n", " ")
        for name, text in (("lines", "".join(self.documents * 12)), ("line", (words + " ") * 12)):
            self.assertGreater(len(text), 1 << 21)
            for kind in make_json.write(str(self.folder))[:2]:
                found = set()
                for suffix, content in ((".txt", text.encode()), (".JSONL", self.json_lines([text]))):
                    path = self.write(name + suffix, content)
                    out, _ = self.prepare(f"{name}{suffix}-{os.path.basename(kind)}", "--data", path, "--tokenizer", kind)
                    found.add(shards(out)[0].read_bytes())
                self.assertEqual(len(found), 1)

    def test_json_lines_are_no_text(self) -> None:
        data = self.write("in.jsonl", self.json_lines(self.documents))
        self.assertIn("make their documents into shards with worker prepare", self.train(data, code=2))
        self.train(data, "--set", "data.binary=true")
        for line, why in ((b'{"text": "a"}\n{"text": nan}', "line 2: is no JSON (from byte "),
                          (b'{"text": 1}', 'has a "text" that is no text'), (b"[1]", "is no JSON object")):
            bad = self.write("bad.jsonl", line)
            done = self.run_worker("prepare", "--data", bad, "--out", str(self.folder / "bad"), code=2)
            self.assertIn(why, done.stderr)

    def test_a_tokenizer_says_what_it_needs(self) -> None:
        text = self.write("in/text.txt", "".join(self.documents).encode())
        inside = self.run_worker("tokenizer", "--data", str(self.folder / "in"), "--out", str(self.folder / "in" / "m"),
                                 code=2)
        self.assertIn("lies in the data", inside.stderr)
        few = self.run_worker("tokenizer", "--data", text, "--vocabulary", "100000", "--out", str(self.folder / "m"), code=2)
        self.assertRegex(few.stderr, r"there is text for at most \d+ ids")
        empty = self.run_worker("tokenizer", "--data", self.write("empty.txt", b""), "--out", str(self.folder / "m"), code=2)
        self.assertIn("no text is in it", empty.stderr)

    def test_tasks_where_a_token_reaches_over_the_border(self) -> None:
        """Context and choice are encoded together, which may have fewer ids than the context alone."""
        text = self.write("text.txt", "".join(self.documents).encode())
        pieces = str(self.folder / "pieces.model")
        self.run_worker("tokenizer", "--data", text, "--vocabulary", "600", "--out", pieces)
        words = sorted({word for document in self.documents for word in document.split() if len(word) > 3})[:60]
        examples = [{"context": before + word[:cut], "choices": [word[cut:], "x"], "answer": 0}
                    for word in words for cut in range(1, len(word)) for before in ("", words[0] + " ")]
        task = self.write("task.jsonl", "".join(json.dumps(example) + "\n" for example in examples).encode())
        for name, tokenizer in (("pieces", pieces), ("json", make_json.write(str(self.folder))[0])):
            export = str(self.folder / f"{name}.safetensors")
            self.train(text, "--set", f"data.tokenizer={tokenizer}", "--set", "model.vocabulary=1100", "--export", export,
                       out=name)
            lines = self.run_worker("tasks", "--model", export, "--tasks", task, "--each").stdout.splitlines()
            each = [json.loads(line) for line in lines[:len(examples)]]
            for line in each:
                self.assertGreaterEqual(min(line["tokens"]), 1)
                self.assertLess(max(line["log_likelihoods"]), 0)

    def begin_long(self, out: pathlib.Path) -> tuple[list[str], subprocess.Popen]:
        """A command that takes seconds, and its process, which has written something."""
        tokenizer = make_json.write(str(self.folder))[1]
        data = self.write("long.jsonl", self.json_lines(self.documents) * 150)
        command = ["prepare", "--data", data, "--out", str(out), "--tokenizer", tokenizer, "--threads", "1",
                   "--shard-tokens", "100000"]
        process = subprocess.Popen([WORKER, *command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.communicate)
        self.addCleanup(process.kill)
        end = time.monotonic() + 60
        while len(list(out.glob("tokens-*.bin.partial"))) < 2:
            self.assertIsNone(process.poll())
            self.assertLess(time.monotonic(), end)
            time.sleep(0.01)
        return command, process

    def test_who_is_told_to_end_leaves_nothing(self) -> None:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            _, process = self.begin_long(self.folder / "out")
            process.send_signal(number)
            said = process.communicate(timeout=60)[1]
            self.assertEqual(process.returncode, 128 + number, said)
            self.assertIn("is left empty", said)
            self.assertEqual(os.listdir(self.folder / "out"), [])

    def test_half_a_folder_is_known_as_such(self) -> None:
        out = self.folder / "out"
        command, process = self.begin_long(out)
        self.assertIn("another worker prepare writes there", self.run_worker(*command, code=2).stderr)
        process.kill()
        process.wait()
        # Killed while the shards got their names, too.
        parts = sorted(out.glob("tokens-*.bin.partial"))
        parts[0].rename(out / "tokens-00000.bin")
        for data in (out, out / "tokens-*.bin"):
            self.assertIn("worker prepare has not finished this folder", self.train(str(data), code=2))
        # What is not of shards is nobody's to remove.
        foreign = out / "notes.txt"
        foreign.write_bytes(b"mine")
        self.assertIn("something is in it (notes.txt)", self.run_worker(*command, code=2).stderr)
        self.assertTrue(parts[-1].exists())
        foreign.unlink()
        self.assertIn("has not finished it; begins anew", self.run_worker(*command).stderr)
        whole = self.folder / "whole"
        self.run_worker(*command[:4], str(whole), *command[5:])
        self.assertEqual({path.name: path.read_bytes() for path in out.iterdir()},
                         {path.name: path.read_bytes() for path in whole.iterdir()})

    def train(self, data: str, *arguments: str, out: str = "run", code: int = 0, steps: int = 2) -> str:
        done = self.run_worker(
            "train", "--config", self.write("run.toml", CONFIG), "--data", data, "--out", str(self.folder / out),
            "--steps", str(steps), *arguments, code=code)
        return done.stdout + done.stderr

    def test_shards_are_trained_on(self) -> None:
        data = self.write("in.jsonl", self.json_lines(self.documents))
        out, _ = self.prepare("out", "--data", data, "--shard-tokens", "20000")
        self.train(str(out))
        shard = shards(out)[0]
        whole = shard.read_bytes()
        for why, content in {"bytes follow: copy it again": whole[:-2],
                             "SHA-256 differs": whole[:200] + bytes([whole[200] ^ 1]) + whole[201:],
                             "prepared by another version": whole[:8] + b"\2" + whole[9:]}.items():
            shard.write_bytes(content)
            said = self.train(str(out), code=2)
            self.assertIn(why, said)
            self.assertIn(str(shard), said)
        shard.write_bytes(whole)
        self.assertIn("prepared for a vocabulary of 257", self.train(str(out), "--set", "model.vocabulary=200", code=2))

    def test_from_text_to_scores(self) -> None:
        """The tokenizer goes with the run, its snapshots and its export: nobody has to name it again."""
        data = self.write("in.jsonl", self.json_lines(self.documents))
        text = self.write("text.txt", "".join(self.documents[:20]).encode())
        model, export = str(self.folder / "t.model"), str(self.folder / "model.safetensors")
        said = self.run_worker("tokenizer", "--data", data, "--out", model, "--vocabulary", "320").stdout
        self.assertIn("(SentencePiece, unigram)", said)
        out, _ = self.prepare("out", "--data", data, "--tokenizer", model)
        vocabulary = Shard(shards(out)[0]).vocabulary
        self.assertIn("set model.vocabulary to as much or more",
                      self.train(str(out), "--set", f"model.vocabulary={vocabulary - 1}", code=2))
        enough = ("--set", f"model.vocabulary={vocabulary + 3}")
        self.train(str(out), *enough, "--set", "snapshot.every_steps=2", "--export", export)
        # What it scores are the ids that `prepare` gives.
        alone, _ = self.prepare("alone", "--data", text, "--tokenizer", model)
        ids = Shard(shards(alone)[0]).ids
        scored = json.loads(self.run_worker("score", "--model", export, "--text", text, "--per-token").stdout)
        self.assertEqual(scored["token_ids"], ids[1:-1])
        # Bits a byte are of the text, from the export and from the snapshots alike.
        lines = self.run_worker("eval", "--model", export, "--data", text).stdout
        self.assertEqual(lines, self.run_worker("eval", "--model", str(self.folder / "run" / "state"), "--data", text)
                         .stdout)
        size = os.path.getsize(text)
        found = re.fullmatch(r"val_loss (\S+) nats/token over (\d+) tokens\nperplexity (\S+), (\S+) bits a byte over "
                             rf"{size} bytes\n", lines)
        self.assertIsNotNone(found, lines)
        loss, count = float(found[1]), int(found[2])
        self.assertEqual(count, len(ids) - 2)
        self.assertAlmostEqual(float(found[3]), math.exp(loss), places=3)
        self.assertAlmostEqual(float(found[4]), loss * count / math.log(2) / size, places=3)
        self.run_worker("eval", "--model", export, "--data", str(alone))
        said = self.run_worker("generate", "--model", export, "--prompt", "the river", "--tokens", "30").stdout
        self.assertTrue(said.startswith("the river"), said)
        self.assertEqual(said, self.run_worker("generate", "--model", export, "--prompt", "the river", "--tokens", "30",
                                               "--threads", "1").stdout)
        self.generate_as_people_expect(export, said)
        # Text itself is tokenised at the start.
        self.train(text, *enough, "--set", f"data.tokenizer={model}", out="on-text")
        # The run says what it is, without the file: it is done again to the bit.
        os.remove(model)
        repeated = self.run_worker("train", "--repeat", str(self.folder / "on-text" / "run.json"))
        self.assertNotIn("may differ", repeated.stderr)

    def generate_as_people_expect(self, export: str, said: str) -> None:
        """`said`: the text of the prompt "the river" and 30 tokens."""
        common = ["generate", "--model", export, "--tokens", "30"]
        prompt = self.write("prompt.txt", b"the river")
        self.assertEqual(self.run_worker(*common, "--prompt-file", prompt).stdout, said)
        piped = subprocess.run([WORKER, *common, "--prompt-file", "-"], input="the river", capture_output=True, text=True,
                               check=True)
        self.assertEqual(piped.stdout, said)
        # The first of several samples is the one that comes alone; the others differ.
        parts = re.split(r"--- sample \d of 3\n", self.run_worker(*common, "--prompt-file", prompt, "--samples", "3").stdout)
        self.assertEqual((parts[0], parts[1], len(set(parts))), ("", said, 4))
        # Nothing of a text that ends the output is printed.
        stop = said[len("the river") + 5:][:3]
        stopped = self.run_worker(*common, "--prompt", "the river", "--stop", stop, "--stop", "not there").stdout
        self.assertEqual(stopped, said[:said.index(stop, len("the river"))] + "\n")
        # Whatever is drawn, of the likeliest token alone it is that one.
        greedy = self.run_worker(*common, "--prompt", "the river", "--temperature", "0").stdout
        for flags in (["--top-k", "1"], ["--top-p", "0.000001"]):
            self.assertEqual(self.run_worker(*common, "--prompt", "the river", "--seed", "9", *flags).stdout, greedy)
        self.run_worker(*common, "--prompt", "the river", "--repetition-penalty", "1.5", "--top-k", "9", "--top-p", "0.9")
        for flags, why in ((["--prompt", "a", "--stop", ""], "--stop"), ([], "--prompt or --prompt-file is required"),
                           (["--prompt-file", prompt + "x"], "no such file")):
            self.assertIn(why.lower(), self.run_worker(*common, *flags, code=2).stderr.lower())

    def scores(self, export: str, text: bytes, *flags: str) -> list[float]:
        """Log-probabilities of all bytes of a text but the first."""
        path = self.write("scored", text)
        return json.loads(self.run_worker("score", "--model", export, "--text", path, "--binary", "--per-token", *flags)
                          .stdout)["logprobs"]

    def test_sliding_windows_and_many_files(self) -> None:
        export = str(self.folder / "model.safetensors")
        texts = [" ".join(self.documents[i:i + 3]).encode()[:200 + 71 * i] for i in range(3)]
        paths = [self.write(f"text-{i}.txt", text) for i, text in enumerate(texts)]
        self.train(paths[0], "--export", export, "--set", "train.batch=3", steps=30)
        for stride in (5, 16):
            expected: list[float] = []
            for begin in range(0, len(texts[0]), stride):
                window = self.scores(export, texts[0][begin:begin + 17])  # model.sequence and what follows
                expected += window[len(expected) - begin:]
                if begin + 17 >= len(texts[0]):
                    break
            found = self.scores(export, texts[0], "--stride", str(stride))
            self.assertEqual(len(found), len(texts[0]) - 1)
            for ours, theirs in zip(found, expected):
                self.assertAlmostEqual(ours, theirs, places=4)
        self.assertEqual(self.scores(export, texts[0]), found)  # 16 is what no stride is
        # Each file a line, and all of them together.
        lines = [json.loads(line) for line in
                 self.run_worker("eval", "--model", export, "--data", *paths, "--json", "--stride", "5").stdout.splitlines()]
        table = self.run_worker("eval", "--model", export, "--data", *paths, "--stride", "5").stdout.splitlines()
        self.assertEqual([line["data"] for line in lines], paths)
        self.assertEqual([line["bytes"] for line in lines], [len(text) for text in texts])
        self.assertAlmostEqual(lines[0]["nll"], -sum(self.scores(export, texts[0], "--stride", "5")), places=3)
        nll, tokens, size = (sum(line[key] for line in lines) for key in ("nll", "tokens", "bytes"))
        rows = [[line["tokens"], line["loss"], math.exp(line["loss"]), line["bits_a_byte"], line["data"]] for line in lines]
        rows.append([tokens, nll / tokens, math.exp(nll / tokens), nll / math.log(2) / size, "(all)"])
        self.assertEqual([line.split() for line in table[1:]],
                         [[str(row[0]), f"{row[1]:.6f}", f"{row[2]:.4f}", f"{row[3]:.4f}", row[4]] for row in rows])
        missing = self.run_worker("eval", "--model", export, "--data", *paths, "no-such-file", code=2)
        self.assertIn("no-such-file: no such file", missing.stderr)
        self.assertEqual(missing.stdout, "")

    def test_generate_forgets_half_of_a_full_window(self) -> None:
        """What is kept of the tokens before changes nothing: each token is that of its window alone."""
        export = str(self.folder / "model.safetensors")
        text = self.write("text.txt", "".join(self.documents[:100]).encode())
        self.train(text, "--set", "snapshot.every_steps=60", "--export", export, steps=60)

        def greedy(prompt: bytes, tokens: int, model: str = export) -> bytes:
            done = subprocess.run([WORKER, "generate", "--model", model, "--prompt-file", self.write("prompt", prompt),
                                   "--temperature", "0", "--tokens", str(tokens)], capture_output=True, timeout=60,
                                  check=True)
            self.assertTrue(done.stdout.startswith(prompt) and done.stdout.endswith(b"\n"))
            return done.stdout[len(prompt):-1]

        prompt = b"the river"
        said = greedy(prompt, 40)
        window, alone = prompt, b""
        for _ in range(40):
            if len(window) > 16:  # model.sequence
                window = window[-8:]
            alone += greedy(window, 1)
            window += alone[-1:]
        self.assertEqual(said, alone)
        self.assertEqual(said, greedy(prompt, 40, str(self.folder / "run" / "state")))

    def test_another_tokenizer_is_refused(self) -> None:
        data = self.write("in.jsonl", self.json_lines(self.documents))
        text = self.write("text.txt", "".join(self.documents[:20]).encode())
        first, second, _ = make_json.write(str(self.folder))
        vocabulary = ("--set", "model.vocabulary=1100")
        out, _ = self.prepare("out", "--data", data, "--tokenizer", first)
        self.assertIn("was not prepared with " + second,
                      self.train(str(out), *vocabulary, "--set", f"data.tokenizer={second}", code=2))
        export = str(self.folder / "model.safetensors")
        self.train(text, *vocabulary, "--set", f"data.tokenizer={second}", "--export", export)
        done = self.run_worker("eval", "--model", export, "--data", str(out), code=2)
        self.assertIn("was not prepared with the tokenizer of", done.stderr)
        done = self.run_worker("score", "--model", export, "--text", str(shards(out)[0]), code=2)
        self.assertIn("was not prepared with the tokenizer of", done.stderr)
        said = self.train(text, *vocabulary, "--set", f"data.tokenizer={second}", "--val", str(out), out="val", code=2)
        self.assertIn("was not prepared with the tokenizer of", said)
        os.remove(out / "tokenizer.json")
        said = self.train(str(out), *vocabulary, out="other", code=2)
        self.assertIn("is not beside it; name it with --set data.tokenizer=FILE", said)
        self.train(str(out), *vocabulary, "--set", f"data.tokenizer={first}", out="other")
        # Of shards that two tokenizers made there is no order.
        other, _ = self.prepare("mixed", "--data", data, "--tokenizer", second)
        shards(other)[0].rename(out / "tokens-00001.bin")
        said = self.train(str(out), *vocabulary, "--set", f"data.tokenizer={first}", out="mixed-run", code=2)
        self.assertIn("prepared with another tokenizer than", said)


if __name__ == "__main__":
    WORKER = sys.argv.pop(1)
    unittest.main()
