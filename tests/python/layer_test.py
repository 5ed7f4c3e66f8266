"""Goal: what a MemoryLayer computes, and all gradients, are those of the same formulas in plain PyTorch in double
precision, to 1e-5, with every option; two layers share a hash; look-ups wait together; autocast, checkpoints and
torch.compile change nothing. Usage: layer_test.py FOLDER_OF_PACKAGE"""

import copy
import itertools
import os
import pickle
import sys
import unittest

try:
    import numpy as np
    import torch
    from torch.utils.checkpoint import checkpoint
except ImportError:
    print(f"SKIPPED: torch is missing for {sys.executable} (apt-get install python3-torch)")
    sys.exit(77)

sys.path[:0] = [sys.argv.pop(1), os.path.join(os.path.dirname(__file__), "..", "reference")]

import memoryformer as mf
from memoryformer import InvalidError
import memoryformer.memory_layer

import importlib.util

# The reference has the name of the package.
_spec = importlib.util.spec_from_file_location("reference", os.path.join(sys.path[1], "memoryformer.py"))
reference = importlib.util.module_from_spec(_spec)
sys.modules["reference"] = reference
_spec.loader.exec_module(reference)

TOLERANCE = 1e-5  # of the largest number
TOKENS = 24


def plain(tables: torch.Tensor, x: torch.Tensor, hash: mf.Hash) -> torch.Tensor:
    """eq. 5 by the reference's functions: tables [K, rows, outputs], x [T, K * tau]."""
    z = x.reshape(x.shape[0], hash.tables, hash.tau)
    buckets = reference.own_buckets(z.detach(), hash.probes)
    weights = reference.pair_weights(z, buckets, hash.score, hash.temperature)
    rows = tables[torch.arange(hash.tables)[:, None], buckets]
    return (weights[..., None] * rows).sum(dim=(1, 2))


class Case(unittest.TestCase):
    def close(self, ours: torch.Tensor, theirs: torch.Tensor, what: str, tolerance: float = TOLERANCE) -> None:
        ours, theirs = ours.double(), theirs.double()
        self.assertEqual(ours.shape, theirs.shape, what)
        error = float((ours - theirs).abs().max()) / max(float(theirs.abs().max()), 1e-12)
        self.assertLess(error, tolerance, what)

    def start(self, shards: int = 1, steps: int = 1, **more) -> mf.Run:
        return mf.Run(mf.embedded(shards), steps=steps, optimizer=mf.SGD(lr=mf.constant(1.0)), progress=False, **more)

    def tables_before(self, run: mf.Run, work: mf.Work, layer: mf.MemoryLayer) -> torch.Tensor:
        """The tables in the state that a micro-batch reads."""
        spec = layer.table.spec
        values = np.empty((spec.tables * spec.rows, spec.columns), np.float32)
        run.native.pull_range(work.epoch, work.step - 1, spec.id, 0, len(values), values).wait()
        return torch.from_numpy(values.reshape(spec.shape))


