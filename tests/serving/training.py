"""What serving_test.py trains: training.py FOLDER_OF_PACKAGE SERVERS STEPS SECONDS_A_STEP OUT
After s steps each number of each row, and of the parameter, is -s. OUT gets the state."""

import sys
import time

sys.path.insert(0, sys.argv[1])

import torch

import memoryformer as mf

KEYS, WIDTH = 400, 64  # KEYS: also in load.cpp
TABLES, TAU, OUTPUTS = 3, 3, 64


class Model(torch.nn.Module):
    """Of a run, or of a reader of it."""

    def __init__(self, run: "mf.Run | mf.Reader") -> None:
        super().__init__()
        self.items = mf.Embedding(run, "items", WIDTH, std=0.0)
        self.memory = mf.MemoryLayer(run, "memory", TABLES * TAU, OUTPUTS, tau=TAU, bias=False, std=0.0)
        self.number = torch.nn.Parameter(torch.zeros(5))

    def forward(self) -> torch.Tensor:
        """The sum of every number of every row."""
        buckets = torch.arange(2 ** TAU).expand(TABLES, -1).contiguous()
        hashed = mf.Hashed(buckets, torch.ones(TABLES, 2 ** TAU), torch.Size([2 ** TAU]), torch.float32)
        return self.items(torch.arange(KEYS)).sum() + self.memory(hashed).sum() + self.number.sum()


def main() -> None:
    """Trains, then writes the state."""
    _, _, servers, steps, seconds, out = sys.argv
    torch.set_num_threads(1)
    run = mf.Run(servers, steps=int(steps), optimizer=mf.SGD(lr=1.0), snapshot_steps=4, keep=8, lease_seconds=5.0,
                 progress=False)
    model = Model(run)
    run.share(model)
    for work in run:
        time.sleep(float(seconds))
        work.backward(model())
    run.save(out)


if __name__ == "__main__":
    main()
