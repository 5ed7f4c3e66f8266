"""What the cache of keys and values brings `worker generate`: tokens/s with it, beside a pass over the whole text for
every token. The seconds that a process takes for no token are taken off.

    generate_bench.py WORKER [--turns N]

Models of random rows, d 256, 4 layers, a window of 2048; the best of the turns counts. Two minutes on two cores.
"""

import argparse
import os
import subprocess
import tempfile
import time

SEQUENCE = 2048
LENGTHS = (128, 2040)
CONFIG = f"""[model]
d = 256
layers = 4
heads = 4
tau = 8
K = 0
sequence = {SEQUENCE}
[train]
batch = 1
micro_batches = 1
eval_batches = 1
"""


class Bench:
    def __init__(self, worker: str, folder: str) -> None:
        self.worker, self.folder = worker, folder
        self.write("run.toml", CONFIG)
        self.write("text", " ".join(str(number) for number in range(6000)))

    def path(self, name: str) -> str:
        return os.path.join(self.folder, name)

    def write(self, name: str, content: str) -> None:
        with open(self.path(name), "w", encoding="ascii") as file:
            file.write(content)

    def run(self, *arguments: str) -> tuple[float, int]:
        """Seconds, and the bytes that it printed."""
        begin = time.monotonic()
        done = subprocess.run([self.worker, *arguments], check=True, capture_output=True)
        return time.monotonic() - begin, len(done.stdout)

    def model(self, projection: str) -> str:
        path = self.path(projection + ".safetensors")
        self.run("train", "--config", self.path("run.toml"), "--set", f"model.projection={projection}", "--data",
                 self.path("text"), "--out", self.path("run-" + projection), "--steps", "1", "--export", path)
        return path

    def generate(self, model: str, prompt: int, tokens: int) -> float:
        self.write("prompt", "x" * prompt)
        seconds, size = self.run("generate", "--model", model, "--prompt-file", self.path("prompt"), "--tokens",
                                 str(tokens), "--temperature", "0")
        if size != prompt + tokens + 1:
            raise SystemExit(f"{tokens} tokens were asked for, {size - prompt - 1} came: the model has ended the text")
        return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("worker")
    parser.add_argument("--turns", type=int, default=3)
    flags = parser.parse_args()
    print(f"{'projection':<12}{'tokens':>7}{'tokens/s':>11}{'a pass each':>13}{'x':>7}")
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(flags.worker, folder)
        for projection in ("memory", "dense"):
            model = bench.model(projection)
            for tokens in LENGTHS:
                nothing = min(bench.generate(model, 1, 0) for _ in range(flags.turns))
                cached = min(bench.generate(model, 1, tokens) for _ in range(flags.turns)) - nothing
                # What token i cost before: a pass over i tokens. Eight places stand for all.
                places = [tokens * (2 * i + 1) // 16 for i in range(8)]
                passes = sum(min(bench.generate(model, place, 1) for _ in range(flags.turns)) - nothing
                             for place in places) / len(places)
                rate = tokens / cached
                print(f"{projection:<12}{tokens:>7}{rate:>11.0f}{1 / passes:>13.1f}{rate * passes:>7.1f}", flush=True)


if __name__ == "__main__":
    main()
