"""How fast text becomes ids: `worker prepare` on one thread beside SentencePiece's own spm_encode and Hugging Face's
library in Rust, with the same tokenizers on the same lines, in turns. Processor seconds count, without those that a
process takes for almost no text; the median of the turns.

    encode_bench.py WORKER TEXT [--modules FOLDER] [--turns N]

FOLDER holds the npm package @anush008/tokenizers (build/release/npm/node_modules after the test tokenizer_reference);
without it that library is left out.
"""

import argparse
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "tokenizer"))

import make_json


class Bench:
    def __init__(self, arguments: argparse.Namespace, folder: str) -> None:
        self.worker, self.modules, self.folder = arguments.worker, arguments.modules, pathlib.Path(folder)
        text = pathlib.Path(arguments.text).read_bytes()
        self.bytes = len(text)
        for name, content in (("all", text), ("some", b"a line\n")):
            (self.folder / f"{name}.txt").write_bytes(content)
            (self.folder / f"{name}.jsonl").write_text(
                "".join(json.dumps(line) + "\n" for line in content.decode().splitlines() if line), encoding="ascii")

    def processor_seconds(self, command: list[str], source: pathlib.Path) -> float:
        with open(source, "rb") as text:
            process = subprocess.Popen(command, stdin=text, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            _, status, usage = os.wait4(process.pid, 0)
        if status != 0:
            raise SystemExit(f"{' '.join(command)} ended with {os.waitstatus_to_exitcode(status)}")
        return usage.ru_utime + usage.ru_stime

    def ours(self, tokenizer: str, text: str) -> float:
        out = self.folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        source = self.folder / f"{text}.txt"
        return self.processor_seconds([self.worker, "prepare", "--threads", "1", "--data", str(source), "--tokenizer",
                                       tokenizer, "--out", str(out)], source)

    def spm_encode(self, tokenizer: str, text: str) -> float:
        return self.processor_seconds(["spm_encode", f"--model={tokenizer}", "--output_format=id"],
                                      self.folder / f"{text}.txt")

    def hugging_face(self, tokenizer: str, text: str) -> float:
        script = str(HERE.parents[1] / "tokenizer" / "reference.js")
        return self.processor_seconds(["node", script, self.modules, tokenizer], self.folder / f"{text}.jsonl")

    def rate(self, seconds, tokenizer: str) -> float:
        """MB a second of a processor."""
        return self.bytes / 1e6 / (seconds(tokenizer, "all") - seconds(tokenizer, "some"))

    def sentencepiece(self, model: str) -> str:
        path = str(self.folder / f"{model}.model")
        subprocess.run([self.worker, "tokenizer", "--data", str(self.folder / "all.txt"), "--out", path, "--vocabulary",
                        "8000", "--model", model], check=True, capture_output=True)
        return path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("worker")
    parser.add_argument("text")
    parser.add_argument("--modules", default="")
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(arguments, folder)
        lines = [(f"SentencePiece, {model}, 8000 ids", bench.sentencepiece(model), "spm_encode", bench.spm_encode)
                 for model in ("unigram", "bpe")]
        if arguments.modules:
            lines.append(("byte-level BPE, 1100 ids", make_json.write(folder)[0], "Hugging Face's", bench.hugging_face))
        print(f"{bench.bytes / 1e6:.1f} MB, {arguments.turns} turns\n")
        print("| tokenizer | worker prepare | beside it | x |\n|---|---|---|---|")
        for name, tokenizer, whose, theirs in lines:
            rates = [(bench.rate(bench.ours, tokenizer), bench.rate(theirs, tokenizer)) for _ in range(arguments.turns)]
            own, other = (statistics.median(column) for column in zip(*rates))
            ratio = statistics.median(mine / its for mine, its in rates)
            print(f"| {name} | {own:.1f} MB/s a core | {whose} {other:.1f} MB/s | {ratio:.2f} |", flush=True)


if __name__ == "__main__":
    main()
