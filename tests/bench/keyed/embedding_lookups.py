#!/usr/bin/env python3
"""Look-ups of an nn.EmbeddingBag in this process, to set beside those of keyed_bench.cpp: bags of one key, of which key
n comes with a chance of about 1 / n.
  embedding_lookups.py [--rows N] [--width N] [--keys N] [--threads N]"""

import argparse
import math
import time

import torch


def main() -> None:
    parser = argparse.ArgumentParser(description="Keys a second of a local table.")
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--keys", type=int, default=128_000, help="of a call")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    table = torch.nn.EmbeddingBag(options.rows, options.width, mode="sum")
    seconds, calls = 0.0, 24
    with torch.no_grad():
        for _ in range(calls):
            keys = (torch.rand(options.keys, dtype=torch.float64) * math.log(options.rows)).exp().long() - 1
            begin = time.perf_counter()
            table(keys[:, None])
            seconds += time.perf_counter() - begin
    rate = calls * options.keys / seconds / 1e6
    print(f"nn.EmbeddingBag, {options.rows:,} rows of {options.width}: {rate:.1f} M keys/s")


if __name__ == "__main__":
    main()
