"""Goal: what Embedding and EmbeddingBag compute, and all gradients, are those of torch's own in double precision, to
1e-5, with every option, for any number of servers; row-wise optimizers are what they say; keys are what they say; a
table is saved and read again. Usage: embedding_test.py FOLDER_OF_PACKAGE"""

import hashlib
import itertools
import os
import sys
import tempfile
import unittest

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
except ImportError:
    print(f"SKIPPED: torch is missing for {sys.executable} (apt-get install python3-torch)")
    sys.exit(77)

sys.path.insert(0, sys.argv.pop(1))

import memoryformer as mf
from memoryformer import InvalidError
from memoryformer.keyed_rows import keys_of, rows_of

TOLERANCE = 1e-5  # of the largest number
WIDTH = 48
EDGES = [0, -1, 2**63 - 1, -(2**63), 1, 12345678901234567]


class Case(unittest.TestCase):
    def close(self, ours: torch.Tensor, theirs: torch.Tensor, what: str, tolerance: float = TOLERANCE) -> None:
        ours, theirs = ours.double(), theirs.double()
        self.assertEqual(ours.shape, theirs.shape, what)
        error = float((ours - theirs).abs().max()) / max(float(theirs.abs().max()), 1e-12)
        self.assertLess(error, tolerance, what)

    def start(self, shards: int = 1, steps: int = 1, optimizer=None, **more) -> mf.Run:
        return mf.Run(mf.embedded(shards), steps=steps, optimizer=optimizer or mf.SGD(lr=mf.constant(1.0)),
                      progress=False, **more)

    def rows_before(self, run: mf.Run, work: mf.Work, layer, keys: torch.Tensor) -> torch.Tensor:
        """Rows of distinct keys in the state that a micro-batch reads."""
        rows = rows_of(keys)
        order = np.argsort(rows)
        values = np.empty((len(rows), layer.width), np.float32)
        run.native.pull((work.epoch, work.step - 1, False), layer.table.spec.id, np.ascontiguousarray(rows[order]),
                        values).wait()
        found = np.empty_like(values)
        found[order] = values
        return torch.from_numpy(found)

    def rows_after(self, state: dict[str, torch.Tensor], name: str, keys: torch.Tensor) -> torch.Tensor:
        at = {int(key): i for i, key in enumerate(state[f"{name}.keys"])}
        return torch.stack([state[f"{name}.rows"][at[int(key)]] for key in keys])


