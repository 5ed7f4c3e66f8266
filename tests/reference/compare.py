#!/usr/bin/env python3
"""Compares one forward and backward pass dumped by the C++ program with the PyTorch reference.

DUMP_DIR/model.safetensors  an export
DUMP_DIR/dump.safetensors   tokens.inputs, tokens.targets [sequences, length]; indices.<l>.qkv|m1|m2
                            [K * probes, T] (memory projection only); logits [T, vocabulary]; loss [1]
                            (mean, nats); grad.<name> for every tensor of the export, full shape

The reference computes in double with the dumped bucket indices. The error of a tensor is the largest
difference over the largest number of the reference; 1e-4 leaves room for sums in float32.
Exit status: 0 all within the limit, 1 not, 2 bad input.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np
import torch

import memoryformer
import tensorfile


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a comparison found; true if it passed."""

    passed: bool
    worst: float  # error of the worst tensor, or difference of the worst loss
    flips: int    # (token, table) places with another bucket, explained by a tie
    places: int   # of how many

    def __bool__(self) -> bool:
        return self.passed


def relative_error(dumped: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference over the reference's largest number; infinite for NaN or a wrong shape."""
    if dumped.shape != reference.shape:
        return float("inf")
    difference = np.abs(dumped.astype(np.float64) - reference)
    if not np.isfinite(difference).all():
        return float("inf")
    largest = float(np.abs(reference).max(initial=0.0))
    return float(difference.max(initial=0.0)) / (largest or 1.0)


def indices_of(dump: dict[str, np.ndarray], prefix: str = "indices.") -> dict[str, np.ndarray]:
    """The bucket indices under `prefix`, by "<layer>.<part>"."""
    return {name[len(prefix):]: value for name, value in dump.items() if name.startswith(prefix)}


def tokens_of(dump: dict[str, np.ndarray], prefix: str) -> tuple[torch.Tensor, torch.Tensor]:
    """(inputs, targets) [sequences, length]."""
    return tuple(torch.from_numpy(dump[f"{prefix}.{part}"].astype(np.int64))
                 for part in ("inputs", "targets"))


def compare(directory: Path, limit: float = 1e-4, tolerance: float = 1e-5,
            verbose: bool = True) -> Outcome:
    """Passes if every dumped tensor is within `limit` of the reference. Prints a table."""
    model = memoryformer.MemoryFormer.load(directory / "model.safetensors")
    dump, _ = tensorfile.read(directory / "dump.safetensors")
    indices = memoryformer.Indices(indices_of(dump), tolerance)
    inputs, targets = tokens_of(dump, "tokens")
    loss, logits = model.loss(inputs, targets, indices)
    loss.backward()

    expected = {"logits": logits.detach().numpy(), "loss": loss.detach().numpy().reshape(1)}
    for name, parameter in model.parameters.items():
        gradient = parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)
        expected[f"grad.{name}"] = gradient.numpy()

    failures = []
    rows = []
    worst = 0.0
    for name, reference in expected.items():
        error = relative_error(dump[name], reference) if name in dump else float("inf")
        good = error <= limit
        worst = max(worst, error)
        if not good:
            failures.append(name)
        note = "ok" if good else "FAILED" if name in dump else "MISSING"
        rows.append(f"{name:36} {np.abs(reference).max():12.4e} {error:12.2e}  {note}")
    unknown = sorted(name for name in dump
                     if name not in expected and not name.startswith(("tokens.", "indices.")))
    if verbose:
        print(f"{'tensor':36} {'largest':>12} {'error':>12}  limit {limit:g}")
        print("\n".join(rows))
        print(f"bucket indices: {indices.flips} of {indices.places} (token, table) places differ by "
              f"a tie within {tolerance:g}")
        if unknown:
            print(f"unknown tensors in the dump: {unknown}")
        print(f"{len(rows) - len(failures)} passed, {len(failures) + len(unknown)} failed")
    return Outcome(not failures and not unknown, worst, indices.flips, indices.places)


def main() -> int:
    """Command line; see the top of the file."""
    parser = argparse.ArgumentParser(description="Compares a dump with the PyTorch reference.")
    parser.add_argument("directory", type=Path, metavar="DUMP_DIR")
    parser.add_argument("--limit", type=float, default=1e-4, help="largest relative error")
    parser.add_argument("--tolerance", type=float, default=1e-5, help="of a tie between buckets")
    options = parser.parse_args()
    torch.set_num_threads(2)
    try:
        return 0 if compare(options.directory, options.limit, options.tolerance) else 1
    except memoryformer.ReplayError as error:
        print(f"compare.py: bucket indices: {error}", file=sys.stderr)
        return 1
    except (OSError, ValueError, KeyError) as error:
        print(f"compare.py: {options.directory}: {error!r}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
