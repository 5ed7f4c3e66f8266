"""Goal: ids of a large text are made once. Every start and every worker of the machine reads the same folder of a
cache, however many begin at the same time and whatever became of who began to make it; and the run is the one of the
text that was prepared.
Usage: text_cache_test.py PATH_OF_WORKER"""

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

import make_json

WORKER = ""
CONFIG = b"""[model]
vocabulary = 1100
d = 16
layers = 1
heads = 2
K = 2
sequence = 16
[snapshot]
every_minutes = 0
"""
SIZE = 17 << 20  # of text: what is kept begins with 16 MiB


class TextCache(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.cache = self.folder / "cache"
        self.tokenizer = make_json.write(str(self.folder))[0]
        draw = random.Random(1)
        lines = ["".join(draw.choices("etaoin shrdlu", k=70)) + "\n" for _ in range(1000)]
        self.text = self.write("text.txt", ("".join(lines) * (SIZE // 71000 + 1)).encode())
        self.config = self.write("run.toml", CONFIG)

    def write(self, name: str, content: bytes) -> str:
        path = self.folder / name
        path.write_bytes(content)
        return str(path)

    def start(self, data: str, out: str, cache: str = "") -> subprocess.Popen:
        command = [WORKER, "train", "--config", self.config, "--data", data, "--steps", "2", "--set",
                   f"data.tokenizer={self.tokenizer}", "--out", str(self.folder / out)]
        environment = {**os.environ, "XDG_CACHE_HOME": cache or str(self.cache)}
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)

    def end(self, process: subprocess.Popen, code: int = 0) -> str:
        out, errors = process.communicate(timeout=120)
        self.assertEqual(process.returncode, code, out + errors)
        return errors

    def train(self, data: str, out: str, cache: str = "", code: int = 0) -> str:
        return self.end(self.start(data, out, cache), code)

    def run_of(self, out: str) -> tuple[str, float]:
        """Its id and last loss."""
        run = json.loads((self.folder / out / "run.json").read_text("utf-8"))["run"]
        lines = (self.folder / out / "metrics.jsonl").read_text("utf-8").splitlines()
        return run, json.loads(lines[-1])["loss"]

    def kept(self) -> list[pathlib.Path]:
        return sorted((self.cache / "memoryformer").glob("*"))

    def test_it_is_made_once_and_is_the_run_of_the_prepared_text(self) -> None:
        both = [self.start(self.text, out) for out in ("a", "b")]
        said = [self.end(process) for process in both]
        self.assertEqual(sum("once for all workers" in errors for errors in said), 1, said)
        self.assertEqual(len(self.kept()), 1)
        again = self.train(self.text, "again")
        self.assertNotIn("once for all workers", again)
        subprocess.run([WORKER, "prepare", "--data", self.text, "--tokenizer", self.tokenizer, "--out",
                        self.folder / "prepared"], check=True, capture_output=True, timeout=120)
        self.train(str(self.folder / "prepared"), "of-prepared")
        self.assertEqual(len({self.run_of(out) for out in ("a", "b", "again", "of-prepared")}), 1)

    def test_who_is_killed_leaves_nothing_that_is_taken_for_whole(self) -> None:
        process = self.start(self.text, "killed")
        end = time.monotonic() + 60
        while not list(self.cache.glob("memoryformer/ids-*/*.partial")):
            self.assertLess(time.monotonic(), end)
            self.assertIsNone(process.poll())
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        self.assertIn("once for all workers", self.train(self.text, "second"))
        self.assertEqual(len([path for path in self.kept() if path.is_dir()]), 1)
        self.assertNotIn("once for all workers", self.train(self.text, "third"))

    def test_what_is_damaged_or_gone_is_told_or_made_anew(self) -> None:
        self.train(self.text, "first")
        shard = next(self.kept()[0].glob("tokens-*.bin"))
        with open(shard, "r+b") as file:
            file.seek(1000)
            file.write(b"\x01\x01\x01")
        said = self.train(self.text, "second", code=2)
        for words in (str(shard), "are not those that were prepared", f"ids of {self.text}", "made anew"):
            self.assertIn(words, said)
        for path in shard.parent.glob("*"):
            path.unlink()
        shard.parent.rmdir()
        self.assertIn("once for all workers", self.train(self.text, "second"))
        self.assertEqual(self.run_of("first"), self.run_of("second"))

    def test_another_text_has_other_ids_and_a_small_one_none(self) -> None:
        self.train(self.text, "first")
        with open(self.text, "r+b") as file:
            file.seek(SIZE // 2)
            file.write(b"0123456789")
        self.assertIn("once for all workers", self.train(self.text, "second"))
        self.assertEqual(len(self.kept()), 2)
        self.assertNotEqual(self.run_of("first")[0], self.run_of("second")[0])
        self.train(self.write("small.txt", b"some words and more of them\n" * 1000), "small")
        self.assertEqual(len(self.kept()), 2)

    def test_where_no_cache_can_be_it_is_in_the_folder_of_the_run(self) -> None:
        place = self.write("file", b"")
        self.train(self.text, "first", cache=place)
        self.assertEqual(len(list((self.folder / "first/cache").glob("ids-*"))), 1)
        self.assertNotIn("once for all workers", self.train(self.text, "first", cache=place))


if __name__ == "__main__":
    WORKER = sys.argv.pop(1)
    unittest.main()