class Gradients(Case):
    def check(self, forward, plain, shards: int, keys: torch.Tensor, weights: torch.Tensor | None = None,
              mode: str = "sum", layer_of=None, **more) -> None:
        """One step of SGD at rate 1: the rows' gradient is what they lose. forward(layer, keys, weights) and
        plain(rows, positions of keys in them, weights) give the output."""
        run = self.start(shards)
        make = layer_of or (lambda run: mf.EmbeddingBag(run, "items", WIDTH, mode=mode, std=0.5, **more))
        layer = make(run)
        run.share(layer)
        distinct, positions = torch.unique(keys, return_inverse=True)
        used = None if weights is None else weights.clone().requires_grad_(True)
        for work in run:
            before = self.rows_before(run, work, layer, distinct)
            y = forward(layer, keys, used)
            target = torch.linspace(-1, 1, y.numel()).reshape(y.shape)
            work.backward((y - target).square().mean())
        after = self.rows_after(run.state_dict(), "items", distinct)
        rows = before.double().requires_grad_(True)
        weights64 = None if weights is None else weights.double().requires_grad_(True)
        y64 = plain(rows, positions, weights64)
        (y64 - target.double()).square().mean().backward()
        self.close(y.detach(), y64.detach(), "y")
        scale = max(1.0, 1 / float(rows.grad.abs().max()))
        self.close(before - after, rows.grad, "rows", TOLERANCE * scale)
        if weights is not None:
            self.close(used.grad, weights64.grad, "weights")

    def test_bags_of_one_length(self) -> None:
        torch.manual_seed(1)
        for number, (mode, weighted) in enumerate((("sum", False), ("mean", False), ("sum", True))):
            keys = torch.tensor(EDGES + [7] * 18).reshape(6, 4)
            weights = torch.rand(6, 4) if weighted else None
            with self.subTest(mode=mode, weighted=weighted):
                self.check(lambda layer, keys, w: layer(keys, per_sample_weights=w),
                           lambda rows, at, w, mode=mode: F.embedding_bag(at, rows, mode=mode, per_sample_weights=w),
                           1 + number, keys, weights, mode)

    def test_bags_with_offsets(self) -> None:
        torch.manual_seed(2)
        offsets = torch.tensor([0, 3, 3, 10, 23])  # the second is empty
        for number, (mode, weighted) in enumerate((("sum", True), ("mean", False), ("sum", False))):
            keys = torch.randint(-40, 40, (23,)) * (1 << 57)
            weights = torch.rand(23) if weighted else None
            with self.subTest(mode=mode, weighted=weighted):
                self.check(lambda layer, keys, w: layer(keys, offsets, w),
                           lambda rows, at, w, mode=mode: F.embedding_bag(at, rows, offsets, mode=mode,
                                                                          per_sample_weights=w),
                           3 - number, keys, weights, mode)

    def test_rows_of_keys_of_any_shape(self) -> None:
        torch.manual_seed(3)
        keys = torch.randint(0, 30, (2, 3, 5))
        self.check(lambda layer, keys, _: layer(keys), lambda rows, at, _: F.embedding(at, rows), 2, keys,
                   layer_of=lambda run: mf.Embedding(run, "items", WIDTH, std=0.5))

    def test_used_twice(self) -> None:
        torch.manual_seed(4)
        keys = torch.randint(0, 12, (40,))

        def forward(layer, keys, _):
            a, b = layer.start(keys[:25].reshape(5, 5)), layer.start(keys[25:].reshape(5, 3))
            return b.wait() * 2 + a.wait()
        self.check(forward, lambda rows, at, _: F.embedding_bag(at[:25].reshape(5, 5), rows, mode="sum")
                   + 2 * F.embedding_bag(at[25:].reshape(5, 3), rows, mode="sum"), 2, keys)

    def test_arrays_lists_and_texts(self) -> None:
        run = self.start()
        layer = mf.Embedding(run, "items", WIDTH, std=0.5)
        run.share(layer)
        for work in run:
            numbers = [5, 2**64 - 3, 5]
            expected = layer(torch.tensor([5, -3, 5]))
            for same in (numbers, np.array(numbers, np.uint64), np.array([5, -3, 5]), (5, -3, 5)):
                self.assertTrue(torch.equal(layer(same), expected))
            texts = layer(["Löwe", b"raw", 5])
            self.assertTrue(torch.equal(texts[2], expected[0]))
            self.assertTrue(torch.equal(texts[0], layer(torch.tensor([mf.key("Löwe")]))[0]))
            self.assertEqual(layer(torch.zeros(0, dtype=torch.int64)).shape, (0, WIDTH))
            work.backward(texts.sum())
        state = run.state_dict()
        self.assertEqual(set(state["items.keys"].tolist()), {5, mf.key("Löwe"), mf.key(b"raw")})

    def test_empty_bags(self) -> None:
        run = self.start(2)
        layer = mf.EmbeddingBag(run, "items", WIDTH)
        run.share(layer)
        for work in run:
            empty, weights = torch.zeros(0, dtype=torch.int64), torch.zeros(0, requires_grad=True)
            y = layer(empty, torch.tensor([0, 0, 0]), weights)
            self.assertEqual(y.tolist(), [[0.0] * WIDTH] * 3)
            self.assertEqual(layer(empty, torch.tensor([], dtype=torch.int64)).shape, (0, WIDTH))
            self.assertEqual(layer([[], []]).shape, (2, WIDTH))
            work.backward(y.sum())
        self.assertEqual(weights.grad.shape, (0,))
        self.assertEqual(run.state_dict()["items.keys"].shape, (0,))

    def test_padding(self) -> None:
        torch.manual_seed(5)
        keys = torch.tensor([[3, 4, 0, 0], [0, 0, 0, 0], [5, 0, 3, 9]])
        at = torch.tensor([[1, 2, 0, 0], [0, 0, 0, 0], [3, 0, 1, 4]])  # in the rows of 0, 3, 4, 5 and 9
        for mode, weighted in (("sum", True), ("mean", False)):
            for offsets in (None, torch.tensor([0, 4, 8])):
                with self.subTest(mode=mode, offsets=offsets):
                    run = self.start(2)
                    layer = mf.EmbeddingBag(run, "items", WIDTH, mode=mode, std=0.5, padding_key=0)
                    run.share(layer)
                    weights = torch.rand(3, 4) if weighted else None
                    flat = (lambda values: values) if offsets is None else lambda values: values.reshape(-1)
                    for work in run:
                        before = self.rows_before(run, work, layer, torch.tensor([0, 3, 4, 5, 9]))
                        y = layer(flat(keys), offsets, None if weights is None else flat(weights))
                        work.backward(y.sum())
                    theirs = F.embedding_bag(at, before, mode=mode, per_sample_weights=weights, padding_idx=0)
                    self.close(y.detach(), theirs, "y")
                    self.assertEqual(sorted(run.state_dict()["items.keys"].tolist()), [3, 4, 5, 9])

    def test_the_last_offset(self) -> None:
        run = self.start()
        layer = mf.EmbeddingBag(run, "items", WIDTH, include_last_offset=True)
        run.share(layer)
        for work in run:
            keys = torch.arange(5)
            whole = layer(keys, [0, 2, 2, 5])
            self.assertTrue(torch.equal(whole[0], layer(keys[:2], [0, 2])[0]))
            self.assertEqual(whole.shape, (3, WIDTH))
            with self.assertRaisesRegex(InvalidError, "rise from 0 to 5"):
                layer(keys, [0, 2, 4])
            work.backward(whole.sum())

    def test_keys_are_admitted_and_expire(self) -> None:
        """By the count of all look-ups and micro-batches of a step; what waits has no row in the state."""
        run = mf.Run(mf.embedded(2), steps=12, micro_batches=2, optimizer=mf.SGD(lr=1.0), progress=False)
        layer = mf.Embedding(run, "items", WIDTH, std=0.0, admit=3, expire=3)
        run.share(layer)
        seen = {}
        for work in run:
            # 5: two hits a step until the fifth, so it has a row from the second on, and none from the eighth on.
            keys = [7] if work.step == 1 and work.number == 0 else []
            keys += [5] if work.step <= 5 else [9]
            if work.number == 0:
                with torch.no_grad():
                    seen[work.step] = [float(layer([key])[0, 0]) for key in (5, 7, 9)]
            work.backward(layer(keys).sum() * 2)  # halved: the mean of two
        self.assertEqual([row[0] for row in seen.values()], [0, 0, -2, -4, -6, -8, -8, -8, 0, 0, 0, 0])
        self.assertEqual([row[1] for row in seen.values()], [0] * 12)
        self.assertEqual([row[2] for row in seen.values()], [0] * 7 + [-2, -4, -6, -8, -10])
        state = run.state_dict()
        self.assertEqual(state["items.keys"].tolist(), [9])
        for words, more in (("lazy=True", {"expire": 3, "lazy": False}), ("admit", {"admit": 0}),
                            ("waiting", {"admit": 2, "waiting": 5}), ("expire", {"expire": -1})):
            with self.assertRaisesRegex(InvalidError, words):
                mf.Embedding(self.start(), "items", WIDTH, **more)

    def test_a_look_up_is_of_its_micro_batch(self) -> None:
        def kinds(run: mf.Run):
            yield mf.Embedding(run, "rows", WIDTH), [7]
            yield mf.EmbeddingBag(run, "bags", WIDTH), [[7]]
            yield mf.MemoryLayer(run, "sums", 16, WIDTH, bias=False), torch.ones(1, 16)
            yield mf.MemoryLayer(run, "pulled", 16, WIDTH, bias=False, mode="pull"), torch.ones(1, 16)

        for number in range(4):
            run = self.start(steps=2)
            layer, x = list(kinds(run))[number]
            run.share(layer)
            with self.subTest(layer=layer):
                for work in run:
                    if work.step == 1:
                        kept, early = layer(x).sum(), layer.start(x)
                        if number != 2:  # a gradient of sums is one contribution
                            kept.backward(retain_graph=True)
                        work.finish(0.0)
                        continue
                    with self.assertRaisesRegex(mf.Error, "of an earlier micro-batch"):
                        early.wait()
                    with self.assertRaisesRegex(mf.Error, "of an earlier micro-batch"):
                        kept.backward()
                    work.skip()

    def test_reads_leave_no_trace(self) -> None:
        states = []
        for reads in (False, True):
            run = self.start(2, steps=4, optimizer=mf.AdamW(lr=0.1))
            layer = mf.Embedding(run, "items", WIDTH, lazy=False)
            run.share(layer)
            for work in run:
                keys = torch.arange(work.step % 3, 20, 2)
                if reads:
                    with torch.no_grad():
                        layer(torch.arange(50))
                work.backward(layer(keys).square().sum())
            states.append(run.state_dict())
        for name in states[0]:
            self.assertTrue(torch.equal(states[0][name], states[1][name]), name)
        self.assertEqual(len(states[0]["items.keys"]), 20)

    def test_skipped_after_a_backward_pass(self) -> None:
        run = self.start()
        layer = mf.Embedding(run, "items", WIDTH)
        run.share(layer)
        for work in run:
            layer(torch.arange(5)).sum().backward()
            work.skip()
        self.assertEqual(len(run.state_dict()["items.keys"]), 0)


