"""PyTorch's embedding_bag with per-sample weights: what a memory layer is without this project.

Reads commands, one a line, and answers each with the seconds of the fastest run of a burst, so that
the caller can take turns with it:
    layer BITS TOKENS TABLES COLUMNS THREADS    makes tables and indices; answers "ready VERSION"
    forward        tables, indices -> sums, without a graph
    both           forward and backward, dense gradients
    both-sparse    the same with sparse (uncoalesced) gradients
    pull N         index_select of N rising rows        push N    index_add_ of N rising rows
"""

import sys
import time
from typing import Callable, List, Optional

import torch
import torch.nn.functional as functional

BURST_SECONDS = 0.03
BURST_RUNS = 2


def fastest(run: Callable[[], None]) -> float:
    """Seconds of the fastest run of a burst, after one that is not counted."""
    run()
    best = float("inf")
    runs = 0
    begin = time.perf_counter()
    while runs < BURST_RUNS or time.perf_counter() - begin < BURST_SECONDS:
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
        runs += 1
    return best


class Layer:
    """K tables of 2^bits rows as one embedding, and even random indices into them."""

    def __init__(self, bits: int, tokens: int, tables: int, columns: int) -> None:
        rows = 1 << bits
        torch.manual_seed(2)
        self.table = torch.empty(tables * rows, columns).uniform_(-1, 1)
        offsets = torch.arange(tables) * rows
        self.indices = torch.randint(rows, (tokens, tables)) + offsets
        self.weights = torch.rand(tokens, tables)
        self.dy = torch.rand(tokens, columns)

    def forward(self) -> None:
        """Weighted sums only."""
        with torch.no_grad():
            functional.embedding_bag(self.indices, self.table, mode="sum",
                                     per_sample_weights=self.weights)

    def both(self, sparse: bool) -> None:
        """Forward, and the gradients of table and weights."""
        table = self.table.detach().requires_grad_(True)
        weights = self.weights.detach().requires_grad_(True)
        y = functional.embedding_bag(self.indices, table, mode="sum", sparse=sparse,
                                     per_sample_weights=weights)
        torch.autograd.grad(y, (table, weights), self.dy)

    def rising(self, count: int) -> torch.Tensor:
        """`count` distinct rows, rising, spread evenly."""
        return torch.arange(count) * self.table.shape[0] // count


def main() -> int:
    """Serves commands until the input ends."""
    layer: Optional[Layer] = None
    for line in sys.stdin:
        words: List[str] = line.split()
        if words[0] == "layer":
            layer = None  # frees the one before
            bits, tokens, tables, columns, threads = (int(word) for word in words[1:])
            torch.set_num_threads(threads)
            layer = Layer(bits, tokens, tables, columns)
            print("ready", torch.__version__, flush=True)
            continue
        assert layer is not None
        if words[0] == "forward":
            seconds = fastest(layer.forward)
        elif words[0] in ("both", "both-sparse"):
            seconds = fastest(lambda: layer.both(words[0] == "both-sparse"))
        elif words[0] == "pull":
            rows = layer.rising(int(words[1]))
            out = torch.empty(len(rows), layer.table.shape[1])
            seconds = fastest(lambda: torch.index_select(layer.table, 0, rows, out=out))
        elif words[0] == "push":
            rows = layer.rising(int(words[1]))
            values = torch.rand(len(rows), layer.table.shape[1])
            seconds = fastest(lambda: layer.table.index_add_(0, rows, values))
        else:
            print("unknown command", flush=True)
            return 2
        print(repr(seconds), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
