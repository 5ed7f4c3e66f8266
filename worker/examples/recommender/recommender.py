#!/usr/bin/env python3
"""A recommender: which rating (1 to 5) will a student give a lecturer? Students, lecturers and crosses of them with
what is known of the course are keys of tables on parameter servers, which begin empty and know no number of rows.

    apt-get install r-cran-lme4 && Rscript ratings.R ratings.csv
    recommender.py --ratings ratings.csv [--model keyed|plain|factors|bias] [--servers tcp://A,tcp://B] [--seed N]

Any number of these processes work on the same run. The other models are plain PyTorch in this process: `plain` is the
same model over tables of a fixed size, `factors` a matrix factorisation, `bias` the means of students and lecturers.
Prints the root of the mean squared error on a tenth of the ratings that nothing was trained on, and ratings/s.
"""

import argparse
import time

import numpy as np
import torch
import torch.nn.functional as F

import memoryformer as mf

BATCH, MICRO_BATCHES, WIDTH = 1024, 4, 16
STUDENT, LECTURER, SERVICE, DEPARTMENT, SEMESTER, TENURE = range(6)
CROSSES = ((LECTURER, SERVICE), (STUDENT, DEPARTMENT), (LECTURER, SEMESTER), (DEPARTMENT, TENURE, SERVICE))


def read(path: str, crosses=CROSSES) -> tuple[torch.Tensor, torch.Tensor]:
    """Keys int64 [ratings, features] (student, lecturer, then the crosses) and ratings [ratings], in a fixed order."""
    table = torch.from_numpy(np.loadtxt(path, np.int64, delimiter=",", skiprows=1))
    table = table[torch.randperm(len(table), generator=torch.Generator().manual_seed(1))]
    columns = [table[:, STUDENT], table[:, LECTURER]]
    for number, parts in enumerate(crosses):
        columns.append(mf.cross(torch.tensor(number), *(table[:, part] for part in parts)))
    return torch.stack(columns, dim=1), table[:, -1].float()


class Recommender(torch.nn.Module):
    """Around any tables, those of the servers or torch's: of students, of lecturers, and bags of crosses."""

    def __init__(self, students: torch.nn.Module, lecturers: torch.nn.Module, crosses: torch.nn.Module,
                 mean: float) -> None:
        super().__init__()
        self.students, self.lecturers, self.crosses, self.mean = students, lecturers, crosses, mean
        self.layers = torch.nn.Sequential(torch.nn.Linear(4 * WIDTH, 32), torch.nn.ReLU(), torch.nn.Linear(32, 1))

    def forward(self, keys: torch.Tensor) -> torch.Tensor:
        student, lecturer = self.students(keys[:, 0]), self.lecturers(keys[:, 1])
        x = torch.cat([student, lecturer, student * lecturer, self.crosses(keys[:, 2:])], dim=1)
        return self.mean + student[:, 0] + lecturer[:, 0] + self.layers(F.dropout(x, 0.5, self.training))[:, 0]


class Factors(torch.nn.Module):
    """Means of students and lecturers, and without them the product of their factors: what is usually compared."""

    def __init__(self, sizes: list[int], mean: float, width: int) -> None:
        super().__init__()
        self.mean, self.width = mean, width
        self.tables = torch.nn.ModuleList([plain_table(size, 1 + width) for size in sizes[:2]])

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        student, lecturer = self.tables[0](ids[:, 0]), self.tables[1](ids[:, 1])
        product = (F.dropout(student[:, 1:], 0.3, self.training) * lecturer[:, 1:]).sum(dim=1)
        return self.mean + student[:, 0] + lecturer[:, 0] + product


def plain_table(size: int, width: int, bag: bool = False) -> torch.nn.Module:
    """A table of torch, whose size has to be known."""
    table = torch.nn.EmbeddingBag(size, width, mode="sum", sparse=True) if bag else torch.nn.Embedding(
        size, width, sparse=True)
    torch.nn.init.normal_(table.weight, std=0.01)
    return table