class OneResult(Case):
    def digest(self, shards: int, threads: int, **more) -> str:
        run = mf.Run(mf.embedded(shards, threads=threads), steps=8, micro_batches=3, clip=0.5, progress=False,
                     optimizer=mf.AdamW(lr=mf.cosine(0.05, warmup=2)))
        items = mf.EmbeddingBag(run, "items", WIDTH, mode="mean", **more)
        users = mf.Embedding(run, "users", 16, **more)
        memory = mf.MemoryLayer(run, "memory", 64, 64, probes=2, mode="pull")
        head = torch.nn.Linear(64, 1)
        run.share(torch.nn.ModuleList([memory, head]))
        for work in run:
            keys, user = torch.randint(-(2**62), 2**62, (16, 3)) // (1 << 56), torch.randint(0, 40, (16,))
            y = memory(torch.cat([items(keys), users(user)], dim=1))
            work.backward((head(y) - keys.sum(dim=1, keepdim=True).sign()).square().mean())
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.safetensors")
            run.save(path)
            with open(path, "rb") as file:
                return hashlib.sha256(file.read()).hexdigest()

    def test_any_number_of_servers(self) -> None:
        for more in ({}, {"row_wise": True}, {"lazy": False, "row_wise": True}, {"lazy": False, "rows": "bf16"}):
            with self.subTest(**more):
                digests = {self.digest(shards, threads, **more) for shards, threads in ((1, 1), (2, 2), (3, 1), (4, 2))}
                self.assertEqual(len(digests), 1)


