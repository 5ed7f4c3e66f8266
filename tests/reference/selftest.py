#!/usr/bin/env python3
"""Tests the PyTorch reference itself: its mathematics against the formulas written out and against finite
differences, its file format, and that the comparisons pass on right dumps and fail on wrong ones.

No test looks at the C++ program. A comparison that cannot fail proves nothing, so every kind of tensor is
spoilt once, by 1e-3 of its largest number in a single place.
"""

import argparse
import dataclasses
import itertools
import json
import math
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np

try:
    import torch
except ImportError:
    print(f"SKIPPED: torch is missing for {sys.executable} (apt-get install python3-torch)")
    sys.exit(77)

import compare
import memoryformer
import tensorfile
import train_compare
from memoryformer import Config, Indices, MemoryFormer

SMALL = Config(d=24, layers=2, heads=2, K=6, tau=4, expand_bits=2, vocabulary=19, rotary_pct=0.5)
VARIANTS = {
    "scaled": SMALL,
    "softmax": dataclasses.replace(SMALL, score="softmax"),
    "probes": dataclasses.replace(SMALL, probes=3, temperature=1.5),
    "softmax probes, layernorm": dataclasses.replace(SMALL, score="softmax", probes=2, norm="layernorm"),
    "dense": dataclasses.replace(SMALL, projection="dense"),
}


def metadata_of(config: Config) -> dict[str, str]:
    """As an export carries it, with the keys that do not touch the mathematics."""
    model = dataclasses.asdict(config) | {"sequence": 8, "column_blocks": 0, "table_dtype": "f32", "seed": 1}
    return {"config": json.dumps({"model": model})}


