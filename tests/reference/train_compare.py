#!/usr/bin/env python3
"""Replays training steps dumped by the C++ program with PyTorch's optimizers and compares the losses.

DUMP_DIR/init.safetensors   an export of the state before step 1
DUMP_DIR/steps.safetensors  for s = 1..N: tokens.<s>.inputs, tokens.<s>.targets
                            [micro_batches * sequences, length]; for each micro-batch m:
                            indices.<s>.<m>.<l>.qkv|m1|m2 [K * probes, T]; loss [N] (of each step, before
                            its update), grad_norm [N] (before clipping), lr [N]; for a dense model
                            without indices, micro_batches [1]

Steps are run in double. Weight decay covers tables and matrices only; for optimizers whose own decay is
not decoupled it is done by hand, before the step. The tie tolerance of replayed
indices is wider than in compare.py, because after some steps the parameters differ by more than rounding:
Adam divides by the gradient's own size, so that noise in a tiny gradient becomes a step of full length.
Exit status: 0 all within the limits, 1 not, 2 bad input.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

import memoryformer
import tensorfile
from compare import Outcome, indices_of, tokens_of


def micro_batches_of(dump: dict[str, np.ndarray], step: int) -> int:
    """How many micro-batches the step was cut into."""
    prefix = f"indices.{step}."
    numbers = {int(name[len(prefix):].split(".")[0]) for name in dump if name.startswith(prefix)}
    if numbers:
        if numbers != set(range(min(numbers), min(numbers) + len(numbers))):
            raise ValueError(f"micro-batches of step {step} are not in a row: {sorted(numbers)}")
        return len(numbers)
    return int(dump["micro_batches"][0]) if "micro_batches" in dump else 1


def run_step(model: memoryformer.MemoryFormer, dump: dict[str, np.ndarray], step: int,
             tolerance: float) -> tuple[float, int, int]:
    """Accumulates the gradients of a step's mean loss; returns (loss, indices that were ties, of all)."""
    inputs, targets = tokens_of(dump, f"tokens.{step}")
    count = micro_batches_of(dump, step)
    if inputs.shape[0] % count:
        raise ValueError(f"step {step}: {inputs.shape[0]} sequences in {count} micro-batches")
    prefix = f"indices.{step}."
    base = min((int(name[len(prefix):].split(".")[0]) for name in dump if name.startswith(prefix)),
               default=0)
    total, flips, places = 0.0, 0, 0
    for number, (x, y) in enumerate(zip(inputs.chunk(count), targets.chunk(count))):
        given = indices_of(dump, f"{prefix}{base + number}.")
        indices = memoryformer.Indices(given, tolerance)
        loss, _ = model.loss(x, y, indices, reduction="sum")
        loss = loss / inputs.numel()
        loss.backward()
        total += float(loss.detach())
        flips += indices.flips
        places += indices.places
    return total, flips, places


def make_optimizer(model: memoryformer.MemoryFormer, options: argparse.Namespace) -> torch.optim.Optimizer:
    """Of the kind asked for; the decayed parameters are the first group."""
    decayed = model.config.decayed()
    groups = [{"params": [p for name, p in model.parameters.items() if (name in decayed) == is_decayed]}
              for is_decayed in (True, False)]
    if options.optimizer == "adagrad":
        return torch.optim.Adagrad(groups, lr=0.0, eps=options.eps)
    if options.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=0.0)
    groups[0]["weight_decay"], groups[1]["weight_decay"] = options.weight_decay, 0.0
    return torch.optim.AdamW(groups, lr=0.0, betas=tuple(options.betas), eps=options.eps)


def update(optimizer: torch.optim.Optimizer, rate: float, options: argparse.Namespace) -> None:
    """One step of this rate, with decoupled weight decay."""
    for group in optimizer.param_groups:
        group["lr"] = rate
    if options.optimizer != "adam":
        with torch.no_grad():
            for parameter in optimizer.param_groups[0]["params"]:
                parameter.mul_(1 - rate * options.weight_decay)
    optimizer.step()


def train_compare(directory: Path, options: argparse.Namespace, verbose: bool = True) -> Outcome:
    """Passes if loss and gradient norm of every step are within the limits. Prints a table."""
    model = memoryformer.MemoryFormer.load(directory / "init.safetensors")
    dump, _ = tensorfile.read(directory / "steps.safetensors")
    model.bf16_tables = options.bf16_tables
    optimizer = make_optimizer(model, options)

    failed, worst, ties, places = 0, 0.0, 0, 0
    if verbose:
        print(f"{'step':>4} {'lr':>10} {'loss':>12} {'reference':>12} {'difference':>11} "
              f"{'grad norm':>11} {'reference':>11} {'ties':>5}")
    steps = len(dump["loss"])
    for step in range(1, steps + 1):
        optimizer.zero_grad(set_to_none=False)
        loss, flips, seen = run_step(model, dump, step, options.tolerance)
        ties, places = ties + flips, places + seen
        norm = float(torch.nn.utils.clip_grad_norm_(list(model.parameters.values()), options.clip))
        rate = float(dump["lr"][step - 1])
        update(optimizer, rate, options)
        dumped, dumped_norm = float(dump["loss"][step - 1]), float(dump["grad_norm"][step - 1])
        good = (abs(dumped - loss) <= options.limit
                and abs(dumped_norm - norm) <= options.norm_limit * norm)
        failed += not good
        worst = max(worst, abs(dumped - loss))
        if verbose:
            print(f"{step:4} {rate:10.3e} {dumped:12.6f} {loss:12.6f} {dumped - loss:11.2e} "
                  f"{dumped_norm:11.5f} {norm:11.5f} {flips:5}{'' if good else '  FAILED'}")
    if verbose:
        print(f"{steps - failed} passed, {failed} failed")
    return Outcome(failed == 0 and steps > 0, worst, ties, places)


def parser() -> argparse.ArgumentParser:
    """The options, with the recipe's values as defaults."""
    result = argparse.ArgumentParser(description="Compares dumped training steps with PyTorch's.")
    result.add_argument("directory", type=Path, metavar="DUMP_DIR")
    result.add_argument("--limit", type=float, default=1e-4, help="largest difference of a loss")
    result.add_argument("--norm-limit", type=float, default=1e-3, help="largest relative error of a norm")
    result.add_argument("--tolerance", type=float, default=1e-3, help="of a tie between buckets")
    result.add_argument("--weight-decay", type=float, default=0.1)
    result.add_argument("--clip", type=float, default=1.0)
    result.add_argument("--betas", type=float, nargs=2, default=(0.9, 0.95))
    result.add_argument("--eps", type=float, default=1e-8)
    result.add_argument("--optimizer", choices=("adam", "adagrad", "sgd"), default="adam")
    result.add_argument("--bf16-tables", action="store_true", help="tables are rounded when they are read")
    return result


def main() -> int:
    """Command line; see the top of the file."""
    options = parser().parse_args()
    torch.set_num_threads(2)
    try:
        return 0 if train_compare(options.directory, options) else 1
    except memoryformer.ReplayError as error:
        print(f"train_compare.py: bucket indices: {error}", file=sys.stderr)
        return 1
    except (OSError, ValueError, KeyError) as error:
        print(f"train_compare.py: {options.directory}: {error!r}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
