"""Goal: the folder of `worker export --format hf` is the model. Loaded by the code that it contains it writes the same
greedy text and gives the same log-probabilities; its tokenizer gives the same ids; in several files it is the same.
Usage: hf_test.py PATH_OF_WORKER"""

import fcntl
import hashlib
import importlib.util
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time
import unittest

try:
    import torch
except ImportError:
    print(f"SKIPPED: torch is missing for {sys.executable} (apt-get install python3-torch)")
    sys.exit(77)

WORKER = ""
SEQUENCE = 48
CONFIG = f"""[model]
d = 32
layers = 2
heads = 4
K = 8
tau = 4
sequence = {SEQUENCE}
[train]
batch = 4
eval_every = 20
[snapshot]
every_steps = 40
every_minutes = 0
"""
VARIANTS = {
    "scaled": [],
    "softmax, 2 probes": ["model.score=softmax", "model.probes=2", "model.norm=layernorm", "model.temperature=0.75"],
    "scaled, 2 probes": ["model.probes=2"],
    "dense": ["model.projection=dense"],
}
TEXT = "the river runs under old stones and never stops for rain or wind. " * 80


class Folder(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        (self.folder / "run.toml").write_text(CONFIG)
        (self.folder / "text.txt").write_text(TEXT)

    def run_worker(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess:
        done = subprocess.run([WORKER, *arguments], capture_output=True, timeout=120, check=False)
        self.assertEqual(done.returncode, code, done.stdout + done.stderr)
        return done

    def train(self, *settings: str, data: str = "text.txt") -> str:
        """Forty steps; the run's snapshots."""
        out = self.folder / "run"
        self.run_worker("train", "--config", str(self.folder / "run.toml"), "--data", str(self.folder / data), "--out",
                        str(out), "--steps", "40", *(word for setting in settings for word in ("--set", setting)))
        return str(out / "state")

    def export(self, source: str, name: str, *flags: str) -> pathlib.Path:
        out = self.folder / name
        self.run_worker("export", "--from", source, "--format", "hf", "--out", str(out), *flags)
        return out

    @staticmethod
    def load(folder: pathlib.Path):
        spec = importlib.util.spec_from_file_location("modeling_memoryformer", folder / "modeling_memoryformer.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module.load(str(folder))

    def compare(self, state: str, folder: pathlib.Path) -> float:
        """The largest difference of a log-probability."""
        model = self.load(folder)
        prompt = TEXT[:20].encode()
        said = self.run_worker("generate", "--model", state, "--prompt", prompt.decode(), "--tokens", str(SEQUENCE - 20),
                               "--temperature", "0").stdout[:-1]
        ids = list(prompt)
        with torch.no_grad():
            while len(ids) < SEQUENCE:
                ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        self.assertEqual(said, bytes(ids))
        text = TEXT[7:7 + SEQUENCE + 1]
        (self.folder / "scored").write_text(text)
        scored = json.loads(self.run_worker("score", "--model", state, "--text", str(self.folder / "scored"), "--per-token")
                            .stdout)
        ids = torch.tensor([list(text.encode())])
        with torch.no_grad():
            logprobs = model(ids[:, :-1]).logits.log_softmax(dim=2).gather(2, ids[:, 1:, None]).flatten()
            # Left padding changes nothing of what follows it.
            padded = torch.cat([torch.full((1, 5), 256), ids[:, :20]], dim=1)
            mask = torch.cat([torch.zeros(1, 5), torch.ones(1, 20)], dim=1)
            logits = model(padded, attention_mask=mask).logits[:, 5:]
            self.assertLess(float((logits - model(ids[:, :20]).logits).abs().max()), 1e-3)
            loss = float(model(ids[:, :-1], labels=ids[:, :-1]).loss)
        self.assertAlmostEqual(loss, -float(logprobs[:-1].mean()), places=4)
        return max(abs(ours - float(theirs)) for ours, theirs in zip(scored["logprobs"], logprobs, strict=True))

    def test_is_the_model(self) -> None:
        for name, settings in VARIANTS.items():
            with self.subTest(name):
                state = self.train(*settings)
                difference = self.compare(state, self.export(state, "hf"))
                print(f"{name}: log-probabilities differ by {difference:.1e} at most")
                self.assertLess(difference, 1e-5)
                subprocess.run(["rm", "-r", str(self.folder / "run")], check=True)

    def test_in_several_files_and_once_more(self) -> None:
        state = self.train()
        one = self.export(state, "one")
        several = self.export(state, "several", "--file-gigabytes", "0.0001")
        index = json.loads((several / "model.safetensors.index.json").read_text())
        files = sorted(set(index["weight_map"].values()))
        self.assertGreater(len(files), 2)
        self.assertEqual([path.name for path in sorted(several.glob("*.safetensors"))], files)
        first, second = self.load(one).state_dict(), self.load(several).state_dict()
        self.assertEqual(set(index["weight_map"]), set(first))
        self.assertEqual(index["metadata"]["total_size"], sum(4 * tensor.numel() for tensor in first.values()))
        self.assertTrue(all(torch.equal(first[name], second[name]) for name in first))
        # From an exported file, over what was there before.
        model = self.folder / "model.safetensors"
        self.run_worker("export", "--from", state, "--out", str(model))
        self.export(str(model), "several")
        self.assertEqual(sorted(os.listdir(one)), sorted(os.listdir(several)))
        for name in os.listdir(one):
            if name != "README.md":  # a file does not know the run's figures
                self.assertEqual((one / name).read_bytes(), (several / name).read_bytes(), name)
        self.assertRegex((one / "README.md").read_text(), r"loss on held-out text, step 40 \| \d\.\d{4} nats a token")
        # Its files of tensors are models for us, too.
        self.assertEqual(self.run_worker("generate", "--model", str(one / "model.safetensors"), "--prompt", "the").stdout,
                         self.run_worker("generate", "--model", state, "--prompt", "the").stdout)
        (several / "notes.txt").write_text("mine")
        refused = self.run_worker("export", "--from", state, "--format", "hf", "--out", str(several), code=2)
        self.assertIn(b"something else is in it (notes.txt)", refused.stderr)
        self.assertTrue((several / "config.json").exists())

    def contents(self, folder: pathlib.Path) -> dict[str, str]:
        """SHA-256 of the files that are seen in it."""
        return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()
                if not path.name.startswith(".")}

    def test_what_was_there_stays_until_the_new_one_is_whole(self) -> None:
        """Whenever an export over another one is ended: it is the old one, the new one, or no model at all."""
        state = self.train("model.d=128", "model.K=16", "model.tau=8", "model.expand_bits=4")
        wholes = [self.contents(self.export(state, name, "--file-gigabytes", size))
                  for name, size in (("one", "5"), ("several", "0.001"))]
        folder = self.export(state, "hf")
        draw = random.Random(1)
        for trial in range(16):
            number = draw.choice((signal.SIGTERM, signal.SIGINT, signal.SIGKILL))
            process = subprocess.Popen(
                [WORKER, "export", "--from", state, "--format", "hf", "--out", str(folder), "--file-gigabytes",
                 "0.001" if trial % 2 else "5"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(draw.uniform(0, 0.5))
            process.send_signal(number)
            code = process.wait(120)
            self.assertIn(code, (0, 128 + number, -number))
            found = self.contents(folder)
            if number == signal.SIGKILL and "config.json" not in found:
                continue  # killed while the new one moved in
            self.assertIn(found, wholes, f"trial {trial}, {number}: exit code {code}")
            if code == 128 + number:
                self.assertFalse((folder / ".partial").exists())
        self.export(state, "hf")
        self.assertEqual(self.contents(folder), wholes[0])
        self.assertEqual([path.name for path in folder.iterdir() if path.name.startswith(".")], [])

    def test_refuses_what_it_cannot_write(self) -> None:
        state = self.train()
        folder = self.export(state, "hf")
        with open(folder / ".export-lock", "w", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            refused = self.run_worker("export", "--from", state, "--format", "hf", "--out", str(folder), code=2)
            self.assertIn(b"another export writes there", refused.stderr)
        refused = self.run_worker("export", "--from", state, "--format", "hf", "--out", str(self.folder / "text.txt"), code=2)
        self.assertIn(b"--out", refused.stderr)
        run = self.run_worker("generate", "--model", str(self.folder / "run"), "--prompt", "x", code=2)
        self.assertIn(b"run/state", run.stderr)

    def test_bytes_have_a_tokenizer(self) -> None:
        """The file that stands for bytes gives their numbers, as a tokenizer of its own shows."""
        folder = self.export(self.train(), "hf")
        text = bytes(range(256)) + "Größe 河流 \U0001F30A <|endoftext".encode()
        (self.folder / "all.txt").write_bytes(text)
        out = self.folder / "prepared"
        self.run_worker("prepare", "--binary", "--data", str(self.folder / "all.txt"), "--tokenizer",
                        str(folder / "tokenizer.json"), "--out", str(out))
        shard = (out / "tokens-00000.bin").read_bytes()[128:]
        ids = [int.from_bytes(shard[i:i + 2], "little") for i in range(0, len(shard), 2)]
        self.assertEqual(ids, [*text, 256])
        config = json.loads((folder / "config.json").read_text())
        self.assertEqual((config["vocab_size"], config["eos_token_id"]), (257, 256))
        self.assertEqual(json.loads((folder / "tokenizer_config.json").read_text())["eos_token"], "<|endoftext|>")

    def test_tokenizers_come_along(self) -> None:
        pieces, words = self.folder / "pieces.model", self.folder / "words.txt"
        draw = random.Random(1)
        words.write_text(" ".join("".join(draw.choices("etaoinshrdlu", k=draw.randint(1, 6))) for _ in range(3000)))
        self.run_worker("tokenizer", "--data", str(words), "--vocabulary", "320", "--out", str(pieces))
        folder = self.export(self.train(f"data.tokenizer={pieces}", "model.vocabulary=320"), "hf")
        self.assertEqual((folder / "tokenizer.model").read_bytes(), pieces.read_bytes())
        self.assertFalse((folder / "tokenizer.json").exists())


if __name__ == "__main__":
    torch.set_num_threads(1)  # other tests run beside this one
    WORKER = sys.argv.pop(1)
    unittest.main()