def random_tensors(config: Config, seed: int) -> dict[str, np.ndarray]:
    """Parameters larger than the usual start and no gain or bias at its special value."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, shape in config.shapes().items():
        centre = 1.0 if "norm" in name and name.endswith(".weight") else 0.0
        spread = 0.2 if len(shape) == 1 else 0.5
        tensors[name] = (centre + spread * rng.standard_normal(shape)).astype(np.float32)
    return tensors


def random_tokens(config: Config, seed: int, sequences: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """(inputs, targets), as the program dumps them."""
    text = np.random.default_rng(seed).integers(0, config.vocabulary, (sequences, length + 1))
    return text[:, :-1].astype(np.int32), text[:, 1:].astype(np.int32)


def write_dump(directory: Path, config: Config) -> None:
    """What the program is to write for compare.py, made by the reference in float32."""
    tensors = random_tensors(config, seed=1)
    inputs, targets = random_tokens(config, seed=2, sequences=3, length=8)
    tensorfile.write(directory / "model.safetensors", tensors, metadata_of(config))
    model = MemoryFormer(config, tensors, torch.float32)
    indices = Indices()
    loss, logits = model.loss(torch.from_numpy(inputs).long(), torch.from_numpy(targets).long(), indices)
    loss.backward()
    dump = {"tokens.inputs": inputs, "tokens.targets": targets,
            "logits": logits.detach().numpy(), "loss": loss.detach().numpy().reshape(1)}
    dump |= {f"indices.{name}": value for name, value in indices.used.items()}
    dump |= {f"grad.{name}": parameter.grad.numpy() for name, parameter in model.parameters.items()}
    tensorfile.write(directory / "dump.safetensors", dump)


class MathTest(unittest.TestCase):
    """The formulas of the design, written out slowly."""

    def test_weights_are_a_distribution_and_equation_10(self) -> None:
        """p_b over all 2^bits buckets sums to 1, and the own bucket's is the product of eq. 10."""
        z = torch.tensor([[[0.3, -1.2, 0.0, 2.5]]], dtype=torch.float64)
        every = torch.arange(16).reshape(1, 1, 16)
        for t in (0.5, 1.0, 2.0):
            p = memoryformer.pair_weights(z, every, "softmax", t)[0, 0]
            self.assertAlmostEqual(float(p.sum()), 1.0, places=12)
            own = int(memoryformer.own_buckets(z, 1))
            self.assertEqual(own, 0b1101)  # sign(0) = +1
            self.assertEqual(int(p.argmax()) | 0b0100, own)
            eq10 = math.prod(1 / (1 + math.exp(-2 * abs(float(v)) / t)) for v in z.flatten())
            self.assertAlmostEqual(float(p[own]), eq10, places=12)
            scaled = memoryformer.pair_weights(z, every, "scaled", t)[0, 0]
            for bucket in range(16):
                sim = sum(float(v) * (1 if bucket >> i & 1 else -1) for i, v in enumerate(z.flatten()))
                eq9 = math.exp(sim / t) / math.prod(2 * math.cosh(float(v) / t) for v in z.flatten())
                self.assertAlmostEqual(float(p[bucket]), eq9, places=12)
                self.assertAlmostEqual(float(scaled[bucket]), eq9 * sim, places=12)

    def test_probes_flip_the_smallest_with_ties_to_the_lowest(self) -> None:
        """Buckets 1.. of a table flip one of its smallest |z_i| each."""
        z = torch.tensor([[[0.5, -0.1, 2.0, 0.1], [1.0, 1.0, 1.0, 1.0]]])
        own = memoryformer.own_buckets(z, 3)[0].tolist()
        self.assertEqual(own[0], [0b1101, 0b1111, 0b0101])
        self.assertEqual(own[1], [0b1111, 0b1110, 0b1101])

    def test_weight_derivatives_are_the_designs(self) -> None:
        """dp_b/dz_i = p_b/t (s_i - tanh(z_i/t)); d(p sim)/dz_i = p s_i + sim dp/dz_i."""
        for score, t, bucket in itertools.product(("softmax", "scaled"), (0.7, 1.0), (0, 5, 6)):
            z = torch.tensor([[[0.4, -0.9, 1.7]]], dtype=torch.float64, requires_grad=True)
            memoryformer.pair_weights(z, torch.tensor([[[bucket]]]), score, t).sum().backward()
            values = z.detach().flatten().tolist()
            signs = [1 if bucket >> i & 1 else -1 for i in range(3)]
            sim = sum(v * s for v, s in zip(values, signs))
            p = math.exp(sim / t) / math.prod(2 * math.cosh(v / t) for v in values)
            for i, (v, s) in enumerate(zip(values, signs)):
                slope = p / t * (s - math.tanh(v / t))
                want = slope if score == "softmax" else p * s + sim * slope
                self.assertAlmostEqual(float(z.grad[0, 0, i]), want, places=12)

    def test_memory_layer_by_hand(self) -> None:
        """One token: bits, weight and row looked up with plain Python."""
        config = dataclasses.replace(SMALL, layers=1)
        tensors = random_tensors(config, seed=5)
        model = MemoryFormer(config, tensors, torch.float64)
        x = np.random.default_rng(6).standard_normal(config.d)
        y = model._memory("blocks.0", "0.qkv", torch.from_numpy(x[None]), Indices())[0]
        want = tensors["blocks.0.qkv.bias"].astype(np.float64)
        for k in range(config.K):
            z = x[k * config.tau : (k + 1) * config.tau]
            bucket = sum(1 << i for i, v in enumerate(z) if v >= 0)
            weight = np.abs(z).sum() / np.prod(1 + np.exp(-2 * np.abs(z)))
            want = want + weight * tensors["blocks.0.qkv.tables"][k, bucket].astype(np.float64)
        np.testing.assert_allclose(y.detach().numpy(), want, rtol=1e-12)

    def test_attention_is_causal_and_rotary_is_relative(self) -> None:
        """No position sees a later one; a shift of all positions leaves q.k as it is."""
        model = MemoryFormer(SMALL, random_tensors(SMALL, seed=1), torch.float64)
        inputs = torch.from_numpy(random_tokens(SMALL, 3, 1, 8)[0]).long()
        changed = inputs.clone()
        changed[0, 5] = (changed[0, 5] + 1) % SMALL.vocabulary
        before, after = model.logits(inputs, Indices()), model.logits(changed, Indices())
        self.assertTrue(torch.equal(before[:5], after[:5]))
        self.assertFalse(torch.equal(before[5:], after[5:]))
        q, k = torch.randn(2, 1, 1, 1, 12, dtype=torch.float64).expand(2, 1, 1, 6, 12)
        scores = (model._rotary(q) @ model._rotary(k).transpose(2, 3))[0, 0]
        for distance in range(1, 5):
            diagonal = scores.diagonal(-distance)
            self.assertTrue(torch.allclose(diagonal, diagonal[0].expand_as(diagonal)))
        self.assertFalse(math.isclose(float(scores[0, 0]), float(scores[3, 0])))

    def test_autograd_against_finite_differences(self) -> None:
        """Central differences of the loss in double at the largest gradients of every tensor."""
        for label, config in VARIANTS.items():
            model = MemoryFormer(config, random_tensors(config, seed=7), torch.float64)
            inputs, targets = (torch.from_numpy(t).long() for t in random_tokens(config, 8, 2, 6))
            own = Indices()
            model.loss(inputs, targets, own)[0].backward()
            for name, parameter in model.parameters.items():
                flat, gradient = parameter.detach().view(-1), parameter.grad.view(-1)
                for place in gradient.abs().topk(2).indices.tolist():
                    old, losses = float(flat[place]), []
                    for step in (-1e-5, 1e-5):
                        flat[place] = old + step
                        replay = Indices(own.used, tolerance=1.0)  # the indices are constants
                        losses.append(float(model.loss(inputs, targets, replay)[0].detach()))
                    flat[place] = old
                    slope = (losses[1] - losses[0]) / 2e-5
                    self.assertAlmostEqual(slope, float(gradient[place]), delta=1e-7 + 1e-5 * abs(slope),
                                           msg=f"{label}: {name}[{place}]")


