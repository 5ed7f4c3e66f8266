"""Training on a GPU: memory layers beside the dense baseline, beside the same models in plain PyTorch. One table.

    gpu_training.py WORKER [--library-path PATH] [--config FILE] [--seconds N] [--limit N] [--without-torch]

WORKER is a program with the CUDA backend; its servers are inside it, on this machine's cores. Each variant trains for up to
--seconds or STEPS steps, all together --limit seconds. tokens/s is that of the median step, as metrics.jsonl has it, without the
first ones. PyTorch: gpu_torch.py, if python3 has a PyTorch that sees the GPU. Needs nothing but Python's standard library (3.11).
Exit code 1: a variant failed, or did no step in its time.
"""

import argparse
import array
import itertools
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
import tomllib
from typing import NamedTuple

from cluster import end_cleanly

HERE = os.path.dirname(os.path.abspath(__file__))
TINY = os.path.join(HERE, "..", "..", "deploy", "configs", "tiny.toml")
STEPS = 40
WARM_UP = 3  # steps: tables, gradients and buffers are new memory in the first ones
TOKENS = 2_000_000
VARIANTS = {"worker, dense baseline": ("model.projection=dense",),
            "worker, memory layers, placement = server": ("exchange.placement=server",),
            "worker, memory layers, placement = device": ("exchange.placement=device",)}
ALWAYS = ("train.eval_every=0", "train.eval_batches=1", "snapshot.every_minutes=0")
END = 5  # seconds that a program has to end when it is asked to


class Row(NamedTuple):
    """A line of the table. `rate` is NaN if there is nothing to tell but `note`."""

    name: str
    rate: float
    steps: int
    losses: list[float]
    note: str = ""


def write_tokens(path: str, vocabulary: int, count: int) -> None:
    """Ids drawn by Zipf's law with a fixed seed, as u16: the same bytes everywhere."""
    weights = list(itertools.accumulate(1 / (i + 1) for i in range(vocabulary)))
    tokens = array.array("H", random.Random(1).choices(range(vocabulary), cum_weights=weights, k=count))
    if sys.byteorder == "big":
        tokens.byteswap()
    with open(path, "wb") as file:
        tokens.tofile(file)


def run(command: list[str], log: str, seconds: float, environment: dict[str, str] | None = None) -> int | None:
    """Exit code, or None if it was ended because its time was over. Its output is in the file `log`."""
    with open(log, "w", encoding="utf-8") as file:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=file, stderr=subprocess.STDOUT,
                                   env={**os.environ, **(environment or {})})
        try:
            return process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.terminate()
            try:
                process.wait(END)
            except subprocess.TimeoutExpired:
                pass
            return None
        finally:
            process.kill()  # does nothing to one that has ended
            process.wait()


def lines_of(path: str) -> list[dict]:
    """The JSON objects of a file, one a line; a last line that was cut does not count."""
    try:
        with open(path, encoding="utf-8") as file:
            return [json.loads(line) for line in file if line.startswith("{") and line.endswith("}\n")]
    except FileNotFoundError:
        return []


def last_line(log: str) -> str:
    with open(log, encoding="utf-8", errors="replace") as file:
        return ([line.strip() for line in file if line.strip()] or ["it said nothing"])[-1]