class RowWise(Case):
    def test_optimizers(self) -> None:
        """Beside the formulas in double: one second moment for each 16 columns (WIDTH = 48 has three)."""
        for optimizer, lazy in itertools.product((mf.AdamW(lr=0.05, weight_decay=0.1), mf.Adagrad(lr=0.05)),
                                                 (True, False)):
            with self.subTest(optimizer=optimizer, lazy=lazy):
                self.check(optimizer, lazy)

    def check(self, optimizer, lazy: bool) -> None:
        run = self.start(2, steps=9, optimizer=optimizer)
        layer = mf.Embedding(run, "items", WIDTH, std=0.5, row_wise=True, lazy=lazy)
        run.share(layer)
        distinct = torch.arange(12)
        w = None
        for work in run:
            if w is None:
                w = self.rows_before(run, work, layer, distinct).double()
                m, v = torch.zeros_like(w), torch.zeros(len(w), 3, dtype=torch.float64)
            keys = torch.unique(torch.randint(0, 12, (5,)))
            target = torch.randn(len(keys), WIDTH)
            work.backward((layer(keys) * target).sum())
            gradient = torch.zeros_like(w)
            gradient[keys] = target.double()
            hit = torch.zeros(len(w), dtype=torch.bool)
            hit[keys] = True
            rows = hit if lazy else torch.ones_like(hit)
            square = gradient.reshape(-1, 3, 16).square().mean(dim=2)
            decayed = w * (1 - 0.05 * optimizer.weight_decay)
            if isinstance(optimizer, mf.AdamW):
                beta1, beta2 = optimizer.betas
                m = torch.where(rows[:, None], beta1 * m + (1 - beta1) * gradient, m)
                v = torch.where(rows[:, None], beta2 * v + (1 - beta2) * square, v)
                root = (v / (1 - beta2**work.step)).sqrt().repeat_interleave(16, dim=1)
                moved = decayed - 0.05 * m / (1 - beta1**work.step) / (root + optimizer.eps)
            else:
                v = torch.where(rows[:, None], v + square, v)
                moved = decayed - 0.05 * gradient / (v.sqrt().repeat_interleave(16, dim=1) + optimizer.eps)
            w = torch.where(rows[:, None], moved, w)
        state = run.state_dict()
        self.close(self.rows_after(state, "items", state["items.keys"]), w[state["items.keys"]], "rows")

    def test_without_squares(self) -> None:
        run = self.start()
        with self.assertRaisesRegex(InvalidError, "row_wise: SGD"):
            mf.Embedding(run, "items", WIDTH, row_wise=True)


