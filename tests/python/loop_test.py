"""Goal: the loop of the Python package: the servers' optimizers are torch's; a micro-batch that was given up leaves
nothing behind; evaluation, break, stop, saving, loading and going on do what they say; and what would make the result
depend on who computes is refused in words. Usage: loop_test.py FOLDER_OF_PACKAGE"""

import contextlib
import gc
import io
import os
import re
import sys
import tempfile
import threading
import time
import unittest
import warnings
import weakref

try:
    import numpy as np
    import torch
    import torch.nn.functional as F
except ImportError:
    print(f"SKIPPED: torch is missing for {sys.executable} (apt-get install python3-torch)")
    sys.exit(77)

sys.path.insert(0, sys.argv.pop(1))

import memoryformer as mf


def batch(step: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(100 * step + number)
    x = torch.randn(16, 24, generator=generator)
    return x, x[:, :1] * x[:, 1:2]


class Net(torch.nn.Module):
    def __init__(self, run: mf.Run) -> None:
        super().__init__()
        self.memory = mf.MemoryLayer(run, "memory", 24, 48, tau=6)
        self.drop = torch.nn.Dropout(0.2)
        self.head = torch.nn.Linear(48, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(self.memory(x)))


class LoopCase(unittest.TestCase):
    def setUp(self) -> None:
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def start(self, steps: int = 6, servers=None, **more) -> tuple[mf.Run, Net]:
        options = {"optimizer": mf.AdamW(lr=1e-2), "micro_batches": 2, "progress": False, "data": batch, "seed": 3}
        run = mf.Run(mf.embedded(2) if servers is None else servers, steps=steps, **{**options, **more})
        net = Net(run)
        run.share(net)
        return run, net

    def train(self, run: mf.Run, net: Net) -> dict[str, torch.Tensor]:
        for work in run:
            x, y = batch(work.step, work.number)
            work.backward(F.mse_loss(net(x), y))
        return run.state_dict()

    def same(self, a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> None:
        self.assertEqual(sorted(a), sorted(b))
        for name, values in a.items():
            self.assertTrue(torch.equal(values, b[name]), name)


class Optimizers(LoopCase):
    STEPS = 12

    def dense(self) -> torch.nn.Module:
        torch.manual_seed(5)
        return torch.nn.Sequential(torch.nn.Linear(24, 40), torch.nn.GELU(), torch.nn.Linear(40, 1))

    def check(self, ours, theirs, schedule=lambda step: 1.0, clip: float = 0.0, rules=None) -> None:
        net, other = self.dense(), self.dense()
        run = mf.Run(mf.embedded(3), steps=self.STEPS, optimizer=ours, micro_batches=2, clip=clip, progress=False)
        run.share(net, rules=rules)
        rates = []
        run.on_step(lambda record: rates.append(record.lr))
        for work in run:
            x, y = batch(work.step, work.number)
            work.backward(F.mse_loss(net(x), y))
        optimizer = theirs(other)
        peaks = [group["lr"] for group in optimizer.param_groups]
        for step in range(1, self.STEPS + 1):
            for group, peak in zip(optimizer.param_groups, peaks):
                group["lr"] = peak * schedule(step)
            optimizer.zero_grad()
            for number in range(2):
                x, y = batch(step, number)
                (F.mse_loss(other(x), y) / 2).backward()
            if clip:
                torch.nn.utils.clip_grad_norm_(other.parameters(), clip)
            optimizer.step()
            self.assertAlmostEqual(rates[step - 1], peaks[0] * schedule(step), places=7)
        for (name, a), b in zip(net.named_parameters(), other.parameters()):
            self.assertLess(float((a - b).abs().max()), 2e-6, f"{ours} {name}")

    def test_they_are_torchs(self) -> None:
        self.check(mf.AdamW(lr=1e-2), lambda net: torch.optim.AdamW(net.parameters(), lr=1e-2))
        self.check(mf.AdamW(lr=1e-2, weight_decay=0.3, betas=(0.8, 0.9), eps=1e-6), lambda net: torch.optim.AdamW(
            net.parameters(), lr=1e-2, weight_decay=0.3, betas=(0.8, 0.9), eps=1e-6))
        self.check(mf.Adagrad(lr=1e-2), lambda net: torch.optim.Adagrad(net.parameters(), lr=1e-2))
        self.check(mf.SGD(lr=1e-2), lambda net: torch.optim.SGD(net.parameters(), lr=1e-2), clip=0.5)

    def test_schedules_and_rules(self) -> None:
        def cosine(step):
            return step / 3 if step <= 3 else 0.1 + 0.9 * 0.5 * (1 + np.cos(np.pi * (step - 3) / (self.STEPS - 3)))
        self.check(mf.AdamW(lr=mf.cosine(1e-2, warmup=3, end=1e-3)),
                   lambda net: torch.optim.AdamW(net.parameters(), lr=1e-2), cosine)
        self.check(mf.AdamW(lr=mf.constant(1e-2, warmup=5)), lambda net: torch.optim.AdamW(net.parameters(), lr=1e-2),
                   lambda step: min(1.0, step / 5))

        def groups(net):
            return torch.optim.AdamW([{"params": [net[0].weight, net[2].weight]},
                                      {"params": [net[0].bias, net[2].bias], "weight_decay": 0.0, "lr": 2e-2}], lr=1e-2)
        self.check(mf.AdamW(lr=1e-2), groups, rules=lambda name, parameter: (
            {"weight_decay": 0, "lr_scale": 2} if parameter.dim() == 1 else None))

    def test_what_is_none_is_refused(self) -> None:
        net = self.dense()
        for words, make in (
                ("none of memoryformer's", lambda: mf.Run(mf.embedded(), steps=1,
                                                          optimizer=torch.optim.SGD(net.parameters(), lr=1.0))),
                ("warmup <= 4 steps", lambda: mf.Run(mf.embedded(), steps=4,
                                                     optimizer=mf.SGD(lr=mf.cosine(1, warmup=5)))),
                ("no finite", lambda: mf.Run(mf.embedded(), steps=4, optimizer=mf.SGD(lr=float("nan")))),
                ("none of weight_decay and lr_scale", lambda: mf.Run(
                    mf.embedded(), steps=4, optimizer=mf.SGD(lr=1.0)).share(net, rules=lambda *_: {"decay": 1})),
                ("steps: 0 is below 1", lambda: next(iter(self.start(steps=0)[0])))):
            with self.subTest(words), self.assertRaisesRegex(mf.InvalidError, words):
                make()


class Works(LoopCase):
    def test_what_was_given_up_leaves_nothing(self) -> None:
        expected = self.train(*self.start())
        for when in ("before", "between", "after"):
            run, net = self.start()
            given_up = 0
            for work in run:
                x, y = batch(work.step, work.number)
                lost = work.step in (2, 4) and given_up < 3
                given_up += lost
                if lost and when == "before":
                    work.valid = False
                y_here = net(x)
                if lost and when == "between":
                    work.valid = False
                loss = F.mse_loss(y_here, y)
                if lost and when == "after":
                    (loss / 2).backward()
                    work.valid = False
                    work.finish(0.0)
                else:
                    work.backward(loss)
            self.assertEqual(given_up, 3)
            self.same(run.state_dict(), expected)

    def test_a_micro_batch_ends_once(self) -> None:
        run, net = self.start(steps=1)
        last = None
        for work in run:
            loss = F.mse_loss(net(batch(work.step, work.number)[0]), batch(work.step, work.number)[1])
            if work.number == 0:
                loss.backward()
                with self.assertRaisesRegex(mf.Error, r"memory.tables has its gradient already; decide before"):
                    work.skip()
                work.finish(0.0)
            else:
                for wrong in (loss.expand(2), 1.0):
                    with self.assertRaisesRegex(mf.InvalidError, "a tensor of one number"):
                        work.backward(wrong)
                work.backward(loss)
            for again in (lambda: work.backward(torch.zeros(())), work.skip, lambda: work.finish(1.0)):
                with self.assertRaisesRegex(mf.Error, "has ended: it ends with"):
                    again()
            last = work
        with self.assertRaisesRegex(mf.Error, "has ended"):
            last.skip()

    def test_one_loop(self) -> None:
        run, net = self.start()
        caught = []

        def another() -> None:
            try:
                self.train(run, net)
            except mf.Error as error:
                caught.append(str(error))
        for work in run:
            if work.step == 2:
                thread = threading.Thread(target=another)
                thread.start()
                thread.join()
            work.skip()
        self.assertRegex(caught[0], "has been begun before")
        with self.assertRaisesRegex(mf.Error, "has been begun before"):
            self.train(run, net)
        self.assertIn("memory.tables", run.state_dict())  # which it can be after that

    def test_a_forked_process_has_no_part(self) -> None:
        run, net = self.start()
        for work in run:
            if (work.step, work.number) == (2, 0):
                for end in (lambda: sys.exit(3), lambda: net(torch.zeros(1, 24)), run.close, run.stop):
                    child = os.fork()
                    if child == 0:
                        code = 3
                        try:
                            with torch.no_grad():
                                end()
                        except mf.Error as error:
                            code = 3 if "was forked" in str(error) else 4
                        except SystemExit:
                            sys.stdout.flush()
                        del run, net, work
                        gc.collect()
                        os._exit(code)
                    end_by = time.monotonic() + 20
                    while os.waitpid(child, os.WNOHANG) == (0, 0):
                        self.assertLess(time.monotonic(), end_by, "the child hangs")
                        time.sleep(0.01)
            x, y = batch(work.step, work.number)
            work.backward(F.mse_loss(net(x), y))
        self.same(run.state_dict(), self.train(*self.start()))

    def test_parts_that_change(self) -> None:
        """The model counts as it is when the loop begins; then nothing may be replaced, frozen or made to train."""
        run, net = self.start()
        net.head = torch.nn.Linear(48, 1)
        before = net.head.weight.detach().clone()
        state = self.train(run, net)
        self.assertFalse(torch.equal(state["head.weight"], before))

        def replaced(net):
            net.head = torch.nn.Linear(48, 1)

        def frozen(net):
            net.head.bias.requires_grad_(False)

        def thawed(net):
            net.fixed.requires_grad_(True)

        def buffer_assigned(net):
            net.mean = net.mean + 1

        def moved(net):
            net._apply(lambda t: t.clone())
        for change, words in ((replaced, "head.weight is new"), (frozen, "head.bias was frozen in the loop"),
                              (thawed, "fixed is new"), (buffer_assigned, "mean, which is no parameter, has changed"),
                              (moved, "mean, which is no parameter, has changed")):
            run, net = self.start()
            net.register_buffer("mean", torch.zeros(3))
            net.fixed = torch.nn.Parameter(torch.zeros(2), requires_grad=False)
            with self.subTest(words), self.assertRaisesRegex(mf.Error, words):
                for work in run:
                    x, y = batch(work.step, work.number)
                    if work.step == 2:
                        change(net)
                    work.backward(F.mse_loss(net(x), y))

    def test_other_types_and_sparse_gradients(self) -> None:
        for kind in (torch.bfloat16, torch.float64):
            run = mf.Run(mf.embedded(2), steps=2, optimizer=mf.SGD(lr=0.1), progress=False)
            net = torch.nn.Sequential(torch.nn.Embedding(7, 8, sparse=True), torch.nn.Linear(8, 1)).to(kind)
            run.share(net)
            for work in run:
                work.backward(net(torch.tensor([1, 1, 5])).square().mean())
            path = os.path.join(self.folder, "model.safetensors")
            run.save(path)
            again = mf.Run(mf.embedded(), steps=1, optimizer=mf.SGD(lr=0.0), progress=False)
            again.share(net)
            again.load(path)
        lazy = torch.nn.LazyLinear(3)
        with self.assertRaisesRegex(mf.InvalidError, "weight has no shape yet"):
            mf.Run(mf.embedded(), steps=1, optimizer=mf.SGD(lr=0.0)).share(lazy)

    def test_what_has_no_part_gets_no_gradient(self) -> None:
        run, net = self.start(optimizer=mf.SGD(lr=1.0))
        other = mf.MemoryLayer(run, "other", 24, 32, tau=6)
        run.share(other, prefix="other.")
        losses = []
        run.on_step(lambda record: losses.append(record.loss))
        for work in run:
            before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
            if work.number == 1:
                work.skip()
                continue
            x, y = batch(work.step, work.number)
            (F.mse_loss(net(x), y) / run.micro_batches).backward()
            (net.head.bias.sum() / run.micro_batches).backward()  # a second one
            work.finish(4.0)
        self.assertEqual(losses, [2.0] * 6)
        self.assertFalse(torch.equal(before["head.bias"], net.head.bias))

    def test_a_loop_without_backward(self) -> None:
        run, _ = self.start()
        with self.assertRaisesRegex(mf.Error, r"step 1: neither work.backward\(loss\) nor work.skip\(\)"):
            for _ in run:
                pass

    def test_a_layer_twice(self) -> None:
        run, net = self.start()
        with self.assertRaisesRegex(mf.Error, "memory.tables: a second gradient in micro-batch 0 of step 1"):
            for work in run:
                x, y = batch(work.step, work.number)
                work.backward((net(x) + net(-x)).sum())

    def test_what_would_differ_between_processes(self) -> None:
        run, net = self.start()
        norm = torch.nn.BatchNorm1d(24)
        run.share(norm, prefix="norm.")
        with self.assertRaisesRegex(mf.Error, "norm.num_batches_tracked, which is no parameter, has changed"):
            for work in run:
                x, y = batch(work.step, work.number)
                work.backward(F.mse_loss(net(norm(x)), y))
        run = mf.Run(mf.embedded(), steps=1, optimizer=mf.SGD(lr=1.0), progress=False)
        layer = mf.MemoryLayer(run, "alone", 24, 32, tau=6)
        with self.assertRaisesRegex(mf.InvalidError, r"layer alone: nobody shares its bias; call run.share\(model\)"):
            next(iter(run))
        del layer
        batches = iter(range(100))
        with self.assertRaisesRegex(mf.InvalidError, r"two different micro-batches for the same \(step, number\)"):
            mf.Run(mf.embedded(), steps=5, optimizer=mf.SGD(lr=1.0), data=lambda step, number: next(batches))
        with self.assertRaisesRegex(mf.InvalidError, "nothing to train"):
            next(iter(mf.Run(mf.embedded(), steps=5, optimizer=mf.SGD(lr=1.0))))
        with self.assertRaisesRegex(mf.InvalidError, "the run has begun"):
            run, net = self.start()
            for work in run:
                mf.MemoryLayer(run, "late", 24, 32, tau=6)

    def test_evaluation(self) -> None:
        run, net = self.start(evaluate_every=2)
        modes, values, records = [], [], []
        run.on_step(records.append)

        @run.evaluate
        def held_out() -> float:
            modes.append((net.training, net.drop.training, torch.is_grad_enabled()))
            values.append(float(F.mse_loss(net(batch(0, 0)[0]), batch(0, 0)[1])))
            self.assertIn("memory.tables", run.state_dict())
            return values[-1]
        net.drop.eval()  # what was in eval mode stays in it
        self.train(run, net)
        self.assertEqual(modes, [(False, False, False)] * 3)
        self.assertTrue(net.training and not net.drop.training)
        told = {record.step: record.val_loss for record in records if record.val_loss is not None}
        self.assertEqual(told, dict(zip((2, 4, 6), values)))
        self.assertEqual([record.step for record in records if record.val_loss is None][:3], [1, 3, 5])

    def test_an_evaluation_that_fails_ends_the_loop(self) -> None:
        run, net = self.start(evaluate_every=2)
        run.evaluate(lambda: {}["no loss"])
        with self.assertRaisesRegex(KeyError, "no loss"):
            self.train(run, net)


class Ends(LoopCase):
    def test_break_and_again(self) -> None:
        expected = self.train(*self.start(steps=12))
        state = os.path.join(self.folder, "state")
        seen = 0
        for ends in ("break", "stop", "error", "end"):
            run, net = self.start(steps=12, servers=mf.embedded(2, state), progress=True)
            said = io.StringIO()
            run._progress._stream = said
            with contextlib.suppress(ZeroDivisionError):
                for work in run:
                    self.assertGreaterEqual(work.step, seen)
                    seen = work.step
                    x, y = batch(work.step, work.number)
                    work.backward(F.mse_loss(net(x), y))
                    if ends == "break" and work.step == 3:
                        break
                    if ends == "stop" and work.step == 6:
                        run.stop()
                    if ends == "error" and work.step == 9:
                        raise ZeroDivisionError
            if ends != "end":
                self.assertRegex(said.getvalue(), r"left the run: step \d+ is saved")
                with self.assertRaisesRegex(mf.Error, "can be read after the loop"):
                    run.state_dict()
                with self.assertRaisesRegex(mf.Error, "has been begun before"):
                    next(iter(run))
        self.same(run.state_dict(), expected)
        del run, net
        again, net = self.start(steps=12, servers=mf.embedded(1, os.path.join(self.folder, "other")))
        with self.assertRaisesRegex(mf.Error, "can be read"):
            again.state_dict()

    def test_the_last_state_is_on_disk(self) -> None:
        state = os.path.join(self.folder, "state")
        expected = self.train(*self.start(servers=mf.embedded(2, state)))
        again, net = self.start(servers=mf.embedded(2, state))
        self.assertEqual([work.step for work in again], [])
        self.same(again.state_dict(), expected)

    def test_without_snapshots(self) -> None:
        run, net = self.start(servers=mf.embedded(2), snapshot_minutes=0, progress=True)
        run._progress._stream = said = io.StringIO()
        for work in run:
            if work.step == 3:
                break
            work.skip()
        self.assertRegex(said.getvalue(), "left the run: nothing is saved")
        with self.start(servers=mf.embedded(2), snapshot_minutes=0)[0] as run:
            for work in run:
                work.skip()

    def test_a_run_that_nobody_has_ends(self) -> None:
        run, net = self.start(servers=mf.embedded(1, os.path.join(self.folder, "state")))
        self.train(run, net)
        weak = weakref.ref(run)
        del run
        self.assertIsNone(weak())
        with self.assertRaisesRegex(mf.Error, "its run is gone"):
            net(torch.zeros(1, 24))

    def test_save_and_load(self) -> None:
        run, net = self.start()
        expected = self.train(run, net)
        path = os.path.join(self.folder, "model.safetensors")
        run.save(path)
        with open(path, "rb") as file:
            whole = file.read()
        self.assertTrue(whole[8:].startswith(b'{"__metadata__"'))
        other, net = self.start(steps=1, optimizer=mf.SGD(lr=0.0))
        other.load(path)
        self.same(self.train(other, net), expected)
        for words, content in (("was cut", whole[:5000]), ("no safetensors", b"x" * 100), ("was cut", b"")):
            with open(path, "wb") as file:
                file.write(content)
            with self.subTest(words), self.assertRaisesRegex(mf.InvalidError, words):
                self.start()[0].load(path)
        self.assertEqual(os.listdir(self.folder), ["model.safetensors"])

    def test_a_file_is_read_without_training(self) -> None:
        run, net = self.start()
        self.train(run, net)
        path = os.path.join(self.folder, "model.safetensors")
        run.save(path)
        x = batch(0, 0)[0]
        net.eval()
        with torch.no_grad():
            expected = net(x)
        other, net = self.start(optimizer=mf.SGD(lr=1.0))
        other.load(path)
        net.eval()
        with other.reading():
            self.assertTrue(torch.equal(net(x), expected))
            self.assertTrue(torch.equal(other.state_dict()["head.bias"], run.state_dict()["head.bias"]))
        with self.assertRaises(mf.Error):
            net(x)

    def test_where_a_file_goes(self) -> None:
        run, net = self.start(steps=1)
        self.train(run, net)
        real, link, pipe = (os.path.join(self.folder, name) for name in ("real", "link", "pipe"))
        with open(real, "wb"):
            pass
        os.symlink("real", link)
        os.mkfifo(pipe)
        run.save(link)
        self.assertTrue(os.path.islink(link))
        self.assertGreater(os.path.getsize(real), 1000)
        for path, words in ((pipe, "no file that can be replaced"), ("/dev/null", "no file that can be replaced"),
                            (os.path.join(self.folder, "none", "x"), "there is no folder")):
            with self.subTest(path), self.assertRaisesRegex(mf.InvalidError, words):
                run.save(path)
        self.assertEqual(sorted(os.listdir(self.folder)), ["link", "pipe", "real"])

    def test_shapes_of_a_file(self) -> None:
        path = os.path.join(self.folder, "model.safetensors")
        from memoryformer import safetensors

        for words, tensors in (("memory.tables has shape", {"memory.tables": np.zeros((1, 2), np.float32)}),
                               ("head.bias has shape", {"head.bias": np.zeros(3, np.float32)}),
                               ("nothing of this run, but a, b", {name: np.zeros(3, np.float32) for name in "ab"})):
            safetensors.write(path, tensors, {})
            with self.subTest(words), self.assertRaisesRegex(mf.InvalidError, words):
                self.start()[0].load(path)


class Words(LoopCase):
    def test_options(self) -> None:
        for words, options in (("micro_batches: 0 is not", {"micro_batches": 0}), ("clip: -1.0 is not", {"clip": -1}),
                               ("seed: -1 is not", {"seed": -1}), ("steps: 5.5 is no whole number", {"steps": 5.5}),
                               ("lease_seconds: 0.0", {"lease_seconds": 0}), ("log: 'loud'", {"log": "loud"}),
                               ("wire: 'f8'", {"wire": "f8"}), ("has a Generator", {"data": lambda step, number:
                                                                                    np.random.default_rng(1)})):
            with self.subTest(words), self.assertRaisesRegex(mf.InvalidError, words):
                self.start(**options)
        with self.assertRaisesRegex(TypeError, "missing 2 required"):
            mf.Run("tcp://127.0.0.1:9")

    def test_callbacks(self) -> None:
        run, net = self.start(evaluate_every=1)
        run.evaluate(lambda: None)
        with self.assertRaisesRegex(mf.InvalidError, "evaluate: the function gave None"):
            self.train(run, net)
        records = []
        run, net = self.start(steps=1)
        run.on_step(records.append)
        self.train(run, net)
        self.assertIsNone(records[-1].val_loss)  # nobody evaluates
        self.assertRegex(repr(records[-1]), r"^StepRecord\(step=1, loss=[\d.]+, lr=0.0099\d+, grad_norm=[\d.]+\)$")

    def test_servers(self) -> None:
        for words, servers in (("give addresses", []), ("give addresses", [7000]), ("shards = 0", None),
                               ("servers 127.0.0.1:1: not of the form", "127.0.0.1:1"),
                               ("named twice", "tcp://127.0.0.1:9,tcp://127.0.0.1:9")):
            with self.subTest(words), self.assertRaisesRegex(mf.InvalidError, words):
                next(iter(self.start(servers=servers)[0] if servers is not None else mf.embedded(0)))
        run, _ = self.start(servers="tcp://127.0.0.1:9", deadline_seconds=0.5)
        with self.assertRaisesRegex(mf.Error, r"tcp://127\.0\.0\.1:9"):
            next(iter(run))
        run, _ = self.start(servers=mf.embedded(4))
        with self.assertRaisesRegex(mf.InvalidError, "memory.tables has only 3 column blocks"):
            next(iter(run))


class Page(LoopCase):
    def test_the_script_of_the_page(self) -> None:
        """docs/PYTORCH.md's first three pieces of code, with servers inside and fewer steps."""
        path = os.path.join(os.path.dirname(__file__), "..", "..", "docs", "PYTORCH.md")
        with open(path, encoding="utf-8") as file:
            script, batches, callbacks = re.findall(r"```python\n(.*?)```", file.read(), re.DOTALL)[:3]
        self.assertEqual([int(number) for number in re.findall(r"# (\d+)", script)], list(range(1, 11)))
        changed = {'"tcp://a:7000,tcp://b:7000"': "mf.embedded(2), progress=False", "steps=1000": "steps=4",
                   "warmup=10": "warmup=2", '"model.safetensors"': "path",
                   "for work in run:": callbacks + "\nfor work in run:"}
        for old, new in changed.items():
            self.assertIn(old, script)
            script = script.replace(old, new)
        told = []

        def images(step: int, number: int) -> tuple[torch.Tensor, torch.Tensor]:
            generator = torch.Generator().manual_seed(100 * step + number)
            return torch.rand(8, 784, generator=generator), torch.randint(0, 10, (8,), generator=generator)
        names = {"batch": images, "path": os.path.join(self.folder, "model.safetensors"),
                 "log": lambda *record: told.append(record),
                 "mean_loss": lambda model: F.cross_entropy(model(images(0, 0)[0]), images(0, 0)[1])}
        exec(compile(script, path, "exec"), names)
        self.assertEqual([record[0] for record in told], [1, 2, 3, 4])
        self.assertIsNotNone(told[-1][4])
        self.assertTrue(os.path.exists(names["path"]))
        x = torch.arange(1000)
        shuffled = {"torch": torch, "x": x, "y": -x}
        exec(compile(batches, path, "exec"), shuffled)
        for epoch in range(2):  # of 3 steps of 4 micro-batches of 64
            parts = [shuffled["batch"](1 + 3 * epoch + step, number) for step in range(3) for number in range(4)]
            seen = torch.cat([part for part, _ in parts])
            self.assertEqual(len(seen.unique()), 768)
            self.assertTrue(all(torch.equal(part, -negative) for part, negative in parts))
            self.assertFalse(torch.equal(seen, seen.sort().values))

    def test_an_input_of_one_sign_is_told(self) -> None:
        for shift, words in ((-0.5, 0), (0.0, 1)):
            run = mf.Run(mf.embedded(1), steps=2, optimizer=mf.SGD(lr=0.1), progress=False)
            layer = mf.MemoryLayer(run, "m", 16, 16, probes=2)
            run.share(layer)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                for work in run:
                    work.backward(layer(torch.rand(40, 16) + shift).sum())
            self.assertEqual(len([one for one in told if "one row of each table" in str(one.message)]), words)


if __name__ == "__main__":
    torch.set_num_threads(1)
    unittest.main()
