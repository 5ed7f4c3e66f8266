#!/usr/bin/env python3
"""Compares the whole system, embedded servers included, with the PyTorch reference, variant by variant.

  system_test.py REFERENCE_DUMP [--shards N] [--only WORD] [--verbose]

reference_dump makes the dumps; compare.py and train_compare.py judge them. Prints one line per variant:
the worst tensor's error of a pass, the largest difference of a loss in ten training steps, and how many
(token, table) places had another bucket because rounding decided (border cases), of how many.
Exit status: 0 all within the limits, 1 not, 77 torch is missing.
"""

import argparse
import itertools
import math
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

try:
    import torch
except ImportError:
    print(f"SKIPPED: torch is missing for {sys.executable} (apt-get install python3-torch)")
    sys.exit(77)

import compare
import memoryformer
import train_compare

# By number of servers: widths that are no multiple of 16 (40, 56), an unequal share of blocks (48 is 3
# blocks), and the largest number of servers that 48 columns allow.
SHAPES = {
    1: {"d": 40, "heads": 2, "K": 8, "tau": 5},
    2: {"d": 48, "heads": 3, "K": 8, "tau": 6},
    3: {"d": 48, "heads": 4, "K": 12, "tau": 4},
}
LARGE = 1 << 30  # bytes that all tables fit in; 0 makes every table hold updated rows only
COMMON = {
    "model.layers": 2, "model.sequence": 16, "model.vocabulary": 257, "model.rotary_pct": 0.5,
    "train.batch": 2, "train.micro_batches": 2, "train.eval_every": 0, "train.eval_batches": 1,
}


@dataclass(frozen=True)
class Variant:
    """A name, what it sets, and whether the reference must agree."""

    name: str
    settings: dict[str, object]
    memory: int = LARGE
    eps: float = 1e-8
    agrees: bool = True
    bf16_tables: bool = False
    reads_f32: bool = False  # the reference does, whatever bf16_tables says