class Gradients(Case):
    def check(self, hash: mf.Hash, outputs: int, shards: int, grads: bool = True, tolerance: float = TOLERANCE,
              rows: str = "f32", mode: str = "sums", **more) -> None:
        """One step of SGD at rate 1: the tables' gradient is what they lose."""
        run = self.start(shards, **more)
        layer = mf.MemoryLayer(run, "layer", outputs=outputs, hash=hash, std=0.5, rows=rows, mode=mode)
        with torch.no_grad():
            layer.bias.copy_(torch.randn(outputs))
        bias = layer.bias.detach().clone()
        run.share(layer)
        x = torch.randn(3, TOKENS // 3, hash.inputs, requires_grad=grads)
        target = torch.randn(3, TOKENS // 3, outputs)
        for work in run:
            before = self.tables_before(run, work, layer)
            y = layer(x)
            loss = (y - target).square().mean()
            work.backward(loss)
        after = run.state_dict()
        tables = before.double().requires_grad_(True)
        used = reference.ReadAsBf16.apply(tables) if rows == "bf16" else tables
        x64 = x.detach().double().requires_grad_(True)
        bias64 = bias.double().requires_grad_(True)
        y64 = plain(used, x64.reshape(TOKENS, -1), hash).reshape(target.shape) + bias64
        loss64 = (y64 - target.double()).square().mean()
        loss64.backward()
        name = f"{hash} {outputs} {shards} {rows} {mode} {more}"
        self.close(y.detach(), y64.detach(), f"y, {name}", tolerance)
        # The difference of two numbers of size 1 has their rounding.
        scale = max(1.0, 1 / float(tables.grad.abs().max()))
        if rows == "bf16":
            scale *= 2**-7 / tolerance  # both are read with 8 bits
        self.close(before - after["layer.tables"], tables.grad, f"rows, {name}", tolerance * scale)
        self.close(bias - after["bias"], bias64.grad, f"bias, {name}", tolerance * scale)
        if grads:
            self.close(x.grad, x64.grad, f"x, {name}", tolerance)

    def test_all_options(self) -> None:
        torch.manual_seed(7)
        number = 0
        for score, probes, temperature in itertools.product(("scaled", "softmax"), (1, 2, 4), (1.0, 0.7)):
            for tau, outputs in ((4, 48), (9, 56)):  # indices of one and of two bytes
                with self.subTest(score=score, probes=probes, temperature=temperature, tau=tau):
                    number += 1
                    for mode in ("sums", "pull"):
                        self.check(mf.Hash(5 * tau, tau, probes, score, temperature), outputs, shards=1 + number % 3,
                                   mode=mode)

    def test_wide_indices_and_other_types(self) -> None:
        torch.manual_seed(8)
        self.check(mf.Hash(17, 17), 16, shards=1)  # indices of four bytes
        self.check(mf.Hash(20, 5, 2), 32, shards=2, rows="bf16")
        for tau in (8, 15, 16, 17):  # numbers of buckets that are negative in a signed type
            self.check(mf.Hash(tau, tau), 16, shards=1, mode="pull")
        self.check(mf.Hash(20, 5, 2), 32, shards=2, rows="bf16", mode="pull")
        self.check(mf.Hash(20, 5, 2), 32, shards=2, wire="bf16", tolerance=2e-2)

    def test_an_input_without_gradient(self) -> None:
        torch.manual_seed(9)
        self.check(mf.Hash(20, 5, 2), 32, shards=2, grads=False)

    def test_a_sign_of_zero_is_positive(self) -> None:
        z = torch.tensor([[0.0, -0.0, 1.0, -1.0]], requires_grad=True)
        hashed = mf.Hash(4, 4)(z)
        self.assertEqual(hashed.buckets.tolist(), [[0b0111]])
        hashed.weights.sum().backward()
        z64 = z.detach().double().requires_grad_(True)
        reference.pair_weights(z64[:, None], torch.tensor([[[0b0111]]]), "scaled", 1.0).sum().backward()
        self.close(z.grad, z64.grad, "dL/dz")


class Kernels(Case):
    def test_they_are_torchs(self) -> None:
        """What a CPU computes is what the formulas by torch's operations give, which other devices use."""
        torch.manual_seed(10)
        for score, probes, tau in itertools.product(("scaled", "softmax"), (1, 2, 5), (5, 8, 11, 16, 20)):
            hash = mf.Hash(3 * tau, tau, probes, score, temperature=0.8)
            x = torch.randn(70, 3 * tau)
            x[0, :tau] = 0.0
            x[1, :2] = torch.tensor([-0.0, 0.0])
            a, b = (x.clone().requires_grad_(True) for _ in range(2))
            hashed, (buckets, weights) = hash(a), hash.by_torch(b)
            name = str(hash)
            self.assertTrue(torch.equal(hashed.buckets, buckets), name)
            self.assertEqual(buckets.dtype, hashed.buckets.dtype, name)
            self.close(hashed.weights.detach(), weights.detach(), name, 1e-6)
            scale = torch.randn_like(weights)
            (hashed.weights * scale).sum().backward()
            (weights * scale).sum().backward()
            self.close(a.grad, b.grad, name, 1e-5)

    def test_threads_change_nothing(self) -> None:
        x = torch.randn(1000, 64)
        results = []
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            z = x.clone().requires_grad_(True)
            hashed = mf.Hash(64, 8, 2)(z)
            hashed.weights.square().sum().backward()
            results.append((hashed.buckets, hashed.weights.detach(), z.grad))
        torch.set_num_threads(1)
        for result in results[1:]:
            for a, b in zip(results[0], result):
                self.assertTrue(torch.equal(a, b))


class Uses(Case):
    def both(self, forward, shards: int = 2) -> None:
        """`forward(run, layers, x)` gives the same as two plain layers, of one hash."""
        torch.manual_seed(11)
        run = self.start(shards, micro_batches=1)
        hash = mf.Hash(24, 6, 2)
        layers = [mf.MemoryLayer(run, name, outputs=32, hash=hash, bias=False, std=0.5) for name in ("a", "b")]
        for layer in layers:
            run.share(layer)
        x = torch.randn(TOKENS, 24, requires_grad=True)
        for work in run:
            before = [self.tables_before(run, work, layer) for layer in layers]
            y = forward(layers, x)
            work.backward(y.square().mean())
        tables = [table.double().requires_grad_(True) for table in before]
        x64 = x.detach().double().requires_grad_(True)
        y64 = plain(tables[0], x64, hash) + plain(tables[1], x64, hash)
        y64.square().mean().backward()
        after = run.state_dict()
        self.close(y.detach().float(), y64.detach(), "y")
        self.close(x.grad, x64.grad, "x")
        for index, name in enumerate(("a", "b")):
            self.close(before[index] - after[f"{name}.tables"], tables[index].grad, name, 1e-4)

    def test_layers_share_a_hash(self) -> None:
        def forward(layers, x):
            hashed = layers[0].hash(x)
            return layers[0](hashed) + layers[1](hashed)
        self.both(forward)

    def test_look_ups_wait_together(self) -> None:
        def forward(layers, x):
            pending = [layer.start(x) for layer in layers]
            return pending[1].wait() + pending[0].wait()
        self.both(forward)

    def test_checkpoints(self) -> None:
        for kind in (True, False):
            def forward(layers, x, kind=kind):
                return checkpoint(lambda v: layers[0](v) + layers[1](v), x, use_reentrant=kind)
            with self.subTest(use_reentrant=kind):
                self.both(forward)

    def test_autocast(self) -> None:
        def forward(layers, x):
            with torch.autocast("cpu", torch.bfloat16):
                return layers[0](x) + layers[1](x)  # float32 in, float32 out
        self.both(forward)

    @unittest.skipUnless(hasattr(torch, "compile"), "this torch has no compile")
    def test_compile(self) -> None:
        def forward(layers, x):
            # A backend that needs no compiler: Debian's torch lacks what the usual one imports.
            return torch.compile(lambda v: layers[0](v) + layers[1](v), backend="aot_eager")(x)
        self.both(forward)

    def test_reads_without_gradients_leave_no_trace(self) -> None:
        torch.manual_seed(12)
        states = []
        for reads in (False, True):
            run = self.start(2, steps=3)
            layer = mf.MemoryLayer(run, "layer", 24, 32, tau=6)
            run.share(layer)
            for work in run:
                if reads:
                    with torch.no_grad():
                        other = layer(torch.randn(50, 24, generator=torch.Generator().manual_seed(99)))
                        self.assertFalse(other.requires_grad)
                work.backward(layer(torch.randn(8, 24)).square().mean())
            states.append(run.state_dict())
        for name, values in states[0].items():
            self.assertTrue(torch.equal(values, states[1][name]), name)

    def test_many_tokens_are_read_in_parts(self) -> None:
        run = self.start(1, tokens=16)
        layer = mf.MemoryLayer(run, "layer", 24, 24, tau=6)
        run.share(layer)
        x = torch.randn(50, 24)
        for work in run:
            with torch.no_grad():
                whole = layer(x)
                self.assertTrue(torch.equal(whole[16:20], layer(x[16:20])))
            with self.assertRaisesRegex(InvalidError, r"50 tokens .* allows 16"):
                layer(x)
            self.assertEqual(layer(x[:0]).shape, (0, 24))
            work.backward(layer(x[:16]).mean())

    def test_an_input_of_no_tokens_contributes_nothing(self) -> None:
        run = self.start(1)
        layer = mf.MemoryLayer(run, "layer", 24, 24, tau=6)
        run.share(layer)
        for work in run:
            before = self.tables_before(run, work, layer)
            work.backward(layer(torch.zeros(0, 24, requires_grad=True)).sum())
        self.assertTrue(torch.equal(run.state_dict()["layer.tables"], before))


class Refused(unittest.TestCase):
    def test_an_other_hash_in_pull_mode(self) -> None:
        run = mf.Run(mf.embedded(1), steps=1, optimizer=mf.SGD(lr=1.0), progress=False)
        layer = mf.MemoryLayer(run, "layer", 32, 16, tau=8, mode="pull")
        run.share(layer)
        weights = torch.ones(4, 3)
        for work in run:
            for words, x in (
                    ("given 2 rows", mf.Hash(16, 8)(torch.ones(3, 16))),
                    ("given 8 rows", mf.Hash(64, 8)(torch.ones(3, 64))),
                    ("from 0 to 255", mf.Hashed(torch.full((4, 3), 256), weights, torch.Size([3]), torch.float32)),
                    ("from 0 to 255", mf.Hashed(torch.full((4, 3), -1), weights, torch.Size([3]), torch.float32))):
                with self.subTest(words), self.assertRaisesRegex(InvalidError, words):
                    layer(x)
            work.skip()

    def test_sizes(self) -> None:
        run = mf.Run(mf.embedded(), steps=1, optimizer=mf.SGD(lr=1.0), progress=False)
        for words, make in (
                ("inputs: 32 is no multiple of tau = 7", lambda: mf.MemoryLayer(run, "a", 32, 16, tau=7)),
                ("probes: 0 is not between 1 and 8", lambda: mf.MemoryLayer(run, "a", 32, 16, probes=0)),
                ("probes: 9 is not", lambda: mf.MemoryLayer(run, "a", 32, 16, probes=9)),
                ("score: 'best' is none of", lambda: mf.MemoryLayer(run, "a", 32, 16, score="best")),
                ("temperature: nan is not finite", lambda: mf.MemoryLayer(run, "a", 32, 16, temperature=float("nan"))),
                ("outputs: 0 is below 1", lambda: mf.MemoryLayer(run, "a", 32)),
                ("give inputs, or a hash", lambda: mf.MemoryLayer(run, "a", outputs=16)),
                ("inputs = 16, but its hash has 32", lambda: mf.MemoryLayer(run, "a", 16, 16, hash=mf.Hash(32))),
                ("rows: 'f16' is none of", lambda: mf.MemoryLayer(run, "a", 32, 16, rows="f16"))):
            with self.subTest(words), self.assertRaisesRegex(InvalidError, words):
                make()
        layer = mf.MemoryLayer(run, "b", 32, 16)
        with self.assertRaisesRegex(InvalidError, "of this name already"):
            mf.MemoryLayer(run, "b", 32, 16)
        with self.assertRaisesRegex(InvalidError, r"shape \(4, 31\)"):
            layer.hash(torch.zeros(4, 31))
        with self.assertRaisesRegex(InvalidError, "an input of torch.int64"):
            layer.hash(torch.zeros(4, 32).long())
        with self.assertRaisesRegex(mf.Error, "use layers in the loop before"):
            layer(torch.zeros(4, 32))
        for name in ("", "a b", "ä", "x" * 201, 7):
            with self.subTest(name=name), self.assertRaisesRegex(InvalidError, "the name of a layer"):
                mf.MemoryLayer(run, name, 32, 16)
        self.assertEqual(mf.MemoryLayer(run, "c", np.int64(32), np.int32(16), tau=np.int16(8)).hash.tau, 8)
        self.assertIs(copy.deepcopy(layer).table, layer.table)
        with self.assertRaisesRegex(InvalidError, r"cannot be pickled; run.save"):
            pickle.dumps(layer)


if __name__ == "__main__":
    torch.set_num_threads(1)
    unittest.main()