class ReplayTest(unittest.TestCase):
    """Given indices are used, and are believed only where a tie explains them."""

    def given(self, z: torch.Tensor, buckets: list[int]) -> Indices:
        """The given buckets of one token and one table."""
        indices = Indices({"x": np.array(buckets, dtype=np.uint64)[:, None]})
        indices.choose("x", z.reshape(1, 1, -1), len(buckets))
        return indices

    def test_ties_are_counted_and_others_refused(self) -> None:
        """z = (0.5, -4e-6, 2, 0.8): own bucket 13, neighbours 15, 12, 5, 9."""
        z = torch.tensor([0.5, -4e-6, 2.0, 0.8], dtype=torch.float64)
        self.assertEqual(self.given(z, [13, 15, 12]).flips, 0)
        self.assertEqual(self.given(z, [15, 13, 14]).flips, 1)
        for wrong in ([12, 13, 14], [13, 15, 5], [13, 12, 15], [13, 15, 15], [13, 15, 6], [13, 15, 16]):
            with self.assertRaises(memoryformer.ReplayError, msg=str(wrong)):
                self.given(z, wrong)

    def test_gap_at_the_last_probe(self) -> None:
        """Either of two nearly equal |z| may be the last one flipped."""
        z = torch.tensor([0.5, -0.1, 0.500004], dtype=torch.float64)
        self.assertEqual(self.given(z, [5, 7, 4]).flips, 0)
        self.assertEqual(self.given(z, [5, 7, 1]).flips, 1)

    def test_given_indices_decide_the_result(self) -> None:
        """A replay of own indices is the same; another index gives another loss."""
        model = MemoryFormer(SMALL, random_tensors(SMALL, seed=1), torch.float64)
        inputs, targets = (torch.from_numpy(t).long() for t in random_tokens(SMALL, 2, 1, 8))
        own = Indices()
        loss = float(model.loss(inputs, targets, own)[0].detach())
        self.assertEqual(float(model.loss(inputs, targets, Indices(own.used))[0].detach()), loss)
        other = {name: value.copy() for name, value in own.used.items()}
        other["1.m2"][0, 0] ^= np.uint64(1)
        with self.assertRaises(memoryformer.ReplayError):
            model.loss(inputs, targets, Indices(other))
        self.assertNotEqual(float(model.loss(inputs, targets, Indices(other, 10.0))[0].detach()), loss)