def train(name: str, command: list[str], environment: dict[str, str], folder: str, seconds: float) -> Row:
    """One run of a worker; `command` lacks --out."""
    log = os.path.join(folder, "log")
    os.makedirs(folder)
    code = run([*command, "--out", os.path.join(folder, "out")], log, seconds, environment)
    steps = lines_of(os.path.join(folder, "out", "metrics.jsonl"))
    if code not in (0, None):
        return Row(name, math.nan, 0, [], f"FAILED, exit code {code}: {last_line(log)}")
    if not steps:
        return Row(name, math.nan, 0, [], f"FAILED: no step within {seconds:.0f} s")
    skipped = min(WARM_UP, len(steps) // 2)
    # null: a step that was not timed, such as the first one.
    rates = [step["tokens_per_second"] for step in steps[skipped:] if step["tokens_per_second"]]
    rate = statistics.median(rates) if rates else math.nan
    losses = [step["loss"] for step in steps]
    # JSON has no number for what is none.
    bad = any(loss is None for loss in losses)
    return Row(name, rate, len(steps), losses, "FAILED: the loss is no number" if bad else "")


def train_torch(config: str, data: str, folder: str, seconds: float, limit: float) -> list[Row]:
    """Both kinds of layers in PyTorch; one row that says why if there are none."""
    log = os.path.join(folder, "torch.log")
    code = run(["python3", "-B", os.path.join(HERE, "gpu_torch.py"), "--config", config, "--data", data, "--seconds",
                str(seconds)], log, limit)
    rows = [Row(f"PyTorch, {'dense baseline' if line['layers'] == 'dense' else 'memory layers as embedding_bag'}",
                line["tokens_per_second"], line["steps"], line["losses"],
                f"{line['parts']} parts a step" if line["parts"] > 1 else "")
            for line in lines_of(log)]
    if code == 77:
        rows.append(Row("PyTorch", math.nan, 0, [], f"left out: {last_line(log)}"))
    elif code != 0:
        why = f"no more than this within {limit:.0f} s" if code is None else f"exit code {code}: {last_line(log)}"
        rows.append(Row("PyTorch", math.nan, 0, [], f"FAILED: {why}"))
    return rows


def table(rows: list[Row]) -> str:
    """Tokens a second, and how many times those of both dense baselines they are."""
    rates = {row.name: row.rate for row in rows}
    bases = [rates.get("worker, dense baseline", math.nan), rates.get("PyTorch, dense baseline", math.nan)]
    text = f"{'training':<44}{'tokens/s':>12}{'x dense':>10}{'x PyTorch dense':>17}{'steps':>7}  loss\n"
    for row in rows:
        if math.isnan(row.rate):
            text += f"{row.name:<44}  {row.note}\n"
            continue
        ratios = [f"{row.rate / base:.2f}" if not math.isnan(base) else "-" for base in bases]
        losses = [f"{loss:.3f}" if loss is not None else "none" for loss in (row.losses[0], row.losses[-1])]
        text += (f"{row.name:<44}{row.rate:>12,.0f}{ratios[0]:>10}{ratios[1]:>17}{row.steps:>7}  "
                 f"{losses[0]} -> {losses[1]}{'  ' + row.note if row.note else ''}\n")
    return text


def main() -> None:
    """Command line; see the top of the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("worker")
    parser.add_argument("--library-path", default="", help="LD_LIBRARY_PATH of the worker, and of nothing else")
    parser.add_argument("--config", default=TINY)
    parser.add_argument("--seconds", type=float, default=40, help="of one variant at most")
    parser.add_argument("--limit", type=float, default=240, help="seconds of everything")
    parser.add_argument("--without-torch", action="store_true")
    options = parser.parse_args()
    end_cleanly()
    end = time.monotonic() + options.limit
    with open(options.config, "rb") as file:
        vocabulary = tomllib.load(file)["model"]["vocabulary"]
    environment = {"LD_LIBRARY_PATH": options.library_path} if options.library_path else {}
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix="mf-gpu-training-") as folder:
        data = os.path.join(folder, "tokens.bin")
        write_tokens(data, vocabulary, TOKENS)
        for number, (name, sets) in enumerate(VARIANTS.items()):
            seconds = min(options.seconds, end - time.monotonic() - END)
            if seconds < 5:
                rows.append(Row(name, math.nan, 0, [], "left out: no time was left"))
                continue
            command = [options.worker, "train", "--config", options.config, "--data", data, "--backend", "cuda",
                       "--steps", str(STEPS)]
            for setting in (*ALWAYS, *sets):
                command += ["--set", setting]
            rows.append(train(name, command, environment, os.path.join(folder, str(number)), seconds))
        if not options.without_torch:
            left = end - time.monotonic() - END
            if left < 20:
                rows.append(Row("PyTorch", math.nan, 0, [], "left out: no time was left"))
            else:
                rows += train_torch(options.config, data, folder, min(10, left / 6), min(90, left))
    print(table(rows), end="")
    sys.exit(any(row.note.startswith("FAILED") for row in rows))


if __name__ == "__main__":
    main()
