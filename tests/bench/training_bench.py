"""Training as processes on this machine: memory layers beside dense ones of the same shape, and beside a
MemoryFormer in plain PyTorch with all tables local, which has the same tokens a step and the same cores.

    training_bench.py WORKER PSERVER [--json FILE] [--steps N] [--turns N] [--torch-steps N]

2 servers and 2 workers over loopback TCP, one thread each. A number is the median over a run's steps as
metrics.jsonl has them, without the first ones; the kinds take turns and the best turn of each counts.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import sys
from typing import NamedTuple

from cluster import Cluster, end_cleanly, text
from report import Report

SERVERS = WORKERS = 2
WARM_UP = 3  # steps: tables, gradients and buffers are new memory in the first ones
MICRO_BATCHES, BATCH, SEQUENCE = 4, 4, 512
STEP_TOKENS = MICRO_BATCHES * BATCH * SEQUENCE
NANO_STEP_TOKENS = 4 * 4 * 256  # as deploy/configs/nano.toml has it
TEXT_BYTES = 1_000_000
SHAPE = {"d": 512, "layers": 2, "heads": 8, "K": 64, "tau": 8, "expand_bits": 2, "vocabulary": 257}
HERE = os.path.dirname(os.path.abspath(__file__))
NANO = os.path.join(HERE, "..", "..", "deploy", "configs", "nano.toml")
PYTHON = "/usr/bin/python3"  # the one that has torch


def wide_config() -> bytes:
    """A run of SHAPE; everything else is as by default."""
    model = "".join(f"{key} = {value}\n" for key, value in {**SHAPE, "sequence": SEQUENCE}.items())
    return f"[model]\n{model}[train]\nmicro_batches = {MICRO_BATCHES}\nbatch = {BATCH}\n".encode()


def train(flags: argparse.Namespace, config: str | bytes, projection: str, steps: int) -> float:
    """Seconds of a typical step of a run."""
    with Cluster(flags.worker, flags.pserver) as cluster:
        path = config if isinstance(config, str) else cluster.write("run.toml", config)
        data = cluster.write("data.txt", text(TEXT_BYTES))
        for shard in range(SERVERS):
            cluster.serve(shard, SERVERS)
        sets = [f"model.projection={projection}", f"train.steps={steps}", "train.eval_every=0",
                "train.eval_batches=1", "snapshot.every_minutes=0"]
        workers = {name: cluster.train(name, path, data, sets)
                   for name in (f"worker-{number}" for number in range(WORKERS))}
        for name, worker in workers.items():
            cluster.finish(name, worker)
        return statistics.median(cluster.step_seconds("worker-0", min(WARM_UP, steps - 1)))


class Peer(NamedTuple):
    """A run of PyTorch: tokens/s of its fastest step after the first, which meets new memory, and its first loss."""

    rate: float
    loss: float


def train_torch(layer: str, huge_pages: bool, sequences: int, steps: int) -> Peer:
    """One run of torch_training.py at the shape of the servers' runs. All sequences of a step are one batch,
    which is faster there than micro-batches: fewer dense gradients of whole tables."""
    with tempfile.NamedTemporaryFile() as data:
        data.write(text(TEXT_BYTES))
        data.flush()
        shape = {**SHAPE, "sequence": SEQUENCE, "sequences": sequences}
        command = [PYTHON, "-B", os.path.join(HERE, "torch_training.py"), "--shape", json.dumps(shape), "--data",
                   data.name, "--layer", layer, "--steps", str(steps)]
        pages = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} if huge_pages else {}
        answer = subprocess.run(command, env={**os.environ, **pages}, stdout=subprocess.PIPE, text=True,
                                check=True)
    result = json.loads(answer.stdout)
    return Peer(sequences * SEQUENCE / min(result["seconds"][1:]), result["losses"][0])


def compare_torch(flags: argparse.Namespace, ours: float, report: Report) -> None:
    """`ours`: tokens/s of the memory layers at d 512."""
    whole, part = MICRO_BATCHES * BATCH, BATCH
    # The reference keeps every table's gathered rows for the backward pass: a whole step does not fit.
    runs = {"embedding_bag": ("embedding_bag", False, whole, flags.torch_steps),
            "embedding_bag, huge pages": ("embedding_bag", True, whole, flags.torch_steps),
            "the reference as it is": ("reference", True, part, 2)}
    for name, run in runs.items():
        rate = train_torch(*run).rate
        report.line(f"training: d 512, PyTorch, {name}", rate, "tokens/s", {"memory layers": rate / ours},
                    f"memory layers are {ours / rate:.2f} x as fast; {run[2] * SEQUENCE} tokens a step")


def main() -> None:
    """Command line; see the top of the file."""
    parser = argparse.ArgumentParser()
    parser.add_argument("worker")
    parser.add_argument("pserver")
    parser.add_argument("--json", default="")
    parser.add_argument("--steps", type=int, default=11)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--torch-steps", type=int, default=5, help="at least 2; 0: without PyTorch")
    flags = parser.parse_args()
    end_cleanly()
    report = Report(flags.json)
    kinds = {"d 512": (wide_config(), STEP_TOKENS, flags.steps),
             "nano": (NANO, NANO_STEP_TOKENS, 3 * flags.steps)}
    rates: dict[str, float] = {}
    for name, (config, step_tokens, steps) in kinds.items():
        best = {"memory": 0.0, "dense": 0.0}
        for _ in range(flags.turns):
            for projection in best:
                best[projection] = max(best[projection], step_tokens / train(flags, config, projection, steps))
        report.line(f"training: {name}, projection = dense", best["dense"], "tokens/s",
                    note="2 servers, 2 workers, one thread each, tcp")
        report.line(f"training: {name}, memory layers", best["memory"], "tokens/s",
                    {"projection = dense": best["memory"] / best["dense"]}, "same tokens, same processes")
        rates[name] = best["memory"]
    if flags.torch_steps > 0:
        compare_torch(flags, rates["d 512"], report)


if __name__ == "__main__":
    main()