class FileTest(unittest.TestCase):
    """The safetensors reader."""

    def test_round_trip_and_refusals(self) -> None:
        """What is written is read; a cut or overlong file is refused."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "x.safetensors"
            tensors = {"a": np.arange(6, dtype=np.uint64).reshape(2, 3), "b": np.float32([1.5]),
                       "c": np.zeros((0, 4), dtype=np.int32)}
            tensorfile.write(path, tensors, {"config": "{}"})
            read, metadata = tensorfile.read(path)
            self.assertEqual(metadata, {"config": "{}"})
            for name, tensor in tensors.items():
                np.testing.assert_array_equal(read[name], tensor)
                self.assertEqual(read[name].dtype, tensor.dtype)
            whole = path.read_bytes()
            for spoilt in (whole[:-1], whole + b"x", whole[:4], b"\xff" * 16):
                path.write_bytes(spoilt)
                with self.assertRaises(ValueError):
                    tensorfile.read(path)


class CompareTest(unittest.TestCase):
    """compare.py passes on a right dump and fails on every spoilt tensor."""

    def test_passes_and_fails(self) -> None:
        """All variants; in each, every logit, loss and gradient tensor is spoilt once."""
        for label, config in VARIANTS.items():
            with self.subTest(label), tempfile.TemporaryDirectory() as folder:
                directory = Path(folder)
                write_dump(directory, config)
                self.assertTrue(compare.compare(directory, verbose=False), label)
                dump, _ = tensorfile.read(directory / "dump.safetensors")
                spoilable = ["logits", "loss"] + [name for name in dump if name.startswith("grad.")]
                if label != "probes":  # every tensor once is enough; the rest takes a sample
                    spoilable = spoilable[::6]
                for name in spoilable:
                    spoilt = dump | {name: dump[name].copy()}
                    spoilt[name].reshape(-1)[-1] += 1e-3 * np.abs(dump[name]).max()
                    tensorfile.write(directory / "dump.safetensors", spoilt)
                    self.assertFalse(compare.compare(directory, verbose=False), f"{label}: {name}")

    def test_missing_unknown_and_nan(self) -> None:
        """What is absent, unexpected or not finite is no pass."""
        with tempfile.TemporaryDirectory() as folder:
            directory = Path(folder)
            write_dump(directory, SMALL)
            dump, _ = tensorfile.read(directory / "dump.safetensors")
            nan = dump | {"loss": np.float32([math.nan])}
            short = {name: value for name, value in dump.items() if name != "grad.head.weight"}
            more = dump | {"grad.other": dump["loss"]}
            for spoilt in (nan, short, more):
                tensorfile.write(directory / "dump.safetensors", spoilt)
                self.assertFalse(compare.compare(directory, verbose=False))

    def test_another_model_fails(self) -> None:
        """A dump of one variant does not pass for another: score, temperature, rotary share."""
        for change in ({"score": "softmax"}, {"temperature": 1.01}, {"rotary_pct": 0.25}):
            with tempfile.TemporaryDirectory() as folder:
                directory = Path(folder)
                write_dump(directory, SMALL)
                tensors, _ = tensorfile.read(directory / "model.safetensors")
                other = dataclasses.replace(SMALL, **change)
                tensorfile.write(directory / "model.safetensors", tensors, metadata_of(other))
                try:
                    self.assertFalse(compare.compare(directory, verbose=False), change)
                except memoryformer.ReplayError:
                    pass  # seen even earlier: the second layer's buckets are not this model's


class TrainCompareTest(unittest.TestCase):
    """train_compare.py against a plain loop with Adam written out."""

    def write_steps(self, directory: Path, config: Config, decay: float) -> None:
        """Three steps of two micro-batches in double, AdamW by hand."""
        tensors = random_tensors(config, seed=11)
        tensorfile.write(directory / "init.safetensors", tensors, metadata_of(config))
        model = MemoryFormer(config, tensors, torch.float64)
        moments = {name: (torch.zeros_like(p), torch.zeros_like(p)) for name, p in model.parameters.items()}
        rates = np.float32([1e-3, 3e-3, 2e-3])
        dump: dict[str, np.ndarray] = {"micro_batches": np.int32([2])}
        losses, norms = [], []
        for step, rate in enumerate(rates.astype(np.float64), start=1):
            inputs, targets = random_tokens(config, 100 + step, sequences=4, length=6)
            dump |= {f"tokens.{step}.inputs": inputs, f"tokens.{step}.targets": targets}
            total = 0.0
            for part in range(2):
                rows = slice(2 * part, 2 * part + 2)
                indices = Indices()
                loss, _ = model.loss(torch.from_numpy(inputs[rows]).long(),
                                     torch.from_numpy(targets[rows]).long(), indices)
                (loss / 2).backward()
                total += float(loss.detach()) / 2
                dump |= {f"indices.{step}.{part}.{name}": value for name, value in indices.used.items()}
            norm = math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters.values()))
            losses.append(total)
            norms.append(norm)
            with torch.no_grad():
                for name, p in model.parameters.items():
                    m, v = moments[name]
                    g = p.grad * min(1.0, 1.0 / norm)
                    m.mul_(0.9).add_(0.1 * g)
                    v.mul_(0.95).add_(0.05 * g * g)
                    if name in config.decayed():
                        p.mul_(1 - rate * decay)
                    p.sub_(rate * (m / (1 - 0.9**step)) / ((v / (1 - 0.95**step)).sqrt() + 1e-8))
                    p.grad = None
        dump |= {"loss": np.float64(losses), "grad_norm": np.float64(norms), "lr": rates}
        tensorfile.write(directory / "steps.safetensors", dump)

    def test_passes_and_fails(self) -> None:
        """Right steps pass; another decay, a loss, a norm, a rate spoilt does not."""
        options = train_compare.parser().parse_args(["."])
        for label in ("probes", "dense"):
            with self.subTest(label), tempfile.TemporaryDirectory() as folder:
                directory = Path(folder)
                self.write_steps(directory, VARIANTS[label], decay=0.1)
                self.assertTrue(train_compare.train_compare(directory, options, verbose=False))
                dump, _ = tensorfile.read(directory / "steps.safetensors")
                for name, factor in (("loss", 1 + 1e-3), ("grad_norm", 1.01), ("lr", 1.1)):
                    tensorfile.write(directory / "steps.safetensors", dump | {name: dump[name] * factor})
                    try:
                        self.assertFalse(train_compare.train_compare(directory, options, verbose=False), name)
                    except memoryformer.ReplayError:
                        pass  # another path of training: its buckets differ
        strict = argparse.Namespace(**(vars(options) | {"weight_decay": 3.0}))
        with tempfile.TemporaryDirectory() as folder:
            self.write_steps(Path(folder), VARIANTS["dense"], decay=0.1)
            self.assertFalse(train_compare.train_compare(Path(folder), strict, verbose=False))


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(1)
    unittest.main()
