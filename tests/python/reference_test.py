"""Goal: the whole MemoryFormer of tests/reference with its memory layers replaced by mf.MemoryLayer, trained through
the Python package from the same parameters on the same tokens, has the losses and gradient norms of `worker train`
over 20 steps: to 1e-4. Usage: reference_test.py FOLDER_OF_PACKAGE REFERENCE_DUMP"""

import importlib.util
import os
import subprocess
import sys
import tempfile
import unittest

try:
    import numpy as np
    import torch
except ImportError:
    print(f"SKIPPED: torch is missing for {sys.executable} (apt-get install python3-torch)")
    sys.exit(77)

DUMP = sys.argv.pop(2)
REFERENCE = os.path.join(os.path.dirname(__file__), "..", "reference")
sys.path[:0] = [sys.argv.pop(1), REFERENCE]

import memoryformer as mf
import memoryformer.safetensors
import tensorfile

# The reference has the name of the package.
_spec = importlib.util.spec_from_file_location("reference", os.path.join(REFERENCE, "memoryformer.py"))
reference = importlib.util.module_from_spec(_spec)
sys.modules["reference"] = reference
_spec.loader.exec_module(reference)


def indices_of(dump: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The buckets that the worker took in a micro-batch, by layer and part."""
    return {name.removeprefix(prefix): values for name, values in dump.items() if name.startswith(prefix)}

STEPS, MICRO_BATCHES, WARMUP, PEAK, CLIP = 20, 2, 0.1, 3e-3, 1.0
EPS = 3e-5  # Adam divides by a gradient's own size: with less, numbers whose gradient is rounding alone move
TOLERANCE = 1e-3  # of a tie between buckets, after some steps of two float32 programs


class Model(reference.MemoryFormer, torch.nn.Module):
    """The reference, with parameters that a run shares and tables on servers."""

    def __init__(self, run: mf.Run, config: reference.Config, tensors: dict[str, np.ndarray]) -> None:
        torch.nn.Module.__init__(self)
        self.config, self.bf16_tables = config, False
        self.values, self.layers = torch.nn.ParameterDict(), torch.nn.ModuleDict()
        for name, values in tensors.items():
            if not name.endswith(".tables"):
                self.values[name.replace(".", "/")] = torch.nn.Parameter(torch.from_numpy(values.copy()))
                continue
            count, rows, width = values.shape
            bits = rows.bit_length() - 1
            self.layers[name[:-len(".tables")].replace(".", "/")] = mf.MemoryLayer(
                run, name[:-len(".tables")], count * bits, width, tau=bits, probes=config.probes, score=config.score,
                temperature=config.temperature, bias=False)

    @property
    def parameters_by_name(self) -> dict[str, torch.nn.Parameter]:
        return {name.replace("/", "."): value for name, value in self.values.items()}

    def __getattribute__(self, name: str):
        # torch has a method of the name under which the reference keeps its tensors.
        if name == "parameters" and sys._getframe(1).f_globals["__name__"] == "reference":
            return self.parameters_by_name
        return super().__getattribute__(name)

    def _memory(self, block: str, name: str, x: torch.Tensor, indices: reference.Indices) -> torch.Tensor:
        """With the layer's own hash, or where rounding decided a sign, with the bucket that the worker took, which
        `indices` has checked."""
        part = f"{block}.{name.split('.')[1]}"
        layer = self.layers[part.replace(".", "/")]
        hashed = layer.hash(x)
        z = x.reshape(x.shape[0], layer.hash.tables, layer.hash.tau)
        buckets = indices.choose(name, z.detach(), layer.hash.probes)
        pairs = buckets.permute(1, 2, 0).reshape(hashed.buckets.shape)
        if not torch.equal(pairs, hashed.buckets.long()):
            weights = reference.pair_weights(z, buckets, layer.hash.score, layer.hash.temperature)
            hashed = mf.Hashed(pairs, weights.permute(1, 2, 0).reshape(pairs.shape), hashed.leading, hashed.dtype)
        return layer(hashed) + self.parameters_by_name[part + ".bias"]


class Reference(unittest.TestCase):
    def check(self, shards: int, **model) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.train(folder, shards, model)

    def train(self, folder: str, shards: int, model: dict) -> None:
        for name in ("empty.toml", "text.txt"):
            with open(os.path.join(folder, name), "w", encoding="ascii") as file:
                draw = np.random.RandomState(1)
                words = [chr(97 + number % 26) * (1 + number % 5) for number in range(40)]
                file.write("" if name.endswith("toml") else " ".join(draw.choice(words, 4000)))
        settings = {"model.d": 48, "model.heads": 3, "model.K": 8, "model.tau": 6, "model.layers": 2,
                    "model.sequence": 16, "model.vocabulary": 257, "model.rotary_pct": 0.5, "train.batch": 2,
                    "train.micro_batches": MICRO_BATCHES, "train.eval_every": 0, "train.eval_batches": 1,
                    "train.eps": EPS, "train.lr": PEAK, "train.warmup_ratio": WARMUP, "train.clip": CLIP,
                    "exchange.mode": "pushdown"} | model
        command = [DUMP, "--config", os.path.join(folder, "empty.toml"), "--data", os.path.join(folder, "text.txt"),
                   "--out", folder, "--steps", str(STEPS), "--memory", str(1 << 30)]
        for key, value in settings.items():
            command += ["--set", f"{key}={value}"]
        subprocess.run(command, check=True)
        tensors, metadata = tensorfile.read(os.path.join(folder, "init.safetensors"))
        dump, _ = tensorfile.read(os.path.join(folder, "steps.safetensors"))

        run = mf.Run(mf.embedded(shards), steps=STEPS, micro_batches=MICRO_BATCHES, clip=CLIP, progress=False,
                     optimizer=mf.AdamW(lr=mf.cosine(PEAK, warmup=round(WARMUP * STEPS)), betas=(0.9, 0.95), eps=EPS,
                                        weight_decay=0.1))
        config = reference.Config.from_json(metadata["config"])
        net = Model(run, config, tensors)
        decayed = config.decayed()
        run.share(net, rules=lambda name, parameter: (
            None if name.removeprefix("values.").replace("/", ".") in decayed else {"weight_decay": 0.0}))
        start = os.path.join(folder, "tables.safetensors")
        mf.safetensors.write(start, {name: np.array(values) for name, values in tensors.items()
                                     if name.endswith(".tables")}, {})
        run.load(start)
        records = []
        run.on_step(records.append)
        for work in run:
            inputs, targets = (torch.from_numpy(dump[f"tokens.{work.step}.{part}"].astype(np.int64))
                               .chunk(MICRO_BATCHES)[work.number] for part in ("inputs", "targets"))
            indices = reference.Indices(indices_of(dump, f"indices.{work.step}.{work.number}."), tolerance=TOLERANCE)
            loss, _ = net.loss(inputs, targets, indices)
            work.backward(loss)
        self.assertEqual([record.step for record in records], list(range(1, STEPS + 1)))
        worst = max(abs(record.loss - float(dump["loss"][record.step - 1])) for record in records)
        for record in records:
            where = f"step {record.step} of {model}"
            self.assertAlmostEqual(record.lr, float(dump["lr"][record.step - 1]), places=9, msg=where)
            self.assertLess(abs(record.loss - float(dump["loss"][record.step - 1])), 1e-4, where)
            norm = float(dump["grad_norm"][record.step - 1])
            self.assertLess(abs(record.grad_norm - norm), 1e-3 * norm, where)
        print(f"{shards} servers, {model}: losses differ by {worst:.2e} at most", flush=True)

    def test_trains_like_the_worker(self) -> None:
        self.check(1)
        self.check(3, **{"model.probes": 2, "model.score": "softmax", "model.temperature": 0.75})
        self.check(2, **{"model.probes": 3, "model.norm": "layernorm", "model.expand_bits": 2})


if __name__ == "__main__":
    torch.set_num_threads(1)
    unittest.main()
