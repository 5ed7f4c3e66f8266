#!/usr/bin/env python3
"""A step of a PyTorch model with a memory layer on servers, beside the same model with the tables in its own memory
(nn.EmbeddingBag) and with nn.Linear in their place; then of the layer alone, from Python and from C++. Prints one
table: milliseconds a step, the median of some, and the ratio to the first line of its part.
  layer_bench.py [--package FOLDER] [--pserver PATH] [--width N] [--tau N] [--tokens N] [--steps N] [--threads N]"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Callable


def options() -> argparse.Namespace:
    build = os.path.join(os.path.dirname(__file__), "..", "..", "..", "build", "release")
    parser = argparse.ArgumentParser(description="What a step on servers costs.")
    parser.add_argument("--package", default=os.path.join(build, "python"))
    parser.add_argument("--pserver", default=os.path.join(build, "bin", "pserver"))
    parser.add_argument("--cpp", default=os.path.join(build, "bin", "layer_step_bench"))
    parser.add_argument("--width", type=int, default=512, help="inputs and outputs of the layer")
    parser.add_argument("--tau", type=int, default=8)
    parser.add_argument("--tokens", type=int, default=2048, help="of a micro-batch")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--threads", type=int, default=1, help="of torch, and of each of two servers")
    return parser.parse_args()


OPTIONS = options()
sys.path.insert(0, OPTIONS.package)

import torch  # noqa: E402

import memoryformer as mf  # noqa: E402


class LocalTables(torch.nn.Module):
    """The layer's formulas with the tables in this process."""

    def __init__(self) -> None:
        super().__init__()
        self.hash = mf.Hash(OPTIONS.width, OPTIONS.tau)
        self.tables = torch.nn.EmbeddingBag(self.hash.tables << OPTIONS.tau, OPTIONS.width, mode="sum", sparse=True)
        self.first = torch.arange(self.hash.tables)[:, None] << OPTIONS.tau

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hashed = self.hash(x)
        return self.tables((hashed.buckets + self.first).T.contiguous(),
                           per_sample_weights=hashed.weights.T.contiguous())


def model(layer: torch.nn.Module) -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.LayerNorm(OPTIONS.width), layer, torch.nn.LayerNorm(OPTIONS.width))


def batch() -> torch.Tensor:
    return torch.randn(OPTIONS.tokens, OPTIONS.width, requires_grad=True)


def local(layer: torch.nn.Module) -> list[float]:
    net = model(layer)
    sparse = [p for m in net.modules() if isinstance(m, torch.nn.EmbeddingBag) for p in m.parameters()]
    dense = [p for p in net.parameters() if all(p is not other for other in sparse)]
    optimizers = [torch.optim.Adam(dense, lr=1e-3)] + ([torch.optim.SparseAdam(sparse, lr=1e-3)] if sparse else [])
    seconds = []
    for _ in range(OPTIONS.steps):
        x, begin = batch(), time.perf_counter()
        net(x).square().mean().backward()
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        seconds.append(time.perf_counter() - begin)
    return seconds


def on_servers(servers: str) -> list[float]:
    run = mf.Run(servers, steps=OPTIONS.steps, optimizer=mf.AdamW(lr=1e-3, weight_decay=0.0), progress=False,
                 snapshot_minutes=0, reproducible=False)
    net = model(mf.MemoryLayer(run, "layer", OPTIONS.width, OPTIONS.width, tau=OPTIONS.tau, bias=False, lazy=True))
    run.share(net)
    seconds, end = [], None
    for work in run:
        x = batch()
        work.backward(net(x).square().mean())
        now = time.perf_counter()
        if end is not None:
            seconds.append(now - end)  # from one end to the next: with the update and the next lease
        end = now
    return seconds


def alone(servers: str) -> list[float]:
    """The layer by itself under the cheapest loss, and the same input again and again: as layer_step_bench."""
    run = mf.Run(servers, steps=OPTIONS.steps, optimizer=mf.AdamW(lr=1e-3, weight_decay=0.0), progress=False,
                 snapshot_minutes=0, reproducible=False)
    layer = mf.MemoryLayer(run, "layer", OPTIONS.width, OPTIONS.width, tau=OPTIONS.tau, bias=False, lazy=True)
    run.share(layer)
    x, dy, seconds, end = batch(), torch.randn(OPTIONS.tokens * OPTIONS.width) / OPTIONS.tokens, [], None
    for work in run:
        x.grad = None
        work.backward(layer(x).reshape(-1) @ dy)
        now = time.perf_counter()
        if end is not None:
            seconds.append(now - end)
        end = now
    return seconds


def in_cpp(servers: str) -> list[float]:
    command = [OPTIONS.cpp, servers, "--width", OPTIONS.width, "--tau", OPTIONS.tau, "--tokens", OPTIONS.tokens,
               "--steps", OPTIONS.steps]
    lines = subprocess.run([str(word) for word in command], check=True, stdout=subprocess.PIPE, text=True).stdout
    return [float(line) / 1000 for line in lines.split()]


def with_servers(measure: Callable[[str], list[float]]) -> list[float]:
    with tempfile.TemporaryDirectory() as state:
        processes, addresses = [], []
        try:
            for shard in range(2):
                process = subprocess.Popen([OPTIONS.pserver, "serve", "--listen", "tcp://127.0.0.1:0", "--shard",
                                            f"{shard}/2", "--data", state, "--threads", str(OPTIONS.threads)],
                                           stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
                processes.append(process)
                addresses.append(process.stdout.readline().split()[1])
            return measure(",".join(addresses))
        finally:
            for process in processes:
                process.terminate()
                process.wait()
                process.stdout.close()


def main() -> None:
    torch.set_num_threads(OPTIONS.threads)
    print(f"{OPTIONS.tokens} tokens, {OPTIONS.width} to {OPTIONS.width}, tau = {OPTIONS.tau}")
    print(f"{'':28} {'ms a step':>10} {'ratio':>7} {'tokens/s':>10}")
    show([("memory layer on 2 servers", with_servers(on_servers)), ("nn.EmbeddingBag here", local(LocalTables())),
          ("nn.Linear", local(torch.nn.Linear(OPTIONS.width, OPTIONS.width)))])
    # In turns, as the machine is not always as fast.
    turns = [(with_servers(in_cpp), with_servers(alone)) for _ in range(3)]
    show([("the layer alone, from C++", [second for cpp, _ in turns for second in cpp]),
          ("the layer alone, from Python", [second for _, python in turns for second in python])])


def show(lines: list[tuple[str, list[float]]]) -> None:
    first = statistics.median(lines[0][1])
    for name, seconds in lines:
        median = statistics.median(seconds)
        print(f"{name:28} {1000 * median:10.2f} {median / first:7.2f} {OPTIONS.tokens / median:10.0f}")


if __name__ == "__main__":
    main()