class Files(Case):
    def test_a_table_goes_on_from_a_file(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "model.safetensors")
            run = self.start(2, steps=3)
            layer = mf.Embedding(run, "items", WIDTH)
            run.share(layer)
            keys = torch.tensor(EDGES)
            for work in run:
                work.backward((layer(keys) * torch.arange(1.0, 7.0)[:, None]).sum())
            run.save(path)
            saved = run.state_dict()
            again = self.start(3, steps=1)
            other = mf.Embedding(again, "items", WIDTH)
            again.share(other)
            again.load(path)
            with again.reading():
                self.assertTrue(torch.equal(other(saved["items.keys"]), saved["items.rows"]))
            run.close()
            wrong = self.start()
            mf.Embedding(wrong, "items", WIDTH + 1)
            with self.assertRaisesRegex(InvalidError, r"items.rows has shape \(6, 48\) there and \(6, 49\) here"):
                wrong.load(path)


class Keys(unittest.TestCase):
    def test_keys(self) -> None:
        self.assertEqual([mf.key(n) for n in (0, -1, 2**64 - 1, 2**63, -(2**63))], [0, -1, -1, -(2**63), -(2**63)])
        digest = hashlib.blake2b("a text".encode(), digest_size=8).digest()
        self.assertEqual(mf.key("a text"), int.from_bytes(digest, "little", signed=True))
        self.assertEqual(mf.keys(["a", 3, b"a"]).tolist(), [mf.key("a"), 3, mf.key("a")])
        for wrong in (2**64, -(2**63) - 1, 1.5, None, True, np.bool_(True), torch.tensor(True), torch.tensor(5.0)):
            with self.assertRaises(InvalidError):
                mf.key(wrong)
        with self.assertRaisesRegex(InvalidError, "is one text"):
            mf.keys("alice")

    def test_as_people_give_them(self) -> None:
        nested = rows_of([["a", 5], [2**64 - 1, b"b"]])
        self.assertEqual(nested.shape, (2, 2))
        self.assertEqual(keys_of(nested.reshape(-1)).view(np.int64).tolist(), mf.keys(["a", 5, -1, b"b"]).tolist())
        self.assertTrue(np.array_equal(rows_of(np.array([["a", "b"]])), rows_of([["a", "b"]])))
        self.assertTrue(np.array_equal(rows_of(np.array(["a", 3], object)), rows_of(["a", 3])))
        self.assertTrue(np.array_equal(rows_of([-1, 2**63]), rows_of([-1, -(2**63)])))
        self.assertEqual(rows_of(5).shape, ())
        self.assertEqual(rows_of([[]]).shape, (1, 0))
        for wrong in ("alice", 1.5, None, [1.5], [True], [[1], [2, 3]], torch.ones(2) > 0):
            with self.subTest(wrong=wrong), self.assertRaises(InvalidError):
                rows_of(wrong)
        with self.assertRaisesRegex(InvalidError, "key: 1.5 is neither"):
            rows_of([1.5])
        with self.assertRaisesRegex(InvalidError, "^keys: 'alice' is one text"):
            mf.cross("alice", [1])

    def test_crosses(self) -> None:
        def mix(key: int) -> int:
            mask = 2**64 - 1
            for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
                key = (key ^ key >> 33) * factor & mask
            return key ^ key >> 33

        a, b = torch.tensor([[5], [-7]]), torch.tensor([9, 2**63 - 1, 0])
        crossed = mf.cross(a, b)
        self.assertEqual(crossed.shape, (2, 3))
        first = mix((mix(2) - 7) % 2**64)
        self.assertEqual(int(crossed[1, 0]) % 2**64, mix((first + 9) % 2**64))
        self.assertTrue(torch.equal(mf.cross(["x", 5], b[:2]), mf.cross(mf.keys(["x", 5]), b[:2])))
        self.assertEqual(len({int(mf.cross(*[b[2:]] * arity)) for arity in (1, 2, 3)}), 3)
        with self.assertRaisesRegex(InvalidError, "cross: .*shape"):
            mf.cross(a, torch.zeros(3, 2, dtype=torch.int64))
        self.assertNotEqual(int(mf.cross(a, b)[0, 0]), int(mf.cross(b, a)[0, 0]))
        rows = rows_of(torch.tensor(EDGES))
        self.assertEqual([int(row) for row in rows], [mix(key % 2**64) for key in EDGES])
        self.assertEqual(keys_of(rows).view(np.int64).tolist(), EDGES)


