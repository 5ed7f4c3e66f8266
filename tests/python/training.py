"""What the processes of cluster_test.py do: training.py FOLDER_OF_PACKAGE KIND SERVERS STEPS OUT
KIND model: a small model with every kind of parameter, dropout among them; OUT gets its state.
KIND count: gradients are whole numbers that follow from the place in the run, so that the state is their exact sum.
A line for every finished step goes to stdout."""

import os
import sys

sys.path.insert(0, sys.argv[1])

import numpy as np
import torch
import torch.nn.functional as F

import memoryformer as mf

MICRO_BATCHES = 4
TOKENS, TABLES, TAU, OUTPUTS, NUMBERS = 16, 3, 4, 48, 500
KEYS, KEY_STRIDE = 40, 2**57


def integers(*place: int) -> dict[str, np.ndarray]:
    """The whole numbers of a micro-batch in kind `count`."""
    draw = np.random.RandomState(list(place))
    return {"buckets": draw.randint(0, 2**TAU, (TABLES, TOKENS)), "weights": draw.randint(1, 4, (TABLES, TOKENS)),
            "dy": draw.randint(-3, 4, (TOKENS, OUTPUTS)), "numbers": draw.randint(-5, 6, NUMBERS),
            "keys": draw.randint(0, KEYS, (TOKENS, 2)) * KEY_STRIDE}


def batch(step: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Of kind `model`."""
    generator = torch.Generator().manual_seed(1000 * step + number)
    x = torch.randn(TOKENS, 24, generator=generator)
    return x, (x.sum(dim=1) > 0).long()


class Model(torch.nn.Module):
    """Two memory layers that share a hash, a third, bags of keys, and dense layers with dropout."""

    def __init__(self, run: mf.Run) -> None:
        super().__init__()
        self.hash = mf.Hash(24, 6, probes=2)
        self.a = mf.MemoryLayer(run, "a", outputs=48, hash=self.hash)
        self.b = mf.MemoryLayer(run, "b", outputs=48, hash=self.hash, lazy=True)
        self.norm = torch.nn.LayerNorm(48)
        self.c = mf.MemoryLayer(run, "c", 48, 64, tau=12)
        self.bags = mf.EmbeddingBag(run, "bags", 64, row_wise=True)
        self.rare = mf.EmbeddingBag(run, "rare", 64, admit=2, waiting=2048, expire=6)
        self.head = torch.nn.Linear(64, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hashed = self.hash(x)
        x = F.dropout(self.norm(self.a(hashed) + self.b(hashed)), 0.1, self.training)
        buckets = hashed.buckets.long().t()
        rare = mf.cross(buckets[:, :2], buckets[:, 1:3])  # of thousands, 128 a step
        return self.head(self.c(x) + self.bags(mf.cross(buckets)[:, :3]) + self.rare(rare))


def train(run: mf.Run) -> None:
    """Kind `model`."""
    model = Model(run)
    run.share(model, rules=lambda name, parameter: {"weight_decay": 0.0} if parameter.dim() == 1 else None)
    run.evaluate(lambda: F.cross_entropy(*(lambda x, y: (model(x), y))(*batch(0, 0))))
    for work in run:
        x, y = batch(work.step, work.number)
        work.backward(F.cross_entropy(model(x), y))


def count(run: mf.Run) -> None:
    """Kind `count`."""
    layer = mf.MemoryLayer(run, "counts", TABLES * TAU, OUTPUTS, tau=TAU, bias=False, std=0.0)
    module = torch.nn.Module()
    bags = mf.EmbeddingBag(run, "bags", OUTPUTS, std=0.0)
    module.numbers = torch.nn.Parameter(torch.zeros(NUMBERS))
    run.share(module)
    for work in run:
        values = {name: torch.from_numpy(value) for name, value in integers(work.step, work.number).items()}
        y = layer(mf.Hashed(values["buckets"], values["weights"].float(), torch.Size([TOKENS]), torch.float32))
        loss = ((y + bags(values["keys"])) * values["dy"]).sum() + (module.numbers * values["numbers"]).sum()
        work.backward(loss * MICRO_BATCHES)  # divided by it again


def main() -> None:
    """Trains, then writes the state."""
    _, _, kind, servers, steps, out = sys.argv
    torch.set_num_threads(1)
    counts = kind == "count"
    optimizer = mf.SGD(lr=1.0) if counts else mf.AdamW(lr=mf.cosine(1e-2, warmup=3))
    run = mf.Run(mf.embedded(2) if servers == "embedded" else servers, keys=os.environ.get("KEYS"), steps=int(steps),
                 micro_batches=MICRO_BATCHES, optimizer=optimizer, clip=0 if counts else 1,
                 data="" if counts else batch, evaluate_every=0 if counts else 10, snapshot_steps=3, lease_seconds=1.0,
                 progress=False, log="info")
    run.on_step(lambda record: print(f"\n{record.step} {record.loss} {record.val_loss}", flush=True))
    (count if counts else train)(run)
    run.save(out)


if __name__ == "__main__":
    main()