def train_plain(model: torch.nn.Module, batch, steps: int, lr: float) -> None:
    """As the servers do it: Adam over the rows that a step hits, a cosine of rates."""
    kinds = (torch.nn.Embedding, torch.nn.EmbeddingBag)
    tables = [module.weight for module in model.modules() if isinstance(module, kinds)]
    dense = [parameter for parameter in model.parameters() if all(parameter is not table for table in tables)]
    optimizers = [torch.optim.SparseAdam(tables, lr=lr)] + ([torch.optim.Adam(dense, lr=lr)] if dense else [])
    for step in range(1, steps + 1):
        rate = lr * (0.01 + 0.99 * (1 + np.cos(np.pi * (step - 1) / steps)) / 2)
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = rate
            optimizer.zero_grad()
        for number in range(MICRO_BATCHES):
            keys, ratings = batch(step, number)
            (F.mse_loss(model(keys), ratings) / MICRO_BATCHES).backward()
        for optimizer in optimizers:
            optimizer.step()


def main() -> None:
    """Trains and tests."""
    parser = argparse.ArgumentParser(description="Ratings of lecturers by students.")
    parser.add_argument("--ratings", default="ratings.csv")
    parser.add_argument("--model", choices=("keyed", "plain", "factors", "bias"), default="keyed")
    parser.add_argument("--servers", help="addresses; without: two servers in this process")
    parser.add_argument("--steps", type=int, default=130, help="of 1024 ratings; 65 are an epoch")
    parser.add_argument("--lr", type=float, default=2e-2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    keys, ratings = read(options.ratings)
    tests, mean = len(keys) // 10, float(ratings[len(ratings) // 10 :].mean())
    train = np.arange(tests, len(keys))
    sizes = []
    if options.model != "keyed":  # keys become numbers of rows
        columns = [torch.unique(keys[:, i], return_inverse=True) for i in range(2)]
        crosses = torch.unique(keys[:, 2:], return_inverse=True)
        keys = torch.cat([columns[0][1][:, None], columns[1][1][:, None], crosses[1]], dim=1)
        sizes = [len(columns[0][0]), len(columns[1][0]), len(crosses[0])]

    def batch(step: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        at = ((step - 1) * MICRO_BATCHES + number) * (BATCH // MICRO_BATCHES)
        order = np.random.RandomState((options.seed, at // len(train))).permutation(train)
        rows = np.take(order, range(at % len(train), at % len(train) + BATCH // MICRO_BATCHES), mode="wrap")
        return keys[rows], ratings[rows]

    begin = time.monotonic()
    if options.model == "keyed":
        run = mf.Run(options.servers or mf.embedded(shards=2), steps=options.steps, micro_batches=MICRO_BATCHES,
                     optimizer=mf.AdamW(lr=mf.cosine(options.lr), weight_decay=0.0), seed=options.seed, data=batch)
        model = Recommender(mf.Embedding(run, "students", WIDTH), mf.Embedding(run, "lecturers", WIDTH),
                            mf.EmbeddingBag(run, "crosses", WIDTH), mean)
        run.share(model)
        for work in run:
            x, y = batch(work.step, work.number)
            work.backward(F.mse_loss(model(x), y))
    else:
        torch.manual_seed(options.seed)
        if options.model == "plain":
            tables = [plain_table(sizes[i], WIDTH, bag=i == 2) for i in range(3)]
            model = Recommender(*tables, mean)
        else:
            model = Factors(sizes, mean, WIDTH if options.model == "factors" else 0)
        train_plain(model, batch, options.steps, options.lr)
    seconds = time.monotonic() - begin
    model.eval()
    with torch.no_grad():
        error = F.mse_loss(model(keys[:tests]), ratings[:tests]).sqrt()
    print(f"{options.model}: root mean squared error {float(error):.4f}, "
          f"{options.steps * BATCH / seconds:,.0f} ratings/s")


if __name__ == "__main__":
    main()