class Refused(Case):
    def test_inputs(self) -> None:
        run = self.start()
        bag = mf.EmbeddingBag(run, "items", WIDTH, mode="mean")
        summed = mf.EmbeddingBag(run, "others", WIDTH)
        run.share(torch.nn.ModuleList([bag, summed]))
        keys = torch.arange(6)
        for work in run:
            for words, call in (
                    ("with offsets", lambda: bag(keys)),
                    ("they are integers", lambda: bag(keys, [0.0, 2.9])),
                    ("they are integers", lambda: bag(keys, torch.tensor([False, True]))),
                    ("they are integers", lambda: bag(keys, 0)),
                    ("they are integers", lambda: bag(keys, torch.tensor([[0, 1]]))),
                    ("is one text", lambda: bag("alice")),
                    ("with offsets", lambda: bag(keys.reshape(2, 3), torch.tensor([0]))),
                    ("have to rise", lambda: bag(keys, torch.tensor([0, 4, 2]))),
                    ("have to rise", lambda: bag(keys, torch.tensor([1, 2]))),
                    ("have to rise", lambda: bag(keys, torch.tensor([0, 7]))),
                    ("go with mode", lambda: bag(keys.reshape(2, 3), per_sample_weights=torch.ones(2, 3))),
                    ("of shape", lambda: summed(keys.reshape(2, 3), per_sample_weights=torch.ones(6))),
                    ("keys are integers", lambda: bag(torch.ones(2, 3)))):
                with self.subTest(words), self.assertRaisesRegex(InvalidError, words):
                    call()
            work.skip()
        for words, make in (("none of sum, mean", lambda run: mf.EmbeddingBag(run, "a", 4, mode="max")),
                            ("width", lambda run: mf.Embedding(run, "a", 0)),
                            ("rows", lambda run: mf.Embedding(run, "a", 4, rows="f16")),
                            ("of this name", lambda run: (mf.Embedding(run, "a", 4), mf.Embedding(run, "a", 4)))):
            with self.subTest(words), self.assertRaisesRegex(InvalidError, words):
                make(self.start())


if __name__ == "__main__":
    torch.set_num_threads(1)
    unittest.main(verbosity=2)