def variants(shards: int) -> list[Variant]:
    """Scores x probes x norms x expanding bits x modes of exchange, then dense models, rare rows,
    other optimizers and tables of bf16.

    Tables addressed directly and tables that hold updated rows only alternate; on several servers the
    modes alternate, too. eps is 1e-6 in the product: with the recipe's 1e-8 a gradient that is zero but
    for rounding moves its number by a share of lr, PyTorch in float32 is then up to 7e-5 in the loss from
    PyTorch in double, and no program could tell more about the other. The rest has the recipe's.
    """
    shape = {f"model.{key}": value for key, value in SHAPES[shards].items()}
    result = []
    choices = itertools.product(("softmax", "scaled"), (1, 2, 3), ("rmsnorm", "layernorm"), (0, 2))
    for number, (score, probes, norm, bits) in enumerate(choices):
        for turn, mode in enumerate(("pushdown", "pull")):
            if shards > 1 and (number + number // 2 + shards) % 2 == turn:
                continue
            direct = (number + number // 4 + turn) % 2 == 0
            name = (f"{score}, {probes} probes, {norm}, e = {bits}, {mode}, "
                    f"{'direct' if direct else 'sparse'} tables")
            result.append(Variant(name, shape | {
                "model.score": score, "model.probes": probes, "model.norm": norm,
                "model.expand_bits": bits, "model.temperature": (1.0, 0.75, 1.5)[probes - 1],
                "exchange.mode": mode}, LARGE if direct else 0, eps=1e-6))
    for norm in ("rmsnorm", "layernorm"):
        result.append(Variant(f"dense, {norm}", shape | {"model.projection": "dense", "model.norm": norm}))
    # 1024 rows a table: most steps do not hit a row, and indices have two bytes.
    rare = {"model.d": 50, "model.heads": 5, "model.K": 5, "model.tau": 10, "model.expand_bits": 0,
            "model.layers": 1}
    for mode, memory in itertools.product(("pushdown", "pull"), (LARGE, 0)):
        result.append(Variant(f"rare rows, {mode}, {'direct' if memory else 'sparse'} tables",
                              rare | {"exchange.mode": mode}, memory))
    # Both begin from a sum of squares of zero; its first steps have full length whatever eps is.
    for optimizer, (mode, memory) in itertools.product(
            ("adagrad", "sgd"), (("pushdown", LARGE), ("pull", 0))):
        settings = {"exchange.mode": mode, "train.optimizer": optimizer}
        if optimizer == "sgd":
            settings["train.lr"] = 1.0
        tables = "direct" if memory else "sparse"
        result.append(Variant(f"{optimizer}, {mode}, {tables} tables", shape | settings, memory, eps=1e-6))
        result.append(Variant(f"rare rows, {optimizer}, {mode}, {tables} tables", rare | settings, memory,
                              eps=1e-6))
    for base, mode, memory in ((shape, "pushdown", LARGE), (shape, "pull", 0), (rare, "pushdown", 0),
                               (rare, "pull", LARGE)):
        settings = base | {"exchange.mode": mode, "model.table_dtype": "bf16"}
        name = f"bf16 tables, {mode}, {'direct' if memory else 'sparse'}{', rare rows' * (base is rare)}"
        result.append(Variant(name, settings, memory, eps=1e-6, bf16_tables=True))
    # Proves that the comparison sees how rows are rounded when they are read.
    result.append(Variant("bf16 tables, f32 in the reference (must differ)",
                          shape | {"model.table_dtype": "bf16"}, eps=1e-6, agrees=False, bf16_tables=True,
                          reads_f32=True))
    # Proves that the comparison sees what happens to rows in steps that do not hit them.
    result.append(Variant("rare rows, lazy updates (must differ)",
                          rare | {"train.sparse_update": "lazy"}, agrees=False))
    return result


def write_text(path: Path) -> None:
    """Words of different frequency: text enough to learn something in ten steps."""
    source = random.Random(1)
    words = ["".join(source.choices("abcdefghijklmnopqrstuvwxyz", k=source.randint(1, 8))) for _ in range(300)]
    path.write_text(" ".join(words[min(int(source.expovariate(0.02)), 299)] for _ in range(4000)))


def check(program: Path, variant: Variant, shards: int, folder: Path, verbose: bool) -> bool:
    """Dumps and compares one variant; prints its line."""
    begin = time.monotonic()
    out = folder / "dump"
    command = [str(program), "--config", str(folder / "empty.toml"), "--data", str(folder / "text.txt"),
               "--out", str(out), "--shards", str(shards)]
    for key, value in (COMMON | variant.settings).items():
        command += ["--set", f"{key}={value}"]
    command += ["--set", f"train.eps={variant.eps}", "--memory", str(variant.memory)]
    subprocess.run(command, check=True)
    arguments = [str(out), "--eps", str(variant.eps),
                 "--optimizer", str(variant.settings.get("train.optimizer", "adam"))]
    if variant.bf16_tables:
        # Where two programs' f32 lie on both sides of the middle between two bf16, what is read differs
        # by a step, 1/256 of a number, and a sum of rows by more than the rounding of sums.
        arguments += ["--tolerance", "4e-3"]
    if variant.bf16_tables and not variant.reads_f32:
        arguments.append("--bf16-tables")
    steps = train_compare.parser().parse_args(arguments)
    try:
        # Gradients are read off an update, which rows of bf16 hide: of these the ten steps tell.
        one = (compare.Outcome(True, 0.0, 0, 0) if variant.bf16_tables
               else compare.compare(out, verbose=verbose))
        ten = train_compare.train_compare(out, steps, verbose)
    except memoryformer.ReplayError as error:
        one = ten = compare.Outcome(False, math.inf, 0, 0)
        print(f"{variant.name}: bucket indices: {error}")
    good = bool(one and ten) == variant.agrees
    print(f"{'ok    ' if good else 'FAILED'} {variant.name:62} {one.worst:9.1e} {ten.worst:9.1e} "
          f"{one.flips + ten.flips:4} of {one.places + ten.places:6} {time.monotonic() - begin:5.1f} s")
    return good


def main() -> int:
    """Command line; see the top of the file."""
    parser = argparse.ArgumentParser(description="Compares the whole system with the PyTorch reference.")
    parser.add_argument("program", type=Path, metavar="REFERENCE_DUMP")
    parser.add_argument("--shards", type=int, choices=sorted(SHAPES), default=1)
    parser.add_argument("--only", default="", help="variants whose name has this word")
    parser.add_argument("--verbose", action="store_true", help="print every tensor and step")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_text(folder / "text.txt")
        (folder / "empty.toml").write_text("")
        print(f"       {'variant':62} {'a pass':>9} {'10 losses':>9} {'border cases':>14}")
        chosen = [v for v in variants(options.shards) if options.only in v.name]
        good = [check(options.program, v, options.shards, folder, options.verbose) for v in chosen]
    print(f"{options.shards} servers: {sum(good)} passed, {len(good) - sum(good)} failed")
    return 0 if good and all(good) else 1


if __name__ == "__main__":
    sys.exit(main())
